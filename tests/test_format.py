"""activations/FORMAT.md held against what is written: stores, runs, and all that lies beside a run; with h5py and json alone.

A dataset, attribute, tensor or key that is written and not in the tables fails, and so does one of the tables that is not
written, unless its meaning says that it may be ``absent``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from pyarrow import parquet
from safetensors import safe_open

from interp.browse.evidence import RunEvidence, load_evidence
from interp.browse.family import family_of
from interp.browse.feature_list import list_json
from interp.browse.features import TableFilter
from interp.browse.kept_steering import keep
from interp.browse.shared_card import card_json, shared_card
from interp.browse.steer_settings import SteerSettings
from interp.browse.steering import steer_text
from interp.cli.main import main
from interp.corpora.snippets import Snippets
from interp.decomposers import kinds
from interp.decomposers.sae.variants import VARIANTS
from interp.index.reader import FeatureIndex
from interp.interop.feature_vector import feature_vector
from interp.model.language_model import load_model
from interp.runs.feature_labels import FeatureLabels
from interp.runs.label_file import labels_json
from interp.runs.record import Run
from interp.store.reader import ActivationStore

FORMAT = (Path(__file__).parent.parent / "activations" / "FORMAT.md").read_text()
TYPES = {
    "string": str, "integer": int, "number": (int, float), "boolean": bool, "object": dict, "list": list,
    "null": type(None),
}  # fmt: skip

# ------------------------------------------------------------------------------------------------- reading the tables


def section(name: str) -> str:
    return FORMAT.split(f"## {name}\n")[1].split("\n## ")[0]


def table(name: str, column: str) -> list[list[str]]:
    """Rows, as cells, of the table below a heading whose first column has this title."""
    blocks = re.findall(r"^\| (.+?) \|.*\n\|[-|]+\n((?:\|.*\n)+)", section(name) + "\n", flags=re.M)
    [body] = [rows for title, rows in blocks if title == column]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in body.splitlines()]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def head(name: str) -> tuple[str, int]:
    """The schema and version that a section names."""
    schema, version = re.search(r'`schema` =\s+`"(.+?)"`(?:,| and)\s+`version` = `"?(\d)"?`', section(name)).groups()  # type: ignore[union-attr]
    return schema, int(version)


# ---------------------------------------------------------------------------------------- comparing files with tables


def check_keys(record: Mapping[str, Any], name: str, column: str = "key") -> None:
    """A JSON object has the keys of a table, of their types; its ``schema`` and ``version`` are not in the table."""
    rows = {key: row for row in table(name, column) for key in names(row[0])}
    keys = set(record) - {"schema", "version"}
    assert keys <= set(rows), f"{name}: {keys - set(rows)} not in FORMAT.md"
    absent = set(rows) - keys
    assert all("absent" in rows[key][-1] for key in absent), f"{name}: {absent} of FORMAT.md not written"
    for key in keys:
        kind = type(record[key])
        allowed = [TYPES[word] for word in rows[key][1].split(" or ")]
        assert any(issubclass(kind, each) and (kind is not bool or each is bool) for each in allowed), (name, key, kind)


def check_arrays(
    file: h5py.File,
    name: str,
    sizes: dict[str, int],
    *,
    parts: Mapping[str, Mapping[str, dict[str, int]]] = {},
    dtypes: Mapping[str, str] = {},
) -> None:
    """A file has the datasets of a table, and an axis has one length wherever it is named.

    ``parts`` are what a placeholder such as HOOK stands for, each with the sizes of its own; ``dtypes`` what a type does.
    """
    present: dict[str, h5py.Dataset] = {}
    file.visititems(lambda path, item: present.update({path: item}) if isinstance(item, h5py.Dataset) else None)
    for row in table(name, "dataset"):
        shape, types = re.fullmatch(r"\[(.*?)\] (.+)", row[1].replace("`", "")).groups()  # type: ignore[union-attr]
        paths = names(row[0])
        kinds = types.split(", ") * (1 if ", " in types else len(paths))
        for path, kind in zip(paths, kinds, strict=True):
            group, _, last = path.partition("/")
            for member, own in parts.get(last, {last: {}}).items():
                dataset = present.pop(f"{group}/{member}" if member else group, None)
                if dataset is None:
                    assert "absent" in row[2], f"{name}: {path} is not written"
                    continue
                assert dataset.ndim == len(shape.split(", ")), path
                for axis, size in zip(shape.split(", "), dataset.shape, strict=True):
                    expected = int(axis) if axis.isdigit() else own.get(axis) or sizes.setdefault(axis, size)
                    assert size == expected, f"{name}: {axis} of {path} is {size}, not {expected}"
                is_text = h5py.check_string_dtype(dataset.dtype) is not None
                assert is_text if kind == "UTF-8" else dataset.dtype == dtypes.get(kind, kind), (path, dataset.dtype)
    assert not present, f"{name}: {set(present)} not in FORMAT.md"


# -------------------------------------------------------------------------------------------------------------- stores


@pytest.fixture(scope="module")
def record(tiny_store: ActivationStore) -> dict[str, Any]:
    return json.loads((tiny_store.path / "store.json").read_text())


def test_the_manifest_has_the_keys_and_types_of_the_table(record: dict[str, Any]) -> None:
    check_keys(record, "`store.json`")
    assert (record["schema"], record["version"]) == head("`store.json`")
    snippets, shards = (re.findall(r"\w+", keys) for keys in re.findall(r"`\{(.*?)\}`", section("`store.json`")))
    assert {key for shard in record["shards"] for key in shard} == set(shards)
    assert record["snippets"] is None
    assert Snippets.__struct_fields__ == tuple(snippets)


def test_sizes_hashes_and_the_identity_are_as_specified(tiny_store: ActivationStore, record: dict[str, Any]) -> None:
    for number, shard in enumerate(record["shards"]):
        content = (tiny_store.path / "shards" / f"{number:06d}.h5").read_bytes()
        assert shard["file"] == f"{number:06d}.h5"
        assert (shard["n_bytes"], shard["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    hashes = "".join(shard["sha256"] for shard in record["shards"])
    assert tiny_store.identity == hashlib.sha256(hashes.encode()).hexdigest()[:16]


def test_shards_hold_the_datasets_of_the_table(tiny_store: ActivationStore, record: dict[str, Any]) -> None:
    assert len(record["shards"]) > 1
    parts = {
        "HOOK": {hook: {"width": width} for hook, width in record["sites"].items()},
        "SET": {label_set: {"n_labels": len(labels)} for label_set, labels in record["label_sets"].items()},
    }
    first = 0
    for number, shard in enumerate(record["shards"]):
        with h5py.File(tiny_store.path / "shards" / shard["file"], "r") as file:
            assert (file.attrs["schema"], file.attrs["version"]) == head("`shards/NNNNNN.h5`")
            assert len(file.attrs) == 2
            sizes = {"n_seq": shard["n_sequences"], "n": shard["n_rows"], "n_ctx": record["n_ctx"]}
            check_arrays(file, "`shards/NNNNNN.h5`", sizes, parts=parts, dtypes={"dtype": record["dtype"]})
            rows = file["rows"][()]
            assert rows[:, 0].min() == first == number * record["sequences_per_shard"]
            assert (file["tokens"][()][:, 0] == record["bos_id"]).all()
            assert (file["tokens"][()][rows[:, 0] - first, rows[:, 1]] != record["bos_id"]).all()
            for site in record["sites"]:
                assert file[f"sites/{site}"].chunks is None
                assert file[f"sites/{site}"].id.get_offset() > 0
                assert np.isfinite(file[f"sites/{site}"][()]).all()
            first += shard["n_sequences"]


def test_the_moments_are_as_specified(tiny_store: ActivationStore) -> None:
    site = "blocks.1.mlp.hook_post"
    moments = tiny_store.site(site).moments()
    with h5py.File(tiny_store.path / "moments" / f"{site}.h5", "r") as file:
        assert set(file.attrs) == {"identity", "n", "mean_norm"}
        assert {name: file[name].shape for name in file} == {
            "mean": (64,), "covariance": (64, 64), "eigenvalues": (64,), "eigenvectors": (64, 64)
        }  # fmt: skip
        values, vectors = file["eigenvalues"][()], file["eigenvectors"][()]
        np.testing.assert_allclose(vectors.T * values @ vectors, moments.covariance, atol=1e-12)
        assert (np.diff(values) <= 0).all()


# ---------------------------------------------------------------------------------------------------------------- runs

RESIDUAL, NEURONS = "blocks.0.hook_resid_post", "blocks.0.mlp.hook_post"
STEPS = "--tokens 2000 --batch 100"
SPARSE = {
    name: f"--n-features 24 --k 4 {STEPS} --variant {name}" + " --coefficient 0.3" * variant.has_penalty
    for name, variant in VARIANTS.items()
}
RUNS = {
    "bilinear": f"bilinear --site {RESIDUAL} --n-features 8 --structure combined --biased {STEPS}",
    "pca": f"pca --site {RESIDUAL} --n-features 8",
    "independent": f"ica --site {RESIDUAL} --n-features 4 --iterations 5",
    "parts": f"nmf --site {NEURONS} --n-features 6 --passes 5",
    "clusters": f"kmeans --site {RESIDUAL} --n-features 8 --rows 1000",
    "neurons": f"neurons --site {NEURONS} --n-features 20",
    "random": f"random --site {RESIDUAL} --n-features 24 --shape isotropic",
    "supervised": f"diff-means --site {RESIDUAL} --n-features 5 --label-set python",
    "nmf": f"semi-nmf --site {NEURONS} --n-features 6 --levels 3 2 --passes 12 --stability 1",
    **{name: f"sae --site {NEURONS} {options}" for name, options in SPARSE.items()},
    **{f"subspace-{name}": f"subspace-sae --site {RESIDUAL} {options}" for name, options in SPARSE.items()},
    **{f"frozen-{name}": f"frozen-sae --site {NEURONS} {SPARSE[name]}" for name in ("gated", "jumprelu")},
}
"""Name of a run to its ``interp train``; together they write every tensor and every key there is."""
EVALUATED = "topk"
"""The run that is indexed, evaluated, steered and labelled; a bilinear one is indexed and evaluated, too."""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any, library_files: list[str]) -> Path:
    """Two stores of text of the standard library, and in the first the runs of ``RUNS``, all by the commands."""
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("activations")
    model = str(tmp_path_factory.mktemp("long"))
    torch.manual_seed(0)
    size = {"n_positions": 128, "n_embd": 16, "n_inner": 32, "n_layer": 2, "n_head": 2, "initializer_range": 0.2}
    ids = {"vocab_size": len(tiny_tokenizer), "bos_token_id": 0, "eos_token_id": 0}
    GPT2LMHeadModel(GPT2Config(**size, **ids)).save_pretrained(model)
    tiny_tokenizer.save_pretrained(model)
    for name, text in (("tiny", library_files[::2]), ("tiny-held-out", library_files[1::2])):
        sites = ["--sites", RESIDUAL, NEURONS, "--tokens", "4000"]
        main(["capture", "--model", model, "--text", *text, *sites, "--out", str(folder / name)])
    for name, words in RUNS.items():
        main(["train", *words.split(), "--store", str(folder / "tiny"), "--name", name])
    few = ["--workspace", str(folder), "--min-positives", "5", "--min-documents", "1", "--n-sequences", "4"]
    main(["index", EVALUATED, "bilinear", "--workspace", str(folder)])
    main(["evaluate", EVALUATED, *few, "--n-steered", "1", "--seeds", "2", "--controls"])
    main(["evaluate", "bilinear", *few, "--n-steered", "0"])
    words = "--feature 1 --strength 1 --samples 1 --tokens 2"
    main(["steer", EVALUATED, "--prompt", "x = ", *words.split(), "--workspace", str(folder)])
    run = Run.load(folder / "tiny" / "runs" / EVALUATED)
    few = SteerSettings(prompt="x = ", features={1: 1.0}, concept="comment", n_samples=2, n_tokens=2)
    keep(run, steer_text(load_model(model), run, few))
    FeatureLabels(folder / "tiny" / "runs" / EVALUATED / "labels.sqlite").set(1, label="digits")
    return folder


@pytest.fixture(scope="module")
def runs(workspace: Path) -> Path:
    return workspace / "tiny" / "runs"


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_a_run_folder_holds_the_files_of_the_table(runs: Path) -> None:
    listed = {name for row in table("Runs", "file") for name in names(row[0])}
    written = {path.name for path in runs.glob("*/*")}
    assert written == listed - {"checkpoint.safetensors"}
    beside = {path.name.replace("nmf", "NAME") for path in runs.iterdir() if path.is_file()}
    assert {f"runs/{name}" for name in beside} <= set(names(section("Runs")))


@pytest.mark.parametrize("file", ["run.json", "metrics.json", "evidence.json", "stability.json", "NAME-stability.json"])
def test_records_say_what_they_are_and_have_the_keys_of_the_table(runs: Path, file: str) -> None:
    paths = [path for path in runs.glob("**/*.json") if path.name == file.replace("NAME", "nmf")]
    assert paths
    for path in paths:
        found = read(path)
        assert (found["schema"], found["version"]) == head(f"`{file}`")
        check_keys(found, f"`{file}`")


def parts_of(record: Any, path: str) -> Iterator[Any]:
    """What a path such as ``concepts.depths[]`` leads to."""
    key, _, rest = path.partition(".")
    value = record.get(key.removesuffix("[]"))
    for each in value if key.endswith("[]") else [] if value is None else [value]:
        yield from parts_of(each, rest) if rest else [each]


@pytest.mark.parametrize("file", ["metrics.json", "evidence.json", "NAME-stability.json"])
def test_the_parts_of_records_have_the_keys_of_their_tables(runs: Path, file: str) -> None:
    paths = [path for path in runs.glob("**/*.json") if path.name == file.replace("NAME", "nmf")]
    columns = re.findall(r"^\| (key of .+?) \|", section(f"`{file}`"), flags=re.M)
    assert columns
    for column in columns:
        for where in names(column):
            parts = [part for path in paths for part in parts_of(read(path), where)]
            assert parts, f"nothing was written at {where}"
            for part in parts:
                check_keys(part, f"`{file}`", column)


def test_an_interrupted_run_says_so_and_keeps_a_checkpoint(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "tiny"
    store.mkdir()
    for name in ("store.json", "store.h5", "shards", "moments"):
        (store / name).symlink_to(workspace / "tiny" / name)
    replace = Path.replace

    def dying(path: Path, target: Path) -> Path:
        if target.name == "decomposer.safetensors":
            raise KeyboardInterrupt
        return replace(path, target)

    train = ["train", *RUNS["jumprelu"].split(), "--store", str(store), "--name", "cut"]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dying)
        with pytest.raises(SystemExit):
            main(train)
    begun = read(store / "runs/cut/run.json")
    check_keys(begun, "`run.json`")
    assert (begun["complete"], begun["seconds"]) == (False, None)
    with safe_open(store / "runs/cut/checkpoint.safetensors", framework="pt") as file:
        assert set(file.metadata()) == {"config"}
        tensors = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        assert tensors["progress"].get_shape() == [4]
        assert tensors["progress"].get_dtype() == "F64"
    for row in table("`checkpoint.safetensors`", "tensor"):
        pattern = names(row[0])[0].replace(".", r"\.").replace("NAME", "[a-zA-Z_]+").replace(r"N\.", r"\d+\.")
        known = {name for name in tensors if re.fullmatch(pattern, name)}
        assert known, pattern
        tensors = {name: tensor for name, tensor in tensors.items() if name not in known}
    assert not tensors, f"{set(tensors)} not in FORMAT.md"
    main(train)
    assert not (store / "runs/cut/checkpoint.safetensors").exists()


# ----------------------------------------------------------------------------------------------- what a run has learned


def test_every_method_is_tabled_and_has_a_run() -> None:
    tabled = {method for row in table("`decomposer.safetensors`", "tensor") for method in names(row[2])}
    assert tabled == {words.split()[0] for words in RUNS.values()} == set(kinds())


def of_method(rows: Iterable[list[str]], kind: str) -> dict[str, list[str]]:
    """Name to row of those rows that are for a method; what a level's number stands for is written out for two levels."""
    found = {name: row for row in rows if row[2] == "all" or kind in names(row[2]) for name in names(row[0])}
    levels = {name: row for name, row in found.items() if name.startswith("levelN")}
    for name, row in levels.items():
        del found[name]
        for n in (1, 2):
            shape = row[1].replace("level_N-1", f"level_{n - 1}").replace("level_N", f"level_{n}")
            found[name.replace("N", str(n))] = [row[0], shape.replace("level_0", "n_features"), *row[2:]]
    return found


