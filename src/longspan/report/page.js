"use strict";
// Filters, names at the ends of lines, what is told at a touch, and tables that sort and copy. Without it, all stands still.

const MANY = 6; // from so many lines on, bands are drawn for the line in focus only
const NAME_GAP = 14; // between names of lines, in units of the chart
const MOST_ROOM = 300; // for names beside a chart
const EDGE = 14; // beside a chart without names
const narrow = matchMedia("(max-width: 620px)"); // there names stand in a legend
const tip = document.getElementById("tip");
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

/* filters */

const chosen = {};

function passes(key, value) {
  return value === undefined || !chosen[key] || chosen[key].has(value);
}

function isOn(item) {
  return passes("arm", item.dataset.arm) && passes("ext", item.dataset.ext);
}

function refresh() {
  for (const group of all(".group")) {
    const on = all(".chip[aria-pressed=true]", group).map((chip) => chip.dataset.value);
    chosen[group.dataset.key] = new Set(on);
    group.querySelector(".every").textContent = on.length === all(".chip", group).length ? "none" : "all";
  }
  for (const item of all(".line, .map, tr[data-arm]")) item.classList.toggle("off", !isOn(item));
  for (const item of all("[data-task]")) item.hidden = !passes("task", item.dataset.task);
  for (const item of all(".heat path[data-length]")) item.classList.toggle("off", !passes("length", item.dataset.length));
  all(".chart").forEach(drawChart);
  all("table").forEach(hideColumns);
  const count = document.getElementById("count");
  const rows = new Set(all(".line, tr[data-arm]").map((item) => `${item.dataset.arm} ${item.dataset.ext}`));
  const off = new Set(all(".line.off, tr.off").map((item) => `${item.dataset.arm} ${item.dataset.ext}`));
  if (count) count.textContent = `${rows.size - off.size} of ${rows.size} lines`;
}

for (const group of all(".group")) {
  const chips = all(".chip", group);
  for (const chip of chips) {
    chip.addEventListener("click", () => {
      chip.setAttribute("aria-pressed", chip.getAttribute("aria-pressed") !== "true");
      refresh();
    });
  }
  group.querySelector(".every").addEventListener("click", () => {
    const some = chips.some((chip) => chip.getAttribute("aria-pressed") !== "true");
    for (const chip of chips) chip.setAttribute("aria-pressed", some);
    refresh();
  });
}

/* charts */

