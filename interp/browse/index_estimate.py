"""How long building a run's index takes, before it has begun."""

from __future__ import annotations

from interp.errors import InputError
from interp.runs.record import Run
from interp.store.manifest import Manifest

START_S = 8.0
"""Seconds to load PyTorch and a small model."""
MULTIPLICATIONS_A_S = 2e10
"""Of one thread, with all counted in that is no matrix product: 120,000 tokens of width 1024 and 2048 features took 14 seconds
of one core of a virtual machine, 8 of them after the start."""


def estimated_seconds(n_tokens: int, d_in: int, n_features: int) -> float:
    """Seconds of a build: every token is multiplied by every feature's weights, and the rest is small beside it."""
    return START_S + n_tokens * d_in * n_features / MULTIPLICATIONS_A_S


def estimate_text(run: Run) -> str:
    """The sentence beside the button that builds; empty for a store that cannot be read, of which the build will say why."""
    try:
        n_tokens = sum(shard.n_rows for shard in Manifest.read(run.store_path).shards)
    except InputError:
        return ""
    seconds = estimated_seconds(n_tokens, run.record.d_in, run.n_features)
    about = f"{seconds:.0f} seconds" if seconds < 90 else f"{seconds / 60:.0f} minutes"
    return f"About {about} on a core that does nothing else, for {n_tokens:,} tokens and {run.n_features:,} features."
