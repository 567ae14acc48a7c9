"""Labels that documents carry, of whole texts and of spans: which tokens have them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interp.capturing.to_store import CaptureConfig, capture
from interp.corpora import packing
from interp.corpora.documents import Document, Span
from interp.corpora.sources import load_corpus, make_corpus
from interp.errors import InputError
from interp.model.language_model import LanguageModel

TEXT = "Ada met Bob in Paris"
RECORDS = [
    {
        "text": TEXT,
        "spans": [
            {"start": 0, "end": 3, "label": "person"},
            {"start": 8, "end": 11, "label": "person"},
            {"start": 15, "end": 20, "label": "place"},
            {"start": 0, "end": 11, "label": "meeting"},
        ],
    },
    {"text": "nobody is here", "spans": []},
]
SPANS = (Span(0, 3, "person"), Span(8, 11, "person"), Span(15, 20, "place"), Span(0, 11, "meeting"))


def written(path: Path, records: list[dict[str, Any]]) -> Path:
    """The records as the file's suffix says."""
    if path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(records), path)
    else:
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def labels_of(tokens: list[tuple[int, int]], spans: list[Span], text: str = TEXT) -> list[list[int]]:
    """The 0-or-1 labels of each token."""
    document = Document("a", text, None, tuple(spans))
    [label_set] = make_corpus([document], labels=[]).label_sets
    return label_set.label_tokens(document, np.array(tokens)).T.tolist()


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_spans_in_files_become_the_set_label(tmp_path: Path, name: str) -> None:
    corpus = load_corpus([written(tmp_path / name, RECORDS)])
    assert [document.spans for document in corpus.documents] == [SPANS, ()]
    assert [label_set.name for label_set in corpus.label_sets] == ["label", "text"]
    own = corpus.label_sets[0]
    assert own.labels == ("meeting", "person", "place")
    assert own.meanings["place"] == "what the documents themselves label 'place'"
    tokens = np.array([(0, 3), (3, 7), (7, 11), (11, 14), (14, 20)])
    first, second = corpus.documents
    assert own.label_tokens(first, tokens).tolist() == [[1, 1, 0], [1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert own.label_tokens(first, tokens).dtype == np.uint8
    assert not own.label_tokens(second, tokens[:2]).any()


def test_spans_given_in_python() -> None:
    numpy_numbers = {"text": "a b", "spans": [{"start": np.int64(2), "end": np.int64(3), "label": "x"}]}
    corpus = make_corpus([RECORDS[0], Document("mine", "a b", spans=(Span(0, 1, "x"),)), numpy_numbers], labels=[])
    assert [document.spans for document in corpus.documents] == [SPANS, (Span(0, 1, "x"),), (Span(2, 3, "x"),)]
    assert corpus.label_sets[0].labels == ("meeting", "person", "place", "x")
    assert make_corpus([{"text": "a", "spans": []}], labels=[]).label_sets == ()


def test_a_token_is_labelled_if_it_shares_a_character_that_is_no_blank() -> None:
    #             "Ada", " met", " ", "Bob in", "", " Paris"
    tokens = [(0, 3), (3, 7), (7, 8), (8, 14), (14, 14), (14, 20)]
    assert labels_of(tokens, [Span(1, 2, "x")]) == [[1, 0, 0, 0, 0, 0]]
    assert labels_of(tokens, [Span(0, 4, "x")]) == [[1, 0, 0, 0, 0, 0]]  # the blank before "met" was marked too
    assert labels_of(tokens, [Span(0, 5, "x")]) == [[1, 1, 0, 0, 0, 0]]
    assert labels_of(tokens[3:], [Span(7, 9, "x")]) == [[1, 0, 0]]
    assert labels_of(tokens, [Span(3, 4, "x")]) == [[0, 0, 0, 0, 0, 0]]
    assert labels_of(tokens, [Span(0, 20, "x")]) == [[1, 1, 0, 1, 0, 1]]
    assert labels_of(tokens, [Span(12, 16, "x"), Span(15, 20, "x"), Span(0, 1, "y")]) == [
        [0, 0, 0, 1, 0, 1],
        [1, 0, 0, 0, 0, 0],
    ]


def test_a_document_may_have_a_label_and_spans() -> None:
    records = [
        {
            "text": "a b",
            "label": "x",
            "spans": [{"start": 0, "end": 1, "label": "y"}, {"start": 2, "end": 3, "label": "x"}],
        }
    ]
    records.append({"text": "a b", "label": "y", "spans": []})
    corpus = make_corpus(records, labels=[])
    [own] = corpus.label_sets
    rows = [own.label_tokens(document, np.array([(0, 1), (1, 3)])).tolist() for document in corpus.documents]
    assert rows == [[[1, 1], [1, 0]], [[0, 1], [0, 1]]]


@pytest.mark.parametrize("characters", [7, 40])
def test_a_long_document_in_pieces_has_the_same_labels(
    tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch, characters: int
) -> None:
    text = "Ada met Bob\nin Paris\n" * 20
    spans = tuple(Span(i, i + 17, f"s{i % 3}") for i in range(3, 380, 31))
    document = Document("a", text, spans=spans)
    corpus = make_corpus([document], labels=[])
    monkeypatch.setattr(packing, "BATCH_CHARACTERS", characters)
    blocks = list(packing.pack(corpus, tiny_tokenizer, bos_id=0, n_ctx=32, n_tokens=None, block=4))
    labels = np.concatenate([block.labels[block.is_row] for block in blocks])
    starts = np.concatenate([block.offset[block.is_row] for block in blocks]).tolist()
    for row, start, end in zip(labels, starts, [*starts[1:], len(text)], strict=True):
        for column, name in enumerate(corpus.label_sets[0].labels):
            marked = {i for span in spans if span.label == name for i in range(span.start, span.end)}
            assert row[column] == any(i in marked and not text[i].isspace() for i in range(start, end))


def test_spans_reach_the_store(tiny_model: LanguageModel, tmp_path: Path) -> None:
    corpus = load_corpus([written(tmp_path / "a.jsonl", RECORDS)])
    config = CaptureConfig(sites=("blocks.0.hook_resid_post",), tokens="all")
    store = capture(tiny_model, corpus, config, tmp_path / "store")
    assert list(store.label_sets) == ["label", "text"]
    assert store.label_set() == "label"
    labels = store.labels("label")
    assert 0 < labels[:, 1].sum() < labels[:, 0].sum() < len(labels)


# -------------------------------------------------------------------------------------------------- Hugging Face columns


@pytest.mark.parametrize("has_classes", [True, False])
@pytest.mark.parametrize("is_struct_of_lists", [True, False])
def test_spans_of_a_saved_dataset(tmp_path: Path, has_classes: bool, is_struct_of_lists: bool) -> None:
    import datasets

    names = ["person", "place", "meeting"]
    label = datasets.ClassLabel(names=names) if has_classes else datasets.Value("string")
    fields = {"start": datasets.Value("int32"), "end": datasets.Value("int32"), "label": label}
    spans = (
        {key: datasets.List(value) for key, value in fields.items()} if is_struct_of_lists else datasets.List(fields)
    )
    rows: list[dict[str, Any]] = []
    for record in RECORDS:
        marked = [span | {"label": names.index(span["label"])} if has_classes else span for span in record["spans"]]
        listed = {key: [span[key] for span in marked] for key in fields} if is_struct_of_lists else marked
        rows.append({"text": record["text"], "spans": listed})
    features = datasets.Features({"text": datasets.Value("string"), "spans": spans})
    datasets.Dataset.from_list(rows, features=features).save_to_disk(tmp_path / "saved")
    corpus = load_corpus([tmp_path / "saved"], [])
    assert [document.spans for document in corpus.documents] == [SPANS, ()]
    assert corpus.label_sets[0].labels == ("meeting", "person", "place")


def test_spans_of_a_streamed_dataset_whose_labels_are_not_known_are_left_out(tmp_path: Path) -> None:
    written(tmp_path / "a.jsonl", RECORDS)
    with pytest.warns(UserWarning, match=r"the labels of spans of 'hf:.*' have no names that are known in advance"):
        corpus = load_corpus([f"hf:{tmp_path}"], [])
    assert corpus.label_sets == ()
    assert [document.spans for document in corpus.documents] == [None, None]


# -------------------------------------------------------------------------------------------------------- what is refused

GOOD = {"start": 0, "end": 3, "label": "x"}


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ({"0": GOOD}, r"the spans of '.*a.jsonl:2' are \{'0': .*, which is no list; give \[\{\"start\": 0, \"end\": 4"),
        ("all", r"the spans of '.*a.jsonl:2' are all, which is no list"),
        (
            [GOOD, [0, 3, "x"]],
            r"span 1 of '.*a.jsonl:2' is \[0, 3, 'x'\], without start and end and label; give \{\"start\"",
        ),
        ([{"start": 0, "end": 3}], r"span 0 of '.*a.jsonl:2' is \{'start': 0, 'end': 3\}, without label; give"),
        ([GOOD | {"label": None}], r"span 0 of '.*a.jsonl:2' is .*, without label; give"),
        ([GOOD | {"label": ""}], r"the label of span 0 of '.*a.jsonl:2' is '', which names nothing; write what it is"),
        ([GOOD | {"label": 3}], r"the label of span 0 of '.*a.jsonl:2' is '3', which names nothing; write what it is"),
        (
            [GOOD | {"start": 0.5}],
            r"the start of span 0 of '.*a.jsonl:2' is '0.5', no whole number; count characters from 0",
        ),
        ([GOOD | {"end": "3"}], r"the end of span 0 of '.*a.jsonl:2' is '3', no whole number"),
        ([GOOD | {"end": True}], r"the end of span 0 of '.*a.jsonl:2' is 'True', no whole number"),
        (
            [GOOD, GOOD | {"end": 5}],
            r"span 1 of '.*a.jsonl:2' goes from 0 to 5, but its text has 4 characters; give the first",
        ),
        ([GOOD | {"start": -1}], r"span 0 of '.*a.jsonl:2' goes from -1 to 3, but its text has 4 characters"),
        ([GOOD | {"start": 3}], r"span 0 of '.*a.jsonl:2' goes from 3 to 3, but its text has 4 characters"),
        (
            [GOOD | {"label": "my_depth"}],
            r"the label 'my_depth' of '.*a.jsonl' ends in _depth, which is kept for numbers",
        ),
        (
            None,
            r"a.jsonl:2' has no list of spans, but what comes before it in .* has a list of spans; label all or none \(an",
        ),
    ],
)
def test_spans_that_cannot_be_are_refused_by_file_and_line(tmp_path: Path, spans: Any, message: str) -> None:
    path = written(tmp_path / "a.jsonl", [{"text": "fine", "spans": [GOOD]}, {"text": "four", "spans": spans}])
    with pytest.raises(InputError, match=message):
        load_corpus([path])


def test_a_document_made_in_python_is_checked_too() -> None:
    with pytest.raises(InputError, match="span 0 of 'mine' goes from 2 to 9, but its text has 4 characters"):
        Document("mine", "four", spans=(Span(2, 9, "x"),))


def test_labels_of_spans_are_counted_with_those_of_documents() -> None:
    records = [{"text": "a", "label": f"l{i}", "spans": [{"start": 0, "end": 1, "label": f"s{i}"}]} for i in range(128)]
    assert len(make_corpus(records[:127], labels=[]).label_sets[0].labels) == 254
    with pytest.raises(InputError, match="'many' has more than 255 different labels; rename or group them"):
        make_corpus(records, "many")


def test_a_span_label_that_was_not_there_before_is_refused() -> None:
    corpus = make_corpus([RECORDS[0]], "notes", labels=[])
    other = Document("b", "text", spans=(Span(0, 1, "new"),))
    with pytest.raises(InputError, match="the label 'new' of 'b' is not among those of 'notes'"):
        corpus.label_sets[0].label_tokens(other, np.array([(0, 1)]))
