"""``interp capture``: run a model over text and keep its activations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from interp.browse.contents import contents_text, store_contents
from interp.capturing.to_store import CaptureConfig, capture
from interp.corpora.sources import load_corpus
from interp.distributed import world
from interp.model.language_model import load_model


@dataclass(frozen=True)
class Capture:
    """Run a model over text and keep its activations in a store."""

    config: CaptureConfig
    out: Path
    """Folder of the store; run the same command again to continue an interrupted capture."""
    model: str = "demo"
    """"demo", a Hugging Face model folder, or a hub name."""
    text: tuple[str, ...] = ("stdlib",)
    """Text files, .jsonl (.jsonl.gz) or .parquet files with the fields text and, if wanted, label (what the whole is) and spans
    (what parts are: a list of {"start": 0, "end": 5, "label": "city"}, in characters), and folders of those; or one of: stdlib
    (the standard library), stdlib:held-out, stdlib:tests; hf:NAME or hf:NAME:SPLIT, a Hugging Face dataset with the column
    text, streamed (hf:OWNER/NAME/CONFIG where it has several); a folder saved by the datasets package."""
    labels: tuple[str, ...] | None = None
    """Label sets that say what each token is: python, text; --labels without a name takes none. By default python for stdlib
    and for files that all end in .py, text for any other text. Labels that the text carries are always kept, as the set label,
    which comes first."""

    def run(self) -> None:
        store = capture(load_model(self.model), load_corpus(self.text, self.labels), self.config, self.out)
        if world().is_first:
            print(contents_text(store_contents(store.path, spectra=False)))
