"""What each character, and each model token, of Python source is: comment, string, call argument, parameter, ...

    label_tokens("x = 1  # one", [[0, 1], [1, 3], [3, 5], [5, 8], [8, 12]])[:, CONCEPTS.index("comment")]
    # 0 0 0 1 1

Words come from Python's own ``tokenize`` (``python_tokens``); what they are part of comes from one pass over them with
a stack of open brackets and one of indentation levels (``python_structure``). ``ast`` would say nothing about text that
does not parse, and a sequence cut at its end or written by a steered model hardly ever parses. On text that does
parse, the tests hold this pass against ``ast``: they agree.

Text that ``tokenize`` refuses is taken as far as it goes: an unterminated string is a string to the end of its line
(triple-quoted: of the text), brackets are closed by a line that starts with a word no bracket can hold ("def",
"return", ...), a line dedented to no open level counts at the level left of it, and what is no token at all has no
concept but where it lies. No text raises. It takes about 1.5 seconds per megabyte (Python 3.11, one core at 2.8 GHz), half
of it in ``tokenize``.

A token has a concept if more than half of its non-blank characters have it; a token of blanks only, if more than half
of all its characters do. Byte-level tokenizers join a newline to the blanks of the next line (``"\\n       "``), so two
concepts of blanks are judged otherwise: a token is ``line_end`` if it holds a newline, and ``indentation`` if it is
blank and holds any indentation. The depths of a token are those of its first non-blank character, or of its last
character if it is blank: the depth of the line that follows. A token of no characters has nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int, UInt8

from interp.corpora.labels.python_structure import mark_concepts
from interp.errors import InputError

DEFINITIONS: dict[str, str] = {
    "comment": "from # to the end of the line",
    "docstring": "a string that is the first statement of a text, class or function",
    "string": "any other string or bytes, with prefix and quotes, but no f-string",
    "f_string": "an f-string (or t-string) as a whole, with the expressions in it",
    "number": "a number",
    "control_flow_keyword": (
        "if elif else for while break continue return yield pass with match case await; "
        "the in of for, the as of with and case, the from of yield, async but before def"
    ),
    "definition_keyword": "def class lambda, async before def, type before an alias",
    "import_keyword": "import, and the from and as of an import",
    "exception_keyword": "try except finally raise assert, the as of except, the from of raise",
    "constant_keyword": "True False None",
    "logical_keyword": "and or not is, and in as a test",
    "operator": "arithmetic, bitwise, comparison and assignment signs, := and the = and * of arguments among them",
    "bracket": "one of ( ) [ ] { }",
    "delimiter": "one of , : . ; ->",
    "builtin_name": "a name of the builtins module, not as attribute, parameter or keyword argument, nor being defined",
    "self_or_cls": "the name self or cls",
    "decorator": "a decorator, from @ to the end of its expression",
    "function_name": "the name after def",
    "class_name": "the name after class",
    "parameter": "a parameter's name, in a signature or a lambda",
    "class_header": "from class to its colon",
    "function_signature": "from def (or async def) to its colon",
    "type_annotation": "the type after a parameter's colon, a variable's colon or ->",
    "import_statement": "a whole import statement",
    "return_statement": "a whole return statement",
    "exception_handler": "an except clause, head and body",
    "call_arguments": "what is inside the parentheses of a call",
    "keyword_argument": "the name before = in a call or among the bases of a class",
    "subscript": "what is inside the square brackets of a subscript",
    "attribute_name": "the name after a dot, but in an import",
    "assignment_target": "what is left of = (also += and the like, := and an annotation's colon)",
    "comprehension": "a comprehension or generator expression, with its brackets",
    "line_start": "the first word, or run of signs, of a line of text, within strings too",
    "line_end": "the newline (\\n, \\r\\n or \\r) that ends a line of text",
    "indentation": "the blanks before the first word of a line of text",
}
"""What each binary concept covers, the order being that of the columns."""

CONCEPTS: tuple[str, ...] = tuple(DEFINITIONS)
DEPTHS: tuple[str, ...] = ("indentation_depth", "bracket_depth")
"""Columns of whole numbers, at most 255. ``indentation_depth``: open indentation levels of the statement; blank lines
and lines of comment count with the next statement. ``bracket_depth``: pairs of brackets open at the character, the
brackets themselves included, those inside strings not."""
NAMES: tuple[str, ...] = CONCEPTS + DEPTHS


def label_characters(text: str) -> UInt8[np.ndarray, "n_chars n_names"]:
    """The labels of every character, one column for each of ``NAMES``: 0 or 1, or a depth up to 255."""
    labels = np.empty((len(text), len(NAMES)), np.uint8)
    for column, (_, values) in enumerate(_columns(text)):
        labels[:, column] = values
    return labels


def label_tokens(text: str, spans: Int[np.ndarray, "n_tokens 2"]) -> UInt8[np.ndarray, "n_tokens n_names"]:
    """The labels of model tokens, one column for each of ``NAMES``.

    ``spans`` holds each token's first character and the one after its last, as fast tokenizers give them in
    ``offset_mapping``. Raises InputError for a span that does not lie in the text.
    """
    start, end = np.asarray(spans, np.int64).T
    wrong = np.flatnonzero((start < 0) | (end < start) | (end > len(text)))
    if len(wrong):
        raise InputError(
            f"span {spans[wrong[0]].tolist()} of token {wrong[0]} is not in a text of {len(text)} characters"
        )
    is_solid = ~_is_blank(text)
    n_solid = _sums(is_solid, start, end)
    is_blank_token = n_solid == 0
    n_judged = np.where(is_blank_token, end - start, n_solid)
    solid = np.append(np.flatnonzero(is_solid), len(text))
    decisive = np.where(is_blank_token, end - 1, solid[np.searchsorted(solid, start)])
    labels = np.zeros((len(spans), len(NAMES)), np.uint8)
    for column, (name, values) in enumerate(_columns(text)):
        if name in DEPTHS:
            labels[:, column] = np.where(end > start, np.append(values, 0)[decisive], 0)
        elif name == "line_end":
            labels[:, column] = _sums(values, start, end) > 0
        elif name == "indentation":
            labels[:, column] = is_blank_token & (_sums(values, start, end) > 0)
        else:
            with_concept = np.where(is_blank_token, _sums(values, start, end), _sums(values & is_solid, start, end))
            labels[:, column] = 2 * with_concept > n_judged
    return labels


def share_of_text(text: str, *, start: int = 0) -> dict[str, float]:
    """The share (0 to 1) of the non-blank characters from ``start`` on that carry each of ``CONCEPTS``.

    To judge a continuation, give prompt and continuation together and the prompt's length as ``start``: only the
    prompt can tell that the continuation begins inside a docstring or a call. Concepts of blanks (``line_end``,
    ``indentation``) have share 0 by definition, and so has everything where nothing but blanks was written.
    """
    is_judged = ~_is_blank(text)
    is_judged[:start] = False
    n_judged = max(int(is_judged.sum()), 1)
    return {name: float(values[is_judged].sum() / n_judged) for name, values in _columns(text) if name not in DEPTHS}


# -------------------------------------------------------------------------------------------------- spans to columns


def _columns(text: str) -> Iterator[tuple[str, UInt8[np.ndarray, " n_chars"]]]:
    source, position = _normalised(text)
    marks = mark_concepts(source)
    for name in NAMES:
        first, last = np.array(marks.get(name, []), np.int64).reshape(-1, 2).T
        edges = np.bincount(first, minlength=len(source) + 1) - np.bincount(last, minlength=len(source) + 1)
        values = np.minimum(np.cumsum(edges[:-1]), 255 if name in DEPTHS else 1).astype(np.uint8)
        yield name, values if position is None else values[position]


def _normalised(text: str) -> tuple[str, Int[np.ndarray, " n_chars"] | None]:
    """The text as ``tokenize`` can read it in every Python version, and where each character went (None: nowhere)."""
    source = re.sub("[\0\ud800-\udfff]", "?", text)
    if source.startswith("\ufeff"):  # a byte order mark is no indentation; a form feed does not count as any either
        source = "\f" + source[1:]
    if "\r" not in source:
        return source, None
    codes = np.frombuffer(source.encode("utf-32-le"), np.uint32)
    is_kept = np.append((codes[:-1] != 13) | (codes[1:] != 10), True)  # "\r\n" becomes one "\n", and so does "\r"
    return source.replace("\r\n", "\n").replace("\r", "\n"), np.cumsum(is_kept) - is_kept


_BLANK_CODES = np.array([code for code in range(0x3001) if chr(code).isspace()], np.uint32)


def _is_blank(text: str) -> np.ndarray:
    return np.isin(np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32), _BLANK_CODES)


def _sums(values: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    total = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values, out=total[1:])
    return total[end] - total[start]
