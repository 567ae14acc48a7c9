"""SAELens folders: what is written is its format to the letter, and what is read computes what SAELens would.

The formulas of SAELens 6.54 are written out in ``saelens_codes``; tests/benchmarks/check_saelens.py asks SAELens itself.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec import structs
from safetensors.torch import load_file, save_file
from torch import Tensor

from interp.cli.main import main
from interp.decomposers.baselines.pca import PCAConfig
from interp.decomposers.sae.autoencoder import SAE, SAEConfig, SubspaceSAEConfig
from interp.errors import InputError
from interp.interop.saelens import WRITTEN, export_saelens, import_saelens
from interp.runs.record import Run
from interp.runs.training import keep_run, train_run
from interp.store.reader import ActivationStore

SITE, OTHER = "blocks.1.hook_resid_post", "blocks.1.mlp.hook_post"
N_FEATURES, K = 64, 5
WRITTEN_AS = {
    "relu": "standard",
    "topk": "topk",
    "batchtopk": "jumprelu",
    "matryoshka": "jumprelu",
    "jumprelu": "jumprelu",
    "gated": "gated",
}
ADDED = {"jumprelu": ("threshold",), "gated": ("r_mag", "b_mag")}
"""Tensors that an architecture adds."""


@pytest.fixture
def store(tiny_store: ActivationStore, tmp_path: Path) -> ActivationStore:
    """A copy of the tiny store in a workspace of its own."""
    return ActivationStore(shutil.copytree(tiny_store.path, tmp_path / "workspace" / "tiny"))


def weights(d_in: int, architecture: str = "standard") -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    shapes = {"W_enc": (d_in, N_FEATURES), "W_dec": (N_FEATURES, d_in), "b_enc": (N_FEATURES,), "b_dec": (d_in,)}
    made = {name: torch.randn(shape, generator=random) / d_in**0.5 for name, shape in shapes.items()}
    return made | {name: 2 * torch.rand(N_FEATURES, generator=random) for name in ADDED.get(architecture, ())}


def saved(folder: Path, tensors: dict[str, Tensor], **cfg: Any) -> Path:
    """A folder as SAELens saves it."""
    folder.mkdir()
    d_in, d_sae = tensors["W_enc"].shape
    metadata = {"sae_lens_version": "6.54.0", "model_name": "gpt2-small", "hook_name": SITE}
    base = {
        "d_in": d_in, "d_sae": d_sae, "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": True,
        "normalize_activations": "none", "reshape_activations": "none", "metadata": metadata,
    }  # fmt: skip
    (folder / "cfg.json").write_text(json.dumps(base | cfg))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "sae_weights.safetensors")
    return folder


def saelens_codes(x: Tensor, cfg: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Codes and reconstruction as SAELens computes them, in float64."""
    p = {name: tensor.double() for name, tensor in tensors.items()}
    sae_in = x.double() - p["b_dec"] * cfg["apply_b_dec_to_input"]
    if cfg["architecture"] == "gated":
        gate = (sae_in @ p["W_enc"] + p["b_gate"] > 0).double()
        z = gate * (sae_in @ (p["W_enc"] * p["r_mag"].exp()) + p["b_mag"]).relu()
        return z, z @ p["W_dec"] + p["b_dec"]
    pre, norms = sae_in @ p["W_enc"] + p["b_enc"], torch.ones(())
    if cfg.get("rescale_acts_by_decoder_norm"):
        norms = p["W_dec"].norm(dim=-1)
        pre = pre * norms
    if cfg["architecture"] == "topk":
        top = pre.topk(cfg["k"], dim=-1)
        z = torch.zeros_like(pre).scatter(-1, top.indices, top.values.relu())
    else:
        z = pre.relu() * (pre > p.get("threshold", p.get("topk_threshold", torch.zeros(()))))
    return z, (z / norms) @ p["W_dec"] + p["b_dec"]


def rows(store: ActivationStore) -> Tensor:
    return next(store.site(SITE).chunks(500))


