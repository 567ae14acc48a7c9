"""Labels of Python source: held against ``ast`` on text that parses, and sensible on text that does not."""

from __future__ import annotations

import ast
import io
import random
import tokenize
import warnings

import numpy as np
import pytest

from interp.corpora.documents import Document
from interp.corpora.labels import python_structure
from interp.corpora.labels.python import PYTHON, PYTHON_CHARACTERS
from interp.corpora.sources import standard_library
from interp.errors import InputError

NAMES = PYTHON.labels
DEPTHS = ("indentation_depth", "bracket_depth")
CONCEPTS = NAMES[: -len(DEPTHS)]
share_of_text = PYTHON_CHARACTERS.share_of_text


def label_characters(text: str) -> np.ndarray:
    return PYTHON_CHARACTERS.label_characters(Document("", text))


def label_tokens(text: str, spans: np.ndarray) -> np.ndarray:
    return PYTHON.label_tokens(Document("", text), spans)


EXAMPLE = '''"""Doc."""
import os as o
class A(B, metaclass=C):
    "d"
    x: int = 3
    @dec(1)
    async def f(self, a: List[int] = 3, *args, k=lambda q, *r: q) -> Dict[str, int]:
        """doc"""
        try: y = f"{a}" + b'x'[0]
        except E as e:
            return [print(v) for v in a if v in b]
    # c
z.w, q = 1 if x is not None else {1: 2}  # é
'''


def having(concept: str, text: str) -> list[str]:
    """The runs of characters that carry a concept, in order."""
    column = label_characters(text)[:, NAMES.index(concept)].tolist()
    marked = "".join(character if value else "\0" for character, value in zip(text, column, strict=True))
    return [run for run in marked.split("\0") if run]


@pytest.mark.parametrize(
    ("concept", "runs"),
    {
        "comment": ["# c", "# é"],
        "docstring": ['"""Doc."""', '"d"', '"""doc"""'],
        "string": ["b'x'"],
        "f_string": ['f"{a}"'],
        "number": ["3", "1", "3", "0", "1", "1", "2"],
        "control_flow_keyword": ["return", "for", "in", "if", "if", "else"],
        "definition_keyword": ["class", "async", "def", "lambda"],
        "import_keyword": ["import", "as"],
        "exception_keyword": ["try", "except", "as"],
        "constant_keyword": ["None"],
        "logical_keyword": ["in", "is", "not"],
        "operator": ["=", "=", "=", "*", "=", "*", "=", "+", "="],
        "builtin_name": ["int", "int", "str", "int", "print"],
        "self_or_cls": ["self"],
        "decorator": ["@dec(1)"],
        "function_name": ["f"],
        "class_name": ["A"],
        "parameter": ["self", "a", "args", "k", "q", "r"],
        "class_header": ["class A(B, metaclass=C):"],
        "function_signature": [
            "async def f(self, a: List[int] = 3, *args, k=lambda q, *r: q) -> Dict[str, int]:",
        ],
        "type_annotation": ["int", "List[int]", "Dict[str, int]"],
        "import_statement": ["import os as o"],
        "return_statement": ["return [print(v) for v in a if v in b]"],
        "exception_handler": ["except E as e:\n            return [print(v) for v in a if v in b]"],
        "call_arguments": ["1", "v"],
        "keyword_argument": ["metaclass"],
        "subscript": ["int", "str, int", "0"],
        "attribute_name": ["w"],
        "assignment_target": ["x", "y", "z.w, q"],
        "comprehension": ["[print(v) for v in a if v in b]"],
        "line_start": [
            '"""',
            "import",
            "class",
            '"',
            "x",
            "@",
            "async",
            '"""',
            "try",
            "except",
            "return",
            "#",
            "z",
        ],
        "line_end": ["\n"] * 13,
        "indentation": [" " * n for n in (4, 4, 4, 4, 8, 8, 8, 12, 4)],
    }.items(),
)
def test_every_concept_covers_what_its_definition_says(concept, runs):
    assert having(concept, EXAMPLE) == runs


