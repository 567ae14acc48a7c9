"""Python source as words: the standard ``tokenize``, made to go on where it stops.

``tokenize`` raises for an unterminated string, for a dedent to a level that was never opened and, depending on the
Python version, for other things; it also splits f-strings from Python 3.12 on. Here an unterminated string is a string
to the end of its line (triple-quoted: of the text), f-strings are whole, positions are character offsets, and whatever
is refused is stepped over, so that the words after it are found.
"""

from __future__ import annotations

import io
import re
import tokenize
from bisect import bisect_right
from collections.abc import Iterator

Token = tuple[int, str, int, int]
"""Kind (of ``tokenize``: NAME, NUMBER, STRING, OP, COMMENT, NEWLINE), string, first character, the one after its last."""

# From Python 3.12 on an f-string arrives in pieces, which are put together again here.
_F_STRING_START = {getattr(tokenize, name, -1) for name in ("FSTRING_START", "TSTRING_START")}
_F_STRING_END = {getattr(tokenize, name, -1) for name in ("FSTRING_END", "TSTRING_END")}
_NO_TEXT = {tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
_STRING_OPENING = re.compile(r"(?:[bfrtu]|br|rb|fr|rf|tr|rt)?['\"]", re.IGNORECASE)
_STRING = re.compile(
    r"""[ \t\f]*((?:[bfrtu]|br|rb|fr|rf|tr|rt)?(?:'{3}(?:\\(?:.|\Z)|(?!'{3})[^\\])*(?:'{3})?|"{3}(?:\\(?:.|\Z)|"""
    r"""(?!"{3})[^\\])*(?:"{3})?|'(?:\\(?:.|\Z)|[^'\\\n])*'?|"(?:\\(?:.|\Z)|[^"\\\n])*"?))""",
    re.DOTALL | re.IGNORECASE,
)
_NO_TOKEN = re.compile(r"(?:[ \t\f]|\\\n)*(?:\w+|\s+|[^\w\s'\"#()\[\]{}]+|.|\Z)", re.DOTALL)


def lex(text: str) -> Iterator[Token]:
    """The tokens of a text without ``\\r``; where ``tokenize`` stops, it is started again after what stopped it."""
    line_starts = [0, *(found.end() for found in re.finditer("\n", text)), len(text)]
    stream = io.StringIO(text)
    position = 0
    while position < len(text):
        first_row = bisect_right(line_starts, position) - 1
        line_starts[first_row] = position  # rows and columns are counted from here
        stream.seek(position)
        reached = position
        try:
            for token in _lex_on(text, stream, line_starts, first_row - 1):
                yield token
                reached = token[3]
            return
        except (tokenize.TokenError, SyntaxError):
            pass
        if reached == position:  # what stands right here is what it cannot take
            if found := _STRING.match(text, position):
                yield tokenize.STRING, found[1], found.start(1), found.end()
            else:
                found = _NO_TOKEN.match(text, position)
            reached = found.end() if found else len(text)
        position = reached


def _lex_on(text: str, stream: io.StringIO, line_starts: list[int], row_shift: int) -> Iterator[Token]:
    n_open, opened = 0, 0
    for kind, string, (row, column), (end_row, end_column), _ in tokenize.generate_tokens(stream.readline):
        if kind in _NO_TEXT:
            continue
        start, end = line_starts[row + row_shift] + column, line_starts[end_row + row_shift] + end_column
        if kind in _F_STRING_START:
            opened = opened if n_open else start
            n_open += 1
        elif kind in _F_STRING_END:
            n_open -= 1
            if not n_open:
                yield tokenize.STRING, text[opened:end], opened, end
        elif n_open or (kind == tokenize.ERRORTOKEN and string.isspace()):
            continue
        elif kind in (tokenize.NEWLINE, tokenize.NL):
            yield tokenize.NEWLINE, string, start, min(end, len(text))
        elif kind in (tokenize.NAME, tokenize.ERRORTOKEN) and _STRING_OPENING.match(text, start):
            raise tokenize.TokenError("unterminated string")  # up to Python 3.11 they come as a name and a lone quote
        else:
            yield kind, string, start, end