@pytest.mark.parametrize("kind", kinds())
def test_decomposers_have_the_header_and_tensors_of_the_table(runs: Path, kind: str) -> None:
    rows = of_method(table("`decomposer.safetensors`", "tensor"), kind)
    written: set[str] = set()
    for name in (name for name, words in RUNS.items() if words.split()[0] == kind):
        run = read(runs / name / "run.json")
        sizes = {"d_in": run["d_in"], "n_features": run["config"]["n_features"]}
        sizes |= {"n_atoms": run["config"]["n_features"] * run["config"].get("rank", 2) // 2}
        sizes |= {"d_seen": run["d_in"] + 1, "d_mixed": 2 * run["d_in"] + 2}  # the bilinear run has a bias
        with safe_open(runs / name / "decomposer.safetensors", framework="pt") as file:
            header, keys = file.metadata(), set(file.keys())
            assert (header["schema"], int(header["version"])) == head("`decomposer.safetensors`")
            check_keys(header, "`decomposer.safetensors`")
            assert json.loads(header["config"]) == run["config"]
            assert keys <= set(rows)
            assert all("absent" in rows[key][-1] for key in set(rows) - keys), set(rows) - keys
            for key in keys:
                axes = [axis for axis in rows[key][1].strip("[]").split(", ") if axis]
                tensor = file.get_tensor(key)
                assert tensor.dtype == torch.float32
                assert [sizes.setdefault(axis, size) for axis, size in zip(axes, tensor.shape, strict=True)] == list(
                    tensor.shape
                )
        written |= keys
    assert written == set(rows), f"{set(rows) - written} of FORMAT.md are in no run of {kind}"


@pytest.mark.parametrize("kind", kinds())
def test_training_curves_have_the_keys_of_the_table(runs: Path, kind: str) -> None:
    rows = of_method(table("`train.jsonl`", "key"), kind)
    written: set[str] = set()
    for name in (name for name, words in RUNS.items() if words.split()[0] == kind):
        lines = [json.loads(line) for line in (runs / name / "train.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == sorted({line["step"] for line in lines})
        for line in lines:
            assert set(line) <= set(rows)
            assert all("absent" in rows[key][-1] for key in set(rows) - set(line))
            assert all(isinstance(value, TYPES[rows[key][1]]) for key, value in line.items())
            written |= set(line)
    assert written == set(rows)


# ------------------------------------------------------------------------------------------------- what was made of it


@pytest.mark.parametrize(
    ("run", "file"), [(EVALUATED, "index.h5"), ("bilinear", "index.h5"), ("bilinear", "manifolds.h5")]
)
def test_indexes_have_the_facts_and_datasets_of_the_tables(runs: Path, run: str, file: str) -> None:
    with h5py.File(runs / run / file, "r") as opened:
        assert set(opened.attrs) == {"schema", "version", "facts"}
        assert (opened.attrs["schema"], opened.attrs["version"]) == head(f"`{file}`")
        facts = json.loads(opened.attrs["facts"])
        check_keys(facts, f"`{file}`", "key of `facts`")
        check_arrays(opened, f"`{file}`", {"F": facts["n_features"]})
        if file == "index.h5":  # what is written of negative codes is in the index of the run that has some
            specified = [name for row in table("`index.h5`", "dataset") for name in names(row[0])]
            of_run = [name for name in specified if ("below" in name) == (run == "bilinear")]
            assert not [name for name in of_run if name not in opened]
        if run == EVALUATED:
            assert opened["acts/indptr"][-1] == len(opened["acts/row"])
            assert facts["run_identity"] == identity(runs / run / "decomposer.safetensors")


def identity(path: Path) -> str:
    """The run's identity as specified."""
    content = path.read_bytes()
    size = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:size]), sort_keys=True).encode()
    return hashlib.sha256(header + hashlib.sha256(content[size:]).digest()).hexdigest()[:16]


