// Concepts by runs: every cell is a link to the card of the feature that finds the concept best in the run.

export default function (component) {
  const root = component.parentElement.querySelector(".concepts");
  const { runs, concepts, card_path: path } = component.data;

  function cell(found) {
    const made = node("td");
    if (!found) {
      made.append(node("span", "quiet", "–"));
      made.title = "not judged";
      return made;
    }
    const link = node("a", found.share ? "found" : "chance", found.text);
    link.title = printable(found.says);
    link.style.setProperty("--share", `${Math.round(50 * found.share)}%`);
    const address = `${path}?${new URLSearchParams({ run: found.run, f: found.feature })}`;
    followInPlace(link, address, () => component.setTriggerValue("open", [found.run, found.feature]));
    made.append(link);
    return made;
  }

  const head = node("tr");
  head.append(node("th", "name", "concept"));
  for (const run of runs) {
    const heading = node("th");
    const name = node("span", "run", printable(run.split("/").pop()));
    name.title = run;
    heading.append(name);
    head.append(heading);
  }
  const top = node("thead"), body = node("tbody"), table = node("table");
  top.append(head);
  for (const [concept, cells] of concepts) {
    const line = node("tr");
    line.append(node("th", "name", printable(concept)), ...cells.map(cell));
    body.append(line);
  }
  table.append(top, body);
  const wide = node("div", "wide");
  wide.append(table);
  root.replaceChildren(wide);
}
