"""Where text comes from: the standard library, text files and folders, JSON lines, Parquet, Hugging Face, Python.

Every source can be read again from the beginning, in the same order, and is read document by document.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import sysconfig
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from interp.corpora.documents import Corpus, Document, document_of, refuse_iterator, rereadable
from interp.corpora.hugging_face import dataset_corpus, is_saved_dataset
from interp.corpora.labels.own import labelled_corpus
from interp.corpora.labels.registry import label_set_named, label_sets_for
from interp.errors import InputError

HELD_OUT_MODULES = (
    "argparse", "calendar", "configparser", "csv", "difflib", "fractions", "gettext", "heapq", "ipaddress", "json",
    "logging", "mailbox", "optparse", "pprint", "queue", "sched", "shelve", "shlex", "smtplib", "statistics",
    "textwrap", "wave", "zipapp",
)  # fmt: skip
"""Standard-library modules never shown to the bundled model, nor to a decomposer trained by the demo."""

_TEST_FOLDERS = {"test", "tests", "idle_test"}
_NOT_LIBRARY = {"site-packages", "dist-packages", "__pycache__", "_bundled"}


def load_corpus(sources: Sequence[str | Path], labels: Sequence[str] | None = None) -> Corpus:
    """The text in files and folders, the standard library, or one Hugging Face dataset, with its label sets.

    ``sources`` are text files (one document each), ``.jsonl``, ``.jsonl.gz`` and ``.parquet`` files (one document a record,
    with the field ``text`` and optionally ``label`` and ``spans``), and folders: every such file in them that is not hidden, in
    a fixed order. Or only one of these: ``stdlib`` or ``stdlib:SPLIT`` (see ``standard_library``), ``hf:NAME`` or
    ``hf:NAME:SPLIT``, or a folder that the datasets package has saved.

    ``labels`` names label sets of ``interp.corpora.labels.registry``, by default those made for files of this kind: ``python``
    for Python files, ``text`` for any other text. If the documents carry labels, these are one more set, ``label``, before the
    others: runs are evaluated by the first, and what a person has marked is what that person asks about.

    Raises InputError for a source that is missing or is not what its name says, and for unknown label sets.
    """
    words = [str(source) for source in sources]
    if not words:
        raise InputError("no text was named; give files or folders of text, or stdlib")
    is_standard_library = words[0].split(":")[0] == "stdlib"
    if is_standard_library:
        split = words[0].partition(":")[2] or "train"
        if len(words) > 1 or split not in ("train", "held-out", "tests"):
            raise InputError(f"'{' '.join(words)}' names no text; use stdlib, stdlib:held-out or stdlib:tests, alone")
        corpus, names = Corpus(words[0], standard_library(split)), [".py"]
    elif any(word.startswith("hf:") or is_saved_dataset(Path(word)) for word in words):
        if len(words) > 1:
            raise InputError(f"'{' '.join(words)}' mixes a Hugging Face dataset with other text; name it alone")
        corpus, names = dataset_corpus(words[0]), []
    else:
        files = _files(map(Path, words))
        corpus = labelled_corpus(" ".join(words), _documents(files))
        names = [file.name for file in files]
    return _with_label_sets(corpus, labels, names)


def _with_label_sets(corpus: Corpus, labels: Sequence[str] | None, files: Sequence[str]) -> Corpus:
    """With the sets that are named, by default those for these files, after that of the documents' own labels."""
    label_sets = label_sets_for(files) if labels is None else tuple(map(label_set_named, labels))
    return replace(corpus, label_sets=(*corpus.label_sets, *label_sets))


Text = str | Document | dict[str, Any]


def make_corpus(
    texts: Iterable[Text] | Callable[[], Iterable[Text]], name: str = "texts", *, labels: Sequence[str] | None = None
) -> Corpus:
    """The corpus of texts given in Python: strings, documents, or ``{"text": ..., "label": ..., "spans": [...]}``.

    ``labels`` names label sets, by default ``text``; the documents' own labels come first, as in ``load_corpus``.

    A capture that resumes after an interruption reads its text again, so ``texts`` must be readable again, or a function
    (such as a generator function) that starts from the beginning. Raises InputError for an iterator or a single string.
    """
    if isinstance(texts, str):
        raise InputError(f"the text '{name}' is one string; give a list of texts, or files to load_corpus")
    given = texts() if callable(texts) else texts
    if not callable(texts) or given is texts():  # the function returned the same iterator twice
        refuse_iterator(given, name)

    @rereadable
    def documents() -> Iterator[Document]:
        for number, text in enumerate(texts() if callable(texts) else texts):
            if isinstance(text, Document):
                yield text
            else:
                yield document_of({"text": text} if isinstance(text, str) else text, f"{name}:{number}")

    return _with_label_sets(labelled_corpus(name, documents()), labels, [])