def test_firing_has_the_header_and_tensors_of_the_table(runs: Path) -> None:
    n_features = read(runs / EVALUATED / "run.json")["config"]["n_features"]
    with safe_open(runs / EVALUATED / "firing.safetensors", framework="numpy") as file:
        assert file.metadata() == {"run_identity": identity(runs / EVALUATED / "decomposer.safetensors")}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    listed = {name: row[1] for row in table("`firing.safetensors`", "tensor") for name in names(row[0])}
    found = {name: f"[{', '.join(map(str, each.shape))}] {each.dtype}" for name, each in tensors.items()}
    assert found == {name: shape.replace("n_features", str(n_features)) for name, shape in listed.items()}


def test_steering_records_have_the_keys_of_the_table(runs: Path) -> None:
    [line] = (runs / EVALUATED / "steering.jsonl").read_text().splitlines()
    assert (json.loads(line)["schema"], json.loads(line)["version"]) == head("`steering.jsonl`")
    check_keys(json.loads(line), "`steering.jsonl`")


def test_kept_results_of_the_steer_page_have_the_keys_of_the_tables(runs: Path) -> None:
    [path] = (runs / EVALUATED / "steering").iterdir()
    found, name = read(path), "`steering/NAME.json`"
    assert re.fullmatch(r"\d{8}T\d{6}-[0-9a-f]{8}\.json", path.name)
    assert (found["schema"], found["version"]) == head(name)
    check_keys(found, name)
    check_keys(found["settings"], name, "key of `settings`")
    assert [column["name"] for column in found["columns"]] == ["baseline", "steered", "control"]
    for column in found["columns"]:
        check_keys(column, name, "key of `columns[]`")
    assert found["columns"][2]["gain"]


