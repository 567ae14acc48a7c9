// The Compare page: one text in several runs. A token chosen in one column is chosen in all; pointing at a token or a feature
// shows it without a rerun, since all codes came with the page.

const SETTLE_TOKEN = 400; // milliseconds without a step before the address bar follows

export default function (component) {
  const root = component.parentElement.querySelector(".compare");
  const { token, ...shown } = component.data;
  // What Python sends back after a step is an echo: the page stays as it is, and the person may be further on by then.
  const content = JSON.stringify(shown);
  if (root.content !== content) root.follow = drawn(root, component.data);
  root.content = content;
  root.follow(component, token);
}

function drawn(root, data) {
  const { columns, notes } = data;
  const views = [];
  let component = null, chosen = data.token, timer = 0, sent = [];

  function tell() {
    clearTimeout(timer);
    timer = setTimeout(() => {
      sent.push(chosen);
      component.setStateValue("token", chosen);
    }, SETTLE_TOKEN);
  }

  function choose(i) {
    chosen = i;
    point(i);
    tell();
  }

  // Show a token in every column: marked in the text, with the features that fire on it below.
  function point(i) {
    for (const view of views) {
      view.marks.forEach((parts, k) => {
        for (const part of parts) {
          part.classList.toggle("on", k === i);
          part.setAttribute("aria-selected", k === i);
        }
      });
      const mark = view.marks[i] && view.marks[i][0];
      if (mark) {
        view.text.setAttribute("aria-activedescendant", mark.id);
        const top = mark.offsetTop - view.text.offsetTop;
        if (top < view.text.scrollTop || top > view.text.scrollTop + view.text.clientHeight - 24)
          view.text.scrollTop = Math.max(0, top - view.text.clientHeight / 2);
      }
      view.list(i);
    }
  }

  // Colour the texts by a feature's codes: its own in its column, its counterparts' in the others.
  function colour(column, feature) {
    for (const view of views) {
      const own = view.column === column;
      const match = feature && !own && feature.matches.find((one) => one.run === view.column.run && one.is_matched);
      const shown = own ? feature : match && view.column.features[match.feature];
      const codes = new Map(shown ? shown.codes : []);
      const largest = Math.max(1e-9, ...[...codes.values()].map(Math.abs));
      view.marks.forEach((parts, k) => {
        const value = codes.get(k);
        for (const part of parts) {
          part.className = value ? `tok ${value > 0 ? "p" : "n"}${level(value, largest)}` : "tok";
          part.classList.toggle("on", k === chosen);
          part.dataset.v = value ? brief(value) : "";
        }
      });
    }
  }

  function link(run, feature, text, className) {
    const made = node("a", className, text);
    followInPlace(made, `${data.card_path}?${new URLSearchParams({ run, f: feature })}`, () =>
      component.setTriggerValue("open", [run, feature]));
    return made;
  }

  function featureLine(column, number, value, says, largest, others = column.features[number].matches) {
    const feature = column.features[number];
    const line = node("div", "hit"), first = node("div", "first"), below = node("div", "below");
    line.dataset.feature = number;
    const track = node("span", "track"), fill = node("i", value < 0 ? "neg" : "pos");
    fill.style.width = `${(100 * Math.abs(value)) / largest}%`;
    track.append(fill);
    const name = node("span", "name");
    if (feature.label) name.append(labelNode("", { text: feature.label, auto: feature.is_automatic }));
    const figure = node("span", "value", short(value));
    track.title = figure.title = says;
    first.append(link(column.run, number, number, "id"), track, figure, name);
    first.firstChild.title = `${DEFINITIONS.compare.feature} Opens its card.`;
    for (const match of others) {
      const where = node("span", match.is_matched ? "match" : "match none");
      where.title = DEFINITIONS.compare.correlation;
      where.append(columns.length > 2 ? `in ${shortName(match.run)}: ` : "");
      where.append(match.is_matched ? link(match.run, match.feature, `feature ${match.feature}`, "other") : "no counterpart");
      where.append(` (${match.is_matched || match.feature < 0 ? "" : `best ${match.feature}, `}${match.text})`);
      below.append(where);
    }
    line.append(first, below);
    line.onmouseenter = () => colour(column, feature);
    line.onmouseleave = () => colour(column, null);
    line.onfocusin = () => colour(column, feature);
    line.onfocusout = () => colour(column, null);
    return line;
  }

  function shortName(run) {
    return printable(run.split("/").pop());
  }

  function onKey(event) {
    const last = columns[0].tokens.length - 1;
    const step = { ArrowRight: chosen + 1, ArrowDown: chosen + 1, ArrowLeft: chosen - 1, ArrowUp: chosen - 1, Home: 0, End: last };
    if (!(event.key in step) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    choose(Math.min(last, Math.max(0, step[event.key])));
  }

  function makeColumn(column, number) {
    const box = node("section", "column");
    box.append(node("h4", "", printable(column.run)), node("p", "cap", printable(column.title)));
    if (column.note) box.append(node("p", "cap note", printable(column.note)));
    const text = node("div", "words text"), list = node("div", "hits"), marks = [];
    text.tabIndex = 0;
    text.setAttribute("role", "listbox");
    text.setAttribute("aria-label", `Tokens of the text in ${column.run}`);
    text.onkeydown = onKey;
    text.onmouseleave = () => point(chosen);
    const write = makeWriter(text);
    column.tokens.forEach((token, i) => {
      const parts = [];
      write(token || "∅", () => {
        const part = node("span", "tok");
        part.id = `${column.run}-${number}-${i}-${parts.length}`;
        part.setAttribute("role", "option");
        part.onmouseenter = () => point(i);
        part.onclick = () => choose(i);
        parts.push(part);
        return part;
      });
      marks.push(parts);
    });
    const view = {
      column, text, marks,
      list(i) {
        const features = column.strongest[i] || [];
        const value = (f) => (column.features[f].codes.find(([k]) => k === i) || [0, 0])[1];
        const largest = Math.max(1e-9, ...features.map((f) => Math.abs(value(f))));
        const head = node("div", "cap heading"), quoted = node("span", "code");
        appendText(quoted, visible(column.tokens[i] || ""));
        const n = column.n_on[i] || 0;
        head.append(`${n} feature${n === 1 ? "" : "s"} on token ${i} `, quoted, n > features.length ? `, the ${features.length} strongest` : "");
        head.title = DEFINITIONS.compare.n_on;
        list.replaceChildren(head, ...features.map((f) => featureLine(column, f, value(f), DEFINITIONS.compare.codes, largest)));
      },
    };
    box.append(text, list);
    for (const alone of column.alone) {
      const only = node("details", "alone");
      only.open = !column.alone.indexOf(alone);
      const title = `No counterpart in ${shortName(alone.run)}: ${alone.n} of the ${alone.of} features that fire on this text`;
      const heading = only.appendChild(node("summary", "", title));
      heading.title = DEFINITIONS.compare.n;
      const largest = Math.max(1e-9, ...alone.features.map((f) => Math.abs(column.features[f].largest)));
      for (const f of alone.features) {
        const matches = column.features[f].matches.filter((one) => one.run === alone.run);
        only.append(featureLine(column, f, column.features[f].largest, DEFINITIONS.compare.largest, largest, matches));
      }
      if (alone.n > alone.features.length) only.append(node("p", "cap", `and ${alone.n - alone.features.length} more, weaker ones`));
      box.append(only);
    }
    views.push(view);
    return box;
  }

  const grid = node("div", `grid of${columns.length}`);
  grid.append(...columns.map(makeColumn));
  const above = notes.map((text) => node("p", "cap", printable(text)));
  root.replaceChildren(...above, grid);
  point(chosen);
  return (now, token) => {
    component = now;
    const echo = sent.indexOf(token);
    sent = sent.slice(echo + 1);
    if (echo < 0 && token !== chosen && !sent.length) {
      chosen = token;
      point(chosen);
    }
  };
}
