"""Text to token sequences: where documents come from, and how they are packed into full sequences.

Every sequence is one beginning-of-sequence token followed by ``n_ctx - 1`` tokens of text. Documents are laid end to
end with one separator token between them and cut into sequences, so that no position is padding and each token
can be traced back to its document and character offset.
"""

from __future__ import annotations

import random
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Int, UInt8

from interp.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

HELD_OUT_MODULES = (
    "argparse", "calendar", "configparser", "csv", "difflib", "fractions", "gettext", "heapq", "ipaddress", "json",
    "logging", "mailbox", "optparse", "pprint", "queue", "sched", "shelve", "shlex", "smtplib", "statistics",
    "textwrap", "wave", "zipapp",
)  # fmt: skip
"""Standard-library modules never shown to the bundled model, nor to a decomposer trained by the demo."""

_TEST_FOLDERS = {"test", "tests", "idle_test"}
_NOT_LIBRARY = {"site-packages", "dist-packages", "__pycache__", "_bundled"}


@dataclass(frozen=True)
class Document:
    """A named text. ``name`` is what the dashboard and error messages call it (a path or a module name)."""

    name: str
    text: str


@dataclass(frozen=True)
class LabelSet:
    """A way of labelling text, token by token."""

    name: str
    """Key the labels are stored under."""
    labels: tuple[str, ...]
    """What the columns mean. Names that end in ``_depth`` are small integers, all others 0 or 1."""
    label_tokens: Callable[[str, np.ndarray], np.ndarray]
    """(text, character spans [n_tokens, 2]) to labels [n_tokens, n_labels], uint8."""


@dataclass(frozen=True)
class Corpus:
    """Documents to capture, where they came from, and how they are labelled."""

    name: str
    """What the person asked for: ``stdlib``, ``stdlib:held-out``, or the paths."""
    documents: Iterable[Document]
    label_set: LabelSet | None = None


@dataclass(frozen=True)
class Sequences:
    """A run of packed sequences; arrays are [n_seq, n_ctx] unless said otherwise."""

    tokens: Int[np.ndarray, "n_seq n_ctx"]
    """Token ids, int32; column 0 is the beginning-of-sequence token."""
    document: Int[np.ndarray, "n_seq n_ctx"]
    """Number of the document a token comes from, counted over the whole corpus, int32."""
    offset: Int[np.ndarray, "n_seq n_ctx"]
    """First character of the token in its document; -1 for separators, int32."""
    is_row: Bool[np.ndarray, "n_seq n_ctx"]
    """True where the token is text asked for: not a separator, and not past the asked number of tokens."""
    labels: UInt8[np.ndarray, "n_seq n_ctx n_labels"]
    """Labels of each token; the last axis is empty without a label set."""
    document_names: dict[int, str]
    """Names of the documents that occur here."""


def standard_library(split: str = "train") -> Iterator[Document]:
    """The Python standard library of this interpreter, one document a file, tests left out.

    The order is shuffled once and for all, so that the first part of it is a sample of the whole.

    ``split`` is "train" (everything but ``HELD_OUT_MODULES``), "held-out" (only those), or "tests" (the library's own
    test suites, those of held-out modules left out). Files that are not UTF-8 are skipped.
    """
    root = Path(sysconfig.get_path("stdlib"))
    paths = sorted(path.relative_to(root) for path in root.rglob("*.py"))
    random.Random(0).shuffle(paths)
    for path in paths:
        parts = path.parts
        if _NOT_LIBRARY & set(parts):
            continue
        if _TEST_FOLDERS & set(parts):
            kind = "held-out tests" if any(_is_held_out(part) for part in parts) else "tests"
        else:
            kind = "held-out" if _is_held_out(parts[0]) else "train"
        if kind == split and (text := _read_utf8(root / path)):
            yield Document("/".join(parts), text)


def _is_held_out(part: str) -> bool:
    module = part.removesuffix(".py").removeprefix("test_")
    return module in HELD_OUT_MODULES


