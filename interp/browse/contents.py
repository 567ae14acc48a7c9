"""What is in a store or a run, as facts to print: the answer of ``interp info``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from interp.evaluation.results import METRICS_FILE
from interp.runs.record import Run, find_runs
from interp.store.reader import ActivationStore

RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
SHARES = (0.5, 0.9, 0.99)


def store_facts(path: Path, *, spectra: bool) -> dict[str, Any]:
    """What a store holds, finished or not. Spectra are given where the moments are kept; ``spectra`` computes the others."""
    store = ActivationStore(path, allow_unfinished=True)
    manifest = store.manifest
    seconds = manifest.seconds
    facts = {
        "store": str(path),
        "state": "complete" if manifest.complete else f"unfinished, {store.n_rows:,} of {manifest.n_tokens:,} tokens",
        "model": f"{manifest.model_id} ({manifest.model_fingerprint})",
        "text": manifest.corpus,
        "tokens": store.n_rows,
        "sequences": f"{store.n_sequences} of {store.n_ctx} tokens",
        "sites": dict(store.sites),
        "dtype": manifest.dtype + (", compressed" if manifest.compressed else ""),
        "labels": {name: len(labels) for name, labels in store.label_sets.items()},
        "megabytes": round(sum(shard.n_bytes for shard in manifest.shards) / 1e6, 1),
        "shards": len(manifest.shards),
        "rate": f"{store.n_rows / seconds:,.0f} tokens per second" if seconds else "unknown",
        "checks": {name: f"{error:.1e}" for name, error in manifest.checks.items()},
        "identity": store.identity,
        "runs": [run.name for run in find_runs(path.parent) if run.store_path.resolve() == path.resolve()],
    }
    sources = {name: store.site(name) for name in store.sites}
    known = {name: source for name, source in sources.items() if spectra or source.has_moments}
    if known:
        facts["spectra"] = {name: spectrum_facts(source.moments().spectrum[0]) for name, source in known.items()}
    return facts


def spectrum_facts(eigenvalues: np.ndarray) -> dict[str, Any]:
    """Share of the variance that the first principal directions hold, by their number, and how many hold a share."""
    held = np.cumsum(eigenvalues) / max(float(eigenvalues.sum()), 1e-300)
    ranks = {rank: round(float(held[rank - 1]), 3) for rank in RANKS if rank < len(held)}
    shares = {f"{share:.0%}": int(np.searchsorted(held, share) + 1) for share in SHARES}
    return {"share of variance by rank": ranks, "rank for a share of variance": shares}


def run_facts(path: Path) -> dict[str, Any]:
    """A run's record, what its fit noted, and which later steps were done. Raises InputError when its weights are damaged."""
    run = Run.load(path)
    notes = run.decomposer().notes
    done = {"index": run.index_path.exists(), "metrics": (run.path / METRICS_FILE).exists()}
    return {"run": str(path), "identity": run.identity, **run.facts, **notes, **done}


def facts_table(facts: dict[str, Any], indent: int = 0) -> str:
    """One fact a line; nested ones below their name, numbers on one line."""
    lines = []
    for key, value in facts.items():
        name = " " * indent + str(key)
        if isinstance(value, dict) and any(not isinstance(inner, int | float) for inner in value.values()):
            lines += [name, facts_table(value, indent + 2)]
        elif isinstance(value, dict):
            lines.append(f"{name:<14}  " + "  ".join(f"{inner}: {number}" for inner, number in value.items()))
        else:
            lines.append(f"{name:<14}  {', '.join(value) if isinstance(value, list) else value}")
    return "\n".join(lines)
