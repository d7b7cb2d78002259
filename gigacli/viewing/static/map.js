// The map of vectors: a point per slide, to be clicked. As on the page of giga report.
import { ask, make } from "./pane.js";

const PALETTE = 8, LISTED = 24, MARGIN = 16, REACH = 14;
const $ = (id) => document.getElementById(id);
const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export class VectorMap {
  // `slides`: the list of slides; `open`: called with the row of a slide that was chosen.
  constructor(slides, open) {
    Object.assign(this, { slides, open, map: null, kind: "pca", colour: 0, at: -1, selected: -1, marked: [], points: [] });
    this.canvas = $("points");
    this.tip = $("tip");
    this.colours = [...slides.groups.filter((one) => one.paint), { name: "tiles per slide", numbers: slides.tiles }];
    this.colours.forEach((one, i) => { make("option", $("pick-colour"), one.name, { value: i }); });
    $("pick-colour").onchange = (event) => { this.colour = Number(event.target.value); this.legend(); this.draw(); };
    [["pca", "principal components"], ["tsne", "neighbours (t-SNE)"]].forEach(([value, text]) => make("option", $("pick-kind"), text, { value }));
    $("pick-kind").onchange = (event) => { this.kind = event.target.value; this.load(this.embedding); };
    this.canvas.onpointermove = (event) => this.hover(...this.under(event));
    this.canvas.onpointerleave = () => this.hover(-1, 0, 0);
    this.canvas.onclick = (event) => { const [row] = this.under(event); if (row >= 0) this.open(row); };
    this.canvas.onkeydown = (event) => this.key(event);
    new ResizeObserver(() => { this.lay(); this.draw(); }).observe(this.canvas);
  }

  async load(embedding) {
    const wanted = `vectors.json?embedding=${embedding}&tsne=${Number(this.kind === "tsne")}`;
    Object.assign(this, { embedding, wanted });
    $("map-note").textContent = "computing places ...";
    let found = null, why = "Fewer than two slides have vectors.";
    try {
      found = await ask(wanted);
    } catch (error) {
      why = error.message;
    }
    if (wanted !== this.wanted) return;  // another map was asked for meanwhile
    this.map = found;
    this.lay();
    if (!found) $("map-note").textContent = why;
    this.legend();
    this.draw();
  }

  // Show which slide is open, and which ones are next to it.
  mark(row, near) {
    this.selected = this.at = row;
    this.marked = near;
    this.draw();
  }

  lay() {
    this.points = [];
    if (!this.map) return;
    const places = this.map.tsne || this.map.pca;  // too few slides have no neighbours
    const { width, height } = this.canvas.getBoundingClientRect();
    const low = [Infinity, Infinity], high = [-Infinity, -Infinity];
    places.forEach((v, i) => { low[i % 2] = Math.min(low[i % 2], v); high[i % 2] = Math.max(high[i % 2], v); });
    const unit = Math.min(...[width, height].map((side, i) => (side - 2 * MARGIN) / Math.max(1, high[i] - low[i])));
    const middle = low.map((v, i) => (v + high[i]) / 2);
    this.points = this.map.rows.map((row, i) => ({
      row, x: width / 2 + unit * (places[2 * i] - middle[0]), y: height / 2 - unit * (places[2 * i + 1] - middle[1]),
    }));
    const n = this.points.length.toLocaleString("en"), [first, second] = this.map.explained.map((s) => (100 * s).toFixed(0));
    $("map-note").textContent = !this.map.tsne
      ? `Two principal components of ${n} vectors: ${first} % and ${second} % of their variance.`
      : `t-SNE of ${n} vectors: slides that are alike lie together; distances between groups mean nothing.`;
  }

  // The largest groups get a colour each, the others share grey.
  ranked(group) {
    const times = new Map();
    this.points.forEach(({ row }) => { const c = group.codes[row]; if (c >= 0) times.set(c, (times.get(c) || 0) + 1); });
    return [...times].sort((a, b) => b[1] - a[1] || a[0] - b[0]);
  }

  painter() {
    const group = this.colours[this.colour], other = variable("--other");
    const palette = Array.from({ length: PALETTE }, (_, i) => variable(`--c${i}`));
    if (group.numbers) {
      const [low, high] = this.range(group.numbers).map(Math.log1p);
      return (row) => {
        const share = (Math.log1p(Math.max(0, group.numbers[row])) - low) / (high - low || 1);
        return `color-mix(in oklab, ${palette[1]} ${Math.round(100 * share)}%, ${palette[0]})`;
      };
    }
    const place = new Map(this.ranked(group).slice(0, PALETTE).map(([code], i) => [code, palette[i]]));
    return (row) => place.get(group.codes[row]) || other;
  }

  range(numbers) {
    const values = this.points.map(({ row }) => Math.max(0, numbers[row]));
    return [values.reduce((a, b) => Math.min(a, b), Infinity), values.reduce((a, b) => Math.max(a, b), 0)];
  }

  legend() {
    const legend = $("legend"), group = this.colours[this.colour];
    legend.replaceChildren();
    const item = (colour, text) => {
      const one = make("span", legend);
      make("i", one).style.cssText = `display:inline-block;margin-right:6px;background:${variable(colour)}`;
      one.append(text);
    };
    if (!this.points.length) return;
    if (group.numbers) {
      const [low, high] = this.range(group.numbers);
      item("--c0", `${low.toLocaleString("en")} tiles`);
      item("--c1", `${high.toLocaleString("en")} tiles`);
      return;
    }
    const all = this.ranked(group);
    all.slice(0, LISTED).forEach(([code, n], i) => item(i < PALETTE ? `--c${i}` : "--other", `${group.names[code]} (${n})`));
    if (all.length > LISTED) item("--other", `${all.length - LISTED} smaller groups`);
  }

  draw() {
    const ratio = window.devicePixelRatio || 1, { width, height } = this.canvas.getBoundingClientRect();
    if (!width) return;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    const pen = this.canvas.getContext("2d"), paint = this.painter();
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    const radius = this.points.length > 800 ? 2 : 4;
    const dot = (point, r) => { pen.fillStyle = paint(point.row); pen.beginPath(); pen.arc(point.x, point.y, r, 0, 2 * Math.PI); pen.fill(); };
    pen.globalAlpha = 0.85;
    this.points.forEach((point) => dot(point, radius));
    pen.globalAlpha = 1;
    const ring = (row, r, colour) => {
      const point = this.points.find((p) => p.row === row);
      if (!point) return;
      dot(point, radius + 1);
      pen.beginPath();
      pen.arc(point.x, point.y, r, 0, 2 * Math.PI);
      pen.strokeStyle = colour;
      pen.lineWidth = 2;
      pen.stroke();
    };
    this.marked.forEach((row) => ring(row, radius + 3, variable("--muted")));
    ring(this.selected, radius + 5, variable("--accent"));
    if (this.at !== this.selected) ring(this.at, radius + 4, variable("--ink"));
  }

  under(event) {
    const box = this.canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    let best = -1, least = REACH * REACH;
    this.points.forEach((p) => {
      const far = (p.x - x) ** 2 + (p.y - y) ** 2;
      if (far < least) { least = far; best = p.row; }
    });
    return [best, x, y];
  }

  hover(row, x, y) {
    this.at = row < 0 ? this.selected : row;
    this.draw();
    this.tip.hidden = row < 0;
    if (row < 0) return;
    this.tip.replaceChildren();
    make("b", this.tip, this.slides.ids[row]);
    this.slides.groups.filter((g) => g.codes[row] >= 0).slice(0, 4).forEach((g) => {
      make("br", this.tip);
      make("span", this.tip, `${g.name}: ${g.names[g.codes[row]]}`);
    });
    const { width, height } = this.canvas.getBoundingClientRect();
    this.tip.style.left = `${Math.max(4, x > width / 2 ? x - this.tip.offsetWidth - 12 : x + 12)}px`;
    this.tip.style.top = `${Math.max(4, Math.min(y - 20, height - this.tip.offsetHeight - 4))}px`;
  }

  key(event) {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Enter" && this.at >= 0) this.open(this.at);
    if (!step || !this.points.length) return;
    event.preventDefault();
    const rows = this.map.rows, place = rows.indexOf(this.at);
    this.hover(rows[(place + step + rows.length) % rows.length], ...this.spot(rows[(place + step + rows.length) % rows.length]));
  }

  spot(row) {
    const point = this.points.find((p) => p.row === row);
    return [point.x, point.y];
  }
}
