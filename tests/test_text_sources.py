"""Where text comes from: every source gives the same documents each time it is read, and bad input is named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interp.capturing.to_store import CaptureConfig, capture
from interp.corpora.documents import Corpus, Document
from interp.corpora.labels.python import PYTHON
from interp.corpora.labels.text import TEXT
from interp.corpora.packing import pack
from interp.corpora.sources import HELD_OUT_MODULES, load_corpus, make_corpus, standard_library
from interp.errors import InputError
from interp.model.language_model import LanguageModel

LABELLED = [("the dog ran", "animal"), ("on Monday", "weekday"), ("a cat sat", "animal")]


def documents(source: Path | str) -> list[Document]:
    """What a source gives, read twice to see that it gives the same again."""
    corpus = load_corpus([source])
    once = list(corpus.documents)
    assert list(corpus.documents) == once
    return once


def json_lines(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def labelled(path: Path) -> Path:
    return json_lines(path, *({"text": text, "label": label} for text, label in LABELLED))


def parquet(path: Path, **columns: list[Any]) -> Path:
    import pyarrow
    from pyarrow import parquet as files

    files.write_table(pyarrow.table(columns), path)
    return path


def test_a_folder_is_every_text_file_below_it_that_is_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ".cache" / "texts"  # hidden above what was named: the person asked for it
    (folder / "deep").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / "b.txt").write_text("b")
    (folder / "deep" / "a.txt").write_text("line\r\nnext")
    (folder / ".git" / "config").write_text("hidden")
    (folder / "image.png").write_bytes(b"\x89PNG\xff")
    expected = [Document("b.txt", "b"), Document("deep/a.txt", "line\nnext")]
    assert documents(folder) == expected
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert documents(Path("../.cache/texts")) == expected


def test_held_out_modules_and_tests_are_never_among_the_training_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.corpora.sources._read_utf8", lambda path: "text")  # which files, not what they say
    paths = {split: {document.name for document in standard_library(split)} for split in ("train", "held-out", "tests")}
    assert "json/decoder.py" in paths["held-out"]
    assert "ast.py" in paths["train"]
    held_out = {name.split("/")[0].removesuffix(".py") for name in paths["held-out"]}
    assert held_out <= set(HELD_OUT_MODULES)
    assert not paths["train"] & (paths["held-out"] | paths["tests"])
    assert not any(name.startswith(tuple(f"{module}/" for module in HELD_OUT_MODULES)) for name in paths["train"])
    assert not any("test" in name.split("/")[:-1] for name in paths["train"])
    assert not any("json" in name.split("/") or "test_json" in name for name in paths["tests"])


def test_a_missing_file_is_refused_before_any_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(InputError, match=r"there is no text file '.*missing.txt'; give files or folders"):
        load_corpus([tmp_path / "a.txt", tmp_path / "missing.txt"])
    with pytest.raises(InputError, match="no text was named; give files or folders of text, or stdlib"):
        load_corpus([])


def test_a_named_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(b"\x89PNG\xff")
    with pytest.raises(InputError, match=r"image.png' is not UTF-8 text; convert it first"):
        documents(tmp_path / "image.png")


# ---------------------------------------------------------------------------------------------------- JSON lines, Parquet


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_json_lines_are_one_document_a_line(tmp_path: Path, name: str) -> None:
    lines = b'\xef\xbb\xbf{"text": "one", "id": 1}\n\n{"text": "two\\nlines", "label": null}\n{"text": ""}'
    path = tmp_path / name
    path.write_bytes(gzip.compress(lines) if name.endswith("gz") else lines)
    expected = [Document(f"{path}:1", "one"), Document(f"{path}:3", "two\nlines"), Document(f"{path}:4", "")]
    assert documents(path) == expected
    assert load_corpus([path]).label_sets == (TEXT,)


def test_parquet_is_one_document_a_row(tmp_path: Path) -> None:
    texts = [f"text {i}" for i in range(700)]
    path = parquet(tmp_path / "a.parquet", id=list(range(700)), text=texts)
    assert documents(path) == [Document(f"{path}:{i}", text) for i, text in enumerate(texts)]
    labelled_path = parquet(tmp_path / "b.parquet", text=[t for t, _ in LABELLED], label=[name for _, name in LABELLED])
    assert [(d.text, d.label) for d in documents(labelled_path)] == LABELLED
    [label_set] = load_corpus([labelled_path], []).label_sets
    assert label_set.labels == ("animal", "weekday")


def test_a_folder_holds_records_and_texts_in_one_order(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("three")
    json_lines(tmp_path / "a.jsonl", {"text": "one"})
    parquet(tmp_path / "b.parquet", text=["two"])
    expected = [Document("a.jsonl:1", "one"), Document("b.parquet:0", "two"), Document("c.txt", "three")]
    assert documents(tmp_path) == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": ', r"a.jsonl:2' is not JSON \(Expecting value.*\); every line is one object"),
        ('{"text": "\xff"}', r"a.jsonl:2' is not JSON \(.*can't decode.*\); every line is one object"),
        ('["a text"]', r"a.jsonl:2' is no record; give objects such as \{\"text\": ..., \"label\": ...\}"),
        ('{"content": "a", "id": 1}', r"a.jsonl:2' has no 'text' \(its fields: 'content', 'id'\); rename the one"),
        ('{"text": ["a"]}', r"the text of '.*a.jsonl:2' is \['a'\], which is no string; write it as one"),
        ('{"text": "a", "label": 3}', r"the label of '.*a.jsonl:2' is 3, which is no string; write it as one"),
        ('{"text": "a", "label": "b"}', r"a.jsonl:2' has a label, but what comes before it in .* has no label"),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "fine"}\n' + line.encode("latin-1") + b"\n")
    with pytest.raises(InputError, match=message):
        documents(tmp_path / "a.jsonl")


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    whole = gzip.compress(b'{"text": "fine"}\n' * 1000)
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[:-20])
    (tmp_path / "odd.jsonl.gz").write_bytes(b"no gzip")
    (tmp_path / "a.parquet").write_bytes(b"no parquet")
    with pytest.raises(InputError, match=r"cut.jsonl.gz' cannot be read \(.*end-of-stream"):
        documents(tmp_path / "cut.jsonl.gz")
    with pytest.raises(InputError, match=r"odd.jsonl.gz' cannot be read \(Not a gzipped file"):
        documents(tmp_path / "odd.jsonl.gz")
    with pytest.raises(InputError, match=r"a.parquet' is no Parquet file, or a damaged one"):
        documents(tmp_path / "a.parquet")


def test_parquet_without_the_column_or_with_numbers_in_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"a.parquet' has no column 'text' \(it has id, body\); rename the one to read"
    ):
        documents(parquet(tmp_path / "a.parquet", id=[1], body=["a"]))
    with pytest.raises(InputError, match=r"the text of '.*b.parquet:0' is 5, which is no string"):
        documents(parquet(tmp_path / "b.parquet", text=[5]))
    with pytest.raises(InputError, match=r"'.*c.parquet:1' has no 'text'"):
        documents(parquet(tmp_path / "c.parquet", text=["a", None]))


# ---------------------------------------------------------------------------------------------------------------- labels


def test_labels_stand_beside_every_token_of_their_document(
    tiny_model: LanguageModel, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    corpus = load_corpus([labelled(tmp_path / "concepts.jsonl")], [])
    config = CaptureConfig(sites=("blocks.0.hook_resid_post",), tokens=20)
    store = capture(tiny_model, corpus, config, tmp_path / "store")
    assert store.label_sets == {"label": ("animal", "weekday")}
    [block] = pack(corpus, tiny_tokenizer, bos_id=0, n_ctx=32, n_tokens=20, block=1)
    expected = [[1, 0] if LABELLED[i][1] == "animal" else [0, 1] for i in block.document[block.is_row]]
    np.testing.assert_array_equal(store.labels("label"), expected)
    assert store.labels("label").dtype == np.uint8
    assert store.labels("label").sum(axis=0).min() > 3


def test_what_cannot_be_a_label_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"a.jsonl:2' has no label, but what comes before it in .* has a label; label all"
    ):
        load_corpus([json_lines(tmp_path / "a.jsonl", {"text": "a", "label": "x"}, {"text": "b"})])
    with pytest.raises(InputError, match=r"'many' has more than 255 different labels; rename or group them"):
        make_corpus([{"text": "a", "label": str(i)} for i in range(256)], "many")
    assert make_corpus([{"text": "a", "label": str(i)} for i in range(255)], "many").label_sets
    with pytest.raises(InputError, match=r"the label 'water_depth' of 'texts' ends in _depth, .*; rename it"):
        make_corpus([{"text": "a", "label": "water_depth"}])
    (tmp_path / "b.txt").write_text("no label")
    with pytest.raises(InputError, match=r"b.txt' has no label, but what comes before it"):
        load_corpus([labelled(tmp_path / "c.jsonl"), tmp_path / "b.txt"])


def test_a_label_that_appears_after_the_labels_were_read_is_refused(tmp_path: Path, tiny_tokenizer: Any) -> None:
    corpus = load_corpus([labelled(tmp_path / "a.jsonl")])
    json_lines(tmp_path / "a.jsonl", {"text": "a longer text", "label": "new"})
    with pytest.raises(InputError, match=r"the label 'new' of '.*a.jsonl:1' is not among those of"):
        list(pack(corpus, tiny_tokenizer, bos_id=0, n_ctx=8, n_tokens=2, block=1))


# ---------------------------------------------------------------------------------------------------------- Python objects


def test_strings_documents_and_records_given_in_python() -> None:
    corpus = make_corpus(["one", Document("mine", "two"), {"text": "three"}], "notes")
    expected = [Document("notes:0", "one"), Document("mine", "two"), Document("notes:2", "three")]
    assert list(corpus.documents) == expected
    assert list(corpus.documents) == expected
    assert [label_set.name for label_set in make_corpus([{"text": "a", "label": "b"}]).label_sets] == ["label", "text"]
    assert make_corpus(["a"]).label_sets == (TEXT,)
    assert make_corpus(["a"], labels=["python"]).label_sets == (PYTHON,)
    assert make_corpus(["a"], labels=[]).label_sets == ()


def test_a_generator_function_is_read_anew_each_time_and_an_iterator_is_refused(
    tiny_model: LanguageModel, tmp_path: Path
) -> None:
    def texts() -> Any:
        for i in range(20):
            yield f"text number {i}"

    config = CaptureConfig(sites=("blocks.0.hook_resid_post",), tokens=100)
    corpus = make_corpus(texts)
    first = capture(tiny_model, corpus, config, tmp_path / "first")
    assert capture(tiny_model, corpus, config, tmp_path / "second").identity == first.identity
    message = r"the text 'texts' is an iterator, which can be read only once, .*; give a list, or to make_corpus the"
    once = texts()
    for iterator in (texts(), map(str, range(3)), lambda: once):
        with pytest.raises(InputError, match=message):
            make_corpus(iterator)
    with pytest.raises(InputError, match=message):
        Corpus("texts", iter([Document("a", "b")]))


def test_one_string_and_things_that_are_no_text_are_refused() -> None:
    with pytest.raises(InputError, match="the text 'texts' is one string; give a list of texts"):
        make_corpus("a text")
    with pytest.raises(InputError, match="'notes:1' is no record; give objects such as"):
        list(make_corpus(lambda: iter(["fine", ["a", "list"]]), "notes").documents)


# -------------------------------------------------------------------------------------------------- Hugging Face datasets


def class_dataset(**more: list[Any]) -> Any:
    """A dataset whose labels are classes with names."""
    import datasets

    classes = datasets.ClassLabel(names=["weekday", "animal"])
    numbers = [classes.str2int(name) for _, name in LABELLED]
    made = datasets.Dataset.from_dict({"text": [text for text, _ in LABELLED], "label": numbers, **more})
    return made.cast_column("label", classes)


def test_a_named_dataset_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[tuple[Any, ...]] = []

    def load_dataset(path: str, config: str | None, *, split: str, streaming: bool) -> Any:
        asked.append((path, config, split, streaming))
        return class_dataset(image=[0, 1, 2]).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    for word in ("hf:owner/name", "hf:owner/name:test", "hf:name", "hf:owner/name/config:validation"):
        assert [(d.text, d.label) for d in documents(word)] == LABELLED
    assert list(dict.fromkeys(asked)) == [
        ("owner/name", None, "train", True),
        ("owner/name", None, "test", True),
        ("name", None, "train", True),
        ("owner/name", "config", "validation", True),
    ]
    corpus = load_corpus(["hf:owner/name:test"])
    assert corpus.name == "hf:owner/name:test"
    assert [label_set.name for label_set in corpus.label_sets] == ["label", "text"]
    assert corpus.label_sets[0].labels == ("animal", "weekday")
    assert next(iter(corpus.documents)).name == "owner/name:0"


def test_labels_of_a_streamed_dataset_that_are_not_known_in_advance_are_left_out(tmp_path: Path) -> None:
    json_lines(tmp_path / "a.jsonl", {"text": "some words", "label": "x"})
    with pytest.warns(
        UserWarning, match=r"the labels of 'hf:.*' have no names that are known in advance; they are left"
    ):
        corpus = load_corpus([f"hf:{tmp_path}"])
    assert corpus.label_sets == (TEXT,)
    assert list(corpus.documents) == [Document(f"{tmp_path}:0", "some words")]


def test_a_saved_dataset_is_read_with_its_labels(tmp_path: Path) -> None:
    import datasets

    both = datasets.DatasetDict({"train": class_dataset(), "test": class_dataset().select([1])})
    both.save_to_disk(tmp_path / "both")
    class_dataset().cast_column("label", datasets.Value("string")).save_to_disk(tmp_path / "one")
    assert [(d.text, d.label) for d in documents(tmp_path / "both")] == LABELLED
    assert [(d.text, d.label) for d in documents(f"hf:{tmp_path / 'both'}:test")] == LABELLED[1:2]
    [label_set] = load_corpus([tmp_path / "one"], []).label_sets
    assert label_set.labels == ("0", "1")
    with pytest.raises(InputError, match=r"no split 'tset' in '.*both'; did you mean 'test'?"):
        load_corpus([f"hf:{tmp_path / 'both'}:tset"])
    with pytest.raises(InputError, match=r"one' is one saved split; name it without ':test'"):
        load_corpus([f"hf:{tmp_path / 'one'}:test"])
    with pytest.raises(InputError, match=r"mixes a Hugging Face dataset with other text; name it alone"):
        load_corpus([tmp_path / "one", tmp_path / "both"])


def test_documents_without_a_class_are_unlabelled(tmp_path: Path) -> None:
    import datasets

    classes = class_dataset().features
    unlabelled = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [-1, -1]}, features=classes)
    unlabelled.save_to_disk(tmp_path / "saved")
    corpus = load_corpus([tmp_path / "saved"])
    assert corpus.label_sets == (TEXT,)
    assert [document.label for document in corpus.documents] == [None, None]


def test_datasets_that_cannot_be_opened_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    json_lines(tmp_path / "a.jsonl", {"body": "some words"})
    with pytest.raises(InputError, match=r"'hf:.*' has no column 'text' \(it has body\); choose another dataset"):
        load_corpus([f"hf:{tmp_path}"])
    with pytest.raises(InputError, match=r"\(split 'test'\) cannot be opened: .*split"):
        load_corpus([f"hf:{tmp_path}:test"])
    monkeypatch.setattr(datasets, "load_dataset", _raise(datasets.exceptions.DatasetNotFoundError("not on the Hub")))
    with pytest.raises(InputError, match=r"dataset 'no/such' \(split 'train'\) cannot be opened: not on the Hub"):
        load_corpus(["hf:no/such"])


def _raise(error: Exception) -> Any:
    def refuse(*args: object, **options: object) -> None:
        raise error

    return refuse
