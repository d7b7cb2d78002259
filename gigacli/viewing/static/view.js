// The page of giga view: the list of slides, what is drawn on them, and what they are like.
import { Pane, ask, make } from "./pane.js";
import { VectorMap } from "./map.js";

const $ = (id) => document.getElementById(id);
const MOST = 300;  // rows of the list that are in the page: more take long to lay out
const NEAR = 6;
const number = (value) => value.toLocaleString("en");

const slides = await ask("slides.json");
const every = slides.ids.map((_, row) => row);
const similar = new Map();  // row -> thousandths, of the slide that is open
const shown = { outline: false, grid: false, map: false, alike: false, embedding: 0, positive: 0 };
const order = { column: -1, down: false };
const said = (text) => { $("said").textContent = text; };

// ---------------------------------------------------------------- the list

const groupOf = (group) => (row) => (group.codes[row] < 0 ? "" : group.names[group.codes[row]]);
const pixels = (row) => (slides.width[row] > 0 ? (slides.width[row] * slides.height[row]) / 1e6 : -1);
const columns = [
  { name: "slide", of: (row) => slides.ids[row] },
  ...slides.groups.slice(0, 1).map((group) => ({ name: group.name, of: groupOf(group) })),
  ...(slides.embeddings.length ? [{ name: "similar", of: (row) => similar.get(row) ?? -2000, text: (v) => (v < -1000 ? "" : (v / 1000).toFixed(3)) }] : []),
  ...slides.groups.slice(1).map((group) => ({ name: group.name, of: groupOf(group) })),
  { name: "tiles", of: (row) => slides.tiles[row], text: (v) => (v < 0 ? "" : number(v)) },
  { name: "megapixels", of: pixels, text: (v) => (v < 0 ? "" : number(Number(v.toPrecision(3)))) },
  { name: "µm per px", of: (row) => slides.mpp[row] ?? -1, text: (v) => (v < 0 ? "" : v.toPrecision(3)) },
  ...(slides.failures.some(Boolean) ? [{ name: "failed", of: (row) => slides.failures[row] }] : []),
];
const words = every.map((row) => [slides.ids[row], slides.patients[row] || "", ...slides.groups.map((g) => groupOf(g)(row))].join("\n").toLowerCase());

const letters = new Intl.Collator("en", { numeric: true });
const compare = (a, b) => (typeof a === "number" ? a - b : letters.compare(a, b));

const list = () => {
  const wanted = $("find").value.trim().toLowerCase();
  const rows = every.filter((row) => words[row].includes(wanted));
  if (order.column >= 0) {
    const { of } = columns[order.column], sign = order.down ? -1 : 1;
    rows.sort((a, b) => sign * compare(of(a), of(b)) || a - b);
  }
  $("listed").textContent = rows.length > MOST ? `${MOST} of ${number(rows.length)} slides: find or sort to see others` : `${number(rows.length)} slides`;
  const focused = $("slides").contains(document.activeElement) ? document.activeElement.dataset.row : undefined;
  $("slides").replaceChildren(...rows.slice(0, MOST).map((row) => {
    const line = make("tr");
    if (panes[0] && row === panes[0].row) line.setAttribute("aria-current", "true");
    columns.forEach(({ of, text }, i) => {
      const value = of(row), cell = make("td", line, i ? (text ? text(value) : value) : undefined, text ? { class: "n" } : {});
      if (i) cell.title = cell.textContent;
      else make("button", cell, value, { type: "button", title: value, "data-row": row }).onclick = () => open(row);
    });
    return line;
  }));
  if (focused !== undefined) $("slides").querySelector(`[data-row="${focused}"]`)?.focus();
};