def agrees(run: Run, x: Tensor, codes: Tensor, reconstruction: Tensor) -> None:
    sae = run.decomposer()
    assert isinstance(sae, SAE)
    z = sae.encode(x)
    assert 0 < float((z > 0).sum(dim=1).float().mean()) < N_FEATURES
    torch.testing.assert_close(z, codes.float(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sae.decode(z), reconstruction.float(), atol=1e-5, rtol=1e-5)


# --------------------------------------------------------------------------------------------------------------- export


@pytest.mark.parametrize("variant", WRITTEN_AS)
def test_an_exported_folder_is_what_saelens_reads_and_comes_back_the_same(
    store: ActivationStore, tmp_path: Path, variant: Any
) -> None:
    tensors = weights(store.sites[SITE], WRITTEN_AS[variant])
    sae = SAE(SAEConfig(n_features=N_FEATURES, k=K, variant=variant), tensors)
    export_saelens(keep_run(store, SITE, sae, "first"), tmp_path / "out" / "sae")
    assert {path.name for path in (tmp_path / "out").rglob("*")} == {"sae", "cfg.json", "sae_weights.safetensors"}
    cfg = json.loads((tmp_path / "out" / "sae" / "cfg.json").read_text())
    metadata = cfg.pop("metadata")
    assert (cfg.pop("k", None), cfg.pop("rescale_acts_by_decoder_norm", None)) == (
        (K, False) if variant == "topk" else (None, None)
    )
    assert cfg == {
        "architecture": WRITTEN_AS[variant], "d_in": 32, "d_sae": N_FEATURES, "dtype": "float32", "device": "cpu",
        "apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none",
    }  # fmt: skip
    assert metadata == {
        "sae_lens_version": "6.0.0", "model_name": store.manifest.model_id, "hook_name": SITE, "hook_head_index": None,
        "prepend_bos": True, "context_size": store.n_ctx,
    }  # fmt: skip
    written = load_file(tmp_path / "out" / "sae" / "sae_weights.safetensors")
    theirs = {"b_enc": "b_gate"} if variant == "gated" else {}
    assert written.keys() == {theirs.get(name, name) for name in tensors}
    assert all(torch.equal(written[theirs.get(name, name)], tensor) for name, tensor in tensors.items())
    again = import_saelens(tmp_path / "out" / "sae", store, "again")
    x = rows(store)
    assert torch.equal(again.decomposer().encode(x), sae.encode(x))


def test_a_trained_run_is_exported_without_what_is_ours_alone(store: ActivationStore, tmp_path: Path) -> None:
    config = SubspaceSAEConfig(n_features=48, k=K, variant="batchtopk", tokens=2000, batch=100)
    run = train_run(store, SITE, config, "subspace")
    main(["export", "subspace", str(tmp_path / "sae"), "--format", "saelens", "--workspace", str(store.path.parent)])
    written = load_file(tmp_path / "sae" / "sae_weights.safetensors")
    assert set(written) == {"W_enc", "W_dec", "b_enc", "b_dec", "threshold"}
    x = rows(store)
    z, _ = saelens_codes(x, json.loads((tmp_path / "sae" / "cfg.json").read_text()), written)
    torch.testing.assert_close(run.decomposer().encode(x), z.float(), atol=1e-5, rtol=1e-5)


def test_heads_are_reshaped_by_saelens(store: ActivationStore, tmp_path: Path) -> None:
    sae = SAE(SAEConfig(n_features=N_FEATURES, k=K), weights(store.sites[SITE]))
    run = keep_run(store, SITE, sae, "heads")
    elsewhere = Run(run.path, structs.replace(run.record, site="blocks.1.attn.hook_z"))
    export_saelens(elsewhere, tmp_path / "sae")
    assert json.loads((tmp_path / "sae" / "cfg.json").read_text())["reshape_activations"] == "hook_z"


def test_only_a_sparse_autoencoder_is_exported_and_only_to_a_new_folder(store: ActivationStore, tmp_path: Path) -> None:
    pca = train_run(store, SITE, PCAConfig(n_features=4), "pca")
    with pytest.raises(InputError, match=r"'pca' is a run of pca, and SAELens knows sparse autoencoders alone"):
        export_saelens(pca, tmp_path / "new")
    sae = SAE(SAEConfig(n_features=N_FEATURES, k=K), weights(store.sites[SITE]))
    with pytest.raises(InputError, match=r"is there already; name a new folder, or delete that one"):
        export_saelens(keep_run(store, SITE, sae, "first"), tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"could not be written"):
        export_saelens(Run.load(store.path / "runs" / "first"), tmp_path / "file" / "sae")
    assert not (tmp_path / "new").exists()


def test_a_variant_that_saelens_does_not_know_is_refused(
    store: ActivationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = keep_run(store, SITE, SAE(SAEConfig(n_features=N_FEATURES, k=K), weights(store.sites[SITE])), "first")
    monkeypatch.delitem(WRITTEN, "topk")
    with pytest.raises(InputError, match="SAELens has nothing like the variant 'topk', so it cannot be exported"):
        export_saelens(run, tmp_path / "sae")
    assert not (tmp_path / "sae").exists()


# --------------------------------------------------------------------------------------------------------------- import


@pytest.mark.parametrize(
    ("cfg", "variant", "k"),
    [
        ({"architecture": "standard"}, "relu", None),
        ({"architecture": "standard", "apply_b_dec_to_input": False}, "relu", None),
        ({"architecture": "topk", "k": 7}, "topk", 7),
        ({"architecture": "topk", "k": 7, "rescale_acts_by_decoder_norm": True}, "topk", 7),
        ({"architecture": "gated"}, "gated", None),
        ({"architecture": "gated", "apply_b_dec_to_input": False}, "gated", None),
        ({"architecture": "jumprelu"}, "jumprelu", None),
        ({"architecture": "jumprelu", "apply_b_dec_to_input": False}, "jumprelu", None),
        ({"architecture": "batchtopk", "k": 7.0, "rescale_acts_by_decoder_norm": True}, "batchtopk", 7),
        ({"architecture": "matryoshka_batchtopk", "k": 7.0}, "batchtopk", 7),
    ],
)
def test_an_imported_autoencoder_computes_what_saelens_would(
    store: ActivationStore, tmp_path: Path, cfg: dict[str, Any], variant: str, k: int | None
) -> None:
    tensors = weights(store.sites[SITE], cfg["architecture"])
    if "threshold" in tensors:
        tensors["threshold"] -= 0.5  # some below zero, where relu decides
    if cfg["architecture"] == "gated":
        tensors["b_gate"] = tensors.pop("b_enc")
    if "batchtopk" in cfg["architecture"]:
        tensors["topk_threshold"] = torch.tensor(0.8, dtype=torch.float64)
    folder = saved(tmp_path / "sae", tensors, **cfg)
    run = import_saelens(folder, store, "theirs")
    x = rows(store)
    z, reconstruction = saelens_codes(x, json.loads((folder / "cfg.json").read_text()), tensors)
    agrees(run, x, z, reconstruction)
    notes, l0 = run.decomposer().notes, float((z > 0).sum(dim=1).double().mean())
    assert (run.kind, str(run.site), run.config["variant"]) == ("sae", SITE, variant)
    assert run.config["k"] == (k or pytest.approx(l0, abs=1))
    assert (notes["imported_from"], notes["architecture"]) == (str(folder), cfg["architecture"])
    assert notes["model"] == "gpt2-small"
    assert notes["l0"] == pytest.approx(l0, rel=0.2)
    assert notes["fvu"] > 1, "random weights explain nothing"
    assert Run.load(run.path).store().identity == store.identity


def test_bfloat16_weights_become_float32(store: ActivationStore, tmp_path: Path) -> None:
    tensors = {name: t.bfloat16() for name, t in weights(store.sites[SITE]).items()}
    run = import_saelens(saved(tmp_path / "sae", tensors, architecture="standard", dtype="bfloat16"), store, "theirs")
    for name, tensor in tensors.items():
        assert torch.equal(run.decomposer().tensors[name], tensor.float())


def test_a_folder_older_than_version_6_is_read(store: ActivationStore, tmp_path: Path) -> None:
    tensors = weights(store.sites[SITE])
    folder = saved(tmp_path / "sae", tensors | {"scaling_factor": torch.ones(N_FEATURES)})
    old = {"d_in": 32, "d_sae": N_FEATURES, "hook_point": SITE, "model_name": "gpt2-small", "dtype": "torch.float32"}
    old |= {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 9}, "normalize_activations": False}
    (folder / "cfg.json").write_text(json.dumps(old))
    run = import_saelens(folder, store, "old")
    z, reconstruction = saelens_codes(
        rows(store), {"architecture": "topk", "k": 9, "apply_b_dec_to_input": True}, tensors
    )
    agrees(run, rows(store), z, reconstruction)
    assert (str(run.site), run.decomposer().notes["model"]) == (SITE, "gpt2-small")


def test_the_command_imports_under_the_name_of_the_folder_and_says_how_it_fits(
    store: ActivationStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = saved(tmp_path / "theirs", weights(32), architecture="topk", k=7)
    main(["import", str(folder), "--store", str(store.path)])
    printed = capsys.readouterr().out
    assert printed.splitlines()[0] == str(store.path / "runs" / "theirs")
    assert "architecture: topk" in printed
    assert "l0: 7" in printed
    with pytest.raises(SystemExit):
        main(["import", str(folder), "--store", str(store.path)])
    assert "holds a run; choose another --name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("cfg", "said"),
    [
        (
            {"architecture": "temporal"},
            "is of the architecture 'temporal'; standard, topk, jumprelu, batchtopk, matryoshka_b",
        ),
        ({"normalize_activations": "layer_norm"}, "normalises activations by 'layer_norm' at run time"),
        ({"activation_fn_str": "tanh-relu"}, "uses the activation 'tanh-relu'; relu and topk can be imported"),
        ({"architecture": "topk"}, "has a k of None; topk needs one of 1 up to its d_sae"),
        ({"architecture": "topk", "k": 65}, "has a k of 65"),
        ({"architecture": "jumprelu"}, "lacks threshold, which jumprelu needs"),
        ({"d_sae": 63}, r"has W_enc of shape \(32, 64\), but cfg.json says \(32, 63\)"),
        ({"metadata": {}}, "names no hook point; say where it was trained with --site"),
        ({"metadata": {"hook_name": "blocks.1.hook_resid_pos"}}, "did you mean 'blocks.1.hook_resid_post'"),
        ({"metadata": {"hook_name": OTHER}}, "reads activations of width 32, but blocks.1.mlp.hook_post has 64"),
    ],
)
def test_what_cannot_be_imported_is_refused_and_leaves_no_run(
    store: ActivationStore, tmp_path: Path, cfg: dict[str, Any], said: str
) -> None:
    folder = saved(tmp_path / "sae", weights(32), **cfg)
    with pytest.raises(InputError, match=said):
        import_saelens(folder, store, "theirs")
    assert not (store.path / "runs" / "theirs").exists()


def test_a_folder_without_its_files_or_with_damaged_ones_is_refused(store: ActivationStore, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is no SAELens folder: it lacks cfg.json and sae_weights.safetensors"):
        import_saelens(tmp_path, store, "theirs")
    tensors = weights(32)
    folder = saved(tmp_path / "sae", tensors)
    (folder / "sae_weights.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(InputError, match=r"sae_weights.safetensors' is damaged"):
        import_saelens(folder, store, "theirs")
    tensors["b_enc"][3] = float("nan")
    save_file(tensors, folder / "sae_weights.safetensors")
    with pytest.raises(InputError, match=r"has values in b_enc that are not finite"):
        import_saelens(folder, store, "theirs")
    save_file(weights(32) | {"scaling_factor": torch.full((64,), 2.0)}, folder / "sae_weights.safetensors")
    with pytest.raises(InputError, match=r"scales its codes after the activation"):
        import_saelens(folder, store, "theirs")
    (folder / "cfg.json").write_text("[1]")
    with pytest.raises(InputError, match=r"cfg.json' is damaged: it is not a JSON object"):
        import_saelens(folder, store, "theirs")
