"""What Python source is made of: one walk over its words that notes the span of every concept.

The walk keeps a stack of indentation levels and, within a logical line, a stack of what is open: brackets and lambdas.
It follows the grammar only as far as the concepts need, and so works on text that does not parse. What each concept
covers is said in ``interp.corpora.labels.python.MEANINGS``.
"""

from __future__ import annotations

import builtins
import keyword
import re
import tokenize
import types
from collections import defaultdict

from interp.corpora.labels.python_tokens import Token, lex

_FAMILY = {
    word: family
    for family, words in {
        "control_flow_keyword": "if elif else for while break continue return yield pass with await match case",
        "definition_keyword": "def class lambda type",
        "import_keyword": "import",
        "exception_keyword": "try except finally raise assert",
        "constant_keyword": "True False None",
        "logical_keyword": "and or not is in",
    }.items()
    for word in words.split()
}
_HEADERS = {
    "if", "elif", "else", "for", "while", "try", "except", "finally", "with", "def", "class", "match", "case",
}  # fmt: skip
_NEVER_IN_BRACKETS = {
    "def", "class", "import", "return", "while", "try", "except", "finally", "with", "raise", "assert", "del", "pass",
    "break", "continue", "global", "nonlocal",
}  # fmt: skip
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_AUGMENTED = {"+=", "-=", "*=", "/=", "//=", "%=", "@=", "&=", "|=", "^=", ">>=", "<<=", "**="}
_SIGNS = {
    sign: concept
    for concept, signs in {
        "operator": "+ - * / // % @ ** << >> & | ^ ~ < > <= >= == != = := " + " ".join(_AUGMENTED),
        "bracket": "( ) [ ] { }",
        "delimiter": ", : . ; ->",
    }.items()
    for sign in signs.split()
}
_WHOLE_STATEMENT = {
    "return": "return_statement",
    "import": "import_statement",
    "from": "import_statement",
    "@": "decorator",
    "def": "function_signature",
    "class": "class_header",
}
_BUILTINS = {
    # what `site` and interactive shells add (exit, help, display, ...) is of other types
    name
    for name, value in vars(builtins).items()
    if not name.startswith("_")
    if isinstance(value, type | types.BuiltinFunctionType) or name in ("Ellipsis", "NotImplemented")
}
_LINE = re.compile(r"^([ \t\f]*)(\w+|[^\w\s]+)", re.MULTILINE)


def mark_concepts(text: str) -> dict[str, list[int]]:
    """The spans of each concept and depth in a text without ``\\r``, flat: start, end, start, end, ...

    Spans of a concept may overlap; a character whose depth is n lies in n spans of that depth.
    """
    marker = _Marker(text)
    marker.walk()
    return marker.marks


class _Frame:
    """What the walk is inside of: a statement, a pair of brackets, or the parameters of a lambda."""

    __slots__ = ("annotation", "awaits_in", "closing", "end", "expects_parameter", "has_for", "kind", "start")

    def __init__(self, kind: str, closing: str = "", start: int = 0, end: int = 0) -> None:
        self.kind = kind  # "statement", "lambda", "signature", "bases", "call", "subscript" or "bracket"
        self.closing = closing
        self.start, self.end = start, end  # of the opening bracket
        self.expects_parameter = kind in ("signature", "lambda")
        self.annotation = -1  # where an open annotation starts
        self.has_for = self.awaits_in = False