columns.forEach(({ name, text }, i) => {
  const cell = make("th", $("columns"), undefined, { scope: "col", ...(text ? { class: "n" } : {}) });
  make("button", cell, name, { type: "button", title: `sort by ${name}` }).onclick = () => {
    order.down = order.column === i ? !order.down : Boolean(text);  // numbers: the largest first
    order.column = i;
    [...$("columns").children].forEach((one) => one.removeAttribute("aria-sort"));
    cell.setAttribute("aria-sort", order.down ? "descending" : "ascending");
    list();
  };
});
$("find").oninput = () => list();
$("find").onkeydown = (event) => { if (event.key === "Enter") $("slides").querySelector("button")?.click(); };

// ---------------------------------------------------------------- slides

const panes = [];
const facts = (row) => [
  ...slides.groups.slice(0, 2).map((g) => groupOf(g)(row)).filter((name) => name && name !== slides.ids[row]),
  slides.tiles[row] >= 0 ? `${number(slides.tiles[row])} tiles` : "not tiled",
].join(" · ");

const add = () => {
  const pane = new Pane($("panes"), shown, {
    said,
    tile: (one, tile) => { if (shown.alike) one.like(tile).then(() => one.tell(tile)); },
    got: (one, what) => { key(); if (what === "alike") likes(one); },
  });
  if (panes.length) {
    pane.button("close", "Close this slide", () => { const whole = panes[0].isWhole(); pane.remove(); panes.pop(); if (whole) panes[0].fit(); });
    if (panes[0].isWhole()) panes[0].fit();
  }
  panes.push(pane);
  return pane;
};

const open = async (row, tile) => {
  history.replaceState(null, "", `#${row}`);
  document.title = `${slides.ids[row]} · giga view`;
  $("tiles").hidden = true;
  const opened = panes[0].open(row, slides.ids[row], facts(row), tile);
  list();  // at once, and again when it is known what is similar
  await Promise.all([opened, nearest(row)]);
};
const beside = (row, tile) => (panes[1] || add()).open(row, slides.ids[row], facts(row), tile);

const picture = (button, source) => {
  const image = make("img", button, undefined, { src: source, alt: "", loading: "lazy" });
  image.onerror = () => image.remove();
};

const nearest = async (row) => {
  similar.clear();
  let rows = [];
  if (slides.embeddings.length) {
    try {
      const found = await ask(`slide/${row}/near.json?embedding=${shown.embedding}`);
      if (panes[0].row !== row) return;
      found.rows.forEach((other, i) => similar.set(other, found.similar[i]));
      rows = found.rows.slice(0, NEAR);
    } catch (error) {
      said(error.message);
    }
  }
  $("nearest").hidden = !rows.length;
  $("near").replaceChildren(...rows.map((other) => {
    const item = make("li"), button = make("button", item, undefined, { type: "button", title: `show ${slides.ids[other]} beside` });
    picture(button, `slide/${other}/overview.jpg`);
    make("b", button, slides.ids[other], { class: "name" });
    make("span", button, [slides.groups.length ? groupOf(slides.groups[0])(other) : "", (similar.get(other) / 1000).toFixed(3)].filter(Boolean).join(" · "));
    button.onclick = () => beside(other);
    make("button", item, "open", { type: "button", class: "go", "aria-label": `open ${slides.ids[other]}` }).onclick = () => open(other);
    return item;
  }));
  map.mark(row, rows);
  list();
};

const likes = (pane) => {
  const own = pane.best().map((tile) => [pane.row, tile, pane.alike.similar[tile]]);
  $("tiles").hidden = false;
  $("like").replaceChildren(...[[pane.row, pane.clicked, 1000], ...own.slice(0, 7), ...pane.alike.others].map(([row, tile, cosine], i) => {
    const button = make("button", make("li"), undefined, { type: "button", title: `tile ${tile} of ${slides.ids[row]}` });
    picture(button, `slide/${row}/tile/${tile}.jpg`);
    make("span", button, i ? (cosine / 1000).toFixed(2) : "this");
    if (row !== pane.row) make("span", button, slides.ids[row], { class: "name" });
    button.onclick = () => (row === pane.row ? pane.go(tile) : beside(row, tile));
    return button.parentNode;
  }));
  if (pane.alike.note) said(pane.alike.note);
};