function element(parent, name, attributes, text = "") {
  const made = document.createElementNS(parent.namespaceURI, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  parent.append(made);
  return made;
}

function visiblePoints(line) {
  return all("circle:not(.off)", line);
}

function drawChart(svg) {
  const lines = all(".line", svg);
  lines.forEach(drawLine);
  const on = lines.filter((line) => !line.classList.contains("off") && visiblePoints(line).length);
  svg.classList.toggle("many", on.length > MANY);
  svg.parentNode.classList.toggle("empty", !on.length);
  nameLines(svg, on);
}

function drawLine(line) {
  const circles = all("circle", line);
  for (const circle of circles) circle.classList.toggle("off", !passes("length", circle.dataset.length));
  const points = circles.filter((circle) => !circle.classList.contains("off"));
  const place = (circle, y) => `${circle.getAttribute("cx")} ${y}`;
  const path = points.map((circle) => place(circle, circle.getAttribute("cy"))).join("L");
  line.querySelector(".stroke")?.setAttribute("d", path && `M${path}`);
  const banded = points.filter((circle) => circle.dataset.low);
  const upper = banded.map((circle) => place(circle, circle.dataset.high));
  const lower = banded.map((circle) => place(circle, circle.dataset.low)).reverse();
  line.querySelector(".band")?.setAttribute("d", banded.length > 1 ? `M${[...upper, ...lower].join("L")}Z` : "");
}

function nameLines(svg, lines) {
  setWidth(svg, +svg.dataset.right + EDGE);
  svg.querySelector(".names")?.remove();
  svg.parentNode.querySelector(".legend")?.remove();
  if (all(".line", svg).length < 2 || !lines.length) return;
  const [right, top, bottom] = ["right", "top", "bottom"].map((edge) => +svg.dataset[edge]);
  const fits = lines.length * NAME_GAP <= bottom - top + NAME_GAP;
  svg.parentNode.classList.toggle("crowded", !fits);
  const legend = document.createElement("div");
  legend.className = "legend";
  for (const line of lines) legend.append(swatch(svg, line));
  svg.after(legend);
  if (!fits || narrow.matches) return;
  const ends = lines.map((line) => {
    const last = visiblePoints(line).at(-1);
    const y = Math.min(Math.max(+last.getAttribute("cy"), top), bottom);
    return { line, x: +last.getAttribute("cx"), y };
  });
  ends.sort((a, b) => a.y - b.y);
  spread(ends, top, bottom);
  const names = element(svg, "g", { class: "names" });
  for (const { line, x, y, at } of ends) {
    const group = element(names, "g", { class: `label ${line.classList[1]}` });
    element(group, "path", { class: "leader", d: `M${x + 4} ${y}L${right + 8} ${at}h6` });
    element(group, "text", { x: right + 18, y: at + 4 }, line.dataset.short);
    group.addEventListener("pointerenter", () => focusOn(svg, line));
    group.addEventListener("pointerleave", () => focusOn(svg, null));
  }
  const widest = Math.max(...all("text", names).map((text) => text.getComputedTextLength()));
  setWidth(svg, right + 22 + Math.min(widest, MOST_ROOM));
}

function setWidth(svg, width) {
  svg.setAttribute("viewBox", `0 0 ${Math.ceil(width)} ${svg.viewBox.baseVal.height}`);
}

// moves `ends`, which are sorted, so far apart that their names can be read, inside top..bottom
function spread(ends, top, bottom) {
  let least = top;
  for (const end of ends) {
    end.at = Math.max(end.y, least);
    least = end.at + NAME_GAP;
  }
  let most = bottom;
  for (const end of ends.toReversed()) {
    end.at = Math.min(end.at, most);
    most = end.at - NAME_GAP;
  }
}

function dotOf(line) {
  const dot = document.createElement("i");
  dot.className = `dot ${line.classList[1]}`;
  dot.classList.toggle("ring", line.classList.contains("hollow"));
  return dot;
}

function swatch(svg, line) {
  const item = document.createElement("span");
  item.append(dotOf(line), line.dataset.short);
  item.addEventListener("pointerenter", () => focusOn(svg, line));
  item.addEventListener("pointerleave", () => focusOn(svg, null));
  return item;
}

function focusOn(svg, line) {
  svg.classList.toggle("focused", line !== null);
  for (const other of all(".line", svg)) other.classList.toggle("focus", other === line);
}

/* what is told at a touch */

function inside(svg, event) {
  return new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
}

function told(start, text, near) {
  const item = document.createElement("div");
  const value = document.createElement("span");
  item.className = near ? "near" : "";
  value.textContent = text;
  item.append(...start, value);
  return item;
}

function show(event, title, rows) {
  const head = document.createElement("b");
  head.textContent = title;
  tip.replaceChildren(head, ...rows);
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const beside = event.clientX + 18 + box.width < innerWidth ? event.clientX + 18 : event.clientX - 18 - box.width;
  tip.style.left = `${Math.max(6, beside)}px`;
  tip.style.top = `${Math.max(6, Math.min(event.clientY - 20, innerHeight - box.height - 6))}px`;
}

function hideTip(svg) {
  tip.hidden = true;
  focusOn(svg, null);
}

function onChart(svg, event) {
  const at = inside(svg, event);
  if (at.x > +svg.dataset.right + 6) return (tip.hidden = true);
  const points = all(".line:not(.off) circle:not(.off)", svg).map((circle) => ({
    x: +circle.getAttribute("cx"), y: +circle.getAttribute("cy"), name: circle.dataset.x, text: circle.dataset.t,
    line: circle.parentNode,
  }));
  if (!points.length) return;
  const nearest = points.reduce((a, b) => (Math.abs(b.x - at.x) < Math.abs(a.x - at.x) ? b : a));
  const column = points.filter((point) => point.name === nearest.name).sort((a, b) => a.y - b.y);
  const close = column.reduce((a, b) => (Math.abs(b.y - at.y) < Math.abs(a.y - at.y) ? b : a));
  const first = Math.max(0, Math.min(column.indexOf(close) - 7, column.length - 14));
  const rows = column.slice(first, first + 14).map((point) =>
    told([dotOf(point.line), point.line.dataset.label], point.text, point === close));
  show(event, nearest.name, rows);
  if (column.length > 1) focusOn(svg, close.line);
}

function onHeat(svg, event) {
  const at = inside(svg, event);
  const { x0, y0, w, h, cols, rows, cells } = svg.dataset;
  const [names, depths] = [cols.split(","), rows.split(",")];
  const [column, line] = [Math.floor((at.x - x0) / w), Math.floor((at.y - y0) / h)];
  if (column < 0 || line < 0 || column >= names.length || line >= depths.length) return (tip.hidden = true);
  const value = cells.split(",")[line * names.length + column];
  show(event, `${names[column]} tokens, depth ${depths[line]}`, [told(["score"], value, true)]);
}

for (const [kind, handler] of [[".chart", onChart], [".heat", onHeat]]) {
  for (const svg of all(kind)) {
    for (const name of ["pointermove", "pointerdown"]) svg.addEventListener(name, (event) => handler(svg, event));
    svg.addEventListener("pointerleave", () => hideTip(svg));
  }
}
addEventListener("scroll", () => (tip.hidden = true), { passive: true });

/* tables */

function hideColumns(table) {
  all("thead th", table).forEach((head, index) => {
    const hidden = !passes("length", head.dataset.length);
    for (const row of table.rows) row.cells[index].hidden = hidden;
  });
}

function sortBy(head) {
  const table = head.closest("table");
  const index = head.cellIndex;
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of all("th[aria-sort]", table)) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const body = table.tBodies[0];
  const key = (row) => row.cells[index].dataset.v ?? "";
  const text = (row) => row.cells[index].textContent;
  const sign = down ? -1 : 1;
  const compare = (a, b) => {
    const [x, y] = [key(a), key(b)];
    if (x === "" || y === "") return x !== y ? (x === "" ? 1 : -1) : sign * text(a).localeCompare(text(b), "en", { numeric: true });
    return sign * (Number(x) - Number(y));
  };
  body.append(...[...body.rows].sort(compare));
}

