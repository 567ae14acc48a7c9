// The feature table: a list that draws only the rows in view, so that 16 384 features scroll like 40.
// Text is set through textContent alone; labels are a stranger's and are never parsed as HTML.

const ROW = 30; // pixels, as in card.css
const MEASURES = { excess: "excess F1", simulability: "simulability", stability: "stability" }; // as in evidence.py
const AUTOMATIC = "automatic: made from what was measured, not by a person";

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

function makeTable(host, { href, choose }) {
  const head = node("div", "row head");
  const heading = node("span", "max", "max");
  head.append(node("span", "num", "id"), node("span", "num", "density %"), heading, node("span", "lab", "label"));
  const view = node("div", "view");
  const spacer = node("div", "spacer");
  view.append(spacer);
  view.tabIndex = 0;
  view.setAttribute("role", "listbox");
  view.setAttribute("aria-label", "Features");
  host.append(head, view);
  let order = [], columns = null, labels = {}, bookmarks = new Set(), chosen = -1, place = new Map();
  let measure = "max", values = [], largest = 1; // the column with bars: the measure that the table is ordered by, else max

  function draw() {
    const first = Math.max(0, Math.floor(view.scrollTop / ROW) - 6);
    const last = Math.min(order.length, Math.ceil((view.scrollTop + view.clientHeight) / ROW) + 6);
    const rows = [];
    for (let i = first; i < last; i++) rows.push(row(order[i], i));
    spacer.style.height = `${Math.max(order.length, 1) * ROW}px`;
    if (!order.length) rows.push(node("div", "none", "No feature passes these filters."));
    spacer.replaceChildren(...rows);
  }

  function row(feature, i) {
    const line = node("a", "row" + (feature === chosen ? " on" : ""));
    line.href = href(feature);
    line.dataset.feature = feature;
    line.style.top = `${i * ROW}px`;
    line.setAttribute("role", "option");
    line.setAttribute("aria-selected", feature === chosen);
    line.tabIndex = -1;
    const dead = columns && columns.dead[feature];
    if (dead) line.classList.add("dead");
    const bar = node("span", "max");
    const fill = node("i");
    const track = node("span", "track");
    const value = values[feature] ?? null;
    if (value !== null) fill.style.width = `${(100 * Math.max(0, measure === "max" ? Math.abs(value) : value)) / largest}%`;
    track.append(fill);
    bar.append(track, node("span", "", !columns ? "" : dead ? "dead" : value === null ? "-" : short(value)));
    const label = node("span", "lab");
    if (bookmarks.has(feature)) label.append(node("span", "star", "★ "));
    const { evidence } = columns || {};
    if (evidence) label.append(gradeNode(evidence.grades[evidence.grade[feature]] || "none"));
    const named = labelOf(feature);
    if (named) label.append(labelNode("", named));
    line.append(
      node("span", "num", feature),
      node("span", "num", columns ? percent(columns.density[feature]) : ""),
      bar, label,
    );
    return line;
  }

  // A person's label wins over the automatic one; null where there is neither.
  function labelOf(feature) {
    if (labels[feature]) return { text: labels[feature], auto: false };
    const { evidence } = columns || {};
    const made = evidence && evidence.labels[evidence.label[feature]];
    return made ? { text: made, auto: true } : null;
  }

  function chooseValues() {
    values = (columns && (measure === "max" ? columns.max : columns.evidence && columns.evidence[measure])) || [];
    largest = values.reduce((a, b) => Math.max(a, Math.abs(b)), 1e-9);
    heading.textContent = MEASURES[measure] || measure;
  }

  view.addEventListener("scroll", draw, { passive: true });
  new ResizeObserver(draw).observe(view);
  view.addEventListener("click", (event) => {
    const line = event.target.closest("a.row");
    if (!line || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    choose(Number(line.dataset.feature));
  });
  view.addEventListener("keydown", (event) => {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    choose(neighbour(by));
  });

  function neighbour(by) {
    if (!order.length) return chosen;
    const i = place.get(chosen);
    return i === undefined ? order[0] : order[Math.min(Math.max(i + by, 0), order.length - 1)];
  }

  return {
    neighbour,
    labelOf,
    fill(state) {
      ({ order, labels, bookmarks } = state);
      measure = state.measure in MEASURES ? state.measure : "max";
      chooseValues();
      place = new Map(order.map((feature, i) => [feature, i]));
      draw();
    },
    // The run's columns; null until they have come, so that the rows of one run never read the columns of another.
    setColumns(given) {
      columns = given;
      chooseValues();
      draw();
    },
    mark(feature) {
      chosen = feature;
      const i = place.get(feature);
      if (i !== undefined) {
        const top = i * ROW, bottom = top + ROW;
        if (top < view.scrollTop) view.scrollTop = top;
        else if (bottom > view.scrollTop + view.clientHeight) view.scrollTop = bottom - view.clientHeight;
      }
      draw();
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