// ---------------------------------------------------------------- what is drawn

const key = () => {
  const box = $("key"), { map: found } = panes[0];
  box.replaceChildren();
  const ramp = (low, kind, high) => {
    const line = make("div", box, undefined, { class: "ramp" });
    make("span", line, low);
    make("i", line, undefined, { class: kind });
    make("span", line, high);
  };
  if (shown.map && found) {
    ramp(`−${found.most.toPrecision(2)}`, "pull", `+${found.most.toPrecision(2)}`);
    const sure = found.sure.reduce((a, b) => a + b, 0);
    make("div", box, `Pull towards ${found.positive}, log odds; ${number(sure)} of ${number(found.sure.length)} tiles are beyond the noise.${found.auc === null ? "" : ` AUC of the probe ${found.auc.toFixed(2)}.`}`);
    make("details", box).append(make("summary", undefined, "how far to trust it"), ...found.notes.map((text) => make("p", undefined, text, { class: "note" })));
  } else if (shown.alike) {
    ramp("unlike", "like", "alike");
    make("div", box, panes[0].alike ? `Cosine of ${panes[0].alike.features}, standardised by this slide.` : "Click a tile, or press Enter for the one in the middle.");
  }
};

for (const name of ["outline", "grid", "map", "alike"]) {
  $(name).onchange = (event) => {
    shown[name] = event.target.checked;
    const other = { map: "alike", alike: "map" }[name];  // both colour tiles
    if (other && shown[name]) shown[other] = $(other).checked = false;
    said("");
    panes.forEach((pane) => pane.fill());
    key();
  };
}
slides.classes.forEach((name, i) => make("option", $("class"), name, { value: i }));
$("class").onchange = (event) => { shown.positive = Number(event.target.value); panes.forEach((pane) => { pane.map = null; pane.fill(); }); key(); };
const off = (names, why) => names.forEach((name) => { $(name).disabled = true; $(name).closest("label").title = why; });
if (!slides.embeddings.length) off(["map", "class"], "run giga embed first");
else if (!slides.classes.length) off(["map", "class"], "start with labels: giga view STORE --labels CSV");
$("class").hidden = !slides.classes.length;
if (!slides.features) off(["alike"], "run giga bank first");

// ---------------------------------------------------------------- vectors, colours of the page, begin

const map = new VectorMap(slides, (row) => open(row));
slides.embeddings.forEach((name, i) => make("option", $("pick-embedding"), name, { value: i }));
$("vectors").hidden = !slides.embeddings.length;
$("pick-embedding").onchange = (event) => {
  shown.embedding = Number(event.target.value);
  map.load(shown.embedding);
  nearest(panes[0].row);
  panes.forEach((pane) => { pane.map = pane.alike = null; pane.fill(); });
};

const schemes = [...document.styleSheets].flatMap((sheet) => [...sheet.cssRules])
  .filter((rule) => rule.media && rule.media.mediaText.includes("prefers-color-scheme"));
const darkness = matchMedia("(prefers-color-scheme: dark)");
const paint = (dark) => {
  schemes.forEach((rule) => { rule.media.mediaText = dark ? "all" : "not all"; });
  document.documentElement.style.colorScheme = dark ? "dark" : "light";
  $("theme").textContent = dark ? "light" : "dark";
  $("theme").onclick = () => paint(!dark);
  map.legend();
  map.draw();
};
darkness.addEventListener("change", () => paint(darkness.matches));

$("store").textContent = slides.store;
$("facts").textContent = `${number(slides.ids.length)} slides · for looking: QuPath is there to annotate`;
add();
paint(darkness.matches);
const first = Number(location.hash.slice(1)) || 0;
if (slides.embeddings.length) map.load(0);
await open(first < slides.ids.length ? first : 0);
document.documentElement.dataset.ready = "yes";
