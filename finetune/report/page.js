
"use strict";
// The live side of every page. Without it all is there to be read; nothing here asks the network.

// ---- light and dark
function chooseTheme() {
  const root = document.documentElement, button = document.getElementById("theme");
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme || (system.matches ? "dark" : "light")) === "dark";
  const show = () => { button.textContent = isDark() ? "Light" : "Dark"; };
  const stored = (value) => {  // some browsers keep nothing for a file
    try {
      if (value) localStorage.setItem("finetune-theme", value);
      return localStorage.getItem("finetune-theme");
    } catch { return null; }
  };
  const kept = stored();
  if (kept === "dark" || kept === "light") root.dataset.theme = kept;
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    stored(root.dataset.theme);
    show();
  });
  system.addEventListener("change", show);
  show();
}

// ---- the value under the pointer or the focus
const tip = document.createElement("div");
tip.className = "tip";
tip.setAttribute("role", "status");
tip.hidden = true;

function showTip(text, x, y) {
  tip.textContent = text;
  tip.hidden = false;
  const box = tip.getBoundingClientRect(), width = document.documentElement.clientWidth;
  tip.style.left = Math.max(4, Math.min(x + 14, width - box.width - 4)) + "px";
  tip.style.top = (y - box.height - 14 > 4 ? y - box.height - 14 : y + 18) + "px";
}

let moved = hideTip;  // what to do when the page scrolls: what has the focus keeps its values

function hideTip() {
  tip.hidden = true;
  moved = hideTip;
}

// ---- tables: sort by a click on a column, filter by words
function valueOf(cell) {
  const small = cell.querySelector("small"), text = cell.textContent.slice(
    0, small ? cell.textContent.length - small.textContent.length : undefined).trim();
  const number = parseFloat(text.replace(/\u2009/g, "").replace("−", "-"));
  return { text, number: /^[-−+]?[\d.]/.test(text) ? number : NaN, none: text === "–" || text === "" };
}

function compareCells(a, b) {
  const one = valueOf(a), other = valueOf(b);
  if (one.none || other.none) return { last: one.none - other.none };
  if (!isNaN(one.number) && !isNaN(other.number) && one.number !== other.number)
    return { order: one.number - other.number };
  return { order: one.text.localeCompare(other.text, undefined, { numeric: true }) };
}

function sortTable(table, column, descending) {
  const body = table.tBodies[0], rows = Array.from(body.rows);
  const within = (name) => rows.filter((row) => (row.dataset.parent || "") === name);
  const told = (branch) => branch.find((row) => !valueOf(row.cells[column]).none) || branch[0];
  const sorted = (some) => {  // branches: a row, and below it what belongs to it
    const branches = some.map((row) => [row, ...(row.dataset.name ? sorted(within(row.dataset.name)) : [])]);
    branches.sort((a, b) => {
      const { last, order } = compareCells(told(a).cells[column], told(b).cells[column]);
      return last !== undefined ? last : descending ? -order : order;  // what is undefined stays last
    });
    return branches.flat();
  };
  body.append(...sorted(within("")));
}

function makeSortable(table) {
  const heads = Array.from(table.tHead.rows[0].cells);
  if (table.querySelector("[colspan]") || table.tBodies[0].rows.length < 3) return;
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const values = Array.from(table.tBodies[0].rows, (row) => valueOf(row.cells[column]));
      const first = values.find((value) => !value.none) || values[0];
      const before = head.getAttribute("aria-sort");
      const descending = before ? before === "ascending" : !isNaN(first.number);
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sortTable(table, column, descending);
    });
  });
}

function wordsOf(item) {  // of a row only its words: every row has a 4 in some number
  const parts = item.cells ? Array.from(item.querySelectorAll("th, .text, .long")) : [item];
  return parts.map((part) => part.textContent).join(" ").replace(/\s+/g, " ").toLowerCase();
}

function makeFilter(place, items, what, facets) {
  const box = document.createElement("div"), input = document.createElement("input");
  const count = document.createElement("span"), choices = facets.map((name) => makeChoice(name, items));
  box.className = "filter";
  input.type = "search";
  input.placeholder = "filter";
  input.setAttribute("aria-label", "Filter " + what);
  count.setAttribute("role", "status");
  const apply = () => {
    const wanted = input.value.toLowerCase().trim(), chosen = choices.filter((choice) => choice.value);
    const shown = items.filter((item) => {
      item.hidden = !wordsOf(item).includes(wanted)
        || !chosen.every((choice) => valuesOf(item, choice.name).includes(choice.value));
      return !item.hidden;
    });
    shown.forEach((item) => above(item, items).forEach((each) => { each.hidden = false; }));
    count.textContent = wanted || chosen.length ? shown.length + " of " + items.length : "";
  };
  [input, ...choices].forEach((each) => each.addEventListener("input", apply));
  box.append(input, ...choices, count);
  place.before(box);
}

