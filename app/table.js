// The feature table: a list that draws only the rows in view, so that 16 384 features scroll like 40.
// Text is set through textContent alone; labels are a stranger's and are never parsed as HTML.

const ROW = 30; // pixels, as in card.css
const AUTOMATIC = "automatic: made from what was measured, not by a person";

// Measures with a bar: name, and whether it is among the evidence. As in evidence.py.
const MEASURES = {
  f1: ["F1 | null", true],
  excess: ["excess F1", true],
  simulability: ["simulability", true],
  stability: ["stability", true],
  max: ["max", false],
  importance: ["importance", false],
};

function node(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// A label {text, auto}; one that no person has given is set apart.
function labelNode(className, label) {
  const made = node("span", label.auto ? `${className} auto` : className, printable(label.text));
  made.title = label.auto ? `${label.text} (${AUTOMATIC})` : label.text;
  return made;
}

// The sign of a grade: a ring that is empty, half full, full, or struck through.
function gradeNode(grade) {
  const made = node("span", `grade ${grade.replaceAll(" ", "-")}`);
  made.title = grade;
  made.setAttribute("role", "img");
  made.setAttribute("aria-label", grade);
  return made;
}

function filtersText(n, total, filters) {
  const hidden = total - n;
  const count = hidden === total ? `All ${total.toLocaleString("en")} features are` : `${hidden.toLocaleString("en")} of ${total.toLocaleString("en")} ${hidden === 1 ? "is" : "are"}`;
  return `${count} hidden by ${filters.length} filter${filters.length === 1 ? "" : "s"}: ${filters.join(" · ")}`;
}

// How many rows a key in a list of n leads on, 0 for keys that do not lead; a key that does is taken from the page.
function rowsToStep(event, view, rowHeight, n) {
  const page = Math.max(1, Math.floor(view.clientHeight / rowHeight) - 1);
  const by = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -n, End: n }[event.key];
  if (!by || event.ctrlKey || event.metaKey || event.altKey) return 0;
  event.preventDefault();
  return by;
}