def test_sweeps_have_the_columns_of_the_table(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from interp.evaluation import sweep

    words = ["--sweep", "--features", "1", "--strengths", "1", "2", "--prompts", "x", "--samples", "2", "--tokens", "5"]
    command = ["steer", EVALUATED, *words, "--workspace", str(workspace), "--out", str(tmp_path / "NAME.parquet")]
    with monkeypatch.context() as patch:
        patch.setattr(sweep, "sweep_table", None)  # all is written but the table
        with pytest.raises(TypeError):
            main(command)
    begun, *batches = map(json.loads, (tmp_path / "NAME.journal.jsonl").read_text().splitlines())
    assert (begun["schema"], begun["version"]) == head("`NAME.journal.jsonl`")
    check_keys(begun, "`NAME.journal.jsonl`")
    check_keys(begun["request"], "`NAME.journal.jsonl`", "key of `request`")
    rows = {row[0].split("`")[1]: row for row in table("`NAME.journal.jsonl`", "key")}
    assert set(begun["steerings"][0]) == set(names(rows["steerings"][2]))
    [batch] = batches
    check_keys(batch, "`NAME.journal.jsonl`", "key of a batch")
    [texts] = [row[2] for row in table("`NAME.journal.jsonl`", "key of a batch") if "texts" in row[0]]
    assert set(batch["texts"][0][0]) == set(names(texts))

    main(command)
    assert {path.name for path in tmp_path.iterdir()} == {"NAME.parquet", "NAME.html"}
    schema = parquet.read_schema(tmp_path / "NAME.parquet")
    metadata = {key.decode(): value.decode() for key, value in schema.metadata.items()}
    assert (metadata.pop("schema"), int(metadata.pop("version"))) == head("`NAME.parquet`")
    assert json.loads(metadata.pop("request")) == begun["request"]
    assert set(metadata) <= {"ARROW:schema"}
    listed = {name: row[1] for row in table("`NAME.parquet`", "column") for name in names(row[0])}
    assert {field.name.split("share_")[0] + "share_CONCEPT" for field in schema if "share_" in field.name} <= set(
        listed
    )
    written = {field.name: str(field.type) for field in schema if "share_" not in field.name}
    assert written == {name: kind for name, kind in listed.items() if "CONCEPT" not in name}
    assert {str(field.type) for field in schema if "share_" in field.name} == {listed["share_CONCEPT"]}


def test_labels_have_the_columns_of_the_table(runs: Path) -> None:
    connection = sqlite3.connect(runs / EVALUATED / "labels.sqlite")
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        assert f"`user_version` {version}" in section("`labels.sqlite`")
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("labels",)]
        columns = {name: kind for _, name, kind, *_ in connection.execute("PRAGMA table_info(labels)")}
    finally:
        connection.close()
    assert columns == {name: row[1] for row in table("`labels.sqlite`", "column") for name in names(row[0])}


