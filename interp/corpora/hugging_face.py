"""Hugging Face datasets as text: streamed by name or from a folder of data files, or a folder saved to disk."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from interp.corpora.documents import Corpus, Document, document_of, rereadable
from interp.corpora.labels.own import labelled_corpus
from interp.errors import InputError, unknown_name

_SAVED = ("state.json", "dataset_dict.json")


def is_saved_dataset(folder: Path) -> bool:
    """Whether this folder was written by ``save_to_disk`` of the datasets package."""
    return any((folder / name).is_file() for name in _SAVED)


def dataset_corpus(word: str) -> Corpus:
    """The column ``text`` of ``hf:NAME`` or ``hf:NAME:SPLIT`` (by default the split "train"), or of a saved folder.

    NAME is a dataset of the hub (streamed, never downloaded whole), ``OWNER/NAME/CONFIG`` where it has several
    configurations, or a folder. The columns ``label`` and ``spans`` become the documents' labels if their classes have names
    or the dataset is saved to disk. Otherwise the labels cannot be known before capture, and are left out with a warning.

    Raises InputError when there is no such dataset, split or column.
    """
    path, _, split = word.removeprefix("hf:").partition(":")
    is_saved = is_saved_dataset(Path(path))
    dataset = _saved(path, split) if is_saved else _streamed(path, split or "train")
    features = dataset.features or {}
    columns = list(features or next(iter(dataset), {}))
    if "text" not in columns:
        raise InputError(
            f"'{word}' has no column 'text' (it has {', '.join(columns) or 'none'}); choose another dataset"
        )
    classes = {column: _class_names(features.get(column)) for column in ("label", "spans") if column in columns}
    for column in [column for column, names in classes.items() if names is None and not is_saved]:
        what = "labels" if column == "label" else "labels of spans"
        warnings.warn(
            f"the {what} of '{word}' have no names that are known in advance; they are left out", stacklevel=2
        )
        del classes[column]
    kept = dataset.select_columns(["text", *classes])
    known = [name for names in classes.values() for name in names or ()]
    is_known = all(names is not None for names in classes.values())
    return labelled_corpus(word, _documents(kept, path, classes), known if is_known else None)


def _class_names(feature: Any) -> list[str] | None:
    """Names of the classes of a column ``label``, or of the labels in a column ``spans``; None where they have none."""
    feature = getattr(feature, "feature", feature)  # of a list: of what is in it
    if isinstance(feature, Mapping):
        return _class_names(feature.get("label"))
    return getattr(feature, "names", None)


@rereadable
def _documents(dataset: Any, name: str, classes: Mapping[str, list[str] | None]) -> Iterator[Document]:
    label_names, span_names = classes.get("label"), classes.get("spans")
    for number, record in enumerate(dataset):
        if label_names is not None:
            record["label"] = _class_name(label_names, record["label"])
        spans = record.get("spans")
        if isinstance(spans, Mapping):  # a struct of lists, as datasets keep a list of structs
            spans = [dict(zip(spans, values, strict=True)) for values in zip(*spans.values(), strict=True)]
        if spans is not None and span_names is not None:
            spans = [span | {"label": _class_name(span_names, span["label"])} for span in spans]
        yield document_of(record | {"spans": spans}, f"{name}:{number}")


def _class_name(names: list[str], number: int | None) -> str | None:
    """The name of a class by its number; -1 stands for none, as None does."""
    return None if number is None or number < 0 else names[number]


def _streamed(name: str, split: str) -> Any:
    import datasets  # deferred: slow

    path, config = name, None
    if not Path(name).exists() and name.count("/") == 2:
        path, _, config = name.rpartition("/")
    try:
        return datasets.load_dataset(path, config, split=split, streaming=True)
    except (OSError, ValueError) as error:  # not there, not reachable, no such split, or several configurations
        raise InputError(f"the Hugging Face dataset '{name}' (split '{split}') cannot be opened: {error}") from None


def _saved(folder: str, split: str) -> Any:
    import datasets  # deferred: slow

    loaded = datasets.load_from_disk(folder)
    if not isinstance(loaded, dict):
        if split and split != str(loaded.split):
            raise InputError(f"'{folder}' is one saved split; name it without ':{split}'")
        return loaded
    if (split or "train") not in loaded:
        raise unknown_name("split", split or "train", loaded, f"'{folder}'")
    return loaded[split or "train"]
