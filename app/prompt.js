// The Prompt page: the tokens of a text as chips to click, and the features ranked for the chosen ones.
// Pointing at a feature colours the text by its codes, which came with the ranking: no request, no rerun.

export default function (component) {
  const root = component.parentElement.querySelector(".prompt");
  const { data } = component;
  const chips = root.querySelector(".chips"), ranking = root.querySelector(".ranking");
  const chosen = new Set(data.chosen);
  const marks = [];

  function tell() {
    component.setStateValue("chosen", [...chosen].sort((a, b) => a - b));
  }

  function chip(token, i) {
    const made = node("button", "chip");
    made.type = "button";
    appendText(made, visible(token) || "∅");
    made.setAttribute("aria-pressed", chosen.has(i));
    made.disabled = i === 0; // BOS is never ranked
    made.title = i === 0 ? "beginning of sequence: not ranked" : `token ${i}`;
    made.onclick = () => {
      if (chosen.has(i)) chosen.delete(i);
      else chosen.add(i);
      made.setAttribute("aria-pressed", chosen.has(i));
      tell();
    };
    marks.push(made);
    return made;
  }

  function colour(codes) {
    const largest = Math.max(1e-9, ...codes.map(Math.abs));
    marks.forEach((made, i) => {
      const value = codes[i] || 0;
      made.className = value ? `chip ${value > 0 ? "p" : "n"}${level(value, largest)}` : "chip";
      made.dataset.v = value ? brief(value) : "";
    });
  }

  function row(item) {
    const line = node("a", "line");
    line.dataset.feature = item.feature;
    const label = node("span", "name");
    if (item.label) label.append(labelNode("", { text: item.label, auto: item.is_automatic }));
    const track = node("span", "track");
    const fill = node("i", item.value < 0 ? "neg" : "pos");
    fill.style.width = `${(100 * Math.abs(item.value)) / largestValue}%`;
    track.append(fill);
    const share = item.value < 0 ? "negative side" : item.share === null ? "" : `${Math.round(100 * item.share)} % of max`;
    line.append(
      node("span", "id", item.feature), track, node("span", "value", brief(item.value)),
      node("span", "cap share", share), node("span", "cap", `${item.n_active} tok`), label,
    );
    line.onmouseenter = () => colour(item.codes);
    line.onfocus = () => colour(item.codes);
    line.onmouseleave = () => colour([]);
    const address = `${data.card_path}?${new URLSearchParams({ run: data.run, f: item.feature })}`;
    followInPlace(line, address, () => component.setTriggerValue("open", item.feature));
    return line;
  }

  const breaks = [];
  data.tokens.forEach((token, i) => {
    breaks.push(chip(token, i));
    if (token.includes("\n")) breaks.push(node("span", "break"));
  });
  chips.replaceChildren(...breaks);
  const largestValue = Math.max(1e-9, ...data.ranked.map((item) => Math.abs(item.value)));
  const rows = data.ranked.map(row);
  if (!rows.length) rows.push(node("div", "quiet", "No feature fires on these tokens."));
  ranking.replaceChildren(...rows);
}