function above(item, items) {  // the rows that it belongs to
  const parent = item.dataset.parent && items.find((each) => each.dataset.name === item.dataset.parent);
  return parent ? [parent, ...above(parent, items)] : [];
}

function valuesOf(item, facet) {  // a picture may be of several classes, a line each
  return (item.dataset[facet] || "").split("\n");
}

function makeChoice(facet, items) {
  const choice = document.createElement("select");
  choice.name = facet;
  choice.setAttribute("aria-label", "Only this " + facet);
  choice.append(new Option("any " + facet, ""));
  const values = Array.from(new Set(items.flatMap((item) => valuesOf(item, facet)))).filter(Boolean);
  values.sort((a, b) => a.localeCompare(b, undefined, { numeric: true }));
  values.forEach((value) => choice.append(new Option(value, value)));
  return choice;
}

function facetsOf(place) {
  return (place.dataset.facets || "").split(" ").filter(Boolean);
}

// ---- the confusion matrix: its cells show their pictures, arrows move between them
function openCell(link, gallery) {
  const chosen = document.getElementById(link.hash.slice(1));
  gallery.open = true;
  gallery.querySelectorAll(".cell").forEach((cell) => { cell.hidden = cell !== chosen; });
  document.querySelectorAll(".cells a").forEach((a) => a.setAttribute("aria-expanded", a === link));
  chosen.querySelector(".close-cell")?.remove();
  const button = document.createElement("button");
  button.type = "button";
  button.className = "close-cell";
  button.textContent = "Close";
  button.addEventListener("click", () => closeCell(link, gallery));
  const title = chosen.querySelector("h4");
  title.append(button);
  title.focus({ preventScroll: true });
  chosen.scrollIntoView({ block: "nearest" });
}

function closeCell(link, gallery) {
  gallery.open = false;
  gallery.querySelectorAll(".cell").forEach((cell) => { cell.hidden = false; });
  gallery.querySelectorAll(".close-cell").forEach((button) => button.remove());
  link.setAttribute("aria-expanded", false);
  link.focus();
}

const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

function neighbour(cell, [down, right]) {
  const rows = Array.from(cell.closest("tbody").rows);
  let row = rows.indexOf(cell.parentElement), column = cell.cellIndex;
  for (;;) {
    row += down;
    column += right;
    const next = rows[row]?.cells[column];
    if (!next) return null;
    const link = next.querySelector("a");
    if (link) return link;
  }
}

function describeCell(table, cell) {
  const count = cell.querySelector("b"), share = cell.querySelector("i");
  const column = table.tHead.rows[0].cells[cell.cellIndex].title;
  const row = cell.parentElement.cells[0].title;
  const said = table.classList.contains("outcomes") ? row + ", " + column
    : "true: " + row + "\nanswered: " + column;
  return said + "\n" + (count ? count.textContent + " pictures, " + share.textContent + " %" : "none");
}

function makeMatrix(table) {
  const gallery = document.querySelector(".gallery");
  const show = (event) => {
    const cell = event.target.closest("td");
    if (!cell) return hideTip();
    const box = cell.getBoundingClientRect();
    showTip(describeCell(table, cell), box.right - 14, box.top + 8);
    if (event.type === "focusin") moved = () => show(event);
  };
  table.addEventListener("pointerover", show);
  table.addEventListener("focusin", show);
  table.addEventListener("pointerleave", hideTip);
  table.addEventListener("focusout", hideTip);
  if (!gallery) return;
  let last = null;
  table.addEventListener("click", (event) => {
    const link = event.target.closest("a") || event.target.closest("td")?.querySelector("a");
    if (!link) return;
    event.preventDefault();
    hideTip();
    last = link;
    openCell(link, gallery);
  });
  table.addEventListener("keydown", (event) => {
    const step = STEPS[event.key], cell = event.target.closest("td");
    const link = step && cell && neighbour(cell, step);
    if (link) { event.preventDefault(); link.focus(); }
  });
  gallery.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && last) closeCell(last, gallery);
  });
}

