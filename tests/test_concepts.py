"""The sentences of examples/concepts.jsonl: as many as are promised, none twice, and what a capture makes of them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from interp.capturing.to_store import CaptureConfig, capture
from interp.corpora.sources import load_corpus
from interp.model.language_model import LanguageModel

CONCEPTS = Path(__file__).parent.parent / "examples" / "concepts.jsonl"
LINES = [json.loads(line) for line in CONCEPTS.read_text(encoding="utf-8").splitlines()]


def test_there_are_24_concepts_of_30_sentences() -> None:
    assert all(set(line) == {"text", "label"} for line in LINES)
    counts = Counter(line["label"] for line in LINES)
    assert len(counts) == 24
    assert set(counts.values()) == {30}


def test_no_sentence_comes_twice_or_begins_like_most_of_its_concept() -> None:
    assert len({line["text"].lower() for line in LINES}) == 720
    for concept in {line["label"] for line in LINES}:
        openings = Counter(" ".join(line["text"].split()[:2]) for line in LINES if line["label"] == concept)
        assert max(openings.values()) <= 4, (concept, openings.most_common(1))


def test_every_line_is_one_short_sentence() -> None:
    for line in LINES:
        assert line["text"] == " ".join(line["text"].split())
        assert line["text"][-1] in ".?!"
        assert 3 <= len(line["text"].split()) <= 20


def test_a_capture_labels_every_token_with_its_concept(tiny_model: LanguageModel, tmp_path: Path) -> None:
    corpus = load_corpus([CONCEPTS])
    config = CaptureConfig(sites=("blocks.1.mlp.hook_post",), tokens=4000)
    store = capture(tiny_model, corpus, config, tmp_path / "concepts")
    labels = store.labels("label")
    assert labels.shape == (4000, 24)
    assert (labels.sum(1) == 1).all()
    assert labels.any(0).sum() >= 2
