"""Sparse autoencoders exchanged with SAELens: ours as it loads them, its own as we import them; codes and reconstructions.

Of every variant one is trained here, exported, and loaded by SAELens; of every architecture that we import one is made and
saved by SAELens, its decoder rows not of unit norm. Each pair is given the same rows. Ends with an error when a code or a
reconstructed value differs by more than 1e-5 of the largest.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from made_up_store import SITE, write_store
from peers import peer
from side_by_side import arguments

from interp.decomposers.sae.autoencoder import SAEConfig, SparseAutoencoder
from interp.decomposers.sae.variants import VARIANTS, VariantOptions
from interp.interop.saelens import export_saelens, import_saelens
from interp.runs.record import Run
from interp.runs.training import train_run
from interp.store.reader import ActivationStore

D_IN, N_FEATURES, K, N_ROWS = 64, 256, 8, 2048
ALLOWED = 1e-5


def exported(saelens: Any, store: ActivationStore, folder: Path) -> Iterator[tuple[str, Run, Any]]:
    """Each variant: its name, the run, and what SAELens loads from its folder."""
    for variant, arithmetic in VARIANTS.items():
        options = VariantOptions(coefficient=0.5) if arithmetic.has_penalty else VariantOptions()
        size = {"n_features": N_FEATURES, "k": K, "tokens": 100 * 256, "batch": 256}
        config = SAEConfig(variant=variant, variant_options=options, **size)
        run = train_run(store, SITE, config, variant)
        export_saelens(run, folder / variant)
        yield f"exported {variant}", run, saelens.SAE.load_from_disk(folder / variant)


def imported(saelens: Any, store: ActivationStore, folder: Path) -> Iterator[tuple[str, Run, Any]]:
    """Each architecture: its name, the run imported from its folder, and SAELens's own autoencoder."""
    shared = {"d_in": D_IN, "d_sae": N_FEATURES, "metadata": saelens.saes.sae.SAEMetadata(hook_name=SITE)}
    made = {
        "standard": saelens.StandardSAE(saelens.StandardSAEConfig(**shared)),
        "standard, b_dec not before the encoder": saelens.StandardSAE(
            saelens.StandardSAEConfig(**shared, apply_b_dec_to_input=False)
        ),
        "topk": saelens.TopKSAE(saelens.TopKSAEConfig(**shared, k=K)),
        "topk, rescaled": saelens.TopKSAE(saelens.TopKSAEConfig(**shared, k=K, rescale_acts_by_decoder_norm=True)),
        "gated": saelens.GatedSAE(saelens.GatedSAEConfig(**shared)),
        "gated, b_dec not before the encoder": saelens.GatedSAE(
            saelens.GatedSAEConfig(**shared, apply_b_dec_to_input=False)
        ),
        "jumprelu": saelens.JumpReLUSAE(saelens.JumpReLUSAEConfig(**shared)),
        "batchtopk": saelens.BatchTopKTrainingSAE(saelens.BatchTopKTrainingSAEConfig(**shared, k=K)),
        "matryoshka_batchtopk": saelens.MatryoshkaBatchTopKTrainingSAE(
            saelens.MatryoshkaBatchTopKTrainingSAEConfig(**shared, k=K, matryoshka_widths=[64, N_FEATURES])
        ),
    }
    for i, (name, sae) in enumerate(made.items()):
        shake(sae)
        sae.save_model(folder / f"theirs-{i}")
        run = import_saelens(folder / f"theirs-{i}", store, f"theirs-{i}")
        if "batchtopk" in name:  # SAELens saves it once as it trains and once for inference, there as jumprelu
            sae.save_inference_model(folder / f"use-{i}")
            sae = saelens.SAE.load_from_disk(folder / f"use-{i}")
            yield f"imported {name}, for inference", import_saelens(folder / f"use-{i}", store, f"use-{i}"), sae
        yield f"imported {name}", run, sae


@torch.no_grad()
def shake(sae: Any) -> None:
    """Give an autoencoder weights that no initialisation has: biases, thresholds, decoder rows of different norms."""
    random = torch.Generator().manual_seed(1)
    for name, value in sae.state_dict().items():
        scale = {"threshold": 0.5, "topk_threshold": 1.0}.get(name, D_IN**-0.5)
        value.copy_(torch.randn(value.shape, generator=random) * scale)
        if "threshold" in name:
            value.abs_()


@torch.no_grad()
def differences(run: Run, theirs: Any, x: torch.Tensor) -> dict[str, float]:
    """Largest difference of a code and of a reconstructed value, in shares of the largest, and the L0."""
    ours = run.decomposer()
    assert isinstance(ours, SparseAutoencoder)
    z, their_z = ours.encode(x), theirs.encode(x)
    back, their_back = ours.decode(z), theirs.decode(their_z)
    return {
        "codes": float((z - their_z).abs().max() / their_z.abs().max()),
        "reconstruction": float((back - their_back).abs().max() / their_back.abs().max()),
        "l0": float((z > 0).sum(dim=1).float().mean()),
    }


def main() -> None:
    given = arguments(__doc__ or "")
    saelens: Any = peer("sae-lens")
    found: dict[str, dict[str, float]] = {}
    if saelens is not None:
        with tempfile.TemporaryDirectory() as scratch:
            store = write_store(Path(scratch) / "store", 64, D_IN)
            x = next(store.site(SITE).chunks(N_ROWS))
            for pairs in (exported, imported):
                for name, run, theirs in pairs(saelens, store, Path(scratch)):
                    found[name] = differences(run, theirs, x)
    record = {"benchmark": "saelens", "differences": found, "skipped": [] if found else ["sae-lens"]}
    if given.json:
        print(json.dumps(record))
    else:
        print("saelens: largest difference from SAELens " + (saelens.__version__ if found else "(not installed)"))
        for name, each in found.items():
            print(f"  {name:<52}" + "  ".join(f"{key} {value:.1e}" for key, value in each.items()))
    sys.exit(any(max(each["codes"], each["reconstruction"]) > ALLOWED for each in found.values()))


if __name__ == "__main__":
    main()
