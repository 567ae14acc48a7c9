// A list of rows to step through: one is chosen by a click anywhere on it, or with the arrows. Cells are text, made in Python.

export default function (component) {
  const root = component.parentElement.querySelector(".rows");
  const { columns, rows, chosen, name, height } = component.data;
  const head = root.querySelector(".row.head"), view = root.querySelector(".view");
  root.style.height = `${height}px`;
  root.style.setProperty("--columns", columns.map((column) => column.width).join(" "));
  head.replaceChildren(...columns.map((column) => {
    const made = node("span", column.is_number ? "num" : "", column.name);
    made.title = column.help;
    return made;
  }));
  view.setAttribute("aria-label", name);
  const lines = rows.map((cells, i) => {
    const line = node("div", "row");
    line.id = `row-${i}`;
    line.setAttribute("role", "option");
    cells.forEach((text, j) => {
      const cell = node("span", columns[j].is_number ? "num" : "lab", printable(text));
      cell.title = cell.textContent.trim();
      line.append(cell);
    });
    line.onclick = () => choose(i);
    return line;
  });
  view.replaceChildren(...lines);
  let at = chosen, timer = 0;
  mark();
  // Scrolls the list alone, never the page.
  if (lines[at]) view.scrollTop = Math.max(0, Math.min(root.scrolled ?? 1e9, lines[at].offsetTop - 60), lines[at].offsetTop + 90 - view.clientHeight);
  view.onscroll = () => { root.scrolled = view.scrollTop; };
  view.onkeydown = (event) => {
    const by = rowsToStep(event, view, 30, rows.length);
    if (by) choose(Math.min(Math.max(at + by, 0), rows.length - 1), 150); // held down, only the last one is drawn
  };

  function choose(i, wait = 0) {
    at = i;
    mark();
    const top = lines[i].offsetTop, bottom = top + lines[i].offsetHeight;
    if (top < view.scrollTop) view.scrollTop = top;
    else if (bottom > view.scrollTop + view.clientHeight) view.scrollTop = bottom - view.clientHeight;
    view.focus({ preventScroll: true });
    clearTimeout(timer);
    timer = setTimeout(() => component.setTriggerValue("chosen", i), wait);
  }

  function mark() {
    lines.forEach((line, i) => {
      line.classList.toggle("on", i === at);
      line.setAttribute("aria-selected", i === at);
    });
    if (lines[at]) view.setAttribute("aria-activedescendant", lines[at].id);
    else view.removeAttribute("aria-activedescendant");
  }

  return () => clearTimeout(timer);
}
