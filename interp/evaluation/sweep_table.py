"""The table of a steering sweep: a row for every steered text beside its baseline, as a Parquet file that any tool reads."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from jaxtyping import Bool, Float

from interp.errors import InputError
from interp.evaluation.fluency import fluency
from interp.evaluation.sweep_records import Part, SweepJournal, SweepRequest, Written
from interp.files import whole
from interp.records import from_json

SCHEMA, VERSION = "interp.sweep", "1"
SHARE, BASELINE = "share_", "baseline_"
"""Beginnings of the names of columns: of a concept's share, and of what is so of the baseline."""
_COLUMNS = {
    "run": "string", "feature": "int64", "mode": "string", "strength": "double", "kl": "double", "target": "double",
    "reached": "bool", "perplexity_ratio": "double", "prompt": "int64", "seed": "int64", "sample": "int64",
    "text": "string", "baseline_text": "string", "fluency": "double", "baseline_fluency": "double",
    "distinct_2": "double", "baseline_distinct_2": "double", "repetition": "double", "baseline_repetition": "double",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class SweepTable:
    """What a sweep wrote; rows by feature, strength, prompt, seed and sample."""

    request: SweepRequest
    columns: dict[str, list[Any]]
    """By name, equally long; None is an undefined value."""

    @cached_property
    def concepts(self) -> list[str]:
        """Concepts that were judged, in the judge's order."""
        return [name.removeprefix(SHARE) for name in self.columns if name.startswith(SHARE)]

    def values(self, name: str) -> Float[np.ndarray, " n"]:
        """A column of numbers; NaN where it is undefined."""
        return np.asarray([np.nan if value is None else value for value in self.columns[name]], np.float64)

    def steerings(self) -> list[Bool[np.ndarray, " n"]]:
        """The rows of each feature and strength, in order. Every one has all prompts, seeds and samples."""
        n = len(self.request.prompts) * len(self.request.seeds) * self.request.n_samples
        rows = np.arange(len(self.columns["feature"])) // n
        return [rows == number for number in range(int(rows[-1]) + 1)]


def sweep_table(journal: SweepJournal, parts: Sequence[Part]) -> SweepTable:
    """The table of a sweep of which all batches are there."""
    request = journal.request
    texts: dict[tuple[int, int, int], tuple[Written, ...]] = {
        (part.first + offset, part.prompt, part.seed): samples
        for part in parts
        for offset, samples in enumerate(part.texts)
    }
    usual = {prompt: _mean_nll(texts, prompt) for prompt in range(len(request.prompts))}
    columns: defaultdict[str, list[Any]] = defaultdict(list)
    for number, steering in enumerate(journal.steerings, start=1):
        of_steering = {"run": request.run, "mode": request.mode} | msgspec.structs.asdict(steering)
        for prompt in range(len(request.prompts)):
            for seed in request.seeds:
                pairs = zip(texts[number, prompt, seed], texts[0, prompt, seed], strict=True)
                for sample, (steered, baseline) in enumerate(pairs):
                    row = of_steering | {"prompt": prompt, "seed": seed, "sample": sample}
                    row |= _figures(steered, usual[prompt], request.concepts)
                    row |= {
                        BASELINE + name: value
                        for name, value in _figures(baseline, usual[prompt], request.concepts).items()
                    }
                    for name, value in row.items():
                        columns[name].append(value)
    ordered = [*_COLUMNS, *(name for name in columns if name not in _COLUMNS)]
    return SweepTable(request, {name: columns[name] for name in ordered})


def write_sweep(path: Path, table: SweepTable) -> None:
    """Write the table in one step."""
    import pyarrow  # deferred: slow
    from pyarrow import parquet

    types = {name: _COLUMNS.get(name, "double") for name in table.columns}
    head = {"schema": SCHEMA, "version": VERSION, "request": msgspec.json.encode(table.request)}
    schema = pyarrow.schema([(name, pyarrow.type_for_alias(kind)) for name, kind in types.items()], metadata=head)
    with whole(path) as partial:
        parquet.write_table(pyarrow.table(table.columns, schema=schema), partial)


def read_sweep(path: Path) -> SweepTable:
    """The table of a sweep. Raises InputError for a file that is not there, is damaged, or is no sweep of this version."""
    from pyarrow import ArrowException, parquet  # deferred: slow

    try:
        found = parquet.read_table(path)
    except FileNotFoundError:
        raise InputError(f"there is no sweep '{path}'; make it with interp steer RUN --sweep") from None
    except (ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"'{path}' is no Parquet table ({reason}); give another name, or delete it") from None
    head = {key.decode(): value.decode() for key, value in (found.schema.metadata or {}).items()}
    if (head.get("schema"), head.get("version")) != (SCHEMA, VERSION):
        raise InputError(
            f"'{path}' is {head.get('schema')} version {head.get('version')}, this program reads {SCHEMA} version {VERSION}; "
            "give another name, or delete it"
        )
    return SweepTable(from_json(head["request"], SweepRequest, f"the request in '{path}'"), found.to_pydict())


def _mean_nll(texts: dict[tuple[int, int, int], tuple[Written, ...]], prompt: int) -> float:
    """Mean over all baselines of a prompt that have an NLL, nats per token."""
    found = [
        text.nll
        for (variant, number, _), samples in texts.items()
        if variant == 0 and number == prompt
        for text in samples
        if text.nll is not None
    ]
    return float(np.mean(found)) if found else np.nan


def _figures(written: Written, usual_nll: float, concepts: tuple[str, ...]) -> dict[str, Any]:
    """Columns of a text; a text without an NLL has no fluency."""
    nll = np.asarray([np.nan if written.nll is None else written.nll])
    figures = {
        "text": written.text,
        "fluency": float(fluency(nll, usual_nll)[0]),
        "distinct_2": written.distinct_2,
        "repetition": written.repetition,
    }
    return figures | {SHARE + concept: written.judged[concept] for concept in concepts or written.judged}
