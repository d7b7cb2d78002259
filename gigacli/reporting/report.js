"use strict";
// Draws the map of slide vectors. Text goes into the page as text only, never as HTML.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  if (!data.maps.length) return;

  const $ = (id) => document.getElementById(id);
  const canvas = $("map"), tip = $("tip"), legend = $("legend"), chosen = $("chosen");
  const PALETTE = 8, LISTED = 60, MARGIN = 24, REACH = 14;
  const state = { map: 0, kind: "pca", colour: 0, hover: -1, selected: -1, only: null };
  let points = [];  // of the map that is shown: {row, x, y} in CSS pixels

  const make = (tag, text, parent) => {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    if (parent) parent.append(node);
    return node;
  };
  const fill = (select, names, change) => {
    select.replaceChildren();
    names.forEach(([value, text]) => { make("option", text, select).value = value; });
    select.onchange = () => change(select.value);
  };
  const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const map = () => data.maps[state.map];

  // ---------------------------------------------------------------- colours

  const colours = [...data.groups, { name: "tiles per slide", numbers: data.tiles }];

  // The largest groups get a colour each, the others share grey.
  const ranked = (group) => {
    const times = new Map();
    map().rows.forEach((row) => { const c = group.codes[row]; if (c >= 0) times.set(c, (times.get(c) || 0) + 1); });
    return [...times].sort((a, b) => b[1] - a[1] || a[0] - b[0]);
  };
  const painter = () => {
    const group = colours[state.colour], other = variable("--other");
    const palette = Array.from({ length: PALETTE }, (_, i) => variable(`--c${i}`));
    if (group.numbers) {
      const values = map().rows.map((row) => Math.log1p(Math.max(0, group.numbers[row])));
      const low = values.reduce((a, b) => Math.min(a, b)), high = values.reduce((a, b) => Math.max(a, b));
      const share = (row) => (Math.log1p(Math.max(0, group.numbers[row])) - low) / (high - low || 1);
      return (row) => `color-mix(in oklab, ${palette[1]} ${Math.round(100 * share(row))}%, ${palette[0]})`;
    }
    const place = new Map(ranked(group).slice(0, PALETTE).map(([code], i) => [code, palette[i]]));
    if (state.only !== null && !place.has(state.only)) place.set(state.only, variable("--accent"));  // a grey one, alone
    return (row) => place.get(group.codes[row]) || other;
  };
  const shown = (row) => state.only === null || colours[state.colour].codes[row] === state.only;

  const drawLegend = () => {
    const group = colours[state.colour];
    legend.replaceChildren();
    if (group.numbers) {
      const values = map().rows.map((row) => Math.max(0, group.numbers[row]));
      const low = values.reduce((a, b) => Math.min(a, b)), high = values.reduce((a, b) => Math.max(a, b));
      [[low, "--c0"], [high, "--c1"]].forEach(([value, colour]) => {
        const item = make("span", undefined, legend);
        const dot = make("i", undefined, item);
        dot.style.cssText = `display:inline-block;margin-right:6px;background:${variable(colour)}`;
        item.append(`${value.toLocaleString("en")} tiles`);
      });
      return;
    }
    const all = ranked(group);
    all.slice(0, LISTED).forEach(([code, times], i) => {
      const button = make("button", undefined, legend);
      button.type = "button";
      button.setAttribute("aria-pressed", String(state.only === null || state.only === code));
      const colour = i < PALETTE ? `--c${i}` : state.only === code ? "--accent" : "--other";
      make("i", undefined, button).style.background = variable(colour);
      button.append(`${group.names[code]} (${times.toLocaleString("en")})`);
      button.onclick = () => { state.only = state.only === code ? null : code; drawLegend(); draw(); };
    });
    const known = all.reduce((sum, one) => sum + one[1], 0);
    const listed = all.slice(0, LISTED).reduce((sum, one) => sum + one[1], 0);
    const rest = [];
    if (all.length > LISTED) rest.push(`${all.length - LISTED} smaller groups (${(known - listed).toLocaleString("en")})`);
    if (known < map().rows.length) rest.push(`not known (${(map().rows.length - known).toLocaleString("en")})`);
    if (rest.length) {
      const item = make("span", undefined, legend);
      make("i", undefined, item).style.cssText = `display:inline-block;margin-right:6px;background:${variable("--other")}`;
      item.append(rest.join(", "));
    }
  };

  // ---------------------------------------------------------------- map

  const lay = () => {
    const places = state.kind === "pca" ? map().pca : map().tsne;
    const { width, height } = canvas.getBoundingClientRect();
    const low = [Infinity, Infinity], high = [-Infinity, -Infinity];
    places.forEach((v, i) => { low[i % 2] = Math.min(low[i % 2], v); high[i % 2] = Math.max(high[i % 2], v); });
    // both axes have one unit, however wide the canvas
    const unit = Math.min(...[width, height].map((side, i) => (side - 2 * MARGIN) / Math.max(1, high[i] - low[i])));
    const middle = low.map((v, i) => (v + high[i]) / 2);
    points = map().rows.map((row, i) => ({
      row, x: width / 2 + unit * (places[2 * i] - middle[0]), y: height / 2 - unit * (places[2 * i + 1] - middle[1]),
    }));
  };
  const draw = () => {
    const ratio = window.devicePixelRatio || 1, { width, height } = canvas.getBoundingClientRect();
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    const pen = canvas.getContext("2d"), paint = painter();
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    const radius = points.length > 4000 ? 2 : points.length > 800 ? 3 : 5;
    const dot = (point, r) => { pen.beginPath(); pen.arc(point.x, point.y, r, 0, 2 * Math.PI); pen.fill(); };
    pen.globalAlpha = 0.08;
    pen.fillStyle = variable("--other");
    points.filter((p) => !shown(p.row)).forEach((p) => dot(p, radius));
    pen.globalAlpha = points.length > 800 ? 0.75 : 0.9;
    points.filter((p) => shown(p.row)).forEach((p) => { pen.fillStyle = paint(p.row); dot(p, radius); });
    pen.globalAlpha = 1;
    const ring = (row, r, colour) => {
      const point = points.find((p) => p.row === row);
      if (!point) return;
      pen.fillStyle = paint(row);
      dot(point, radius + 1);
      pen.beginPath();
      pen.arc(point.x, point.y, r, 0, 2 * Math.PI);
      pen.strokeStyle = colour;
      pen.lineWidth = 2;
      pen.stroke();
    };
    if (state.selected >= 0) {
      neighbours(state.selected).forEach(([row]) => ring(row, radius + 3, variable("--muted")));
      ring(state.selected, radius + 5, variable("--accent"));
    }
    if (state.hover >= 0) ring(state.hover, radius + 4, variable("--ink"));
  };
  const neighbours = (row) => {
    const i = map().rows.indexOf(row);
    return i < 0 ? [] : map().near[i].map((other, k) => [other, map().similar[i][k] / 1000]);
  };

  // ---------------------------------------------------------------- words

  const facts = (row) => data.groups.filter((g) => g.codes[row] >= 0).map((g) => `${g.name}: ${g.names[g.codes[row]]}`);
  const picture = (row, parent) => {
    const drawn = $(`slide-${row}`);
    if (!drawn) return;
    const image = make("img", undefined, parent);
    image.src = drawn.src;
    image.alt = "";
  };
  const describe = (row, parent) => {
    picture(row, parent);
    make("b", data.ids[row], parent);
    facts(row).forEach((text) => { make("br", undefined, parent); make("span", text, parent); });
    if (data.tiles[row] >= 0) {
      make("br", undefined, parent);
      make("span", `${data.tiles[row].toLocaleString("en")} tiles`, parent);
    }
  };
  const choose = (row) => {
    state.selected = row;
    chosen.replaceChildren();
    if (row < 0) {
      make("span", "Hover over a point to see the slide; click it, or find it by its id, to see the slides nearest to it.", chosen);
    } else {
      describe(row, chosen);
      make("h3", "Nearest slides, by cosine", chosen);
      const list = make("ol", undefined, chosen);
      neighbours(row).forEach(([other, similar]) => {
        const item = make("li", undefined, list);
        picture(other, item);
        make("b", data.ids[other], item);
        const same = data.patients.length && data.patients[other] === data.patients[row] ? ", same patient" : "";
        make("br", undefined, item);
        const label = data.groups.slice(0, 1).map((g) => g.names[g.codes[other]]).filter(Boolean).map((name) => `${name} · `);
        make("span", `${label.join("")}${similar.toFixed(3)}${same}`, item);
        item.onclick = () => choose(other);
      });
    }
    draw();
  };
  const hover = (row, x, y) => {
    if (row !== state.hover) {
      state.hover = row;
      tip.replaceChildren();
      if (row >= 0) describe(row, tip);
      draw();
    }
    tip.hidden = row < 0;
    if (row < 0) return;
    const box = canvas.getBoundingClientRect();
    tip.style.left = `${Math.max(4, x > box.width / 2 ? x - tip.offsetWidth - 16 : x + 16)}px`;
    tip.style.top = `${Math.max(4, Math.min(y - 20, box.height - tip.offsetHeight - 4))}px`;
  };
  const under = (event) => {
    const box = canvas.getBoundingClientRect();
    const x = event.clientX - box.left, y = event.clientY - box.top;
    let best = -1, least = REACH * REACH;
    points.forEach((p) => {
      const far = (p.x - x) ** 2 + (p.y - y) ** 2;
      if (far < least && shown(p.row)) { least = far; best = p.row; }
    });
    return [best, x, y];
  };
  const note = () => {
    const one = map();
    const [first, second] = one.explained.map((share) => (100 * share).toFixed(0));
    $("map-note").textContent = state.kind === "pca"
      ? `The first two principal components of ${one.rows.length.toLocaleString("en")} vectors of ${one.width} values: ${first} % and ${second} % of their variance.`
      : `t-SNE of ${one.rows.length.toLocaleString("en")} vectors: slides that are alike lie together; distances between groups and their sizes mean nothing.`;
  };
  const refresh = () => { state.hover = -1; tip.hidden = true; lay(); drawLegend(); note(); choose(map().rows.includes(state.selected) ? state.selected : -1); };

  // ---------------------------------------------------------------- controls

  const kinds = () => {
    const names = [["pca", "principal components"]];
    if (map().tsne) names.push(["tsne", "neighbours (t-SNE)"]);
    if (!map().tsne) state.kind = "pca";
    fill($("pick-kind"), names, (value) => { state.kind = value; refresh(); });
    $("pick-kind").value = state.kind;
  };
  fill($("pick-map"), data.maps.map((one, i) => [i, one.embedding]), (value) => { state.map = Number(value); kinds(); refresh(); });
  fill($("pick-colour"), colours.map((one, i) => [i, one.name]), (value) => { state.colour = Number(value); state.only = null; refresh(); });
  $("find").oninput = () => {
    const text = $("find").value.trim().toLowerCase();
    const row = text ? map().rows.find((r) => data.ids[r].toLowerCase().includes(text)) : undefined;
    choose(row === undefined ? -1 : row);
  };
  document.querySelector(".controls").onsubmit = (event) => event.preventDefault();
  canvas.onpointermove = (event) => hover(...under(event));
  canvas.onpointerleave = () => hover(-1, 0, 0);
  canvas.onclick = (event) => choose(under(event)[0]);
  canvas.onkeydown = (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const rows = map().rows, at = rows.indexOf(state.selected);
    choose(rows[(at + step + rows.length) % rows.length]);
  };
  new ResizeObserver(() => { lay(); draw(); }).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { drawLegend(); draw(); });
  kinds();
  refresh();
})();
