// One slide in a window that zooms, and what is drawn on it. Text goes into the page as text only, never as HTML.
/* global OpenSeadragon */

export const make = (tag, parent, text, attributes = {}) => {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  Object.entries(attributes).forEach(([name, value]) => node.setAttribute(name, value));
  if (parent) parent.append(node);
  return node;
};

export const ask = async (path) => {
  const answer = await fetch(path);
  if (!answer.ok) {
    const said = await answer.json().catch(() => ({ error: answer.statusText, hint: "" }));
    throw new Error([said.error, said.hint].filter(Boolean).join("; ").replaceAll("`", ""));
  }
  return path.includes(".bin") ? answer.arrayBuffer() : answer.json();
};

const TILE = 256;
const TOWARDS = "230, 97, 1", AWAY = "94, 60, 153", LIKE = "0, 114, 178";  // as maps of giga tile-map
const SMALLEST = 4;  // pixels of a tile on the screen, below which its lines would hide the slide
const MARKED = 12;  // tiles most like the one clicked, that get a frame
const FINE_UM = 16;  // of a pixel of the tissue mask
const SLOW_MS = 3000;  // of opening, after which the page says why
const ROUND = 5;  // edges of a tile that are shown around one that is gone to

export class Pane {
  // `shown`: which overlays are on, {outline, grid, map, alike}, shared by all panes. `on`: what to call, {tile, said}.
  constructor(parent, shown, on) {
    this.shown = shown;
    this.on = on;
    this.row = -1;
    this.times = 0;
    this.root = make("article", parent, undefined, { class: "pane" });
    const head = make("div", this.root, undefined, { class: "head" });
    this.title = make("b", head);
    this.facts = make("span", head);
    this.buttons = make("div", head, undefined, { class: "buttons" });
    this.window = make("div", this.root, undefined, { class: "slide" });
    this.problem = make("p", this.root, undefined, { class: "problem", role: "alert" });
    this.foot = make("p", this.root, undefined, { class: "foot", "aria-live": "polite" });
    this.viewer = OpenSeadragon({
      element: this.window, drawer: "canvas", showNavigationControl: false, showNavigator: true,
      navigatorPosition: "TOP_RIGHT", navigatorSizeRatio: 0.16, navigatorAutoFade: false, navigatorBackground: "transparent", navigatorOpacity: 1, maxZoomPixelRatio: 4,
      visibilityRatio: 0.3, animationTime: matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 0.5,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true }, imageLoaderLimit: 6, timeout: 120000,
    });
    this.window.append(this.problem);
    this.viewer.canvas.setAttribute("role", "application");
    this.viewer.canvas.setAttribute("aria-label", "Slide: arrow keys move, plus and minus zoom, 0 shows all of it, Enter chooses the tile in the middle");
    this.over = make("canvas", this.viewer.canvas, undefined, { class: "over" });
    this.button("+", "Zoom in", () => this.viewer.viewport.zoomBy(2).applyConstraints());
    this.button("−", "Zoom out", () => this.viewer.viewport.zoomBy(0.5).applyConstraints());
    this.button("whole", "Show the whole slide", () => this.viewer.viewport.goHome());
    ["update-viewport", "open", "resize"].forEach((name) => this.viewer.addHandler(name, () => this.draw()));
    this.viewer.addHandler("tile-load-failed", (event) => { this.foot.textContent = `a part cannot be read: ${event.message}`; });
    this.viewer.addHandler("canvas-click", (event) => {
      if (event.quick) this.point(event.position);
    });
    this.viewer.addHandler("canvas-key", (event) => {
      const { code, key } = event.originalEvent;
      if (code === "KeyR" || code === "KeyF") event.preventDefaultAction = true;  // turned and flipped, tiles lie elsewhere
      if (key !== "Enter") return;
      event.preventDefaultAction = true;
      this.point(new OpenSeadragon.Point(this.window.clientWidth / 2, this.window.clientHeight / 2));
    });
  }

  button(text, label, act) {
    make("button", this.buttons, text, { type: "button", "aria-label": label, title: label }).onclick = act;
  }

  isWhole() {
    const { viewport } = this.viewer;
    return !this.about || viewport.getZoom() < 1.05 * viewport.getHomeZoom();
  }

  // Show the whole slide once the window has its new size, which the viewer first answers in its own way.
  fit() {
    this.viewer.addOnceHandler("resize", () => queueMicrotask(() => this.viewer.viewport.goHome(true)));
  }

  remove() {
    this.viewer.destroy();
    this.root.remove();
  }

  async open(row, name, facts, tile) {
    const time = ++this.times;  // of answers that come late, those for another slide are dropped
    Object.assign(this, { row, about: null, grid: null, outline: null, map: null, alike: null, asked: {} });
    this.title.textContent = this.title.title = name;
    this.facts.textContent = facts;
    this.foot.textContent = "opening ...";
    this.problem.hidden = true;
    this.viewer.close();
    this.viewer.navigator.element.style.visibility = "hidden";
    const waits = setTimeout(() => { this.foot.textContent = "opening ...: a file without smaller levels is read whole"; }, SLOW_MS);
    const about = await ask(`slide/${row}/about.json`).catch((error) => ({ problem: error.message }));
    clearTimeout(waits);
    if (time !== this.times) return;
    this.foot.textContent = "";
    if (about.problem) {
      this.problem.textContent = `${name} cannot be shown: ${about.problem}`;
      this.problem.hidden = false;
      this.draw();
      return;
    }
    this.about = about;
    this.viewer.navigator.element.style.visibility = "";
    const opened = new Promise((resolve) => { this.viewer.addOnceHandler("open", resolve); });
    this.viewer.open({
      width: about.width, height: about.height, tileSize: TILE, tileOverlap: 0, minLevel: about.first, maxLevel: about.last,
      getTileUrl: (level, x, y) => `slide/${row}/level/${level}/${x}_${y}.jpg`,
    });
    await Promise.all([opened, this.load("grid", `slide/${row}/grid.bin`)]);
    this.fill();
    if (tile !== undefined) this.go(tile);
  }

  // Ask for what is drawn, and draw it when it is there.
  async load(what, path) {
    if (this.asked[what] === path) return;
    this.asked[what] = path;
    const time = this.times;
    const waits = setTimeout(() => this.on.said(`computing ${what === "map" ? "the map of tiles" : what} ...`), 400);
    try {
      const found = await ask(path);
      if (time !== this.times || this.asked[what] !== path) return;
      this[what] = what === "grid" ? new Int32Array(found) : found;
      this.on.said("");
      this.on.got(this, what);
    } catch (error) {
      if (time === this.times) {
        this.asked[what] = undefined;  // so that it is tried again
        this.on.said(error.message);
      }
    } finally {
      clearTimeout(waits);
    }
    this.draw();
  }

  // Fetch the overlays that are on.
  fill() {
    if (!this.about) return;
    if (this.shown.outline) this.load("outline", `slide/${this.row}/outline.json`);
    if (this.shown.map) {
      this.load("map", `slide/${this.row}/map.json?embedding=${this.shown.embedding}&class=${this.shown.positive}`);
    }
    this.draw();
  }

  like(tile) {
    this.alike = null;
    this.clicked = tile;
    this.asked.alike = undefined;
    return this.load("alike", `slide/${this.row}/alike.json?tile=${tile}&embedding=${this.shown.embedding}`);
  }

  // The tiles most like the one clicked.
  best() {
    const { similar } = this.alike;
    return [...similar.keys()].filter((i) => i !== this.clicked).sort((a, b) => similar[b] - similar[a]).slice(0, MARKED);
  }

  go(tile) {
    if (!this.grid || 2 * tile >= this.grid.length) return;
    const { edge } = this.about, item = this.viewer.world.getItemAt(0), wide = ROUND * edge;
    const [x, y] = [this.grid[2 * tile], this.grid[2 * tile + 1]];
    this.viewer.viewport.fitBounds(item.imageToViewportRectangle(x + (edge - wide) / 2, y + (edge - wide) / 2, wide, wide));
    this.tell(tile);
  }

  point(position) {
    const item = this.viewer.world.getItemAt(0);
    if (!item || !this.grid) return;
    const { x, y } = item.viewerElementToImageCoordinates(position), { edge } = this.about;
    for (let i = 0; 2 * i < this.grid.length; i++) {
      const across = x - this.grid[2 * i], down = y - this.grid[2 * i + 1];
      if (across >= 0 && across < edge && down >= 0 && down < edge) {
        this.tell(i);
        this.on.tile(this, i);
        return;
      }
    }
    this.foot.textContent = `no tile at ${Math.round(x)}, ${Math.round(y)}`;
  }

  tell(tile) {
    const parts = [`tile ${tile} at ${this.grid[2 * tile]}, ${this.grid[2 * tile + 1]}`];
    if (this.map) {
      const pull = (this.map.pull[tile] * this.map.most) / 1000;
      parts.push(`pull ${pull.toFixed(3)}${this.map.sure[tile] ? "" : ", within the noise"}`);
    }
    if (this.alike) parts.push(`cosine ${(this.alike.similar[tile] / 1000).toFixed(2)}`);
    this.foot.textContent = parts.join(" · ");
  }

  // ---------------------------------------------------------------- drawing

  draw() {
    const ratio = window.devicePixelRatio || 1, width = this.window.clientWidth, height = this.window.clientHeight;
    this.over.width = Math.round(width * ratio);
    this.over.height = Math.round(height * ratio);
    const item = this.viewer.world.getItemAt(0);
    if (!item || !this.about || !width) return;
    const pen = this.over.getContext("2d");
    const corner = item.imageToViewerElementCoordinates(new OpenSeadragon.Point(0, 0));
    const far = item.imageToViewerElementCoordinates(new OpenSeadragon.Point(this.about.width, 0));
    const scale = (far.x - corner.x) / this.about.width;  // of the screen per level-0 pixel
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    if (this.grid && this.about.edge) this.tiles(pen, corner, scale, width, height);
    if (this.shown.outline && this.outline) this.lines(pen, corner, scale);
    this.ruler(pen, scale, height);
  }

  tiles(pen, corner, scale, width, height) {
    const { grid, shown } = this, side = this.about.edge * scale;
    const squares = [], low = [corner.x, corner.y];
    for (let i = 0; 2 * i < grid.length; i++) {
      const x = low[0] + scale * grid[2 * i], y = low[1] + scale * grid[2 * i + 1];
      if (x > -side && y > -side && x < width && y < height) squares.push([i, x, y]);
    }
    const paint = (i, x, y, colour, alpha) => {
      pen.fillStyle = `rgb(${colour}, ${alpha.toFixed(2)})`;
      pen.fillRect(x, y, side, side);
    };
    if (shown.map && this.map) {
      squares.filter(([i]) => this.map.sure[i]).forEach(([i, x, y]) => {
        const pull = this.map.pull[i] / 1000;
        paint(i, x, y, pull > 0 ? TOWARDS : AWAY, 0.08 + 0.62 * Math.min(1, Math.abs(pull)));
      });
    } else if (shown.alike && this.alike) {
      squares.forEach(([i, x, y]) => {
        const near = this.alike.similar[i] / 1000;
        if (near > 0) paint(i, x, y, LIKE, 0.6 * near);
      });
    }
    if (shown.grid && side >= SMALLEST) {
      pen.strokeStyle = this.about.dark ? "rgb(255 255 255 / .5)" : "rgb(20 30 90 / .5)";
      pen.lineWidth = 1;
      pen.beginPath();
      squares.forEach(([, x, y]) => pen.rect(x, y, side, side));
      pen.stroke();
    } else if (shown.grid) {
      squares.forEach(([i, x, y]) => paint(i, x, y, this.about.dark ? "255, 255, 255" : "20, 30, 90", 0.2));
    }
    if (shown.alike && this.alike) {
      const frame = (i, colours) => {
        const x = low[0] + scale * grid[2 * i], y = low[1] + scale * grid[2 * i + 1];
        colours.forEach(([colour, wide]) => { pen.strokeStyle = colour; pen.lineWidth = wide; pen.strokeRect(x, y, side, side); });
      };
      this.best().forEach((i) => frame(i, [["#fff", 4], ["#0072b2", 2]]));
      frame(this.clicked, [["#fff", 6], ["#d55e00", 3.5]]);
    }
  }

  lines(pen, corner, scale) {
    const path = new Path2D();
    this.outline.forEach((line) => {
      for (let i = 0; i < line.length; i += 2) {
        path[i ? "lineTo" : "moveTo"](corner.x + scale * line[i], corner.y + scale * line[i + 1]);
      }
      path.closePath();
    });
    const full = Math.min(1, 0.4 + (scale * FINE_UM) / this.about.mpp / 8);  // far away, lines must not hide the tissue
    [["rgb(255 255 255 / .85)", 4 * full], [this.about.dark ? "#f0c748" : "#009e73", 2 * full]].forEach(([colour, wide]) => {
      pen.strokeStyle = colour;
      pen.lineWidth = wide;
      pen.stroke(path);
    });
  }

  // A bar of a round number of microns, and how much the slide is magnified, where a pixel of 1 micron is 10 x.
  ruler(pen, scale, height) {
    const { mpp } = this.about, most = (140 * mpp) / scale;
    const power = 10 ** Math.floor(Math.log10(most)), length = [5, 2, 1].find((n) => n * power <= most) * power;
    const text = `${length >= 1000 ? `${length / 1000} mm` : `${Number(length.toPrecision(2))} µm`} · ${Number(((10 * scale) / mpp).toPrecision(2))}×`;
    const wide = (length / mpp) * scale;
    pen.font = "12px system-ui, sans-serif";
    pen.fillStyle = "rgb(255 255 255 / .85)";
    pen.fillRect(8, height - 36, Math.max(wide, pen.measureText(text).width) + 16, 28);
    pen.fillStyle = "#1c1e24";
    pen.fillText(text, 16, height - 21);
    pen.fillRect(16, height - 15, wide, 3);
  }
}
