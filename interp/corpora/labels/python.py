"""What every character of Python source is: comment, string, call argument, parameter, ...

    PYTHON.label_tokens(Document("one.py", "x = 1  # one"), [[0, 1], [1, 3], [3, 5], [5, 8], [8, 12]])[:, 0]
    # 0 0 0 1 1    column 0 is "comment"

Words come from Python's own ``tokenize`` (``python_tokens``); what they are part of comes from one pass over them with
a stack of open brackets and one of indentation levels (``python_structure``). ``ast`` would say nothing about text that
does not parse, and a sequence cut at its end or written by a steered model hardly ever parses. On text that does
parse, the tests hold this pass against ``ast``: they agree.

Text that ``tokenize`` refuses is taken as far as it goes: an unterminated string is a string to the end of its line
(triple-quoted: of the text), brackets are closed by a line that starts with a word no bracket can hold ("def",
"return", ...), a line dedented to no open level counts at the level left of it, and what is no token at all has no
label but where it lies. No text raises. It takes about 1.5 seconds per megabyte (Python 3.11, one core at 2.8 GHz), half
of it in ``tokenize``.

Why not a parser that goes on after errors: the same labels were written with tree-sitter-python 0.25 (199 lines without
indentation depth, for the 441 of ``python_structure`` and ``python_tokens``; half the time) and compared on 200 files
of the standard library. On whole files both are right: neither differs from ``ast`` in any of the 17 labels that it
knows, and from each other in 242 of 2.2 million characters, comments after an except clause or a decorator. On such
files cut at a random place, which is what a model's continuation looks like, the labels of 14.6 % of the characters are
other than in the whole file with tree-sitter, and of 0.06 % here: it gives up an open docstring, string or bracket.
After a line of prose set in between, 26 % against 0.1 %. A word deleted or a sign put in upsets both alike (8 to 10 %
of the 400 characters on either side). parso takes twice the time for its tree alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int, UInt8

from interp.corpora.documents import Document, LabelSet
from interp.corpora.labels.characters import CharacterLabels
from interp.corpora.labels.python_structure import mark_concepts

MEANINGS: dict[str, str] = {
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
    "indentation_depth": (
        "open indentation levels of the statement, at most 255; blank lines and lines of comment count with the next statement"
    ),
    "bracket_depth": (
        "pairs of brackets open at the character, at most 255; the brackets themselves included, those inside strings not"
    ),
}
"""What each label covers, the order being that of the columns."""

PROMPTS = (
    "import os\nimport sys\n\n",
    "def read_table(path):\n    rows = []\n",
    "class Counter:\n    def __init__(self):\n        self.total = 0\n",
    "for name in sorted(names):\n    value = table[name]\n",
    "    def close(self):\n        self.file.close()\n\n",
    "if __name__ == '__main__':\n",
    "def mean(values):\n    total = sum(values)\n",
    "    try:\n        data = json.loads(text)\n",
    "class Point(object):\n",
    "while not self.done:\n    line = self.input.readline()\n",
    "_cache = {}\n\n",
    "        if size is None:\n            size = len(data)\n",
    "from collections import OrderedDict\n\n",
    "    with open(name) as file:\n        lines = file.readlines()\n",
    "def test_empty(self):\n    result = parse('')\n",
    "        self.assertEqual(first, second)\n\n",
)
"""What steered text goes on from: each ends where a new statement, comment or string may begin."""


def python_columns(document: Document) -> Iterator[tuple[str, UInt8[np.ndarray, " n_chars"]]]:
    """(label, its value for each character of Python source) for each label of ``MEANINGS``: 0 or 1, or a depth up to 255."""
    source, position = _normalised(document.text)
    marks = mark_concepts(source)
    for name in MEANINGS:
        first, last = np.array(marks.get(name, []), np.int64).reshape(-1, 2).T
        edges = np.bincount(first, minlength=len(source) + 1) - np.bincount(last, minlength=len(source) + 1)
        values = np.minimum(np.cumsum(edges[:-1]), 255 if name.endswith("_depth") else 1).astype(np.uint8)
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


PYTHON_CHARACTERS = CharacterLabels(python_columns, rules={"line_end": "any", "indentation": "any if blank"})
PYTHON = LabelSet(
    name="python",
    meanings=MEANINGS,
    label_tokens=PYTHON_CHARACTERS.label_tokens,
    judge=PYTHON_CHARACTERS.share_of_text,
    prompts=PROMPTS,
    suffixes=(".py",),
)
