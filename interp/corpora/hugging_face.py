"""Hugging Face datasets as text: streamed by name or from a folder of data files, or a folder saved to disk."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from interp.corpora.documents import Corpus, Document, document_of, labelled_corpus, rereadable
from interp.errors import InputError, unknown_name

_SAVED = ("state.json", "dataset_dict.json")


def is_saved_dataset(folder: Path) -> bool:
    """Whether this folder was written by ``save_to_disk`` of the datasets package."""
    return any((folder / name).is_file() for name in _SAVED)


def dataset_corpus(word: str) -> Corpus:
    """The column ``text`` of ``hf:NAME`` or ``hf:NAME:SPLIT`` (by default the split "train"), or of a saved folder.

    NAME is a dataset of the hub (streamed, never downloaded whole), ``OWNER/NAME/CONFIG`` where it has several
    configurations, or a folder. A column ``label`` becomes the documents' labels if its classes have names or the dataset
    is saved to disk. Otherwise its labels cannot be known before capture, and it is left out with a warning.

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
    classes = getattr(features.get("label"), "names", None)
    has_labels = "label" in columns and (classes is not None or is_saved)
    if "label" in columns and not has_labels:
        warnings.warn(
            f"the labels of '{word}' have no names that are known in advance; they are left out", stacklevel=2
        )
    kept = dataset.select_columns(["text", "label"] if has_labels else ["text"])
    return labelled_corpus(word, _documents(kept, path, classes), classes)


@rereadable
def _documents(dataset: Any, name: str, classes: list[str] | None) -> Iterator[Document]:
    for number, record in enumerate(dataset):
        if classes is not None and record["label"] is not None:  # a class by its number, -1 for none
            record["label"] = classes[record["label"]] if record["label"] >= 0 else None
        yield document_of(record, f"{name}:{number}")


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