def _read_utf8(path: Path) -> str:
    """The text of a file with newlines normalised to ``\\n``; empty when it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


def text_files(paths: Iterable[str | Path]) -> Iterator[Document]:
    """One document per UTF-8 text file; a folder means every text file below it that is not hidden, in a fixed order.

    Raises InputError for a path that does not exist, and for a named file that is not UTF-8 text.
    """
    for path in map(Path, paths):
        if not path.exists():
            raise InputError(f"there is no text file '{path}'; give files or folders of text, or stdlib")
        if path.is_file():
            text = _read_utf8(path)
            if not text and path.stat().st_size:
                raise InputError(f"'{path}' is not UTF-8 text; convert it first")
            yield Document(str(path), text)
            continue
        for file in sorted(path.rglob("*")):
            name = file.relative_to(path)
            is_hidden = any(part.startswith(".") for part in name.parts)
            if not is_hidden and file.is_file() and (text := _read_utf8(file)):
                yield Document(str(name), text)


def pack(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, *, bos_id: int, n_ctx: int, n_tokens: int, block: int
) -> Iterator[Sequences]:
    """Exactly ``n_tokens`` tokens of text, in blocks of ``block`` sequences of ``n_ctx`` (the last may be smaller).

    Documents are laid end to end with one separator (``bos_id``) after each; every sequence begins with ``bos_id``. The
    same corpus gives the same blocks. Raises InputError when the corpus holds less text than asked for.
    """
    width = n_ctx - 1
    pending: list[_Stream] = []
    names: dict[int, str] = {}
    n_left, n_pending = n_tokens, 0
    for number, (document, stream) in enumerate(_tokenised(corpus, tokenizer, bos_id)):
        names[number] = document.name
        stream.document[:] = number
        pending.append(stream)
        n_pending += len(stream.tokens)
        while n_pending >= block * width:
            joined = _join(pending)
            packed = _cut(joined[: block * width], n_ctx, bos_id, n_left, names)
            pending = [joined[block * width :]]
            n_pending -= block * width
            n_left -= int(packed.is_row.sum())
            yield packed
            if n_left == 0:
                return
    rest = _join(pending) if pending else None
    if rest is not None and int((rest.offset >= 0).sum()) >= n_left:
        yield _cut(rest, n_ctx, bos_id, n_left, names)
        return
    held = n_tokens - n_left + (int((rest.offset >= 0).sum()) if rest is not None else 0)
    raise InputError(
        f"the text '{corpus.name}' holds {held:,} tokens, but {n_tokens:,} were asked for; "
        "ask for fewer with --tokens or give more text"
    )


@dataclass
class _Stream:
    """Tokens of one or more documents end to end, before they are cut into sequences."""

    tokens: np.ndarray
    document: np.ndarray
    offset: np.ndarray
    labels: np.ndarray

    def __getitem__(self, part: slice) -> _Stream:
        return _Stream(self.tokens[part], self.document[part], self.offset[part], self.labels[part])


def _join(streams: list[_Stream]) -> _Stream:
    if len(streams) == 1:  # what is left of a long document is cut again and again, and need not be copied each time
        return streams[0]
    fields = ("tokens", "document", "offset", "labels")
    return _Stream(*(np.concatenate([getattr(stream, field) for stream in streams]) for field in fields))


def _tokenised(corpus: Corpus, tokenizer: PreTrainedTokenizerFast, bos_id: int) -> Iterator[tuple[Document, _Stream]]:
    """Each document that is not empty with its tokens and labels, a separator after them.

    A separator written out in the text, such as ``<|endoftext|>``, is a separator too.
    """
    label_set = corpus.label_set
    exact = _with_exact_spans(tokenizer)
    documents = (document for document in corpus.documents if document.text)
    while batch := list(islice(documents, 16)):
        encoded = exact.encode_batch([document.text for document in batch], add_special_tokens=False)
        for document, encoding in zip(batch, encoded, strict=True):
            span = np.asarray(encoding.offsets, dtype=np.int32).reshape(-1, 2)
            labels = np.zeros((len(span), 0), dtype=np.uint8)
            if label_set is not None:
                labels = label_set.label_tokens(document.text, span)
            end = np.zeros((1, labels.shape[1]), dtype=np.uint8)
            tokens = np.asarray([*encoding.ids, bos_id], dtype=np.int32)
            offset = np.where(tokens == bos_id, -1, np.append(span[:, 0], -1)).astype(np.int32)
            yield document, _Stream(tokens, np.zeros_like(tokens), offset, np.concatenate([labels, end]))


def _with_exact_spans(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """The same tokenizer, but spans are all of a token: some (Pythia's) leave its blanks out, and some cut long text."""
    from tokenizers import Tokenizer, processors  # deferred: slow

    exact = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    exact.post_processor = processors.ByteLevel(trim_offsets=False)
    exact.no_truncation()
    exact.no_padding()
    return exact


def _cut(stream: _Stream, n_ctx: int, bos_id: int, n_rows: int, names: dict[int, str]) -> Sequences:
    """A stream as whole sequences that mark at most ``n_rows`` tokens as rows; what is past them is dropped."""
    is_text = stream.offset >= 0
    held = np.cumsum(is_text)
    last = int(np.searchsorted(held, n_rows)) + 1 if held[-1] >= n_rows else len(is_text)
    n_seq = -(-last // (n_ctx - 1))

    def shaped(values: np.ndarray, first: int, fill: int) -> np.ndarray:
        padded = np.full((n_seq * (n_ctx - 1), *values.shape[1:]), fill, dtype=values.dtype)
        padded[: min(last, len(values))] = values[:last]
        rows = padded.reshape(n_seq, n_ctx - 1, *values.shape[1:])
        return np.concatenate([np.full((n_seq, 1, *values.shape[1:]), first, dtype=values.dtype), rows], axis=1)

    document = shaped(stream.document, 0, int(stream.document[last - 1]))
    document[:, 0] = document[:, 1]
    return Sequences(
        tokens=shaped(stream.tokens, bos_id, bos_id),
        document=document,
        offset=shaped(stream.offset, -1, -1),
        is_row=shaped(is_text, False, False),
        labels=shaped(stream.labels, 0, 0),
        document_names={int(number): names[int(number)] for number in np.unique(document)},
    )
