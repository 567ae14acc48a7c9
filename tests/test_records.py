"""Records and options: what does not fit is refused by name, in every record and every config that there is."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest

import interp.browse.contents
import interp.evaluation.suite
import interp.steering.records  # noqa: F401  every record that a file is made of is known once these are imported
from interp.capturing.to_store import CaptureConfig
from interp.decomposers import read_config, registry
from interp.decomposers.sae.autoencoder import SAEConfig
from interp.decomposers.sae.config import Arithmetic, VariantOptions
from interp.decomposers.sae.dead_features import DeadFeatures
from interp.decomposers.sae.initialisation import Initialisation, SubspaceInitialisation
from interp.demo.recipe import DemoConfig
from interp.errors import InputError
from interp.evaluation.stability import StabilityRecord
from interp.files import whole
from interp.index.build import IndexConfig
from interp.manifolds.build import ManifoldConfig
from interp.records import FileRecord, Record, from_json, read_record, to_json, to_line, write_record
from interp.runs.record import RunRecord, read_curve
from interp.store.manifest import Manifest
from interp.training.config import Schedule

WRONG = [{}]
"""A value that no key of any record may have."""


def record_types(kind: type[Record] = Record) -> Iterator[type[Record]]:
    """Every record of the project that is made, by name."""
    for below in sorted(kind.__subclasses__(), key=lambda each: each.__name__):
        if below.__struct_fields__ and not below.__subclasses__() and below.__module__.startswith("interp."):
            yield below
        yield from record_types(below)


def example(kind: Any) -> Any:
    """A value of a type as plain JSON data."""
    if kind in (str, int, float, bool):
        return {str: "word", int: 1, float: 0.5, bool: True}[kind]
    if isinstance(kind, type) and issubclass(kind, Record):
        return {field.encode_name: example(field.type) for field in msgspec.structs.fields(kind)}
    parts = get_args(kind)
    if get_origin(kind) is Literal:
        return parts[0]
    if get_origin(kind) in (Union, UnionType):
        return example(next(part for part in parts if part is not NoneType))
    if get_origin(kind) is dict:
        return {str(example(parts[0])): example(parts[1])}
    if get_origin(kind) is tuple and Ellipsis not in parts:
        return [example(part) for part in parts]
    return [example(parts[0])]


def words_of(kind: Any) -> list[str]:
    """The words that a type allows, of a choice or of a choice among other types."""
    if get_origin(kind) is Literal:
        return [word for word in get_args(kind) if isinstance(word, str)]
    return [word for part in get_args(kind) for word in words_of(part)]


def text_of(kind: type[Record], changed: dict[str, Any]) -> str:
    head = {"schema": kind.SCHEMA, "version": kind.VERSION} if issubclass(kind, FileRecord) else {}
    return json.dumps(head | changed)


every_record = pytest.mark.parametrize("kind", list(record_types()), ids=lambda kind: kind.__name__)


@every_record
def test_a_record_comes_back_as_it_was_written(kind: type[Record]) -> None:
    record = from_json(text_of(kind, example(kind)), kind, "here")
    assert json.loads(to_json(record)) == json.loads(to_line(record)) == json.loads(text_of(kind, example(kind)))
    assert "\n" not in to_line(record)


@every_record
def test_unknown_and_missing_keys_of_a_record_are_refused_by_name(kind: type[Record]) -> None:
    with pytest.raises(InputError, match="here is damaged: object contains unknown field surprise; make it again"):
        from_json(text_of(kind, {**example(kind), "surprise": 1}), kind, "here")
    for field in msgspec.structs.fields(kind):
        if field.required:
            rest = {name: value for name, value in example(kind).items() if name != field.encode_name}
            with pytest.raises(InputError, match=f"here is damaged: .*missing required field {field.encode_name};"):
                from_json(text_of(kind, rest), kind, "here")


@every_record
def test_wrong_types_and_unknown_words_of_a_record_are_refused_by_name(kind: type[Record]) -> None:
    for field in msgspec.structs.fields(kind):
        key = field.encode_name
        with pytest.raises(InputError, match=rf"here is damaged: .* at {key}(\W.*)?; make it again"):
            from_json(text_of(kind, {**example(kind), key: WRONG}), kind, "here")
        if words_of(field.type):
            with pytest.raises(InputError, match=f"here is damaged: invalid enum value 'nonsense' at {key}; make it a"):
                from_json(text_of(kind, {**example(kind), key: "nonsense"}), kind, "here")


@pytest.mark.parametrize(
    "kind", [kind for kind in record_types() if issubclass(kind, FileRecord)], ids=lambda kind: kind.__name__
)
def test_a_file_of_another_schema_or_version_is_refused_before_anything_else(
    kind: type[FileRecord], tmp_path: Path
) -> None:
    path = tmp_path / "record.json"
    for head in (
        {"schema": kind.SCHEMA, "version": kind.VERSION + 1},
        {"schema": "other", "version": kind.VERSION},
        {},
    ):
        path.write_text(json.dumps(head | {"surprise": 1}))
        with pytest.raises(InputError, match=f"'{path}' is .* version .*, this program reads {kind.SCHEMA} version "):
            read_record(path, kind, "")
    path.write_text("[]")
    with pytest.raises(InputError, match="is None version None, this program reads"):
        read_record(path, kind, "")
    with pytest.raises(InputError, match=r"^there is none$"):
        read_record(tmp_path / "other.json", kind, "there is none")


def test_the_records_tried_are_those_of_every_file() -> None:
    names = {kind.__name__ for kind in record_types()}
    assert {"Manifest", "Shard", "RunRecord", "StabilityRecord", "CurveRecord", "SteeringRecord"} <= names
    assert {"IndexRecord", "ManifoldRecord", "StoreContents", "RunContents"} <= names
    assert {field.name for field in msgspec.structs.fields(Manifest) if words_of(field.type)} == {"dtype"}


def test_what_would_not_be_read_back_is_not_written(tmp_path: Path) -> None:
    record = StabilityRecord(run_identity="x", n_fits=1, mean=float("nan"), fvu=0.5, features=[])
    with pytest.raises(InputError, match="the StabilityRecord cannot be written: expected float, got null at mean"):
        write_record(tmp_path / "stability.json", record)
    assert not list(tmp_path.iterdir())


def test_a_damaged_line_of_a_training_curve_is_named(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    assert read_curve(path) == []
    for line, message in (
        ('{"step": 2, "lo', "line 2 is damaged: it is not valid JSON"),
        ('{"step": 2, "loss": "low"}', "line 2 is damaged: expected int | float, got str"),
        ('{"loss": 1.0}', "line 2 is damaged: it has no step; train the run again"),
    ):
        path.write_text('{"step": 1, "loss": 2.0}\n' + line + "\n")
        with pytest.raises(InputError, match=message.replace("|", r"\|")):
            read_curve(path)


def test_the_number_of_features_of_a_run_is_a_number(tmp_path: Path) -> None:
    from interp.runs.record import Run

    record = from_json(text_of(RunRecord, example(RunRecord) | {"config": {"n_features": "many"}}), RunRecord, "here")
    with pytest.raises(InputError, match=r"n_features in '.*run.json' is damaged: expected int, got str"):
        _ = Run(tmp_path, record).n_features


# -------------------------------------------------------------------------------------------------------------- options

CONFIGS: list[Any] = [
    *(method.config_type for method in registry.values()),
    *(Schedule, VariantOptions, DeadFeatures, Arithmetic, Initialisation, SubspaceInitialisation),
    *(CaptureConfig, IndexConfig, ManifoldConfig, DemoConfig),
]


def made(kind: Any, **options: Any) -> Any:
    """A config with these options, past the type checker that these tests run under."""
    config = object.__new__(kind)
    inspect.unwrap(kind.__init__)(config, **options)
    return config


every_config = pytest.mark.parametrize("kind", CONFIGS, ids=lambda kind: kind.__name__)


@every_config
def test_options_of_a_wrong_type_and_unknown_words_are_refused_by_name(kind: Any) -> None:
    needed = {"sites": ("blocks.0.hook_resid_post",)} if kind is CaptureConfig else {}
    made(kind, **needed)
    types = get_type_hints(kind)
    for option in fields(kind):
        with pytest.raises(InputError, match=rf"^{option.name} is \[{{}}\]; it must be "):
            made(kind, **{**needed, option.name: WRONG})
        if words := words_of(types[option.name]):
            allowed = " or ".join(map(repr, words))
            with pytest.raises(InputError, match=f"^{option.name} is 'nonsense'; it must be .*{allowed}$"):
                made(kind, **{**needed, option.name: "nonsense"})


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (Initialisation, {"start": "datapiont"}, "start is 'datapiont'; it must be 'random' or 'datapoint' or 'covar"),
        (
            SAEConfig,
            {"variant": "topkk"},
            "variant is 'topkk'; it must be 'topk' or 'batchtopk' or 'relu' or 'jumprelu'",
        ),
        (SAEConfig, {"k": 4.0}, "k is 4.0; it must be int$"),
        (SAEConfig, {"seed": True}, "seed is True; it must be int$"),
        (SAEConfig, {"arithmetic": Schedule()}, "it must be Arithmetic$"),
        (SubspaceInitialisation, {"rank": "all"}, "rank is 'all'; it must be int or float or 'auto'$"),
        (VariantOptions, {"target_l0": "8"}, "target_l0 is '8'; it must be float or None$"),
        (CaptureConfig, {"sites": "blocks.0"}, r"sites is 'blocks.0'; it must be tuple\[str, ...\]$"),
        (CaptureConfig, {"sites": ["blocks.0"]}, r"sites is \['blocks.0'\]; it must be a tuple$"),
    ],
)
def test_a_misspelt_option_never_trains_something_else(kind: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        made(kind, **options)


def test_a_saved_config_is_refused_by_the_name_of_what_does_not_fit() -> None:
    saved = msgspec.json.decode(msgspec.json.encode(SAEConfig()))
    assert read_config("sae", saved) == SAEConfig()
    schedule, options = saved["schedule"], saved["variant_options"]
    for changed, message in (
        ({"variant": "topkk"}, "variant in the sae config is 'topkk'; it must be 'topk' or 'batchtopk' or "),
        ({"k": "4"}, "k in the sae config is '4'; it must be int"),
        ({"schedule": 3}, "'schedule' of the sae config should hold the options of Schedule, not 3"),
        ({"schedule": {**schedule, "clip": None}}, "clip in 'schedule' of the sae config is None; it must be float"),
        ({"variant_options": {**options, "prefix": 1}}, "no option 'prefix' in 'variant_options' of the sae config"),
        ({"schedule": {}}, "'schedule' of the sae config lacks warmup, cooldown, clip, held_out, patience; make it"),
    ):
        with pytest.raises(InputError, match=message):
            read_config("sae", saved | changed)


# ---------------------------------------------------------------------------------------------------------------- files


def test_a_file_is_synced_before_it_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, done = tmp_path / "file", list[str]()
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(
        os, "fsync", lambda opened: done.append(os.readlink(f"/proc/self/fd/{opened}")) or fsync(opened)
    )
    monkeypatch.setattr(Path, "replace", lambda old, new: done.append(f"{old} -> {new}") or replace(old, new))
    with whole(path) as partial:
        partial.write_text("new")
    assert done == [f"{path}.partial", f"{path}.partial -> {path}", str(tmp_path)]
    assert path.read_text() == "new"


@pytest.mark.parametrize("is_folder", [False, True])
def test_what_was_there_stays_when_writing_fails(tmp_path: Path, is_folder: bool) -> None:
    path = tmp_path / "thing"
    if not is_folder:
        path.write_text("old")

    def killed() -> None:
        with whole(path) as partial:
            if is_folder:
                partial.mkdir()
            (partial / "file" if is_folder else partial).write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == ([] if is_folder else [("thing", "old")])