def test_the_example_shows_every_concept_and_no_other_name_is_marked():
    labels = label_characters(EXAMPLE)
    assert labels[:, : len(CONCEPTS)].any(0).all()
    assert labels[:, : len(CONCEPTS)].max() == 1
    assert set(python_structure.mark_concepts(EXAMPLE)) == set(NAMES)
    assert len(CONCEPTS) >= 24
    assert NAMES == CONCEPTS + DEPTHS
    assert all(PYTHON.meanings.values())


def test_depths_count_levels_of_indentation_and_open_brackets():
    text = "if a:\n    f((b), [c\n])\n# now\n\nd"
    labels = label_characters(text)
    depth, brackets = labels[:, NAMES.index("indentation_depth")], labels[:, NAMES.index("bracket_depth")]
    assert "".join(map(str, depth)) == "0" * 6 + "1" * 17 + "0" * 8
    assert "".join(map(str, brackets)) == "0" * 11 + "12221122221" + "0" * 9


def test_depth_is_capped_at_255():
    assert label_characters("(" * 400)[:, NAMES.index("bracket_depth")].tolist() == [*range(1, 256), *[255] * 145]


@pytest.mark.parametrize(
    ("text", "concept", "runs"),
    [
        (
            "match a:\n    case B(c) if d(e): pass\nmatch = case = type",
            "control_flow_keyword",
            ["match", "case", "if", "pass"],
        ),
        ("match a:\n    case B(c) if d(e): pass\n", "call_arguments", ["e"]),
        ("match(a)\nmatch.case(type)", "control_flow_keyword", []),
        ("type A = int\ntype(a)", "definition_keyword", ["type"]),
        ("raise A from b\nyield from c\nfrom d import e as f", "import_keyword", ["from", "import", "as"]),
        ("raise A from b\nyield from c\nfrom d import e as f", "exception_keyword", ["raise", "from"]),
        (
            "with a as b: pass\nasync with c: await d",
            "control_flow_keyword",
            ["with", "as", "pass", "async", "with", "await"],
        ),
        ("f(print=1).open = id\ndef input(): pass\nimport abs", "builtin_name", ["id"]),
        ("a = b.c += 1; d: int; (e := 2)", "assignment_target", ["a", "b.c", "d", "e"]),
        ("x = lambda a=1: a == 2", "assignment_target", ["x"]),
        ("def f(a, *, b: dict[str, int] = {}, **c): pass", "parameter", ["a", "b", "c"]),
        ("f(*[a for b in c], d=(e for f in g))", "comprehension", ["[a for b in c]", "(e for f in g)"]),
        ("class A:\n    'one' 'two'\n    x = 1\n    'three'\n", "docstring", ["'one'", "'two'"]),
        ("b'no'\n'no'", "docstring", []),
        ("f'no'", "docstring", []),
        ("class A: 'd'", "docstring", ["'d'"]),
        (
            "try:\n    a\nexcept B:\n    c\n\n    # d\n    e\n# f\ng",
            "exception_handler",
            ["except B:\n    c\n\n    # d\n    e"],
        ),
        ("def f[T](a): pass", "parameter", ["a"]),
        ("rb'a' F'b' Rf'c'", "f_string", ["F'b'", "Rf'c'"]),
    ],
)
def test_words_are_judged_by_where_they_stand(text, concept, runs):
    assert having(concept, text) == runs


# ------------------------------------------------------------------------------------------ held against ast, tokenize


