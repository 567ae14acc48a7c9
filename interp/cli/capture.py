"""``interp capture``: run a model over text and keep its activations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from interp.browse.contents import contents_text, store_contents
from interp.capture.to_store import CaptureConfig, capture
from interp.corpora.documents import Corpus
from interp.corpora.sources import load_corpus
from interp.demo.recipe import (
    PYTHON_LABELS,
    python_corpus,
)
from interp.distributed import world
from interp.errors import InputError
from interp.model.language_model import load_model


@dataclass(frozen=True)
class Capture:
    """Run a model over text and keep its activations in a store."""

    config: CaptureConfig
    out: Path
    """Folder of the store; an interrupted capture goes on there."""
    model: str = "demo"
    """"demo", a Hugging Face model folder, or a hub name."""
    text: tuple[str, ...] = ("stdlib",)
    """Text files, .jsonl (.jsonl.gz) or .parquet files with the fields text and, if wanted, label, and folders of those;
    or one of: stdlib (the standard library), stdlib:held-out, stdlib:tests; hf:NAME or hf:NAME:SPLIT, a Hugging Face
    dataset with the column text, streamed (hf:OWNER/NAME/CONFIG where it has several); a folder saved by the datasets
    package."""

    def run(self) -> None:
        store = capture(load_model(self.model), corpus_of(self.text), self.config, self.out)
        if world().is_first:
            print(contents_text(store_contents(store.path, spectra=False)))


def corpus_of(words: tuple[str, ...]) -> Corpus:
    """What ``--text`` means: the standard library by its keyword, else as ``load_corpus`` says. Python is labelled."""
    if words and words[0].split(":")[0] == "stdlib":
        split = words[0].partition(":")[2] or "train"
        if len(words) > 1 or split not in ("train", "held-out", "tests"):
            raise InputError(f"'{' '.join(words)}' names no text; use stdlib, stdlib:held-out or stdlib:tests, alone")
        return python_corpus(split)
    corpus = load_corpus(words)
    return replace(corpus, label_set=PYTHON_LABELS) if all(word.endswith(".py") for word in words) else corpus
