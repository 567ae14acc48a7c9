// The Prompt page: the tokens of a text as chips to choose, and the features ranked for them. The codes of the whole text come
// once from the JSON route; choosing tokens, ranking and colouring then need no request and no rerun.

const SHOWN = 60; // rows of the ranking
const SETTLE = 500; // milliseconds without a change before the address bar follows
const NO_ANSWER = "The dashboard's server does not answer; is it still running?";
const DENSITIES = [["", "any"], ["0.3", "30 %"], ["0.1", "10 %"], ["0.03", "3 %"], ["0.01", "1 %"], ["0.001", "0.1 %"]];
const HEADINGS = [
  ["id", "id", DEFINITIONS.prompt.feature],
  ["", "", ""],
  ["value", "code", DEFINITIONS.prompt.codes],
  ["cap", "of max", DEFINITIONS.prompt.max],
  ["cap", "tokens", DEFINITIONS.prompt.at],
  ["cap", "fires", DEFINITIONS.prompt.density],
  ["", "label", DEFINITIONS.prompt.label],
];

export default function (component) {
  const root = component.parentElement.querySelector(".prompt");
  if (!root.controller) root.controller = makeController(root);
  root.controller.update(component);
  return () => root.controller.stop();
}

function makeController(root) {
  const chips = root.querySelector(".chips"), ranking = root.querySelector(".ranking"), tools = root.querySelector(".tools");
  let component = null, data = null, asked = "", given = "", timer = 0;
  let tokens = [], features = [], marks = [], chosen = new Set(), by = "max", dense = "";

  function update(now) {
    component = now;
    data = now.data;
    const view = JSON.stringify(data.view);
    if (view !== given) {
      given = view;
      ({ by, dense } = data.view);
      chosen = new Set(data.view.at);
    }
    const wanted = JSON.stringify([data.api, data.version, data.text]);
    if (wanted === asked) return draw();
    asked = wanted;
    fetch(data.api, { method: "POST", body: data.text }).then((answer) => answer.json()).catch(() => ({ error: NO_ANSWER })).then((found) => {
      if (wanted !== asked) return; // an answer about the text before came late
      ({ tokens = [], features = [] } = found);
      if (found.error) return say(found.error);
      draw();
    });
    if (!marks.length) ranking.replaceChildren(node("div", "quiet", "Reading the text."));
  }

  function stop() {
    clearTimeout(timer);
  }

  function say(error) {
    chips.replaceChildren();
    tools.replaceChildren();
    marks = [];
    ranking.replaceChildren(node("div", "error", error));
  }

  // Redraws what a choice changes at once; the address follows a moment later.
  function choose() {
    clearTimeout(timer);
    timer = setTimeout(() => {
      const view = { at: [...chosen].sort((a, b) => a - b), by, dense };
      given = JSON.stringify(view);
      component.setStateValue("view", view);
    }, SETTLE);
    for (const [i, made] of marks.entries()) made.setAttribute("aria-pressed", chosen.has(i));
    drawTools();
    drawRanking();
  }

  function draw() {
    const focused = marks.indexOf(root.getRootNode().activeElement);
    chosen = new Set([...chosen].filter((i) => i > 0 && i < tokens.length));
    marks = tokens.map(chip);
    const parts = [];
    tokens.forEach((token, i) => {
      parts.push(marks[i]);
      if (token.includes("\n")) parts.push(node("span", "break"));
    });
    chips.replaceChildren(...parts);
    if (focused > 0 && marks[focused]) marks[focused].focus({ preventScroll: true });
    drawTools();
    drawRanking();
  }

  function chip(token, i) {
    const made = node("button", "chip");
    made.type = "button";
    appendText(made, visible(token) || "∅");
    made.setAttribute("aria-pressed", chosen.has(i));
    made.disabled = i === 0; // BOS is never ranked
    made.tabIndex = i === 1 ? 0 : -1; // one stop for Tab; the arrows lead on
    made.title = i === 0 ? "beginning of sequence: not ranked" : `token ${i}`;
    made.onclick = () => {
      if (!chosen.delete(i)) chosen.add(i);
      choose();
    };
    made.onkeydown = (event) => moveFrom(i, event);
    return made;
  }

  // Arrows, Home and End lead from token to token, with Shift they choose on the way; Escape chooses none.
  function moveFrom(i, event) {
    if (event.key === "Escape" && chosen.size) {
      chosen.clear();
      choose();
    }
    const to = { ArrowRight: i + 1, ArrowLeft: i - 1, ArrowDown: besideLine(i, 1), ArrowUp: besideLine(i, -1), Home: 1, End: marks.length - 1 }[event.key];
    if (to === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const next = marks[Math.min(Math.max(to, 1), marks.length - 1)];
    marks[i].tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
    if (event.shiftKey) {
      chosen.add(i).add(marks.indexOf(next));
      choose();
    }
  }

  // The token nearest below or above on the next line.
  function besideLine(i, by) {
    const here = marks[i].getBoundingClientRect();
    let found = i, best = Infinity;
    for (let j = i + by; j > 0 && j < marks.length; j += by) {
      const there = marks[j].getBoundingClientRect();
      const lines = Math.abs(there.top - here.top), far = lines * 1000 + Math.abs(there.left - here.left);
      if (lines > 4 && far < best) [best, found] = [far, j];
    }
    return found;
  }

  function drawTools() {
    const group = node("div", "group");
    group.append(node("span", "cap", "rank by"));
    for (const [value, hint] of [["max", "the largest code on the chosen tokens, by size"], ["sum", "the sum of the codes over the chosen tokens"]]) {
      const made = node("button", value === by ? "on" : "", value);
      made.type = "button";
      made.title = hint;
      made.dataset.key = value;
      made.setAttribute("aria-pressed", value === by);
      made.onclick = () => { by = value; choose(); };
      group.append(made);
    }
    const label = node("label", "cap", "fires on at most ");
    label.title = "Hides features that fire on more of the store's tokens than this";
    const select = node("select", "dense");
    select.dataset.key = "dense";
    for (const [value, name] of DENSITIES) select.append(new Option(name, value, false, value === dense));
    select.disabled = !features.some((one) => one.density !== null);
    select.onchange = () => { dense = select.value; choose(); };
    label.append(select);
    const none = node("button", "none", chosen.size ? `${chosen.size} of ${tokens.length - 1} tokens ✕` : `all ${tokens.length - 1} tokens`);
    none.type = "button";
    none.dataset.key = "none";
    none.disabled = !chosen.size;
    none.title = chosen.size ? "Choose none, which means all" : "No token is chosen, so all count";
    none.onclick = () => { chosen.clear(); choose(); };
    const key = root.getRootNode().activeElement?.dataset?.key;
    tools.replaceChildren(group, label, none);
    if (key) tools.querySelector(`[data-key="${key}"]`)?.focus();
  }

  // As rank_features of prompt.py: by size, ties in order of number.
  function ranked() {
    const rows = [];
    for (const one of features) {
      if (dense && one.density !== null && one.density > Number(dense)) continue;
      let sum = 0, max = 0, most = 0, n = 0;
      one.at.forEach((i, k) => {
        if (chosen.size && !chosen.has(i)) return;
        const code = one.codes[k];
        n += 1;
        sum += code;
        most = Math.max(most, code);
        if (Math.abs(code) > Math.abs(max)) max = code;
      });
      if (n) rows.push({ one, n, most, value: by === "max" ? max : sum });
    }
    return rows.sort((a, b) => Math.abs(b.value) - Math.abs(a.value) || a.one.feature - b.one.feature);
  }

  function drawRanking() {
    const rows = ranked();
    const head = node("div", "line head");
    for (const [className, name, hint] of HEADINGS) {
      const made = node("span", className, name);
      made.title = hint;
      head.append(made);
    }
    const largest = rows.length ? Math.abs(rows[0].value) || 1e-9 : 1;
    const lines = rows.slice(0, SHOWN).map((each) => row(each, largest));
    const said = !rows.length ? `No feature ${dense ? "that is as rare as this " : ""}fires on these tokens.`
      : rows.length > SHOWN ? `The first ${SHOWN} of ${rows.length.toLocaleString("en")} features that fire on these tokens.` : "";
    ranking.replaceChildren(head, ...lines, ...(said ? [node("div", "quiet", said)] : []));
    colour(null);
  }

  function row({ one, n, most, value }, largest) {
    const line = node("a", "line");
    line.dataset.feature = one.feature;
    const label = node("span", "name");
    if (one.label) label.append(labelNode("", { text: one.label, auto: one.is_automatic }));
    const track = node("span", "track");
    const fill = node("i", value < 0 ? "neg" : "pos");
    fill.style.width = `${(100 * Math.abs(value)) / largest}%`;
    track.append(fill);
    const share = value < 0 ? "negative side" : one.max > 0 ? `${Math.round((100 * most) / one.max)} %` : "";
    line.append(
      node("span", "id", one.feature), track, node("span", "value", brief(value)), node("span", "cap share", share),
      node("span", "cap", n), node("span", "cap", one.density === null ? "" : `${percent(one.density)} %`), label,
    );
    line.onmouseenter = line.onfocus = () => colour(one);
    line.onmouseleave = () => colour(null);
    line.onkeydown = (event) => {
      const next = { ArrowDown: line.nextElementSibling, ArrowUp: line.previousElementSibling }[event.key];
      if (!next) return;
      event.preventDefault();
      if (next.href) next.focus();
    };
    const address = `${data.card_path}?${new URLSearchParams({ run: data.run, f: one.feature })}`;
    followInPlace(line, address, () => component.setTriggerValue("open", one.feature));
    return line;
  }

  // The text in the colours of a feature, its strongest token in view; without one the text is plain.
  function colour(one) {
    const largest = one ? Math.max(...one.codes.map(Math.abs)) : 1;
    const codes = new Map(one ? one.at.map((i, k) => [i, one.codes[k]]) : []);
    let strongest = null;
    marks.forEach((made, i) => {
      const value = codes.get(i) || 0;
      made.className = value ? `chip ${value > 0 ? "p" : "n"}${level(value, largest)}` : "chip";
      made.dataset.v = value ? brief(value) : "";
      if (Math.abs(value) === largest) strongest ||= made;
    });
    if (!strongest) return;
    const box = chips.getBoundingClientRect(), at = strongest.getBoundingClientRect();
    if (at.top < box.top || at.bottom > box.bottom) chips.scrollTop += at.top - box.top - box.height / 2;
  }

  return { update, stop };
}
