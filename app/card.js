// The feature card. Python sends which feature, which order and which labels; everything else comes from the JSON routes,
// which answer in milliseconds, so that stepping from feature to feature never waits for a rerun of the page.

const TABS = [
  ["top", "Top"], ["intervals", "By interval"], ["near-threshold", "Near-threshold"],
  ["random", "Random"], ["not-firing", "Not firing"],
];
const WIDTHS = [["8", "±8"], ["24", "±24"], ["whole", "whole"]];
const SETTLE = 500; // milliseconds without a step before the address bar follows

export default function (component) {
  const root = component.parentElement.querySelector(".features");
  if (!root.controller) root.controller = makeController(root);
  root.controller.update(component);
  return () => root.controller.stop();
}

function makeController(root) {
  const card = root.querySelector(".card");
  const cache = new Map();
  let component = null, data = null, feature = -1, given = -1, sent = [], timer = 0, version = "";
  let which = "top", width = "24", near = "cosine", editing = false, unfolded = true;
  const table = makeTable(root.querySelector(".table"), { href, choose: show });

  function href(f, page = "") {
    return `${page || location.pathname}?${new URLSearchParams({ ...(page ? { run: data.link.run } : data.link), f })}`;
  }

  function get(path) {
    if (!cache.has(path)) {
      const answer = fetch(data.api + path).then((response) => response.json());
      answer.catch(() => cache.delete(path));
      cache.set(path, answer);
      if (cache.size > 400) cache.delete(cache.keys().next().value);
    }
    return cache.get(path);
  }

  function update(now) {
    component = now;
    data = now.data;
    if (version !== data.version) begin();
    data.byLabel = Object.fromEntries(data.labels);
    data.marked = new Set(data.bookmarks);
    fill();
    document.addEventListener("keydown", onKey);
    // What Python sends back after a step is an echo, and by then the person may be further on; an answer to a later
    // step means that none to the earlier ones will come.
    const echo = sent.indexOf(data.feature);
    const isNews = data.feature !== given && echo < 0;
    sent = sent.slice(echo + 1);
    given = data.feature;
    if (isNews || feature < 0) show(data.feature, false);
    else if (!editing) draw();
  }

  // Another run, or the same one after a new index: nothing of what was shown before may be left, nor come back late.
  function begin() {
    const mine = version = data.version;
    cache.clear();
    clearTimeout(timer);
    sent = [];
    feature = given = -1;
    editing = false;
    table.setColumns(null);
    // The card names features by the table's automatic labels, so it is drawn again when they have come.
    get("").then((columns) => {
      if (mine !== version || columns.error) return; // the card says what is wrong
      table.setColumns(columns);
      if (!editing && feature >= 0) draw();
    }, () => {});
  }

  function fill() {
    table.fill({ order: data.order, labels: data.byLabel, bookmarks: data.marked, measure: data.measure });
  }

  function stop() {
    document.removeEventListener("keydown", onKey);
    clearTimeout(timer);
  }

  function onKey(event) {
    const at = event.composedPath()[0];
    const typing = at.isContentEditable || ["INPUT", "TEXTAREA", "SELECT"].includes(at.tagName);
    if (typing || event.ctrlKey || event.metaKey || event.altKey || !root.isConnected) return;
    const by = { j: -1, J: -1, k: 1, K: 1 }[event.key];
    if (by) show(table.neighbour(by));
  }

  async function show(f, tell = true) {
    feature = f;
    editing = false;
    table.mark(f);
    if (tell) {
      clearTimeout(timer);
      timer = setTimeout(() => { sent.push(f); component.setStateValue("feature", f); }, SETTLE);
    }
    await draw();
    for (const by of [1, -1]) prefetch(table.neighbour(by));
  }

  function prefetch(f) {
    get(`/${f}`);
    get(`/${f}/examples?which=${which}&context=${width}`);
  }

  async function draw() {
    const f = feature, mine = version;
    let about, examples;
    try {
      [about, examples] = await Promise.all([get(`/${f}`), get(`/${f}/examples?which=${which}&context=${width}`)]);
    } catch {
      about = { error: "The dashboard's server does not answer; is it still running?" };
    }
    if (f !== feature || mine !== version) return;
    const error = about.error || examples.error;
    if (error) return card.replaceChildren(node("div", "error", error));
    const parts = [header(about)];
    if (about.dead) parts.push(node("div", "quiet dead", deadText(about)));
    parts.push(overview(about), evidence(about.evidence));
    if (!about.dead) parts.push(tabs(), contexts(examples, about));
    card.replaceChildren(...parts);
    card.dataset.feature = f;
  }

  function deadText(about) {
    const what = about.positive_side_only ? "the code of this feature was never above 0" : "this feature never fired";
    return `Dead: ${what} on the ${about.n_tokens.toLocaleString("en")} tokens of its store.`;
  }

  function header(about) {
    const bar = node("header");
    const title = node("div", "title");
    title.append(node("h3", "", `Feature ${about.id}`));
    const label = table.labelOf(about.id);
    if (label) title.append(labelNode("label", label));
    const summary = `${about.positive_side_only ? "positive side: " : ""}density ${percent(about.density)} % · max ${short(about.max)} · importance rank ${about.importance_rank}`;
    title.append(node("span", "sub", summary));
    const marked = data.marked.has(about.id);
    bar.append(
      button("◀ J", "Previous feature of the table (J)", () => show(table.neighbour(-1)), "prev"),
      button("K ▶", "Next feature of the table (K)", () => show(table.neighbour(1)), "next"),
      title,
      button(marked ? "★ Bookmarked" : "☆ Bookmark", "Keep this feature at hand", () => bookmark(about.id, !marked), "mark"),
      button("Label", "Write what this feature stands for", () => edit(bar, about.id), "edit"),
      steerLink(about.id),
      button("Copy link", "Copy the address of this view", copyLink, "copy"),
    );
    return bar;
  }

  function button(text, hint, action, name) {
    const made = node("button", name, text);
    made.type = "button";
    made.title = hint;
    made.onclick = () => action(made);
    return made;
  }

  function steerLink(f) {
    const made = node("a", "button steer", "Steer →");
    followInPlace(made, href(f, data.steer_path), () => component.setTriggerValue("steer", f));
    return made;
  }

  function bookmark(f, on) {
    data.marked[on ? "add" : "delete"](f);
    component.setTriggerValue("bookmark", [f, on]);
    fill();
    draw();
  }

  function edit(bar, f) {
    editing = true;
    const input = node("input", "labelling");
    input.value = data.byLabel[f] || "";
    input.placeholder = "what it stands for; Enter keeps it, Escape leaves it";
    input.maxLength = 200;
    let done = false;
    const finish = (keep) => {
      if (done) return;
      done = true;
      editing = false;
      const text = input.value.trim();
      if (keep && text !== (data.byLabel[f] || "")) {
        if (text) data.byLabel[f] = text;
        else delete data.byLabel[f];
        component.setTriggerValue("label", [f, text]);
        fill();
      }
      draw();
    };
    input.onkeydown = (event) => {
      event.stopPropagation();
      if (event.key === "Enter") finish(true);
      if (event.key === "Escape") finish(false);
    };
    input.onblur = () => finish(true);
    bar.querySelector(".title").replaceChildren(node("h3", "", `Feature ${f}`), input);
    input.focus();
  }

  async function copyLink(made) {
    await navigator.clipboard.writeText(location.origin + href(feature));
    made.textContent = "Copied";
    setTimeout(() => { made.textContent = "Copy link"; }, 1200);
  }

  function overview(about) {
    const grid = node("div", "overview");
    grid.append(histogram(about));
    grid.append(effects("Promotes", about.promoted), effects("Suppresses", about.suppressed));
    grid.append(neighbours(about));
    if (about.neurons) grid.append(bars("Neurons", about.neurons.slice(0, 6).map(([n, w]) => ({ text: `${n}`, value: w }))));
    return grid;
  }

  function effects(caption, pairs) {
    return bars(caption, (pairs || []).slice(0, 6).map(([token, value]) => ({ text: visible(token), value, code: true })));
  }

  function neighbours(about) {
    const caption = node("div", "cap", "Near by ");
    for (const [kind, name] of [["cosine", "cosine"], ["coactivation", "co-activation"]]) {
      const made = button(name, `Features near by ${name}`, () => { near = kind; draw(); }, near === kind ? "pick on" : "pick");
      caption.append(made);
    }
    const rows = (about.neighbours[near] || []).slice(0, 6);
    const box = bars("", rows.map(([f, value]) => ({ text: `${f}`, value, label: table.labelOf(f), link: { href: href(f), go: () => show(f) } })), 1);
    box.firstChild.replaceWith(caption);
    return box;
  }

  // What it fires on and what it does, apart; unfolded or not, as it was left at the feature before.
  function evidence(found) {
    if (found.missing) return node("div", "quiet evidence", found.missing);
    const box = node("details", "evidence");
    box.open = unfolded;
    box.ontoggle = () => { unfolded = box.open; };
    const head = node("summary", "", "Evidence ");
    const grade = node("span", "verdict");
    grade.append(gradeNode(found.grade), found.grade === "none" ? "detects no concept" : found.grade);
    grade.title = found.rule;
    head.append(grade);
    const blocks = node("div", "blocks");
    for (const [heading, lines] of [["What it fires on", found.fires_on], ["What it does", found.does]]) {
      const block = node("section");
      block.append(node("h4", "", heading), ...lines.map(sentence));
      blocks.append(block);
    }
    box.append(head, blocks);
    return box;
  }

  // A line of text, tokens and features of other runs.
  function sentence(parts) {
    const line = node("p");
    for (const part of parts) {
      if (typeof part === "string") line.append(part);
      else if ("token" in part) appendText(line.appendChild(node("span", "code")), visible(part.token));
      else line.append(part.run ? otherFeature(part) : part.text);
    }
    return line;
  }

  function otherFeature(part) {
    const made = node("a", "other", part.text);
    const address = `${location.pathname}?${new URLSearchParams({ run: part.run, f: part.feature })}`;
    followInPlace(made, address, () => component.setTriggerValue("other", [part.run, part.feature]));
    return made;
  }

  function tabs() {
    const bar = node("div", "tabs");
    const choice = (pairs, now, set) => {
      const group = node("div", "group");
      for (const [value, name] of pairs) {
        const made = button(name, "", () => { set(value); draw(); prefetch(table.neighbour(1)); }, value === now ? "on" : "");
        made.setAttribute("aria-pressed", value === now);
        group.append(made);
      }
      return group;
    };
    bar.append(choice(TABS, which, (value) => { which = value; }));
    const right = choice(WIDTHS, width, (value) => { width = value; });
    right.prepend(node("span", "cap", "context"));
    bar.append(right);
    return bar;
  }

  // What makes the element of token i; null for one that neither fires nor is the example's own.
  function colouring(example, i, largest) {
    const a = example.activations[i];
    const isCentre = i === example.centre;
    if (!a && !isCentre) return null;
    const colour = a ? (a > 0 ? "p" : "n") + level(a, largest) : "";
    const hint = `${brief(a)} · ${Math.round((100 * Math.abs(a)) / (largest || 1))} % of max`;
    return () => {
      const mark = node("b", `${colour} ${isCentre ? "centre" : ""}`.trim());
      mark.dataset.v = hint;
      return mark;
    };
  }

  function contexts(examples, about) {
    const box = node("div", "contexts");
    let group = "";
    for (const example of examples) {
      if (example.group && example.group !== group) box.append(node("div", "interval", (group = example.group)));
      const line = node("div", "example");
      const value = node("span", "value", brief(example.value));
      value.title = `${example.document} · sequence ${example.sequence}, token ${example.position}`;
      const text = node("span", "text");
      const write = makeWriter(text);
      example.tokens.forEach((token, i) => write(token, colouring(example, i, Math.abs(about.max))));
      line.append(value, text);
      box.append(line);
    }
    if (!examples.length) box.append(node("div", "quiet", "No such example in this store."));
    return box;
  }

  return { update, stop };
}