def characters_by_ast(text: str) -> dict[str, np.ndarray]:
    """The characters that ``ast`` gives to each concept it knows, by its nodes' positions (UTF-8 bytes in a line)."""
    lines = text.encode().split(b"\n")
    starts = np.cumsum([0] + [len(line) + 1 for line in text.split("\n")])
    found = {name: np.zeros(len(text), bool) for name in JUDGED_BY_AST}

    def offset(line: int, column: int) -> int:
        return int(starts[line - 1]) + len(lines[line - 1][:column].decode())

    def begin(node) -> int:
        return offset(node.lineno, node.col_offset)

    def end(node) -> int:
        return offset(node.end_lineno, node.end_col_offset)

    def mark(name, node, *, length=None, last=None):
        stop = end(node) if last is None else last
        found[name][begin(node) : stop if length is None else begin(node) + length] = True

    def visit(node):
        if isinstance(node, ast.JoinedStr):
            return
        body = getattr(node, "body", None)
        documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            mark("docstring", body[0])
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            header = "class_header" if isinstance(node, ast.ClassDef) else "function_signature"
            mark(header, node, last=begin((getattr(body[0], "decorator_list", None) or body)[0]))
            for decorator in node.decorator_list:
                mark("decorator", decorator)
        for child in (getattr(node, "returns", None), getattr(node, "annotation", None)):
            if child is not None:
                mark("type_annotation", child)
        if isinstance(node, ast.arg):
            mark("parameter", node, length=len(node.arg))
        if isinstance(node, ast.keyword):
            mark("keyword_argument", node, length=len(node.arg or ""))
        if isinstance(node, ast.Call):
            for child in [*node.args, *node.keywords]:
                mark("call_arguments", child)
        if isinstance(node, ast.Attribute):
            found["attribute_name"][end(node) - len(node.attr) : end(node)] = True
        if isinstance(node, ast.Subscript):
            mark("subscript", node.slice)
        for target in getattr(node, "targets", []) if isinstance(node, ast.Assign) else []:
            mark("assignment_target", target)
        if isinstance(node, ast.AugAssign | ast.AnnAssign | ast.NamedExpr):
            mark("assignment_target", node.target)
        for kinds, name in WHOLE_NODES.items():
            if isinstance(node, kinds):
                mark(name, node)
        if isinstance(node, ast.Name) and node.id in python_structure._BUILTINS:
            mark("builtin_name", node)
        if isinstance(node, ast.Constant) and type(node.value) in (int, float, complex):
            mark("number", node)
        for child in ast.iter_child_nodes(node):
            visit(child)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        visit(ast.parse(text))
    return found


WHOLE_NODES = {
    (ast.Return,): "return_statement",
    (ast.Import, ast.ImportFrom): "import_statement",
    (ast.ExceptHandler,): "exception_handler",
    (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp): "comprehension",
}
JUDGED_BY_AST = (
    *("docstring", "class_header", "function_signature", "decorator", "type_annotation", "parameter"),
    *("keyword_argument", "call_arguments", "attribute_name", "subscript", "assignment_target", "return_statement"),
    *("import_statement", "exception_handler", "comprehension", "builtin_name", "number"),
)
NON_ASCII = 'é = "ü"; α: int = {"ß": [ä for ä in "日本" if len(ä)]}; print(é, ñ=f"ö{α}").ŷ = α["ß"]  # ÷\n'


def some_library_texts() -> list[str]:
    documents = {document.name: document.text for document in standard_library("held-out")}
    return [documents[name] for name in ("heapq.py", "shlex.py", "textwrap.py", "fractions.py")]


@pytest.mark.parametrize("text", [*some_library_texts(), EXAMPLE, NON_ASCII * 3])
def test_words_and_numbers_have_the_concepts_that_ast_gives_them(text):
    labels = label_characters(text).astype(bool)
    is_word = np.array([character.isalnum() or character == "_" for character in text])
    is_word &= ~labels[:, NAMES.index("comment")]
    for name, expected in characters_by_ast(text).items():
        different = np.flatnonzero((expected != labels[:, NAMES.index(name)]) & is_word)
        assert not len(different), (name, text[max(different[0] - 40, 0) : different[0] + 40])


