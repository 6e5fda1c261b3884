const tip = document.getElementById("tip");
const pressed = { arm: null, ext: null };

function refresh() {
  for (const key of ["arm", "ext"]) {
    const group = document.querySelector(`.group[data-group=${key}]`);
    pressed[key] = group && new Set([...group.querySelectorAll("[aria-pressed=true]")].map((chip) => chip.dataset[key]));
  }
  for (const item of document.querySelectorAll(".line[data-arm], .map")) {
    const on = ["arm", "ext"].every((key) => !pressed[key] || pressed[key].has(item.dataset[key]));
    item.classList.toggle("off", !on);
  }
}

for (const chip of document.querySelectorAll(".chip")) {
  chip.addEventListener("click", () => {
    chip.setAttribute("aria-pressed", chip.getAttribute("aria-pressed") !== "true");
    refresh();
  });
}

function inside(svg, event) {
  return new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
}

function row(color, label, text, near) {
  const line = document.createElement("div");
  line.className = near ? `${color} near` : color;
  line.append(document.createElement("i"), label);
  const value = document.createElement("span");
  value.textContent = text;
  line.append(value);
  return line;
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

function onChart(svg, event) {
  const at = inside(svg, event);
  const points = [...svg.querySelectorAll(".line:not(.off) circle")].map((circle) => ({
    x: +circle.getAttribute("cx"), y: +circle.getAttribute("cy"), name: circle.dataset.x, text: circle.dataset.t,
    label: circle.parentNode.dataset.label, color: circle.parentNode.classList[1],
  }));
  if (!points.length) return;
  const nearest = points.reduce((a, b) => (Math.abs(b.x - at.x) < Math.abs(a.x - at.x) ? b : a));
  const column = points.filter((point) => point.name === nearest.name).sort((a, b) => a.y - b.y);
  const close = column.reduce((a, b) => (Math.abs(b.y - at.y) < Math.abs(a.y - at.y) ? b : a));
  const first = Math.max(0, Math.min(column.indexOf(close) - 7, column.length - 14));
  const rows = column.slice(first, first + 14);
  show(event, nearest.name, rows.map((point) => row(point.color, point.label, point.text, point === close)));
}

function onHeat(svg, event) {
  const at = inside(svg, event);
  const { x0, y0, w, h, cols, rows, cells } = svg.dataset;
  const [names, depths] = [cols.split(","), rows.split(",")];
  const [column, line] = [Math.floor((at.x - x0) / w), Math.floor((at.y - y0) / h)];
  if (column < 0 || line < 0 || column >= names.length || line >= depths.length) return (tip.hidden = true);
  const value = cells.split(",")[line * names.length + column];
  show(event, `${names[column]} tokens, depth ${depths[line]}`, [row("c0", "accuracy", value, true)]);
}

for (const [kind, handler] of [["svg.chart", onChart], ["svg.heat", onHeat]]) {
  for (const svg of document.querySelectorAll(kind)) {
    for (const name of ["pointermove", "pointerdown"]) svg.addEventListener(name, (event) => handler(svg, event));
    svg.addEventListener("pointerleave", () => (tip.hidden = true));
  }
}
addEventListener("scroll", () => (tip.hidden = true), { passive: true });