for (const button of all(".sort")) button.addEventListener("click", () => sortBy(button.closest("th")));

function csvOf(table) {
  const rows = [...table.tBodies[0].rows].filter((row) => !row.classList.contains("off"));
  const heads = all("thead th", table).filter((head) => !head.hidden);
  const withEnds = heads.filter((head) => rows.some((row) => row.cells[head.cellIndex].dataset.low));
  const titles = heads.flatMap((head) => {
    const title = head.textContent;
    return withEnds.includes(head) ? [title, `${title} low`, `${title} high`] : [title];
  });
  const lines = rows.map((row) => heads.flatMap((head) => {
    const cell = row.cells[head.cellIndex];
    const { v = words(cell), low = "", high = "" } = cell.dataset;
    return withEnds.includes(head) ? [v, low, high] : [cell.closest(".words") ? words(cell) : v];
  }));
  const quote = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  return [titles, ...lines].map((line) => line.map(quote).join(",")).join("\n") + "\n";
}

function words(cell) {
  const text = [...cell.childNodes].map((node) => node.textContent).filter(Boolean).join(", ");
  return text === "–" ? "" : text;
}

async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const field = document.createElement("textarea"); // a page from a plain http server has no clipboard
  field.value = text;
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}

for (const button of all(".copy")) {
  button.addEventListener("click", async () => {
    await copy(csvOf(button.parentNode.querySelector("table")));
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy CSV"), 1500);
  });
}

narrow.addEventListener("change", refresh);
refresh();