@pytest.mark.parametrize("text", some_library_texts())
def test_indentation_depth_is_that_of_tokenize(text):
    labels = label_characters(text)
    starts = np.cumsum([0] + [len(line) + 1 for line in text.split("\n")])
    depth, kinds = 0, {tokenize.INDENT: 1, tokenize.DEDENT: -1}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        depth += kinds.get(token.type, 0)
        if token.type in (tokenize.NAME, tokenize.OP, tokenize.NUMBER):
            assert labels[starts[token.start[0] - 1] + token.start[1], NAMES.index("indentation_depth")] == depth


# ------------------------------------------------------------------------------------------------- text of every shape


@pytest.mark.parametrize(
    "text", ["", " ", "\n", "\r", "\\", "\\\n", "#", "'", '"""', "f'", "f'{", "(", ")", "\0", "\ufeff"]
)
def test_the_smallest_texts_have_labels(text):
    assert label_characters(text).shape == (len(text), len(NAMES))
    assert set(share_of_text(text)) == set(CONCEPTS) - {"line_end", "indentation"}


def test_no_text_raises():
    random_state = random.Random(0)
    pieces = [
        *"'\"\\()[]{}\n\r\t\f\0 #@:=;,",
        "\ud800",
        "é",
        "→",
        "\ufeff",
        '"""',
        "f'{",
        "lambda",
        "\u2028",
        "0777",
        "$",
    ]
    source = some_library_texts()[1]
    for _ in range(100):
        start = random_state.randrange(len(source))
        text = list(source[start : start + 300])
        for _ in range(random_state.randrange(12)):
            text[random_state.randrange(len(text))] = random_state.choice(pieces)
        labels = label_characters("".join(text))
        assert labels[:, : len(CONCEPTS)].max() <= 1


@pytest.mark.parametrize("newline", ["\r\n", "\r"])
def test_other_newlines_change_nothing_but_their_own_characters(newline):
    text = EXAMPLE.replace("4", "\\\n4")
    other = text.replace("\n", newline)
    is_first = np.array([not other[:i].endswith("\r") or other[i] != "\n" for i in range(len(other))])
    np.testing.assert_array_equal(label_characters(other)[is_first], label_characters(text))
    assert having("line_end", other) == [newline] * text.count("\n")


def test_form_feed_tab_continuation_and_byte_order_mark():
    assert having("indentation", "\ufeffif a:\n\tb\n") == ["\ufeff", "\t"]
    depth = NAMES.index("indentation_depth")
    assert label_characters("if a:\n\tb\n        c\n\f\nd")[:, depth].tolist() == [0] * 6 + [1] * 13 + [0] * 3
    assert having("import_statement", "import \\\n  a\nb") == ["import \\\n  a"]
    assert having("return_statement", "def f():\n    return a") == ["return a"]
    assert having("number", "\ufeff1 + 2") == ["1", "2"]


@pytest.mark.parametrize(
    ("text", "concept", "runs"),
    [
        ('x = """a\nb = 1\n', "string", ['"""a\nb = 1\n']),
        ('def f():\n    """Return the\n    sum', "docstring", ['"""Return the\n    sum']),
        ('y = rb"abc\nz = 3', "string", ['rb"abc']),
        ("y = g(f'a{b}\nz = 3", "f_string", ["f'a{b}"]),
        ("y = F'''a{b}\nz", "f_string", ["F'''a{b}\nz"]),
        ("y = 'a\nz = 3", "number", ["3"]),
        ("y = (1,\ndef f(a): return 2", "function_signature", ["def f(a):"]),
        ("a, b)\n    return c", "return_statement", ["return c"]),
        ("        a\n    b\n  c\nreturn 1", "return_statement", ["return 1"]),
        ("g(a, b=1", "call_arguments", ["a, b=1"]),
        ("def f(self, a: int", "function_signature", ["def f(self, a: int"]),
        ("def f(self, a: int", "type_annotation", ["int"]),
        ("try: a\nexcept B:\n    c(", "exception_handler", ["except B:\n    c("]),
        ("a $ b → c ? 1", "number", ["1"]),
        ("a = = 2", "number", ["2"]),
    ],
)
def test_text_that_does_not_parse_keeps_what_can_be_told(text, concept, runs):
    assert having(concept, text) == runs


