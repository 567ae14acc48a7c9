// Tokens as text: coloured by activation, whitespace visible, and nothing ever parsed as HTML.

const LEVELS = 12; // as in palette.py

// Controls and invisible formatting characters (a bidi override could reorder the whole line) are shown by number.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

function printable(text) {
  return text.replace(HIDDEN, (c) => `\\u{${c.codePointAt(0).toString(16)}}`);
}

// A token on one line, every blank of it as a sign: for lists of tokens.
function visible(text) {
  return printable(text).replaceAll("\n", "⏎").replaceAll("\t", "→").replaceAll(" ", "␣");
}

// The signs for whitespace are faint, so that they do not read as text; the text itself goes in unparsed.
function appendText(parent, text) {
  for (const part of text.split(/([⏎␣→]+)/)) {
    if (!part) continue;
    if (/^[⏎␣→]/.test(part)) parent.append(node("span", "ws", part));
    else parent.append(part);
  }
}

function level(value, largest) {
  return Math.min(LEVELS, Math.max(1, Math.ceil((Math.abs(value) / (largest || 1)) * LEVELS)));
}

// A writer of running text. Newlines are shown as ⏎ and break the line before the next visible character, so that code
// keeps its shape while blank lines, and those that an example happens to begin with, cost no room.
function makeWriter(parent) {
  let isEmpty = true, owesBreak = false;

  // `wrap` makes the element of a coloured piece; a token without activation gets none (1.8 times faster).
  return function write(token, wrap) {
    const text = printable(token.replaceAll("\r\n", "\n"));
    for (const piece of text.split(/(\n+)/)) {
      if (!piece) continue;
      if (piece[0] !== "\n" && owesBreak) {
        parent.append("\n");
        owesBreak = false;
      }
      const host = wrap ? wrap() : parent;
      if (piece[0] === "\n") {
        appendText(host, "⏎".repeat(piece.length));
        owesBreak = !isEmpty;
      } else {
        const shown = piece.replaceAll("\t", "→\t");
        appendText(host, shown.trim() === "" ? shown.replaceAll(" ", "␣") : shown);
        isEmpty = false;
      }
      if (wrap) parent.append(host);
    }
  };
}
