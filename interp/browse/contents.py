"""What is in a store or a run, to print: the answer of ``interp info``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from interp.evaluation.results import METRICS_FILE
from interp.records import Notes, Record
from interp.runs.record import Run, RunRecord, find_runs
from interp.store.manifest import LARGE_ERROR, NATIVE_CHECK
from interp.store.reader import ActivationStore

RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
SHARES = (0.5, 0.9, 0.99)


class Spectrum(Record, frozen=True):
    """How the variance of a site is spread over its principal directions."""

    by_rank: dict[str, float] = msgspec.field(name="share of variance by rank")
    """For a number of first directions, the share of the variance that they hold."""
    by_share: dict[str, int] = msgspec.field(name="rank for a share of variance")

    @staticmethod
    def of(eigenvalues: np.ndarray) -> Spectrum:
        held = np.cumsum(eigenvalues) / max(float(eigenvalues.sum()), 1e-300)
        return Spectrum(
            by_rank={str(rank): round(float(held[rank - 1]), 3) for rank in RANKS if rank < len(held)},
            by_share={f"{share:.0%}": int(np.searchsorted(held, share) + 1) for share in SHARES},
        )


class StoreContents(Record, frozen=True, omit_defaults=True):
    """What a store holds."""

    store: str
    state: str
    model: str
    text: str
    tokens: int
    sequences: str
    sites: dict[str, int]
    """Hook point to width."""
    dtype: str
    labels: dict[str, int]
    """Label set to its number of labels."""
    megabytes: float
    shards: int
    rate: str
    checks: dict[str, str]
    identity: str
    runs: list[str]
    spectra: dict[str, Spectrum] | None = None
    """Spectra of the sites whose moments are known."""
    verified: str | None = None
    """The result of reading every byte again."""


class RunContents(Record, frozen=True):
    """What a run is, and which later steps were done."""

    run: str
    identity: str
    record: RunRecord
    notes: Notes
    """Notes of the fit."""
    index: bool
    metrics: bool


def store_contents(path: Path, *, spectra: bool) -> StoreContents:
    """What a store holds, finished or not. Spectra are those whose moments are kept; ``spectra`` computes the others too."""
    store = ActivationStore(path, allow_unfinished=True)
    manifest = store.manifest
    seconds = manifest.seconds
    sources = {name: store.site(name) for name in store.sites}
    known = {name: source for name, source in sources.items() if spectra or source.has_moments}
    return StoreContents(
        store=str(path),
        state="complete" if manifest.complete else f"unfinished, {store.n_rows:,} of {manifest.asked} tokens",
        model=f"{manifest.model_id} ({manifest.model_fingerprint})",
        text=manifest.corpus + (f" (snippets, {manifest.snippets})" if manifest.snippets else ""),
        tokens=store.n_rows,
        sequences=f"{store.n_sequences} of {store.n_ctx} tokens",
        sites=dict(store.sites),
        dtype=manifest.dtype + (", compressed" if manifest.compressed else ""),
        labels={name: len(labels) for name, labels in store.label_sets.items()},
        megabytes=round(sum(shard.n_bytes for shard in manifest.shards) / 1e6, 1),
        shards=len(manifest.shards),
        rate=f"{store.n_rows / seconds:,.0f} tokens per second" if seconds else "unknown",
        checks={name: _in_words(name, error) for name, error in manifest.checks.items()},
        identity=store.identity,
        runs=[run.name for run in find_runs(path.parent) if run.store_path.resolve() == path.resolve()],
        spectra={name: Spectrum.of(source.moments().spectrum[0]) for name, source in known.items()} or None,
    )


def run_contents(path: Path) -> RunContents:
    """What a run is. Raises InputError when its weights are damaged."""
    run = Run.load(path)
    return RunContents(
        run=str(path),
        identity=run.identity,
        record=run.record,
        notes=run.decomposer().notes,
        index=run.index_path.exists(),
        metrics=(run.path / METRICS_FILE).exists(),
    )


def _in_words(check: str, error: float) -> str:
    """What the relative error of one of a capture's checks means."""
    if error < LARGE_ERROR:
        return f"holds (error {error:.1e})"
    if check == NATIVE_CHECK:
        return f"they differ (error {error:.1e}), so every activation was taken step by step: slower, and as exact"
    return f"does not hold (error {error:.1e}): hook points of this layer are not what their names say in this model"


def contents_text(contents: Record) -> str:
    """One line for each part; nested ones below their name, numbers on one line."""
    return "\n".join(_lines(msgspec.to_builtins(contents), 0))


def _lines(parts: Mapping[str, Any], indent: int) -> list[str]:
    lines = []
    for key, value in parts.items():
        name = " " * indent + key
        if isinstance(value, dict) and any(not isinstance(inner, int | float) for inner in value.values()):
            lines += [name, *_lines(value, indent + 2)]
        elif isinstance(value, dict):
            lines.append(f"{name:<14}  " + "  ".join(f"{inner}: {number}" for inner, number in value.items()))
        else:
            lines.append(f"{name:<14}  {', '.join(map(str, value)) if isinstance(value, list) else value}")
    return lines
