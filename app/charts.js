// The small pictures of the card: a histogram and lists with bars, as plain elements and inline SVG.

// A link that acts within the page on a plain click, and opens a tab of its own with Ctrl, Shift or the middle button.
function followInPlace(link, address, go) {
  link.href = address;
  link.onclick = (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    go();
  };
}

function histogram(about) {
  const caption = `${about.n_fire.toLocaleString("en")} activation${about.n_fire === 1 ? "" : "s"}`;
  const box = histogramOf("hist", caption, "Histogram of activations", bothSides(about));
  box.title = `${DEFINITIONS.features.hist} Activations: ${DEFINITIONS.features.n_fire}`;
  return box;
}

// The bins of the negative codes, where they are known, before those of the positive ones.
function bothSides({ hist, below }) {
  if (!below) return hist;
  return { edges: [...below.hist.edges.slice(0, -1), ...hist.edges], counts: [...below.hist.counts, ...hist.counts] };
}

function logitHistogram(logits) {
  const box = histogramOf("hist logits", "Effect on logits", "Histogram of effects on the logits of all tokens", logits);
  box.title = DEFINITIONS.features.logits;
  return box;
}

// Counts of tokens in bins, as {edges, counts}.
function histogramOf(className, caption, description, { edges, counts }) {
  const box = node("div", className);
  box.append(node("div", "cap", caption));
  const svg = svgNode("svg", { viewBox: `0 0 ${counts.length * 10} 100`, preserveAspectRatio: "none", role: "img" });
  svg.setAttribute("aria-label", description);
  const tallest = Math.log10(1 + Math.max(1, ...counts));
  counts.forEach((count, i) => {
    const group = svgNode("g", {});
    const tall = (96 * Math.log10(1 + count)) / tallest;
    const side = edges[i + 1] <= 0 ? "neg" : "pos";
    group.append(svgNode("rect", { x: i * 10, y: 0, width: 10, height: 100, fill: "transparent" }));
    group.append(svgNode("rect", { x: i * 10, y: 100 - tall, width: 9, height: tall, class: side }));
    const title = svgNode("title", {});
    title.textContent = `${count.toLocaleString("en")} tokens, ${short(edges[i])} to ${short(edges[i + 1])}`;
    group.append(title);
    svg.append(group);
  });
  const axis = node("div", "axis");
  axis.append(node("span", "", short(edges[0])), node("span", "", short(edges[edges.length - 1])));
  box.append(svg, axis);
  return box;
}

function svgNode(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

// Rows of {text, value, code, label, link}. Bars share the scale of the longest, or of `full` where one is given.
function bars(caption, rows, full = 0) {
  const box = node("div", "bars");
  box.append(node("div", "cap", caption));
  const largest = full || Math.max(1e-9, ...rows.map((row) => Math.abs(row.value)));
  for (const row of rows) {
    const line = node(row.link ? "a" : "div", "line");
    const name = node("span", row.code ? "name code" : "name");
    if (row.code) appendText(name, row.text);
    else name.textContent = row.text;
    name.title = name.textContent;
    if (row.label) name.append(" ", labelNode("", row.label));
    if (row.link) followInPlace(line, row.link.href, row.link.go);
    const track = node("span", "track");
    const fill = node("i", row.value < 0 ? "neg" : "pos");
    fill.style.width = `${(100 * Math.abs(row.value)) / largest}%`;
    track.append(fill);
    line.append(name, track, node("span", "value", brief(row.value)));
    box.append(line);
  }
  if (!rows.length) box.append(node("div", "quiet", "none"));
  return box;
}
