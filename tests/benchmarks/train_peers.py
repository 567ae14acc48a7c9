"""Train the peers' sparse autoencoders on given rows, in the peers' environment; ``compare_peers.py`` calls this.

    python train_peers.py JOB.json

The job names a tool, its variant and settings, a file of rows and a folder; the folder gets weights.safetensors, in the form
of ours: rows [n, d_in] have codes (x - b_dec) W_enc + b_enc, of which the k largest or those above ``threshold`` stay, and
the rows of W_dec have norm 1.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers import peer
from safetensors.torch import save_file
from torch import Tensor

WARMUP, COOLDOWN = 0.02, 0.3
"""Shares of the steps over which every tool's learning rate rises and falls."""
DEAD_AFTER = 20_000
"""Tokens without firing after which a feature takes part in every tool's auxiliary loss. Left as they are, all would wait for
longer than these trainings last."""
MATRYOSHKA = (1 / 16, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""Sizes of the nested groups; the prefixes are 1/16, 1/8, ... of the features."""


def batches(rows: np.ndarray, job: dict[str, Any]) -> Iterator[Tensor]:
    """The batches of a job; every tool gets the same of the same seed."""
    random, order = np.random.default_rng([job["seed"], 17]), np.empty(0, np.int64)
    for _ in range(job["tokens"] // job["batch"]):
        if len(order) < job["batch"]:
            order = random.permutation(len(rows))
        chosen, order = order[: job["batch"]], order[job["batch"] :]
        yield torch.from_numpy(np.asarray(rows[np.sort(chosen)], np.float32))


def train_saelens(job: dict[str, Any], rows: np.ndarray) -> dict[str, Tensor]:
    """SAELens's SAETrainer with its own losses; rows scaled to a mean norm of sqrt(d_in), as it advises."""
    import sae_lens
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    steps, batch = job["tokens"] // job["batch"], job["batch"]
    scale = rows.shape[1] ** 0.5 / job["mean_norm"]
    options: dict[str, Any] = {"d_in": rows.shape[1], "d_sae": job["n_features"], "normalize_activations": "none"}
    if job["variant"] == "jumprelu":
        options |= {
            "jumprelu_sparsity_loss_mode": "quadratic",
            "target_l0": job["k"],
            "l0_coefficient": job["l0_coefficient"],
        }
    else:
        options |= {"k": job["k"]}
    if job["variant"] == "matryoshka":
        widths = np.cumsum(MATRYOSHKA) * job["n_features"]
        options |= {"matryoshka_widths": widths.astype(int).tolist()}
    name = {
        "topk": "TopKTrainingSAE",
        "batchtopk": "BatchTopKTrainingSAE",
        "jumprelu": "JumpReLUTrainingSAE",
        "matryoshka": "MatryoshkaBatchTopKTrainingSAE",
    }[job["variant"]]
    sae = getattr(sae_lens, name)(getattr(sae_lens, f"{name}Config")(**options))
    config = SAETrainerConfig(
        steps * batch,
        batch,
        lr=job["lr"],
        lr_end=job["lr"] / 10,
        lr_warm_up_steps=round(WARMUP * steps),
        lr_decay_steps=round(COOLDOWN * steps),
        dead_feature_window=DEAD_AFTER // batch,
    )
    trainer = SAETrainer(config, sae, iter(()))
    for x in batches(rows, job):
        trainer.step(x * scale)
        trainer.n_training_steps += 1
    found = {name: tensor.detach().float() for name, tensor in sae.state_dict().items()}
    norms = found["W_dec"].norm(dim=1)
    if not sae.cfg.apply_b_dec_to_input:
        found["b_enc"] = found["b_enc"] + found["b_dec"] @ found["W_enc"]
    weights = {
        "W_enc": found["W_enc"] * norms,
        "b_enc": found["b_enc"] * norms / scale,
        "W_dec": found["W_dec"] / norms[:, None],
        "b_dec": found["b_dec"] / scale,
    }
    if job["variant"] == "jumprelu":
        weights["threshold"] = sae.threshold.detach().float() * norms / scale
    elif job["variant"] != "topk":  # its threshold is of codes that are rescaled already
        weights["threshold"] = found["topk_threshold"].expand(len(norms)) / scale
    return weights


def train_dictionary_learning(job: dict[str, Any], rows: np.ndarray) -> dict[str, Tensor]:
    """dictionary_learning's trainers; rows scaled to a mean square norm of 1, as its own training does."""
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
    from dictionary_learning.trainers.jumprelu import JumpReluTrainer
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
    from dictionary_learning.trainers.top_k import TopKTrainer

    steps, variant = job["tokens"] // job["batch"], job["variant"]
    scale = 1 / job["root_mean_square_norm"]
    kind = {
        "topk": TopKTrainer,
        "batchtopk": BatchTopKTrainer,
        "jumprelu": JumpReluTrainer,
        "matryoshka": MatryoshkaBatchTopKTrainer,
    }[variant]
    options: dict[str, Any] = (
        {"target_l0": job["k"], "sparsity_warmup_steps": steps // 5}
        if variant == "jumprelu"
        else {
            "k": job["k"],
            "threshold_start_step": steps // 2,
        }
    )
    if variant == "matryoshka":
        options["group_fractions"] = list(MATRYOSHKA)
    trainer = kind(
        steps=steps,
        activation_dim=rows.shape[1],
        dict_size=job["n_features"],
        layer=0,
        lm_name="none",
        lr=job["lr"],
        warmup_steps=round(WARMUP * steps),
        decay_start=steps - round(COOLDOWN * steps),
        seed=job["seed"],
        device="cpu",
        **options,
    )
    trainer.dead_feature_threshold = DEAD_AFTER
    for step, x in enumerate(batches(rows, job)):
        trainer.update(step, x * scale)
    found = {name: tensor.detach().float() for name, tensor in trainer.ae.state_dict().items()}
    if "encoder.weight" in found:
        found |= {
            "W_enc": found["encoder.weight"].T,
            "b_enc": found["encoder.bias"],
            "W_dec": found["decoder.weight"].T,
        }
    if variant == "jumprelu":  # its encoder sees x, not x - b_dec
        found["b_enc"] = found["b_enc"] + found["b_dec"] @ found["W_enc"]
    weights = {
        "W_enc": found["W_enc"],
        "b_enc": found["b_enc"] / scale,
        "W_dec": found["W_dec"],
        "b_dec": found["b_dec"] / scale,
    }
    if variant != "topk":
        weights["threshold"] = found["threshold"].expand(len(found["b_enc"])).clamp_min(0) / scale
    return weights


TRAINERS = {"sae-lens": train_saelens, "dictionary-learning": train_dictionary_learning}


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    if peer(job["tool"]) is None:
        raise SystemExit(f"{job['tool']} is not installed here; make bench installs it")
    torch.set_num_threads(job["threads"])
    torch.manual_seed(job["seed"])
    started = time.process_time()
    weights = TRAINERS[job["tool"]](job, np.load(job["rows"], mmap_mode="r"))
    folder = Path(job["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    contiguous = {name: tensor.contiguous().clone() for name, tensor in weights.items()}
    metadata = {"cpu_seconds": f"{time.process_time() - started:.1f}"}
    save_file(contiguous, folder / "weights.partial", metadata)
    (folder / "weights.partial").rename(folder / "weights.safetensors")


if __name__ == "__main__":
    main()
