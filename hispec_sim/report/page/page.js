"use strict";
// Tables sort by a click on a heading: numbers by their value, texts by the alphabet; equal rows keep their order.
for (const table of document.querySelectorAll("table")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => heading.firstElementChild.addEventListener("click", () => {
    const falling = heading.getAttribute("aria-sort") === "ascending";
    headings.forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", falling ? "descending" : "ascending");
    const body = table.tBodies[0], sign = falling ? -1 : 1;
    const key = (row) => {
      const cell = row.cells[column];
      return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent;
    };
    const compare = (a, b) => typeof a === "number" && typeof b === "number"
      ? a - b : typeof a === typeof b ? a.localeCompare(b) : typeof a === "number" ? -1 : 1;
    body.append(...[...body.rows].sort((a, b) => sign * compare(key(a), key(b))));
  }));
}

// Parts of drawings that carry a tip show it beside the pointer, or beside themselves when they have the focus.
const tip = document.getElementById("tip");
const show = (part, x, y) => {
  tip.textContent = part.dataset.tip;
  tip.hidden = false;
  tip.style.left = `${Math.max(0, Math.min(x + 14, innerWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = `${Math.max(0, Math.min(y + 14, innerHeight - tip.offsetHeight - 8))}px`;
};
document.addEventListener("pointermove", (event) => {
  const part = event.target.closest?.("[data-tip]");
  if (part) show(part, event.clientX, event.clientY); else tip.hidden = true;
});
document.addEventListener("focusin", (event) => {
  const part = event.target.closest?.("[data-tip]");
  if (part) { const box = part.getBoundingClientRect(); show(part, box.right, box.top); }
});
document.addEventListener("focusout", () => { tip.hidden = true; });

// A drawing zooms about the pointer (wheel with Ctrl, so that plain scrolling scrolls), moves by dragging, and is whole
// again after a double click.
for (const svg of document.querySelectorAll(".drawing svg")) {
  const whole = svg.getAttribute("viewBox").split(" ").map(Number);
  let view = [...whole], grip = null;
  const apply = () => svg.setAttribute("viewBox", view.join(" "));
  const at = (event) => {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    return [point.x, point.y];
  };
  svg.addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return;
    event.preventDefault();
    const [x, y] = at(event);
    const scale = Math.min(Math.exp(event.deltaY / 400), whole[2] / view[2]);
    view = [x - (x - view[0]) * scale, y - (y - view[1]) * scale, view[2] * scale, view[3] * scale];
    apply();
  }, { passive: false });
  svg.addEventListener("pointerdown", (event) => {
    if (view[2] >= whole[2] || event.button !== 0) return;
    grip = at(event);
    svg.setPointerCapture(event.pointerId);
  });
  svg.addEventListener("pointermove", (event) => {
    if (!grip) return;
    const [x, y] = at(event);
    view = [view[0] + grip[0] - x, view[1] + grip[1] - y, view[2], view[3]];
    apply();
  });
  for (const end of ["pointerup", "pointercancel"]) svg.addEventListener(end, () => { grip = null; });
  svg.addEventListener("dblclick", () => { view = [...whole]; apply(); });
}