def as_corpus(text: Corpus | Iterable[Text] | Callable[[], Iterable[Text]]) -> Corpus:
    """A corpus as it is, and texts as ``make_corpus`` takes them, named by what they say if they are a list or tuple.

    So other texts are another capture, and not taken for the one that is there.
    """
    if isinstance(text, Corpus):
        return text
    if isinstance(text, (list, tuple)):
        digest = hashlib.sha256(repr(text).encode("utf-8", "surrogatepass")).hexdigest()
        return make_corpus(text, f"{len(text)} texts ({digest[:12]})")
    return make_corpus(text)


@rereadable
def standard_library(split: str = "train") -> Iterator[Document]:
    """The Python standard library of this interpreter, one document a file, tests left out.

    The order is shuffled with a fixed seed, so that the first part is a sample of the whole.

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


# ---------------------------------------------------------------------------------------------------- files and folders


@dataclass(frozen=True)
class _File:
    path: Path
    name: str
    """Name of its documents: the path as given, or the path inside the folder that was given."""
    is_named: bool
    """Whether the file itself was given. In folders, files that are not text are skipped."""


def _files(paths: Iterable[Path]) -> list[_File]:
    files: list[_File] = []
    for path in paths:
        if not path.exists():
            raise InputError(f"there is no text file '{path}'; give files or folders of text, or stdlib")
        if path.is_file():
            files.append(_File(path, str(path), is_named=True))
            continue
        for file in sorted(path.rglob("*")):
            name = file.relative_to(path)
            if file.is_file() and not any(part.startswith(".") for part in name.parts):
                files.append(_File(file, str(name), is_named=False))
    return files


@rereadable
def _documents(files: list[_File]) -> Iterator[Document]:
    for file in files:
        try:
            if file.path.name.endswith((".jsonl", ".jsonl.gz")):
                yield from _json_lines(file)
            elif file.path.suffix == ".parquet":
                yield from _parquet_rows(file)
            else:
                yield from _whole_text(file)
        except (OSError, EOFError, zlib.error) as error:  # no permission, or a .gz that is damaged
            raise InputError(f"'{file.path}' cannot be read ({error})") from None


def _whole_text(file: _File) -> Iterator[Document]:
    text = _read_utf8(file.path)
    if file.is_named and not text and file.path.stat().st_size:
        raise InputError(f"'{file.path}' is not UTF-8 text; convert it first")
    if text or file.is_named:
        yield Document(file.name, text)


def _json_lines(file: _File) -> Iterator[Document]:
    with gzip.open(file.path) if file.path.suffix == ".gz" else file.path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            name = f"{file.name}:{number}"
            if line.isspace():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:  # of JSON, or of its encoding
                raise InputError(
                    f"'{name}' is not JSON ({error}); every line is one object, such as {{\"text\": ...}}"
                ) from None
            yield document_of(record, name)


def _parquet_rows(file: _File) -> Iterator[Document]:
    from pyarrow import ArrowException, parquet  # deferred: slow

    try:
        with parquet.ParquetFile(file.path) as table:
            known = table.schema_arrow.names
            if "text" not in known:
                raise InputError(
                    f"'{file.path}' has no column 'text' (it has {', '.join(known)}); rename the one to read"
                )
            columns = [name for name in ("text", "label", "spans") if name in known]
            rows = (row for batch in table.iter_batches(batch_size=256, columns=columns) for row in batch.to_pylist())
            for number, row in enumerate(rows):
                yield document_of(row, f"{file.name}:{number}")
    except ArrowException as error:
        raise InputError(f"'{file.path}' is no Parquet file, or a damaged one ({error})") from None