# -------------------------------------------------------------------------------------------------------- shared files


@pytest.mark.parametrize("name", [EVALUATED, "bilinear", "nmf"])
def test_a_shared_card_has_the_keys_of_the_tables(runs: Path, name: str) -> None:
    run, where = Run.load(runs / name), "`RUN-feature-N.json`"
    if name == "nmf":  # has a hierarchy, and no index
        feature = next(f for f in range(run.n_features) if family_of(run, f))
        check_keys(family_of(run, feature) or {}, where, "key of `feature.family`")
        return
    with FeatureIndex(run.index_path) as index:
        feature = int(index.summary.sort_values("n_fire")["id"].iloc[-1])
        found = json.loads(card_json(shared_card(index, run, load_evidence(run, ""), feature)))
        empty = json.loads(card_json(shared_card(index, run, RunEvidence(missing="none"), feature)))
    assert (found["schema"], found["version"]) == head(where)
    for card in (found, empty):
        check_keys(card, where)
        check_keys(card["feature"], where, "key of `feature`")
        check_keys(card["feature"]["evidence"], where, "key of `feature.evidence`")
    rows = {row[0].split("`")[1]: row for row in table(where, "key of `feature`")}
    for key in ("hist", "logits", "below"):
        assert found["feature"][key] is None or set(found["feature"][key]) == set(names(rows[key][2])), key
    assert (found["feature"]["below"] is not None) == (name == "bilinear")
    kinds = [row for row in table(where, "key") if "examples" in row[0]]
    assert set(found["examples"]) | {"lowest"} == set(names(kinds[0][2]))
    examples = [example for each in found["examples"].values() for example in each]
    assert examples
    for example in examples:
        check_keys(example, where, "key of `examples.KIND[]`")


