"""Label sets by name: one of one's own goes the whole way from capture to steering, alone or beside another."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import save_model

from interp.capturing.to_store import CaptureConfig, capture
from interp.cli.main import main
from interp.corpora.documents import Corpus, Document, LabelSet
from interp.corpora.labels.characters import CharacterLabels
from interp.corpora.labels.python import PYTHON
from interp.corpora.labels.registry import LABEL_SETS, judge_of, label_sets_for
from interp.corpora.labels.text import TEXT
from interp.corpora.sources import load_corpus
from interp.decomposers.baselines.pca import PCAConfig
from interp.decomposers.sae.autoencoder import SAEConfig
from interp.errors import InputError
from interp.evaluation.evidence import read_evidence
from interp.evaluation.results import ConceptConfig, EvaluationConfig, read_metrics
from interp.evaluation.steering_effect import SteeringConfig, steering_task
from interp.evaluation.suite import evaluate_run
from interp.manifolds.ordinals import ordinals
from interp.model.language_model import LanguageModel
from interp.runs.record import Run
from interp.runs.training import train_run
from interp.store.reader import ActivationStore

SITE = "blocks.1.hook_resid_post"


def _columns(document: Document) -> Iterator[tuple[str, np.ndarray]]:
    text = document.text
    for name, holds in (("number", str.isdigit), ("vowel", lambda c: c in "aeiou"), ("line_end", lambda c: c == "\n")):
        yield name, np.array([holds(c) for c in text], dtype=np.uint8)
    yield "line_depth", np.array([min(text[:i].count("\n"), 255) for i in range(len(text))], dtype=np.uint8)


CHARACTERS = CharacterLabels(_columns, rules={"line_end": "any"})
MEANINGS = {
    "number": "a digit",
    "vowel": "a, e, i, o or u",
    "line_end": "a newline",
    "line_depth": "newlines before it",
}


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> LabelSet:
    """A label set of another name than Python's, some of whose labels have the names of Python's."""
    label_set = LabelSet(
        "toy", MEANINGS, CHARACTERS.label_tokens, judge=CHARACTERS.share_of_text, prompts=("a1",), suffixes=(".toy",)
    )
    monkeypatch.setitem(LABEL_SETS, "toy", label_set)
    return label_set


@pytest.fixture
def texts(tmp_path: Path) -> list[str]:
    """Twelve files of Python, small enough for a capture of 1000 tokens."""
    paths = [tmp_path / f"{i}.py" for i in range(12)]
    for i, path in enumerate(paths):
        path.write_text(
            "".join(f"def add_{j}(left, right={i}):\n    return (left, ({j * 7},))  # {j}\n" for j in range(6))
        )
    return [str(path) for path in paths]


def captured(model_folder: Path, out: Path, texts: list[str], *options: str) -> ActivationStore:
    words = ["capture", "--model", str(model_folder), "--sites", SITE, "--tokens", "1500", "--out", str(out)]
    main([*words, "--text", *texts, *options])
    return ActivationStore(out)


def evaluated(store: ActivationStore, model: LanguageModel, **options: Any) -> dict[str, Any]:
    config = EvaluationConfig(n_sequences=2, concepts=ConceptConfig(min_positives=5, min_documents=2, **options))
    if not (store.path / "runs/pca").exists():
        train_run(store, SITE, PCAConfig(n_features=8), "pca")
    evaluate_run(Run.load(store.path / "runs/pca"), model=model, store=store, config=config)
    return json.loads((store.path / "runs/pca/metrics.json").read_text())


def test_a_label_set_of_ones_own_is_captured_evaluated_and_steered_by(
    tiny_model_folder: Path,
    tiny_model: LanguageModel,
    tmp_path: Path,
    texts: list[str],
    toy: LabelSet,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = captured(tiny_model_folder, tmp_path / "own", texts, "--labels", "toy")
    assert store.label_sets == {"toy": ("number", "vowel", "line_end", "line_depth")}
    metrics = evaluated(store, tiny_model)
    assert metrics["config"]["concepts"]["label_set"] == "toy"
    assert {c["concept"] for c in metrics["concepts"]["concepts"]} == {"number", "vowel", "line_end"}
    assert [d["label"] for d in metrics["concepts"]["depths"]] == ["line_depth"]

    run = store.path / "runs/pca"
    main(["index", str(run)])
    words = ["steer", str(run), "--prompt", "def", "--strength", "1", "--tokens", "6", "--samples", "2"]
    main([*words, "--concept", "vowel"])
    assert "vowel: " in capsys.readouterr().out
    main([*words, "--concept", "line_end"])  # no text has a share of it
    assert "line_end: " not in capsys.readouterr().out


def test_a_text_may_have_several_label_sets(
    tiny_model_folder: Path, tiny_model: LanguageModel, tmp_path: Path, texts: list[str], toy: LabelSet
) -> None:
    both = captured(tiny_model_folder, tmp_path / "both", texts, "--labels", "toy", "python")
    assert both.label_sets == {"toy": toy.labels, "python": PYTHON.labels}
    for name in ("toy", "python"):
        alone = captured(tiny_model_folder, tmp_path / name, texts, "--labels", name)
        np.testing.assert_array_equal(both.labels(name), alone.labels(name))
        assert both.labels(name).any()
    np.testing.assert_array_equal(both.labels(), both.labels("toy"))
    by_default = captured(tiny_model_folder, tmp_path / "default", texts)
    assert by_default.identity == ActivationStore(tmp_path / "python").identity

    assert evaluated(both, tiny_model)["config"]["concepts"]["label_set"] == "toy"
    named = evaluated(both, tiny_model, label_set="python")
    assert named["config"]["concepts"]["label_set"] == "python"
    assert {c["concept"] for c in named["concepts"]["concepts"]} > {"number", "parameter"}
    with pytest.raises(InputError, match=r"no label set 'pyton' in the store '.*both'; did you mean 'python'"):
        evaluated(both, tiny_model, label_set="pyton")

    places = both.label_places()
    assert places["number"] == ("toy", 0)
    assert places["python.number"] == ("python", PYTHON.labels.index("number"))
    assert places["parameter"] == ("python", PYTHON.labels.index("parameter"))
    numbers = ordinals(both, None)
    np.testing.assert_array_equal(numbers["line_depth"], both.labels("toy")[:, 3])
    np.testing.assert_array_equal(numbers["bracket_depth"], both.labels("python")[:, -1])


def test_a_store_without_labels_says_so(
    tiny_model_folder: Path, tiny_model: LanguageModel, tmp_path: Path, texts: list[str]
) -> None:
    store = captured(tiny_model_folder, tmp_path / "bare", texts, "--labels")
    assert store.label_sets == {}
    message = "bare' has no labels; capture labelled text, or choose labels with interp capture --labels"
    with pytest.raises(InputError, match=message):
        store.labels()
    metrics = evaluated(store, tiny_model)
    assert metrics["concepts"] is None
    assert message in metrics["concepts_left_out"]
    assert metrics["spliced"] is not None
    with pytest.raises(InputError, match=message):
        evaluated(store, tiny_model, label_set="python")


def test_documents_keep_their_own_labels_beside_a_set_that_is_named(tiny_model: LanguageModel, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"text": "a = {i}", "label": "x{i % 2}"}}\n' for i in range(40)))
    corpus = load_corpus([path], ["python"])
    assert [label_set.name for label_set in corpus.label_sets] == ["label", "python"]
    store = capture(tiny_model, corpus, CaptureConfig(sites=(SITE,), tokens=100), tmp_path / "store")
    assert (store.labels("label").sum(1) == 1).all()
    assert store.labels("python")[:, PYTHON.labels.index("number")].any()
    assert corpus.label_sets[0].meanings["x1"] == "what the documents themselves label 'x1'"


def test_what_labels_a_text_has_by_default(tmp_path: Path, toy: LabelSet) -> None:
    def names(*files: str) -> list[str]:
        for file in files:
            (tmp_path / file).write_text("x = 1")
        return [label_set.name for label_set in load_corpus([tmp_path / file for file in files]).label_sets]

    assert names("code.py") == ["python"]
    assert names("code.py", "more.py") == ["python"]
    assert names("notes.txt") == names("code.py", "notes.txt") == names("code.py", "b.toy") == ["text"]
    assert names("b.toy") == ["toy"]
    assert load_corpus(["stdlib:held-out"]).label_sets == (PYTHON,)
    assert label_sets_for(["wiki.txt"]) == label_sets_for([]) == (TEXT,)
    (tmp_path / "source").mkdir()
    assert names("source/a.py", "source/b.py") == ["python"]
    assert load_corpus([tmp_path / "source"]).label_sets == (PYTHON,)
    assert load_corpus([tmp_path]).label_sets == (TEXT,)
    assert load_corpus([tmp_path], []).label_sets == ()


def test_names_that_are_no_label_set_are_refused(
    tmp_path: Path, toy: LabelSet, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="no label set 'pyhton' in this program; did you mean 'python'"):
        load_corpus(["stdlib"], ["pyhton"])
    with pytest.raises(InputError, match=r"'stdlib' has two label sets of one name \(toy, toy\); give each name once"):
        load_corpus(["stdlib"], ["toy", "toy"])
    with pytest.raises(InputError, match="stdlib:held-out or stdlib:tests"):
        load_corpus(["stdlib:everything"])
    with pytest.raises(SystemExit):
        main(["capture", "--sites", SITE, "--out", str(tmp_path / "s"), "--labels", "tyo"])
    assert "did you mean 'toy'" in capsys.readouterr().err


def test_the_judge_is_found_among_the_label_sets_of_a_store(toy: LabelSet, monkeypatch: pytest.MonkeyPatch) -> None:
    assert judge_of("number", ["toy", "python"]) == toy.judge
    assert judge_of("number", ["label", "python", "toy"]) == PYTHON.judge
    assert judge_of("comment", ["toy", "python"]) == PYTHON.judge
    assert judge_of("comment", ["toy", "label"]) is None
    assert judge_of("line_depth", ["toy"]) is None
    monkeypatch.setitem(LABEL_SETS, "mute", LabelSet("mute", {"number": "a digit"}, toy.label_tokens))
    assert judge_of("number", ["mute"]) is None


def test_a_steering_task_has_the_prompts_and_the_judge_of_the_label_set(toy: LabelSet) -> None:
    toy = replace(toy, prompts=("a1", "b2"))
    task = steering_task(toy)
    assert (task.trial_prompts, task.prompts, task.judge, task.concepts) == (("a1",), ("b2",), toy.judge, None)
    chosen = steering_task(toy, concepts=("vowel",), config=SteeringConfig(n_samples=2))
    assert (chosen.concepts, chosen.config.n_samples) == (("vowel",), 2)
    with pytest.raises(InputError, match="the label set 'mute' cannot judge what a model writes; name one that can"):
        steering_task(LabelSet("mute", {"a": "a"}, toy.label_tokens))


@pytest.mark.parametrize("label_set", LABEL_SETS.values(), ids=lambda label_set: label_set.name)
def test_every_registered_label_set_keeps_its_word(label_set: LabelSet) -> None:
    """What is said in ``LabelSet`` holds for whatever is added to the registry."""
    assert LABEL_SETS[label_set.name] is label_set
    assert all(label_set.meanings.values())
    document = Document("a.py", "def f(a):\n    return 'é' + 1  # one\n" * 3)
    spans = np.stack([np.arange(0, len(document.text), 2), np.arange(0, len(document.text), 2) + 2], 1)
    labels = label_set.label_tokens(document, np.minimum(spans, len(document.text)))
    assert labels.shape == (len(spans), len(label_set.labels))
    assert labels.dtype == np.uint8
    flags = [i for i, name in enumerate(label_set.labels) if not name.endswith("_depth")]
    assert labels[:, flags].max() <= 1
    if label_set.judge is not None:
        assert label_set.prompts
        shares = label_set.judge(document.text, start=3)
        assert set(shares) == set(label_set.judge("", start=0)) <= set(label_set.labels)
        assert all(0 <= share <= 1 for share in shares.values())


def test_labels_of_a_set_stand_in_its_own_columns(tiny_tokenizer: Any, toy: LabelSet) -> None:
    from interp.corpora.packing import pack

    corpus = Corpus("two", [Document("a", "a1\n" * 20)], (PYTHON, toy))
    [block] = pack(corpus, tiny_tokenizer, bos_id=0, n_ctx=64, n_tokens=40, block=1)
    assert block.labels.shape == (1, 64, len(PYTHON.labels) + len(toy.labels))
    line = block.labels[block.is_row][:, -1]
    assert line[0] == 0
    assert (np.diff(line.astype(int)) >= 0).all()
    assert line[-1] > 5


def test_text_of_any_kind_is_evaluated_and_steered_by_without_labels_given(
    tiny_model_folder: Path, tiny_model: LanguageModel, tmp_path: Path
) -> None:
    path = tmp_path / "story.jsonl"
    lines = ["The dog ran (fast) to Mary, and she said: go!", "Why not? It was 1984 & I didn't see a cat."]
    path.write_text("".join(json.dumps({"text": f"{lines[i % 2]} {lines[1 - i % 2]}\n" * 2}) + "\n" for i in range(12)))
    store = captured(tiny_model_folder, tmp_path / "any", [str(path)])
    assert store.label_sets == {"text": TEXT.labels}
    metrics = evaluated(store, tiny_model)
    assert metrics["config"]["concepts"]["label_set"] == "text"
    found = {concept["concept"] for concept in metrics["concepts"]["concepts"]}
    assert {"full_stop", "article", "capitalised_word", "inside_brackets", "year", "induction"} <= found
    assert [depth["label"] for depth in metrics["concepts"]["depths"]] == ["word_in_sentence_depth"]
    assert {"article", "question"} <= set(steering_task(TEXT).judge("", start=0))
    assert judge_of("article", ["label", "text"]) == TEXT.judge


def story(seed: int) -> str:
    """English of a kind: twenty sentences with a number, a quotation and a list."""
    draw = random.Random(seed)
    people, verbs, things = (
        ["Ann", "Bob", "The cat", "My aunt"],
        ["saw", "did not like", "will sell"],
        ["a dog", "the boat"],
    )
    lines = [
        f"{draw.choice(people)} {draw.choice(verbs)} {draw.choice(things)} in {draw.randint(1900, 2020)}."
        for _ in range(12)
    ]
    lines += [f'"Where is it?" {draw.choice(people)} asked, and {draw.choice(people)} said: no.' for _ in range(6)]
    return "\n".join([*lines, "", *(f"- {draw.choice(things)}" for _ in range(3))])


def test_any_text_on_any_model_is_evaluated_without_labels(
    tmp_path: Path, tiny_tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """English on a random Llama: what its features fire on is named from the text alone."""
    folder = save_model(tmp_path / "llama", "llama", tiny_tokenizer)
    for split, first in (("stories", 0), ("stories-held-out", 100)):
        (tmp_path / split).mkdir()
        for i in range(14):
            (tmp_path / split / f"{i}.txt").write_text(story(first + i))
        words = ["capture", "--model", str(folder), "--sites", SITE, "--tokens", "all", "--text", str(tmp_path / split)]
        main([*words, "--out", str(tmp_path / "workspace" / split)])
    store = ActivationStore(tmp_path / "workspace" / "stories")
    assert list(store.label_sets) == ["text"]
    train_run(store, SITE, SAEConfig(n_features=64, k=4, tokens=40_000, batch=256), "sae")
    capsys.readouterr()
    main(["evaluate", str(store.path / "runs/sae"), "--n-steered", "0", "--min-positives", "20"])
    table = capsys.readouterr().out
    assert "concepts found" in table
    metrics = read_metrics(Run.load(store.path / "runs/sae"))
    found = {c.concept: c for c in metrics.concepts.concepts}
    assert len(found) > 10
    assert set(found) <= set(LABEL_SETS["text"].labels)
    assert metrics.concepts.f1.value > metrics.concepts.null_f1
    labels = {each.label for each in read_evidence(Run.load(store.path / "runs/sae")).features} - {""}
    assert labels
