// The Runs page's tables: a row chooses its run, by click or by Enter.

export default function (component) {
  const root = component.parentElement.querySelector(".runs");
  const { columns, sections, how, apart, chosen } = component.data;

  function headings() {
    const row = node("tr");
    const heading = (className, text, says) => {
      row.append(node("th", className, text));
      row.lastChild.title = says;
    };
    heading("name", "run", DEFINITIONS.runs.run);
    heading("", "method", DEFINITIONS.runs.kind);
    heading("num", "features", DEFINITIONS.runs.features);
    heading("num", "L0", DEFINITIONS.runs.l0);
    for (const column of columns) heading("", column.heading, column.says);
    heading("", "index", DEFINITIONS.runs.index);
    const head = node("thead");
    head.append(row);
    return head;
  }

  // A filled dot is above its null, an open one is not; a figure without a null has no dot.
  function cell(figure, i) {
    const made = node("td", `figure ${figure.against}`);
    made.title = columns[i].says;
    const value = node("div", "value");
    if (figure.against) value.append(node("i", "dot"));
    value.append(figure.text);
    if (figure.is_best) value.append(node("span", "best", "best"));
    made.append(value);
    for (const part of [figure.interval, figure.null]) if (part) made.append(node("div", "beside", part));
    return made;
  }

  function line(row) {
    const made = node("tr", row.run === chosen ? "on" : "");
    made.tabIndex = 0;
    made.dataset.run = row.run;
    made.setAttribute("aria-selected", row.run === chosen);
    const choose = () => component.setTriggerValue("run", row.run);
    made.onclick = choose;
    made.onkeydown = (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      choose();
    };
    made.append(
      node("td", "name", printable(row.run)), node("td", "", row.kind), node("td", "num", row.features),
      node("td", "num", row.l0), ...row.cells.map(cell), node("td", `index ${row.index}`, row.index),
    );
    return made;
  }

  function list(className, lines) {
    const made = node("ul", className);
    made.append(...lines.map((text) => node("li", "", printable(text))));
    return made;
  }

  function folded(title, lines) {
    const made = node("details");
    made.append(node("summary", "", title), list("", lines));
    return made;
  }

  // A line over the whole width of the table, whose content stays in sight when the table is scrolled.
  function across(className, ...parts) {
    const line = node("tr", className), made = node("td"), held = node("div", "held");
    made.colSpan = columns.length + 5;
    held.append(...parts);
    made.append(held);
    line.append(made);
    return line;
  }

  function section(part) {
    const made = node("tbody"), below = [];
    const title = [node("h4", "", printable(part.title))];
    if (part.note) title.push(node("p", "cap", part.note));
    made.append(across("title", ...title), ...part.rows.map(line));
    if (part.verdicts.length) below.push(list("verdicts", part.verdicts));
    if (part.remarks.length) below.push(folded(`Remarks (${part.remarks.length})`, part.remarks));
    if (below.length) made.append(across("below", ...below));
    return made;
  }

  function howToRead() {
    const made = node("section", "how");
    made.append(node("h4", "", "How to read this"));
    const lines = node("div", "lines");
    for (const column of columns) {
      const one = node("p");
      one.append(node("b", "", column.heading), `: ${column.says}`);
      lines.append(one);
    }
    for (const text of how) lines.append(node("p", "", text));
    made.append(lines);
    if (apart.length) made.append(folded("Which runs cannot be compared, and why", apart));
    return made;
  }

  const wide = node("div", "wide"), table = node("table");
  table.append(headings(), ...sections.map(section));
  wide.append(table);
  root.replaceChildren(wide, howToRead());
}