def test_shared_labels_and_lists_have_the_keys_of_the_tables(runs: Path) -> None:
    run = Run.load(runs / EVALUATED)
    with FeatureIndex(run.index_path) as index:
        lists = [
            json.loads(list_json(run, index, TableFilter(evidence=evidence), [0, 1]))
            for evidence in (load_evidence(run, ""), RunEvidence())
        ]
    labels = json.loads(labels_json(run))
    assert labels["features"]
    assert len(lists[0]["features"][0]) > len(lists[1]["features"][0])
    for name, found in [("`RUN-labels.json`", labels), *(("`RUN-features.json`", each) for each in lists)]:
        assert (found["schema"], found["version"]) == head(name)
        check_keys(found, name)
        for one in found["features"]:
            check_keys(one, name, "key of `features[]`")


@pytest.mark.parametrize("name", [EVALUATED, "bilinear"])
def test_a_shared_vector_has_the_header_and_tensors_of_the_tables(runs: Path, tmp_path: Path, name: str) -> None:
    run, where = Run.load(runs / name), "`RUN-feature-N.safetensors`"
    (tmp_path / "vector.safetensors").write_bytes(feature_vector(run, 1))
    with safe_open(tmp_path / "vector.safetensors", framework="pt") as file:
        header = file.metadata()
        shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
        assert {file.get_slice(key).get_dtype() for key in shapes} == {"F32"}
    assert (header["schema"], int(header["version"])) == head(where)
    check_keys(header, where)
    sizes: dict[str, int] = {}
    for key, shape, meaning in table(where, "tensor"):
        found = shapes.pop(names(key)[0], None)
        assert (found is None) == ("absent" in meaning and name != "bilinear"), key
        for axis, size in zip(shape.strip("[]").split(", "), found or [], strict=found is not None):
            assert sizes.setdefault(axis, size) == size
    assert not shapes, f"{set(shapes)} not in FORMAT.md"


def test_the_example_reads_a_store_with_h5py_alone(tiny_store: ActivationStore, tmp_path: Path) -> None:
    [example] = re.findall(r"```python\n(.*?)```", FORMAT, re.DOTALL)
    code = [line for line in example.splitlines() if line.strip()]
    assert len(code) <= 12
    (tmp_path / "activations").mkdir()
    (tmp_path / "activations" / "demo").symlink_to(tiny_store.path)
    alone = "import sys; sys.modules['interp'] = sys.modules['torch'] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", alone + example], cwd=tmp_path, capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("(1000, 32) float16")