// ---- charts: the nearest point says its values; arrows move along a line and between lines
function readLines(svg) {
  return Array.from(svg.querySelectorAll("polyline"), (line) => ({
    name: line.dataset.name,
    lead: line.dataset.lead || "",
    extra: line.dataset.extra ? JSON.parse(line.dataset.extra) : [],
    points: line.getAttribute("points").split(" ").filter(Boolean).map((p) => p.split(",").map(Number)),
  })).filter((line) => line.points.length);
}

function makeChart(svg) {
  const lines = readLines(svg), group = svg.querySelector(".lines");
  if (!lines.length) return;
  const spot = document.createElementNS(svg.namespaceURI, "circle");
  spot.setAttribute("r", 4);
  spot.setAttribute("class", "spot");
  let at = [0, 0];
  const show = () => {
    const line = lines[at[0]], [x, y] = line.points[at[1]], extra = line.extra[at[1]];
    const inside = new DOMPoint(x, y).matrixTransform(svg.getScreenCTM().inverse().multiply(group.getScreenCTM()));
    const screen = new DOMPoint(x, y).matrixTransform(group.getScreenCTM());
    spot.setAttribute("cx", inside.x);
    spot.setAttribute("cy", inside.y);
    svg.append(spot);
    const round = (value) => String(Number(value.toPrecision(4)));
    const told = [line.name, svg.dataset.x + " " + round(x), (svg.dataset.y + " " + round(y)).trim(),
      extra && line.lead + extra];
    showTip(told.filter(Boolean).join("\n"), screen.x, screen.y);
    moved = svg.matches(":focus-visible") ? show : hide;
  };
  const hide = () => { spot.remove(); hideTip(); };
  const follow = (event) => {
    const matrix = group.getScreenCTM();
    let best = 60 * 60;
    let found = null;
    lines.forEach((line, i) => line.points.forEach(([x, y], j) => {
      const across = matrix.a * x + matrix.e - event.clientX, down = matrix.d * y + matrix.f - event.clientY;
      const distance = across * across + down * down;
      if (distance < best) { best = distance; found = [i, j]; }
    }));
    if (!found) return hide();
    at = found;
    show();
  };
  svg.addEventListener("pointermove", follow);
  svg.addEventListener("pointerdown", follow);  // a finger taps
  svg.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch") hide(); });
  svg.addEventListener("focus", () => { if (svg.matches(":focus-visible")) show(); });
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const step = STEPS[event.key];
    if (event.key === "Escape") return hide();
    if (!step) return;
    event.preventDefault();
    const line = Math.max(0, Math.min(lines.length - 1, at[0] + step[0]));
    const last = lines[line].points.length - 1;
    const place = line === at[0] ? at[1] + step[1] : Math.round(at[1] / Math.max(1, lines[at[0]].points.length - 1) * last);
    at = [line, Math.max(0, Math.min(last, place))];
    show();
  });
}

// ---- paper shows what was folded away, the pictures of cells excepted
function openForPrint() {
  const folded = () => document.querySelectorAll("details:not(.gallery):not([open])");
  window.addEventListener("beforeprint", () => folded().forEach((each) => {
    each.open = true;
    each.dataset.folded = "";
  }));
  window.addEventListener("afterprint", () => document.querySelectorAll("[data-folded]").forEach((each) => {
    each.open = false;
    delete each.dataset.folded;
  }));
}

document.body.append(tip);
window.addEventListener("scroll", () => moved(), { passive: true });
chooseTheme();
document.querySelectorAll("table:not(.cells)").forEach((table) => {
  if (!table.tHead || !table.tBodies.length) return;
  const rows = Array.from(table.tBodies[0].rows);
  makeSortable(table);
  const facets = facetsOf(table);
  if (rows.length > (facets.length ? 2 : 15)) makeFilter(table.closest(".wide") || table, rows, "the rows below", facets);
});
document.querySelectorAll(".pictures:not(.close)").forEach((list) => {
  const facets = facetsOf(list), items = Array.from(list.children);
  if (items.length > (facets.length ? 2 : 8)) makeFilter(list, items, "the pictures below", facets);
});
document.querySelectorAll("table.cells").forEach(makeMatrix);
document.querySelectorAll("svg.chart").forEach(makeChart);
openForPrint();
