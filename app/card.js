// The feature card. Python sends which feature, which order and which labels; everything else comes from the JSON routes,
// which answer in milliseconds, so that stepping from feature to feature never waits for a rerun of the page.

const TABS = [
  ["top", "Top"], ["intervals", "By interval"], ["near-threshold", "Near-threshold"],
  ["random", "Random"], ["not-firing", "Not firing"], ["mine", "My text"],
];
const ABLATION = `Point at an example to see it token by token. ${DEFINITIONS.features.changes} Loads the language model.`;
const WIDTH = "Tokens shown on each side of the outlined one";
const WIDTHS = [["8", "±8"], ["24", "±24"], ["whole", "whole"]];
const AT_ONCE = 12, SOON = 60; // examples drawn with the card, and milliseconds until the others: fifty take longer than the rest of it
const SETTLE = 500; // milliseconds without a step before the address bar follows
const NO_ANSWER = "The dashboard's server does not answer; is it still running?";

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
  let which = "top", width = "24", near = "cosine", editing = false, unfolded = false;
  let mine = null, typing = 0, ablating = false; // the typed text (null: as the address has it), and whether effects are shown
  const table = makeTable(root.querySelector(".table"), {
    href,
    choose: show,
    sortBy: (key) => component.setTriggerValue("sort", key),
    clear: () => component.setTriggerValue("clear", true),
  });

  function href(f, page = "") {
    return `${page || location.pathname}?${new URLSearchParams({ ...(page ? { run: data.link.run } : data.link), f })}`;
  }

  function get(path, body = null) {
    const key = body === null ? path : `${path} ${body}`;
    if (!cache.has(key)) {
      const answer = fetch(data.api + path, body === null ? {} : { method: "POST", body }).then((response) => response.json());
      // What went wrong may be mended by the next time: a model that was not there, a server that was not running.
      answer.then((found) => { if (found.error) cache.delete(key); }, () => cache.delete(key));
      cache.set(key, answer);
      if (cache.size > 400) cache.delete(cache.keys().next().value);
    }
    return cache.get(key);
  }

  function examplesOf(f) {
    return which === "mine" ? [] : get(`/${f}/examples?which=${which}&context=${width}`);
  }

  function update(now) {
    component = now;
    data = now.data;
    if (version !== data.version) begin();
    data.byLabel = Object.fromEntries(data.labels);
    data.byNote = Object.fromEntries(data.notes);
    if (mine === null) {
      mine = data.mine;
      if (mine) which = "mine";
    }
    data.marked = new Set(data.bookmarks);
    fill();
    document.addEventListener("keydown", onKey);
    // What Python sends back after a step is an echo, and by then the person may be further on; an answer to a later
    // step means that none to the earlier ones will come.
    const echo = sent.indexOf(data.feature);
    const isNews = data.feature !== given && echo < 0;
    sent = sent.slice(echo + 1);
    given = data.feature;
    if (isNews || feature === -1) show(data.feature, false);
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
      if (!editing && feature !== -1) draw();
    }, () => {});
  }

  function fill() {
    const { order, sort, reversed, filters, query } = data;
    table.fill({ order, sort, reversed, filters, query, labels: data.byLabel, bookmarks: data.marked });
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
    if (f === null) return;
    get(`/${f}`);
    examplesOf(f);
  }

  async function draw() {
    const f = feature, drawn = version;
    if (f === null) {
      card.replaceChildren(node("div", "quiet", "The filters hide every feature; show all, or change the search or the filters."));
      return;
    }
    let about, examples;
    try {
      [about, examples] = await Promise.all([get(`/${f}`), examplesOf(f)]);
    } catch {
      about = { error: NO_ANSWER };
    }
    if (f !== feature || drawn !== version || editing) return;
    const error = about.error || examples.error;
    if (error) return card.replaceChildren(node("div", "error", error));
    const parts = [header(about), summary(about)];
    if (data.byNote[f]) parts.push(node("div", "note", printable(data.byNote[f])));
    if (about.dead) parts.push(node("div", "quiet dead", deadText(about)));
    parts.push(evidence(about.evidence), overview(about));
    if (!about.dead || about.below || which === "mine") parts.push(tabs(about), which === "mine" ? myText(about) : contexts(examples, about));
    const focus = focused();
    card.replaceChildren(...parts);
    if (focus) focus();
    card.dataset.feature = f;
  }

  // What gives the focus back to the control that has it now, which the next drawing replaces by one of the same name.
  function focused() {
    const at = root.getRootNode().activeElement;
    const key = at && card.contains(at) && at.dataset.key;
    if (!key) return null;
    const range = at.tagName === "TEXTAREA" ? [at.selectionStart, at.selectionEnd] : null;
    return () => {
      const again = card.querySelector(`[data-key="${CSS.escape(key)}"]`);
      if (!again) return;
      again.focus({ preventScroll: true });
      if (range) again.setSelectionRange(...range);
    };
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
    const marked = data.marked.has(about.id);
    bar.append(
      button("◀ J", "Previous feature of the table (J)", () => show(table.neighbour(-1)), "prev"),
      button("K ▶", "Next feature of the table (K)", () => show(table.neighbour(1)), "next"),
      title,
      button(marked ? "★ Bookmarked" : "☆ Bookmark", "Keep this feature at hand", () => bookmark(about.id, !marked), "mark"),
      button("Label", "Write what this feature stands for", () => edit(bar, about.id), "edit"),
      button("Note", "Write more about it, for yourself", () => editNote(bar, about.id), "write"),
      steerLink(about.id),
      share(about.id),
    );
    return bar;
  }

  // What can be taken away of a feature: files, made by the server when they are asked for, and texts to paste.
  function share(f) {
    const box = node("details", "share");
    const opener = node("summary", "button", "Share");
    opener.dataset.key = "share";
    opener.title = "The address, the card as a file, the vector, and Python for a notebook";
    const file = (name, text, hint) => {
      const made = node("a", "item", text);
      made.href = `${data.api}/${f}/${name}`;
      made.download = "";
      made.title = hint;
      return made;
    };
    const item = (text, hint, action, name) => {
      const made = button(text, hint, action, name);
      made.classList.add("item");
      return made;
    };
    const list = node("div", "items");
    list.append(
      item("Copy link", "The address of this view", copyLink, "copy"),
      item("Copy Python", "For a notebook: shows the same feature with the same examples", copySnippet, "snippet"),
      file("card.html", "Card as HTML", "One file that needs neither this server nor a network"),
      file("card.json", "Card as JSON", "All numbers and examples of the card"),
      file("vector.safetensors", "Vector (safetensors)", "What it reads and what it writes, as unit rows. Loads PyTorch"),
    );
    box.append(opener, list);
    box.onkeydown = (event) => {
      if (event.key !== "Escape" || !box.open) return;
      event.stopPropagation();
      box.open = false;
      opener.focus();
    };
    box.onfocusout = (event) => {
      if (event.relatedTarget && !box.contains(event.relatedTarget)) box.open = false;
    };
    return box;
  }

  async function copySnippet(made) {
    const query = which === "mine" ? { text: mine } : { which, context: width };
    const found = await get(`/${feature}/snippet?${new URLSearchParams(query)}`).catch(() => ({ error: NO_ANSWER }));
    if (!found.error) await navigator.clipboard.writeText(found.text);
    tellCopied(made, found.error ? "Not copied" : "Copied", found.error);
  }

  function tellCopied(made, text, hint = "") {
    const before = made.textContent;
    made.textContent = text;
    if (hint) made.title = hint;
    setTimeout(() => { made.textContent = before; }, 1200);
  }

  function summary(about) {
    const side = about.positive_side_only ? "positive side: " : "";
    const below = about.below ? ` · negative side: density ${percent(about.below.density)} %, min ${short(about.below.min)}` : "";
    const outside = table.has(about.id) ? "" : " · not in the list: the filters hide it";
    const line = node("div", "sub", `${side}density ${percent(about.density)} % · max ${short(about.max)} · importance rank ${about.importance_rank}${below}${outside}`);
    line.title = [
      DEFINITIONS.features.density, DEFINITIONS.features.max, DEFINITIONS.features.importance_rank,
      ...(about.below ? [DEFINITIONS.features.min] : []),
    ].join("\n");
    return line;
  }

  function button(text, hint, action, name) {
    const made = node("button", name, text);
    made.type = "button";
    made.title = hint;
    made.dataset.key = name.startsWith("on") || !name ? text : name.split(" ")[0] === "pick" ? `pick ${text}` : name;
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
    const input = node("input", "labelling");
    input.placeholder = "what it stands for; Enter keeps it, Escape leaves it";
    input.maxLength = 200;
    writeInto(input, f, "label", data.byLabel, "edit");
    bar.querySelector(".title").replaceChildren(node("h3", "", `Feature ${f}`), input);
    input.focus();
  }

  function editNote(bar, f) {
    const input = node("textarea", "noting");
    input.placeholder = "what you know of it; Ctrl and Enter keep it, Escape leaves it as it was";
    input.rows = 3;
    input.maxLength = 10000;
    writeInto(input, f, "note", data.byNote, "write");
    card.querySelector(".note")?.remove();
    bar.after(input);
    input.focus();
  }

  // Lets a person write into a field what is kept of a feature under a name; the focus goes back to the button that opened it.
  function writeInto(input, f, name, kept, opener) {
    editing = true;
    input.value = kept[f] || "";
    input.setAttribute("aria-label", `${name} of feature ${f}`);
    let done = false;
    const finish = async (keep, isKey) => {
      if (done) return;
      done = true;
      editing = false;
      const text = input.value.trim();
      if (keep && text !== (kept[f] || "")) {
        if (text) kept[f] = text;
        else delete kept[f];
        component.setTriggerValue(name, [f, text]);
        fill();
      }
      await draw();
      if (isKey) card.querySelector(`[data-key="${opener}"]`)?.focus({ preventScroll: true });
    };
    input.onkeydown = (event) => {
      event.stopPropagation();
      const keeps = event.key === "Enter" && (name === "label" || event.ctrlKey || event.metaKey);
      if (!keeps && event.key !== "Escape") return;
      event.preventDefault(); // else the same Enter would press the button that gets the focus back
      finish(keeps, true);
    };
    input.onblur = () => finish(true, false);
  }

  async function copyLink(made) {
    await navigator.clipboard.writeText(location.origin + href(feature));
    tellCopied(made, "Copied");
  }

  function overview(about) {
    const grid = node("div", "overview");
    const pictures = node("div", "pictures");
    pictures.append(histogram(about));
    if (about.logits) pictures.append(logitHistogram(about.logits));
    grid.append(pictures);
    grid.append(effects("Promotes", about.promoted, DEFINITIONS.features.promoted));
    grid.append(effects("Suppresses", about.suppressed, DEFINITIONS.features.suppressed));
    grid.append(neighbours(about));
    return grid;
  }

  function effects(caption, pairs, hint) {
    const box = bars(caption, (pairs || []).slice(0, 6).map(([token, value]) => ({ text: visible(token), value, code: true })));
    box.title = hint;
    return box;
  }

  // The last column of the overview: one of several lists of features, or of neurons.
  function neighbours(about) {
    const caption = node("div", "cap near");
    const row = ([f, value]) => ({ text: `${f}`, value, label: table.labelOf(f), link: { href: href(f), go: () => show(f) } });
    const lists = {
      cosine: ["cosine", DEFINITIONS.features.cosine, (about.neighbours.cosine || []).map(row), 1],
      coactivation: ["co-firing", DEFINITIONS.features.coactivation, (about.neighbours.coactivation || []).map(row), 1],
    };
    if (about.family) {
      const rows = [parentRow(about.family), ...about.family.siblings.map(row)];
      lists.family = ["siblings", `${DEFINITIONS.features.siblings} Of the parent: ${DEFINITIONS.features.share}`, rows, 0];
    }
    if (about.neurons) lists.neurons = ["neurons", DEFINITIONS.features.neurons, about.neurons.map(([n, w]) => ({ text: `${n}`, value: w })), 0];
    const shown = near in lists ? near : "cosine";
    for (const [kind, [name, hint]] of Object.entries(lists)) {
      const made = button(name, hint, () => { near = kind; draw(); }, shown === kind ? "pick on" : "pick");
      made.setAttribute("aria-pressed", shown === kind);
      caption.append(made);
    }
    const box = bars("", lists[shown][2].slice(0, 6), lists[shown][3]);
    box.title = lists[shown][1];
    box.firstChild.replaceWith(caption);
    return box;
  }

  function parentRow({ level, parent, share }) {
    const name = `${level}.${parent}`;
    const go = () => component.setTriggerValue("tree", name);
    return { text: `parent ${name}`, value: share, link: { href: `${data.tree_path}?${new URLSearchParams({ run: data.link.run, node: name })}`, go } };
  }

  // What it fires on and what it does, apart: a sentence each, and the rest unfolded or not, as it was left at the feature before.
  function evidence(found) {
    if (found.missing) return node("div", "quiet evidence", found.missing);
    const box = node("div", "evidence");
    const grade = node("span", "verdict");
    grade.append(gradeNode(found.grade), found.grade === "none" ? "detects no concept" : found.grade);
    grade.title = found.rule;
    const blocks = node("div", "blocks");
    for (const [heading, lines, hint] of [
      ["What it fires on", found.fires_on.slice(0, 1), "Correlational: read off where it fires. In brackets, 95 % intervals."],
      ["What it does", found.does, "Causal: read off what the model does with more or less of it. In brackets, 95 % intervals."],
    ]) {
      const block = node("section");
      const title = node("h4", "", heading);
      block.title = hint;
      if (heading === "What it fires on") title.append(grade);
      block.append(title, ...lines.map(sentence));
      blocks.append(block);
    }
    box.append(blocks);
    if (found.fires_on.length > 1) {
      const more = node("details");
      more.open = unfolded;
      more.ontoggle = () => { unfolded = more.open; };
      const summary = node("summary", "", "More: tokens, predictability, the same feature in other runs");
      summary.dataset.key = "more";
      more.append(summary, ...found.fires_on.slice(1).map(sentence));
      box.append(more);
    }
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

  function tabs(about) {
    const bar = node("div", "tabs");
    const choice = (pairs, hint, now, set) => {
      const group = node("div", "group");
      for (const [value, name] of pairs) {
        const made = button(name, hint, () => { set(value); draw(); prefetch(table.neighbour(1)); }, value === now ? "on" : "");
        made.setAttribute("aria-pressed", value === now);
        group.append(made);
      }
      return group;
    };
    const [top, ...others] = TABS;
    bar.append(choice(about.below ? [top, ["lowest", "Lowest"], ...others] : TABS, "", which, (value) => { which = value; }));
    const right = choice(WIDTHS, WIDTH, width, (value) => { width = value; });
    right.prepend(node("span", "cap", "context"));
    if (which === "mine") right.replaceChildren();
    const effect = button("Ablation on hover", ABLATION, () => { ablating = !ablating; draw(); }, "ablate");
    effect.classList.toggle("on", ablating);
    effect.setAttribute("aria-pressed", ablating);
    right.append(effect);
    bar.append(right);
    return bar;
  }

  // The largest size of a code on the store, of both signs where both are known.
  function largestOf(about) {
    return Math.max(Math.abs(about.max), about.below ? -about.below.min : 0);
  }

  function shareOf(a, largest) {
    return `${Math.round((100 * Math.abs(a)) / (largest || 1))} % of max`;
  }

  // What makes the element of token i; null for one of which there is nothing to say. `changes`: what ablation does, if known.
  function colouring(example, i, largest, changes) {
    const a = example.activations[i];
    const isCentre = i === example.centre;
    if (!a && !isCentre && !changes) return null;
    const colour = a ? (a > 0 ? "p" : "n") + level(a, largest) : "";
    const change = changes ? changes[i] : null;
    const next = example.tokens[i + 1] === undefined ? "the next token" : visible(example.tokens[i + 1]);
    const hints = a || isCentre ? [`${brief(a)} · ${shareOf(a, largest)}`] : [];
    if (changes) hints.push(change === null ? "no prediction here" : `without it, ${next} ${change > 0 ? "+" : ""}${change.toFixed(3)} nats`);
    const strength = change === null ? 0 : Math.abs(change);
    const moved = strength < 0.02 ? "" : ` ${change > 0 ? "up" : "down"}${strength < 0.1 ? 1 : strength < 0.5 ? 2 : 3}`;
    return () => {
      const mark = node("b", `${colour} ${isCentre ? "centre" : ""}${moved}`.trim());
      mark.dataset.v = hints.join(" · ");
      return mark;
    };
  }

  function contexts(examples, about) {
    const box = node("div", "contexts");
    let group = "";
    const add = (example) => {
      if (example.group && example.group !== group) {
        box.append(node("div", "interval", (group = example.group)));
        box.lastChild.title = DEFINITIONS.features.group;
      }
      const source = `${example.document} · sequence ${example.sequence}, token ${example.position}`;
      const first = example.position - example.centre; // the place of the example's first token in its sequence
      const effects = () => get(`/${about.id}/ablation?sequence=${example.sequence}`).then((all) => (
        all.error ? all : { changes: all.changes.slice(first, first + example.tokens.length) }
      ));
      box.append(exampleLine(example, about, source, effects));
    };
    examples.slice(0, AT_ONCE).forEach(add);
    setTimeout(() => { if (box.isConnected) examples.slice(AT_ONCE).forEach(add); }, SOON);
    if (!examples.length) box.append(node("div", "quiet", "No such example in this store."));
    return box;
  }

  // A line of coloured tokens. While ablation is on, pointing at it fetches `effects`, which every token then tells.
  function exampleLine(example, about, source, effects) {
    const line = node("div", "example");
    const value = node("span", "value", brief(example.value));
    value.title = `${DEFINITIONS.features.value} ${source}`;
    const text = node("span", "text");
    const fillText = (changes) => {
      text.replaceChildren();
      const write = makeWriter(text);
      example.tokens.forEach((token, i) => write(token, colouring(example, i, largestOf(about), changes)));
    };
    fillText(null);
    line.append(value, text);
    if (ablating) {
      line.onmouseenter = async () => {
        line.onmouseenter = null;
        line.classList.add("waiting");
        const found = await effects().catch(() => ({ error: NO_ANSWER }));
        line.classList.remove("waiting");
        if (found.error) line.after(node("div", "error", found.error));
        else fillText(found.changes);
      };
    }
    return line;
  }

  // A text to type, and where the feature fires in it.
  function myText(about) {
    const box = node("div", "contexts mine");
    const input = node("textarea", "typed");
    input.value = mine;
    input.rows = 4;
    input.placeholder = "Type or paste a text to see where this feature fires in it (this loads the language model).";
    input.setAttribute("aria-label", "My text");
    input.dataset.key = "typed";
    input.spellcheck = false;
    const answer = node("div", "answer");
    answer.setAttribute("aria-live", "polite");
    input.onkeydown = (event) => event.stopPropagation();
    input.oninput = () => {
      mine = input.value;
      clearTimeout(typing);
      typing = setTimeout(() => { component.setStateValue("mine", mine); showMine(about, answer); }, SETTLE);
    };
    box.append(input, answer);
    showMine(about, answer);
    return box;
  }

  async function showMine(about, answer) {
    const text = mine, f = about.id;
    if (!text.trim()) return answer.replaceChildren();
    if (!answer.firstChild) answer.append(node("div", "quiet", "Asking the language model; the first time it must be loaded."));
    const found = await get(`/${f}/text`, text).catch(() => ({ error: NO_ANSWER }));
    if (text !== mine || f !== feature) return;
    if (found.error) return answer.replaceChildren(node("div", "error", found.error));
    const n = found.activations.filter((a) => a !== 0).length;
    const said = n ? `Fires on ${n} of ${found.tokens.length} tokens, most with ${brief(found.value)}, ${shareOf(found.value, largestOf(about))}.`
      : `Does not fire on any of these ${found.tokens.length} tokens.`;
    const summary = node("div", "cap", said);
    summary.title = DEFINITIONS.features.activations;
    answer.replaceChildren(
      summary,
      exampleLine(found, about, "your text", () => get(`/${f}/text/ablation`, text)),
    );
  }

  return { update, stop };
}
