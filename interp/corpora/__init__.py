"""Text to token sequences: where documents come from, how they are labelled, and how they are packed into sequences."""

from interp.corpora.documents import Corpus, Document, LabelSet
from interp.corpora.packing import Sequences, pack
from interp.corpora.sources import HELD_OUT_MODULES, load_corpus, make_corpus, standard_library

__all__ = [
    "HELD_OUT_MODULES",
    "Corpus",
    "Document",
    "LabelSet",
    "Sequences",
    "load_corpus",
    "make_corpus",
    "pack",
    "standard_library",
]