def test_an_invalid_escape_does_not_warn():
    assert having("string", "x = '\\d'") == ["'\\d'"]  # warnings are errors here


# ----------------------------------------------------------------------------------------------------- tokens, shares


def cut(*tokens: str) -> tuple[str, np.ndarray]:
    ends = np.cumsum([len(token) for token in tokens])
    return "".join(tokens), np.stack([ends - [len(token) for token in tokens], ends], 1)


def tokens_with(concept: str, *tokens: str) -> list[str]:
    labels = label_tokens(*cut(*tokens))[:, NAMES.index(concept)]
    return [token for token, value in zip(tokens, labels, strict=True) if value]


def test_a_token_has_what_more_than_half_of_its_solid_characters_have():
    assert tokens_with("number", "a", "=", "  1", "2b") == ["  1"]
    assert tokens_with("number", "a", "=", "  123+", "4+", "5") == ["  123+", "5"]
    assert tokens_with("call_arguments", "f", "(a,", " ", "   ", "b", ")") == ["(a,", " ", "   ", "b"]


def test_a_newline_joined_to_the_next_indentation_is_both():
    tokens = ("if", " a", ":", "\n   ", " b", "\n\n       ", " c", "\n", "d", ";\n")
    assert tokens_with("line_end", *tokens) == ["\n   ", "\n\n       ", "\n", ";\n"]
    assert tokens_with("indentation", *tokens) == ["\n   ", "\n\n       "]
    assert tokens_with("line_start", *tokens) == ["if", " b", " c", "d"]
    depth = label_tokens(*cut(*tokens))[:, NAMES.index("indentation_depth")]
    assert depth.tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 0, 0]


def test_a_split_character_gives_its_label_to_each_part_and_an_empty_span_has_none():
    labels = label_tokens("# é", np.array([[0, 1], [2, 3], [2, 3], [3, 3], [0, 0]]))
    assert labels[:, NAMES.index("comment")].tolist() == [1, 1, 1, 0, 0]
    assert label_tokens("(a", np.array([[1, 1], [2, 2]])).sum() == 0
    assert label_tokens("", np.zeros((0, 2), int)).shape == (0, len(NAMES))


def test_tokens_agree_with_the_slow_rule():
    text = some_library_texts()[2][:6000]
    random_state = np.random.default_rng(0)
    cuts = np.unique(np.append(random_state.integers(0, len(text), 1500), [0, len(text)]))
    spans = np.stack([cuts[:-1], cuts[1:]], 1)
    characters, tokens = label_characters(text), label_tokens(text, spans)
    for (start, end), row in zip(spans, tokens, strict=True):
        judged = [i for i in range(start, end) if not text[i].isspace()] or list(range(start, end))
        is_blank = text[start:end].isspace()
        for column, name in enumerate(NAMES):
            values = characters[judged, column]
            if name in DEPTHS:
                expected = values[-1] if is_blank else values[0]
            elif name == "line_end":
                expected = "\n" in text[start:end]
            elif name == "indentation":
                expected = is_blank and values.any()
            else:
                expected = 2 * int(values.sum()) > len(judged)
            assert row[column] == expected, (name, text[start:end])


def test_spans_outside_the_text_are_refused():
    with pytest.raises(InputError, match=r"span \[2, 9\] of token 1 is not in a text of 3 characters"):
        label_tokens("abc", np.array([[0, 1], [2, 9]]))


def test_shares_count_solid_characters_after_the_start():
    shares = share_of_text("ab # cd\n")
    assert shares["comment"] == pytest.approx(3 / 5)
    prompt, continuation = 'def f():\n    """', 'Adds 1."""\n    return 1'
    assert share_of_text(prompt + continuation, start=len(prompt))["docstring"] == pytest.approx(9 / 16)
    assert share_of_text(continuation)["docstring"] < 9 / 16
    assert share_of_text("x = '''never closed")["string"] == pytest.approx(14 / 16)