function makeTable(host, { href, choose, sortBy, clear }) {
  const hiding = node("div", "hiding");
  const head = node("div", "row head");
  const view = node("div", "view");
  const spacer = node("div", "spacer");
  view.append(spacer);
  view.tabIndex = 0;
  view.setAttribute("role", "listbox");
  view.setAttribute("aria-label", "Features");
  host.append(hiding, head, view);
  let order = [], columns = null, labels = {}, bookmarks = new Set(), chosen = -1, place = new Map(), filters = [];
  let sort = "best", reversed = false, query = "";
  let measure = "max", values = [], largest = 1; // the column with bars: the measure that the table is ordered by, else F1 or max

  function draw() {
    const first = Math.max(0, Math.floor(view.scrollTop / ROW) - 6);
    const last = Math.min(order.length, Math.ceil((view.scrollTop + view.clientHeight) / ROW) + 6);
    const rows = [];
    for (let i = first; i < last; i++) rows.push(row(order[i], i));
    spacer.style.height = `${Math.max(order.length, 1) * ROW}px`;
    spacer.replaceChildren(...rows);
    tellActive();
  }

  function tellActive() {
    const active = spacer.querySelector(".row.on");
    if (active) view.setAttribute("aria-activedescendant", active.id);
    else view.removeAttribute("aria-activedescendant");
  }

  function drawHead() {
    const { evidence } = columns || {};
    host.classList.toggle("judged", Boolean(evidence));
    const heading = (className, name, key, help) => {
      const made = node("button", className, name);
      made.type = "button";
      made.dataset.sort = key;
      made.title = `${help} Press to sort, again for the other way round.`;
      if (sort === key) made.append(node("span", "by", reversed ? " ▲" : " ▼"));
      made.setAttribute("aria-label", sort === key ? `${name}, sorted by it` : name);
      made.onclick = () => sortBy(key);
      return made;
    };
    const cells = [
      heading("num", "id", "number", DEFINITIONS.features.number),
      heading("lab", "label", "label", DEFINITIONS.features.label),
      heading("max", MEASURES[measure][0], measure, DEFINITIONS.features[measure]),
      heading("toks", "tokens", "tokens", DEFINITIONS.features.tokens),
      heading("num dens", "fires %", "density", DEFINITIONS.features.density),
    ];
    if (evidence) cells.push(heading("out", "writes", "output", DEFINITIONS.features.lift));
    const focused = host.getRootNode().activeElement?.dataset?.sort;
    head.replaceChildren(...cells);
    if (focused) head.querySelector(`[data-sort="${focused}"]`)?.focus();
  }

  function drawHiding() {
    const total = columns ? columns.dead.length : 0;
    hiding.hidden = !filters.length || !total || order.length === total;
    if (hiding.hidden) return;
    const text = node("span", "", filtersText(order.length, total, filters));
    const all = node("button", "clear", "Show all");
    all.type = "button";
    all.title = "Take all filters and the search away";
    all.onclick = () => { clear(); view.focus({ preventScroll: true }); };
    hiding.replaceChildren(text, all);
  }

  function row(feature, i) {
    const line = node("a", "row" + (feature === chosen ? " on" : ""));
    line.href = href(feature);
    line.id = `feature-${feature}`;
    line.dataset.feature = feature;
    line.style.top = `${i * ROW}px`;
    line.setAttribute("role", "option");
    line.setAttribute("aria-selected", feature === chosen);
    line.tabIndex = -1;
    const dead = columns && columns.dead[feature];
    if (dead) line.classList.add("dead");
    const label = node("span", "lab");
    if (bookmarks.has(feature)) label.append(node("span", "star", "★ "));
    const { evidence } = columns || {};
    if (evidence) label.append(gradeNode(evidence.grades[evidence.grade[feature]] || "none"));
    const named = labelOf(feature);
    if (named) label.append(labelNode("", named));
    line.append(node("span", "num", feature), label, bar(feature, dead, evidence), tokens(feature));
    line.append(node("span", "num dens", columns ? percent(columns.density[feature]) : ""));
    if (evidence) line.append(output(feature, evidence));
    return line;
  }

  function bar(feature, dead, evidence) {
    const box = node("span", "max");
    const fill = node("i");
    const track = node("span", "track");
    const value = values[feature] ?? null;
    const length = (of) => `${(100 * Math.min(1, Math.max(0, of))) / largest}%`;
    if (value !== null) fill.style.width = length(MEASURES[measure][1] ? value : Math.abs(value));
    track.append(fill);
    if (measure === "f1" && value !== null) {
      const mark = node("u");
      mark.style.left = length(evidence.null[feature]);
      track.append(mark);
      const detects = evidence.grades[evidence.grade[feature]] !== "none";
      const concept = evidence.concepts[evidence.concept[feature]];
      box.title = `${detects ? "Detects" : "Does not detect a concept; nearest is"} ${concept}: F1 ${value.toFixed(2)}, null ${evidence.null[feature].toFixed(2)}. ${DEFINITIONS.features.null}`;
    }
    box.append(track, node("span", "", !columns ? "" : dead ? "dead" : value === null ? "-" : short(value)));
    return box;
  }

  function tokens(feature) {
    const box = node("span", "toks");
    const own = columns ? columns.tokens[feature].map((i) => columns.words[i]) : [];
    if (query) own.sort((a, b) => isFound(b) - isFound(a)); // what was searched for comes first; the rest stays in order
    own.slice(0, 4).forEach((token, i) => {
      if (i) box.append(" ");
      appendText(box.appendChild(node("span", "code")), visible(token));
    });
    box.title = own.map(visible).join("  ");
    return box;
  }

  function output(feature, evidence) {
    const box = node("span", "out");
    const at = evidence.output[feature], lift = evidence.lift[feature];
    if (at < 0) {
      box.textContent = "-";
      box.title = lift === null ? "not estimated" : "estimated: it makes no concept likelier than adding a random direction does";
      return box;
    }
    const sign = evidence.output_sign[feature] < 0 ? "−" : "";
    const concept = printable(evidence.concepts[at]);
    box.append(node("span", "what", sign + concept), node("span", "", lift.toFixed(1)));
    box.title = `Estimated: adding ${sign ? "its opposite" : "it"} makes the model write ${concept}, ${lift.toFixed(1)} standard deviations over random directions`;
    return box;
  }

  function isFound(token) {
    return Number(token.toLowerCase().includes(query));
  }

  // A person's label wins over the automatic one; null where there is neither.
  function labelOf(feature) {
    if (labels[feature]) return { text: labels[feature], auto: false };
    const { evidence } = columns || {};
    const made = evidence && evidence.labels[evidence.label[feature]];
    return made ? { text: made, auto: true } : null;
  }

  function chooseValues() {
    const { evidence } = columns || {};
    measure = sort in MEASURES && (evidence || !MEASURES[sort][1]) ? sort : evidence ? "f1" : "max";
    values = (columns && (MEASURES[measure][1] ? evidence[measure] : columns[measure])) || [];
    largest = MEASURES[measure][1] ? 1 : values.reduce((a, b) => Math.max(a, Math.abs(b)), 1e-9);
    drawHead();
    drawHiding();
  }

  view.addEventListener("scroll", draw, { passive: true });
  new ResizeObserver(draw).observe(view);
  view.addEventListener("click", (event) => {
    const line = event.target.closest("a.row");
    if (!line || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    choose(Number(line.dataset.feature));
    view.focus({ preventScroll: true }); // the row that had the focus has been drawn anew
  });
  view.addEventListener("keydown", (event) => {
    const by = rowsToStep(event, view, ROW, order.length);
    if (by) choose(neighbour(by));
  });

  function neighbour(by) {
    if (!order.length) return chosen;
    const i = place.get(chosen);
    return i === undefined ? order[0] : order[Math.min(Math.max(i + by, 0), order.length - 1)];
  }

  return {
    neighbour,
    labelOf,
    has: (feature) => place.has(feature),
    fill(state) {
      ({ order, labels, bookmarks, sort, reversed, filters } = state);
      query = state.query.trim().toLowerCase();
      place = new Map(order.map((feature, i) => [feature, i]));
      chooseValues();
      draw();
    },
    // The run's columns; null until they have come, so that the rows of one run never read the columns of another.
    setColumns(given) {
      columns = given;
      chooseValues();
      draw();
    },
    // Step by step only two rows change, and drawing them all would cost as much as the card.
    mark(feature) {
      chosen = feature;
      const i = place.get(feature), scrolled = view.scrollTop;
      if (i !== undefined) {
        const top = i * ROW, bottom = top + ROW;
        if (top < view.scrollTop) view.scrollTop = top;
        else if (bottom > view.scrollTop + view.clientHeight) view.scrollTop = bottom - view.clientHeight;
      }
      if (view.scrollTop !== scrolled) return draw();
      for (const line of spacer.children) {
        const isOn = Number(line.dataset.feature) === feature;
        line.classList.toggle("on", isOn);
        line.setAttribute("aria-selected", isOn);
      }
      tellActive();
    },
  };
}

function short(value) {
  const size = Math.abs(value);
  return size >= 100 ? value.toFixed(0) : size >= 10 ? value.toFixed(1) : brief(value);
}

// Two decimals, or two significant digits where two decimals would say too little; rounding errors are 0.
function brief(value) {
  const size = Math.abs(value);
  return size > 1e-4 && size < 0.095 ? value.toPrecision(2) : value.toFixed(2);
}

function percent(share) {
  const value = 100 * share;
  return value >= 10 ? value.toFixed(1) : value >= 1 ? value.toFixed(2) : value.toFixed(3);
}