class _Marker:
    """Walks over a text once and fills ``marks``."""

    def __init__(self, text: str) -> None:
        self.marks: defaultdict[str, list[int]] = defaultdict(list)
        self._text = text
        self._levels = [0]  # columns of the open indentation levels
        self._openers = [""]  # the first word of the last line at each of them
        self._handlers: list[tuple[int, int]] = []  # (start, level) of the open except clauses
        self._last_end = 0  # of the last statement's last token
        self._lines_end = 0  # of its last line
        self._may_be_docstring = True

    def walk(self) -> None:
        for found in _LINE.finditer(self._text):
            self._mark("indentation", *found.span(1))
            self._mark("line_start", *found.span(2))
        for found in re.finditer("\n", self._text):
            self._mark("line_end", *found.span())
        self._walk_lines()
        self._mark_depth(len(self._text), len(self._levels) - 1)
        self._close_handlers(0)

    def _mark(self, name: str, start: int, end: int) -> None:
        if start < end:  # what is missing in broken text ("a = = b") leaves nothing to mark
            self.marks[name] += (start, end)

    def _walk_lines(self) -> None:
        """Cuts the tokens into logical lines: a newline ends one unless a bracket is open."""
        line: list[Token] = []
        n_open, is_row_start = 0, True
        for token in lex(self._text):
            kind, string, start, end = token
            if kind == tokenize.COMMENT:
                self._mark("comment", start, end)
            elif kind == tokenize.NEWLINE:
                is_row_start = True
                if line and not n_open:
                    self._logical_line(line, end)
                    line = []
            else:
                if is_row_start and n_open and string in _NEVER_IN_BRACKETS:
                    self._logical_line(line, self._text.rfind("\n", 0, start) + 1)
                    line, n_open = [], 0
                is_row_start = False
                if kind == tokenize.OP:
                    n_open = n_open + 1 if string in "([{" else max(n_open - 1, 0) if string in ")]}" else n_open
                line.append(token)
        if line:
            self._logical_line(line, len(self._text))

    def _logical_line(self, line: list[Token], end: int) -> None:
        level = self._indent(line[0][2])
        self._mark_depth(end, level)
        self._close_handlers(level)
        if line[0][1] == "except":
            self._handlers.append((line[0][2], level))
        self._walk_statements(line, parent=self._openers[level - 1] if level else "")
        self._openers[level:] = [line[0][1]]
        self._last_end = line[-1][3]

    def _mark_depth(self, end: int, level: int) -> None:
        self.marks["indentation_depth"] += (self._lines_end, end) * level
        self._lines_end = end

    def _indent(self, start: int) -> int:
        """Opens or closes indentation levels for a line whose first token starts here; returns how many are open."""
        column = 0
        for blank in self._text[self._text.rfind("\n", 0, start) + 1 : start]:
            column = column + 1 if blank == " " else (column // 8 + 1) * 8 if blank == "\t" else 0
        while column < self._levels[-1]:
            self._levels.pop()
        if column > self._levels[-1]:
            self._levels.append(column)
        return len(self._levels) - 1

    def _close_handlers(self, level: int) -> None:
        while self._handlers and self._handlers[-1][1] >= level:
            self._mark("exception_handler", self._handlers.pop()[0], self._last_end)

    # ------------------------------------------------------------------------------------------------- statements

    def _walk_statements(self, line: list[Token], parent: str) -> None:
        self._line, self._parent = line, parent
        self._frames = [_Frame("statement")]
        self._is_new = True
        for i, (kind, string, start, end) in enumerate(line):
            if self._is_new:
                self._start_statement(i)
            if kind == tokenize.NAME:
                self._word(i, string, start, end)
            elif kind == tokenize.OP:
                self._sign(i, string, start, end)
            elif kind == tokenize.NUMBER:
                self._mark("number", start, end)
            elif kind == tokenize.STRING:
                is_f = "f" in (prefix := string[:2].lower().partition(string[-1])[0]) or "t" in prefix
                name = "f_string" if is_f else "docstring" if i < self._docstring_end else "string"
                self._mark(name, start, end)
        if not self._is_new:
            self._end_statement(line[-1][3])

    def _start_statement(self, i: int) -> None:
        kind, string, start, _ = self._line[i]
        following = self._line[i + 1][1] if i + 1 < len(self._line) else ""
        self._is_new, self._first_index, self._begin = False, i, start
        is_soft_keyword = (
            (string == "match" and self._line[-1][1] == ":" and len(self._line) > i + 2)
            or (string == "case" and self._parent == "match")
            or (string == "type" and following.isidentifier() and not keyword.iskeyword(following))
        )
        self._soft_keyword = i if is_soft_keyword else -1
        is_word = keyword.iskeyword(string) or is_soft_keyword or string == "@"
        self._first = following if string == "async" else string if is_word else ""
        self._target = start if not self._first and (kind == tokenize.NAME or string in ("(", "[", "*")) else -1
        self._docstring_end = i
        if self._may_be_docstring:
            while self._docstring_end < len(self._line) and self._is_plain_string(self._line[self._docstring_end]):
                self._docstring_end += 1
            if self._docstring_end < len(self._line) and self._line[self._docstring_end][1] != ";":
                self._docstring_end = i
        self._may_be_docstring = False

    @staticmethod
    def _is_plain_string(token: Token) -> bool:
        return token[0] == tokenize.STRING and not re.match("[bftBFT]|[rR][bftBFT]", token[1])

    def _end_statement(self, end: int) -> None:
        if self._first in _WHOLE_STATEMENT:
            self._mark(_WHOLE_STATEMENT[self._first], self._begin, end)
        while self._frames:
            self._close(self._frames.pop(), end, end)
        self._frames = [_Frame("statement")]
        self._is_new = True

    # ------------------------------------------------------------------------------------------------------ words

    def _word(self, i: int, string: str, start: int, end: int) -> None:
        if not keyword.iskeyword(string) and i != self._soft_keyword:
            self._identifier(i, string, start, end)
            return
        frame = self._frames[-1]
        family = self._keyword_family(i, string, frame)
        if family:
            self._mark(family, start, end)
        if string == "lambda":
            self._frames.append(_Frame("lambda"))
        elif string == "for":
            frame.has_for = frame.awaits_in = True
        elif string == "in":
            frame.awaits_in = False
        elif string == "if" and self._first == "case" and len(self._frames) == 1:
            self._first = "if"  # what follows is the guard: its brackets are calls again, not patterns

    def _keyword_family(self, i: int, string: str, frame: _Frame) -> str:
        if string == "as":
            return {"import": "import_keyword", "from": "import_keyword", "except": "exception_keyword"}.get(
                self._first, "control_flow_keyword"
            )
        if string == "from":
            if i == self._first_index:
                return "import_keyword"
            return "exception_keyword" if self._first == "raise" and len(self._frames) == 1 else "control_flow_keyword"
        if string == "async":
            is_definition = i + 1 < len(self._line) and self._line[i + 1][1] == "def"
            return "definition_keyword" if is_definition else "control_flow_keyword"
        if string == "in" and frame.awaits_in:
            return "control_flow_keyword"
        return _FAMILY.get(string, "")

    def _identifier(self, i: int, string: str, start: int, end: int) -> None:
        before = self._line[i - 1][1] if i else ""
        after = self._line[i + 1][1] if i + 1 < len(self._line) else ""
        frame = self._frames[-1]
        if self._first in ("import", "from"):
            return
        if before == ".":
            self._mark("attribute_name", start, end)
            return
        if before in ("def", "class"):
            self._mark("function_name" if before == "def" else "class_name", start, end)
            return
        if string in ("self", "cls"):
            self._mark("self_or_cls", start, end)
        if frame.expects_parameter:
            frame.expects_parameter = False
            self._mark("parameter", start, end)
        elif after == "=" and frame.kind in ("call", "bases"):
            self._mark("keyword_argument", start, end)
        elif string in _BUILTINS:
            self._mark("builtin_name", start, end)
        if after == ":=":
            self._mark("assignment_target", start, end)

    # ------------------------------------------------------------------------------------------------------ signs

    def _sign(self, i: int, string: str, start: int, end: int) -> None:
        if self._first == "@" and i == self._first_index:
            return
        if string in _SIGNS:
            self._mark(_SIGNS[string], start, end)
        before_end = self._line[i - 1][3] if i else start
        frame = self._frames[-1]
        if string in _CLOSING:
            self._frames.append(_Frame(self._bracket_kind(i, string), _CLOSING[string], start, end))
        elif string in ")]}":
            self._close_bracket(string, start, end)
        elif string == ":":
            self._colon(i, frame, before_end, end)
        elif string == "," and frame.kind in ("signature", "lambda"):
            self._close_annotation(frame, before_end)
            frame.expects_parameter = True
        elif string == "->" and self._first == "def":
            frame.annotation = self._next_start(i)
        elif string == ";" and len(self._frames) == 1:
            self._end_statement(before_end)
        elif string == "=" or string in _AUGMENTED:
            self._close_annotation(frame, before_end)
            if frame.kind == "statement" and self._target >= 0:
                self._mark("assignment_target", self._target, before_end)
                self._target = self._next_start(i) if string == "=" else -1

    def _next_start(self, i: int) -> int:
        return self._line[i + 1][2] if i + 1 < len(self._line) else self._line[i][3]

    def _colon(self, i: int, frame: _Frame, before_end: int, end: int) -> None:
        if frame.kind == "lambda":
            self._frames.pop()
        elif frame.kind == "signature":
            frame.annotation = self._next_start(i)
        elif frame.kind == "statement" and self._first in _HEADERS:
            self._close_annotation(frame, before_end)
            self._may_be_docstring = self._first in ("def", "class")
            self._end_statement(end)
        elif frame.kind == "statement" and self._target >= 0:
            self._mark("assignment_target", self._target, before_end)
            self._target = -1  # so that "x: int = 3" marks x alone
            frame.annotation = self._next_start(i)

    def _bracket_kind(self, i: int, string: str) -> str:
        if len(self._frames) == 1 and self._first in ("def", "class") and self._frames[0].annotation < 0:
            return "bracket" if string != "(" else "signature" if self._first == "def" else "bases"
        if string == "{" or i == 0 or self._first == "case":
            return "bracket"
        kind, before = self._line[i - 1][:2]
        is_name = kind == tokenize.NAME and not keyword.iskeyword(before) and i - 1 != self._soft_keyword
        if is_name or kind == tokenize.STRING or before in (")", "]", "}"):
            return "call" if string == "(" else "subscript"
        return "bracket"

    def _close_bracket(self, closing: str, start: int, end: int) -> None:
        if any(frame.closing == closing for frame in self._frames):
            while True:
                frame = self._frames.pop()
                self._close(frame, start, end)
                if frame.closing == closing:
                    return

    def _close_annotation(self, frame: _Frame, end: int) -> None:
        if frame.annotation >= 0:
            self._mark("type_annotation", frame.annotation, end)
            frame.annotation = -1

    def _close(self, frame: _Frame, inner_end: int, end: int) -> None:
        self._close_annotation(frame, inner_end)
        if not frame.closing:
            return
        self._mark("bracket_depth", frame.start, end)
        if frame.has_for:
            self._mark("comprehension", frame.start, end)
        if frame.kind in ("call", "subscript"):
            self._mark("call_arguments" if frame.kind == "call" else "subscript", frame.end, inner_end)
