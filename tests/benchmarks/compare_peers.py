"""Sparse autoencoders in quality: ours, SAELens's and dictionary_learning's, trained on the same batches of the same rows.

Each tool trains each variant at four learning rates with its own losses and constraints; all have the width, k, batches,
tokens, warm-up and cool-down in common, and what counts as dead. The rate with the lowest FVU on held-out text is then
trained with more seeds. The peers run in their own environment, made by ``make bench``. What is there already is not done
again.

    python tests/benchmarks/compare_peers.py WORKSPACE --out examples/peers.md
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
import tyro
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from train_peers import COOLDOWN, DEAD_AFTER, WARMUP, batches

from interp.capturing.to_store import capture
from interp.corpora.sources import load_corpus
from interp.decomposers.sae.autoencoder import SAE, SAEConfig
from interp.decomposers.sae.dead_features import DeadFeatures
from interp.decomposers.sae.variants import VariantName
from interp.demo.recipe import RESIDUAL, DemoConfig
from interp.distributed import World
from interp.evaluation.concepts import evaluate_concepts
from interp.evaluation.judged_rows import judged_rows
from interp.evaluation.reconstruction import evaluate_reconstruction, spliced_loss
from interp.evaluation.results import ConceptConfig
from interp.files import write_whole
from interp.metrics import mean_max_cosine
from interp.model.language_model import load_model
from interp.store.source import ArraySource
from interp.training.config import Schedule
from interp.training.loop import Training
from interp.training.protocol import Silent

TOOLS = ("ours", "sae-lens", "dictionary-learning")


@dataclass(frozen=True)
class Comparison:
    """What is compared, and on how much."""

    workspace: tyro.conf.Positional[Path]
    """Folder of the stores and weights."""
    out: Path
    """Markdown file for the table."""
    site: str = RESIDUAL
    """Hook point."""
    variants: tuple[VariantName, ...] = ("topk", "batchtopk", "jumprelu", "matryoshka")
    """Of those that all three have."""
    lrs: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2)
    """Learning rates, each tried with the first seed."""
    seeds: int = 3
    """Seeds at the best rate."""
    n_features: int = 2048
    """Features."""
    k: int = 32
    """Features active on a token, or aimed at."""
    tokens: int = 400_000
    """Tokens trained on."""
    batch: int = 512
    """Tokens of a step."""
    threads: int = 1
    """Threads of torch."""
    peers_python: Path = Path(".venv-peers/bin/python")
    """Interpreter of the environment that the peers are in."""


class Bench:
    """The rows, the model and the judging that all have in common."""

    def __init__(self, given: Comparison):
        self.given = given
        self.model, text = load_model("demo"), DemoConfig()
        training, self.held_out = (
            capture(self.model, load_corpus([name]), replace(config, sites=(given.site,)), given.workspace / store)
            for name, config, store in (
                ("stdlib", text.training_text, "peers"),
                ("stdlib:held-out", text.held_out_text, "peers-held-out"),
            )
        )
        self.source = training.site(given.site)
        self.rows_path = given.workspace / "rows.npy"
        if not self.rows_path.exists():
            rows = self.source.rows(np.arange(len(self.source))).numpy()
            with (given.workspace / "rows.partial").open("wb") as file:
                np.save(file, rows)
            (given.workspace / "rows.partial").rename(self.rows_path)
        self.rows = np.load(self.rows_path, mmap_mode="r")

    @cached_property
    def norms(self) -> dict[str, float]:
        norms = np.linalg.norm(self.rows, axis=1).astype(np.float64)
        return {"mean_norm": float(norms.mean()), "root_mean_square_norm": float(np.sqrt((norms**2).mean()))}

    def folder(self, tool: str, variant: str, lr: float, seed: int) -> Path:
        """With the weights and the figures of one training, made where they are missing."""
        given = self.given
        folder = given.workspace / "weights" / f"{tool}-{variant}-{lr:g}-s{seed}"
        if not (folder / "weights.safetensors").exists():
            job = {
                "tool": tool,
                "variant": variant,
                "lr": lr,
                "seed": seed,
                "folder": str(folder),
                "l0_coefficient": 1.0,
            }
            job |= {name: getattr(given, name) for name in ("n_features", "k", "tokens", "batch", "threads")}
            job |= {"rows": str(self.rows_path), **self.norms}
            folder.mkdir(parents=True, exist_ok=True)
            if tool == "ours":
                self._train(job, folder)
            else:
                (folder / "job.json").write_text(json.dumps(job))
                script = Path(__file__).with_name("train_peers.py")
                subprocess.run([given.peers_python, script, folder / "job.json"], check=True)
        return folder

    def _train(self, job: dict[str, Any], folder: Path) -> None:
        """Ours, by the steps of ``interp train`` on the batches that the peers get."""
        given, started = self.given, time.process_time()
        config = SAEConfig(
            variant=job["variant"],
            lr=job["lr"],
            seed=job["seed"],
            n_features=given.n_features,
            k=given.k,
            tokens=given.tokens,
            batch=given.batch,
            dead_features=DeadFeatures(dead_after=DEAD_AFTER),
            schedule=Schedule(warmup=WARMUP, cooldown=COOLDOWN, held_out=0),
        )
        trainable = SAE.trainable(ArraySource(torch.from_numpy(np.array(self.rows))), config)
        training = Training(trainable, config, Silent())
        for x in batches(self.rows, job):
            training.advance(x, x, World())
        metadata = {"cpu_seconds": f"{time.process_time() - started:.1f}"}
        save_file(trainable.finished(), folder / "weights.partial", metadata)
        (folder / "weights.partial").rename(folder / "weights.safetensors")

    def figures(self, tool: str, variant: str, lr: float, seed: int, *, is_chosen: bool) -> dict[str, float]:
        """What one training reached; of a chosen one also what takes longer to judge."""
        folder = self.folder(tool, variant, lr, seed)
        path = folder / "figures.json"
        found: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
        sae = self.decomposer(folder, variant)
        if "fvu" not in found:
            reconstruction = evaluate_reconstruction(sae, self.held_out.site(self.given.site))
            fired = torch.zeros(sae.n_features, dtype=torch.bool)
            for x in self.source.chunks():
                fired |= (sae.encode(x) != 0).any(0)
            with safe_open(folder / "weights.safetensors", "pt") as file:
                seconds = float(file.metadata()["cpu_seconds"])
            found |= {"fvu": reconstruction.fvu or np.nan, "l0": reconstruction.l0, "dead": int((~fired).sum())}
            found |= {"cpu_seconds": seconds}
        if is_chosen and "concepts" not in found:
            tokens = torch.from_numpy(self.held_out.tokens().astype(np.int64))
            spread = np.linspace(0, len(tokens) - 1, 32).round().astype(int)
            spliced = spliced_loss(self.model, sae, self.given.site, tokens[spread])
            config = ConceptConfig(label_set=self.held_out.label_set(None))
            report, _ = evaluate_concepts(sae, judged_rows(self.held_out, self.given.site, config), config)
            assert report.f1 is not None
            found |= {"ce_recovered": spliced.ce_recovered_mean or np.nan, "concepts": report.f1.value}
            found |= {"null_concepts": report.null_f1 or np.nan, "readable": report.readable.value}
        write_whole(path, json.dumps(found).encode())
        return found

    def decomposer(self, folder: Path, variant: str) -> SAE:
        """Weights of any tool as one of ours, encoding as at inference."""
        tensors = load_file(folder / "weights.safetensors")
        kept = {"W_enc", "b_enc", "W_dec", "b_dec"} | ({"threshold"} if variant != "topk" else set())
        if variant != "topk":
            tensors["threshold"] = tensors["threshold"].expand(len(tensors["b_enc"])).contiguous()
        config = SAEConfig(
            variant="topk" if variant == "topk" else "jumprelu", n_features=self.given.n_features, k=self.given.k
        )
        return SAE(config, {name: tensors[name] for name in kept}, {})


COLUMNS = {
    "fvu": "FVU",
    "l0": "L0",
    "dead": "dead",
    "ce_recovered": "CE recovered",
    "concepts": "concepts F1",
    "null_concepts": "its null",
    "readable": "readable",
    "stability": "stability",
    "cpu_seconds": "CPU s",
}


def shown(values: Sequence[float], key: str) -> str:
    """Mean and standard deviation over the seeds."""
    decimals = {"l0": 1, "dead": 0, "cpu_seconds": 0}.get(key, 3)
    spread = f" ± {stdev(values):.{decimals}f}" if len(values) > 1 else ""
    return f"{fmean(values):.{decimals}f}{spread}"


def stability(decomposers: Sequence[SAE]) -> list[float]:
    """Of each pair of seeds: mean cosine of a feature to the most similar one of the other seed."""
    directions = [sae.W_dec.numpy() for sae in decomposers]
    pairs = [(a, b) for i, a in enumerate(directions) for b in directions[i + 1 :]]
    return [mean_max_cosine(a, b) for a, b in pairs]


def main(given: Comparison) -> None:
    torch.set_num_threads(given.threads)
    bench = Bench(given)
    by_rate = [
        "| variant | tool | " + " | ".join(f"lr {lr:g}" for lr in given.lrs) + " |",
        "|---" * (len(given.lrs) + 2) + "|",
    ]
    chosen = ["| variant | tool | lr | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 3) + "|"]
    for variant in given.variants:
        for tool in TOOLS:
            rates = {lr: bench.figures(tool, variant, lr, 0, is_chosen=False) for lr in given.lrs}
            cells = [f"{found['fvu']:.3f} ({found['dead']:.0f}, {found['l0']:.0f})" for found in rates.values()]
            by_rate.append(f"| {variant} | {tool} | " + " | ".join(cells) + " |")
            best = min(rates, key=lambda lr: rates[lr]["fvu"])
            found = [bench.figures(tool, variant, best, seed, is_chosen=True) for seed in range(given.seeds)]
            columns = {key: [each[key] for each in found] for key in COLUMNS if key != "stability"}
            saes = [bench.decomposer(bench.folder(tool, variant, best, seed), variant) for seed in range(given.seeds)]
            columns["stability"] = stability(saes)
            chosen.append(
                f"| {variant} | {tool} | {best:g} | " + " | ".join(shown(columns[key], key) for key in COLUMNS) + " |"
            )
            print(by_rate[-1], chosen[-1], sep="\n", flush=True)
    settings = ", ".join(
        f"{name} {value}"
        for name, value in asdict(given).items()
        if name in ("site", "n_features", "k", "tokens", "batch")
    )
    lines = [
        f"Settings: {settings}.",
        "",
        "At each tool's best rate, mean and standard deviation over seeds:",
        "",
        *chosen,
    ]
    lines += ["", "FVU on held-out text at each rate, first seed (features that never fire, L0):", "", *by_rate]
    write_whole(given.out, ("\n".join(lines) + "\n").encode())


if __name__ == "__main__":
    main(tyro.cli(Comparison, config=(tyro.conf.OmitArgPrefixes,)))
