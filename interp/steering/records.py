"""The log of steering: one JSON line for each request and its result, in a run's ``steering.jsonl``."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Literal

import msgspec

from interp.records import FileRecord, from_json, to_line
from interp.steering.edits import At, Mode
from interp.steering.forms import QuadraticMode
from interp.steering.scales import Unit

if TYPE_CHECKING:
    from interp.runs.record import Run

log = logging.getLogger(__name__)

FILE = "steering.jsonl"


class SteeringRecord(FileRecord, frozen=True):
    """A prompt continued with and without some features written in."""

    SCHEMA = "interp.steering-record"
    VERSION = 1

    time: str
    """UTC, ISO 8601."""
    kind: Literal["continuations"]
    prompt: str
    strengths: dict[int, float]
    """Strength of each feature, in the unit of the mode."""
    mode: Mode | QuadraticMode
    temperature: float
    seed: int
    kl: float
    """Mean KL(p_0 || p_steered) on neutral text, nats per token."""
    perplexity_ratio: float
    """Perplexity of neutral text under the steered model over that under the model itself."""
    baseline: list[str]
    steered: list[str]
    unit: Unit = "maximum"
    """What strength 1 adds in modes add and clamp: the feature's maximum, or the mean norm of the site's rows."""
    at: At = "all"
    """At every token, or from the prompt's last token on."""
    at_tokens: tuple[str, ...] = ()
    """Only at these tokens; none: at any."""
    at_residual: bool = False
    """Whether features of neurons or heads were written behind the layer's output matrix."""
    also: dict[str, dict[int, float]] = msgspec.field(default_factory=dict)
    """Features of other runs that were written too: run to feature to strength."""
    top_k: int = 0
    """Tokens drawn from; 0 is all."""
    top_p: float = 1.0
    """Probability of the likeliest tokens drawn from."""
    repetition_penalty: float = 1.0


def write_steering_record(run: Run, record: SteeringRecord) -> None:
    """Append ``record`` as one line of the run's ``steering.jsonl``, and sync it.

    One write call a line, so that lines of several writers do not interleave. Raises InputError for numbers not finite.
    """
    line = to_line(record)
    file = os.open(run.path / FILE, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(file).st_size
        torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"  # a writer killed half-way left no newline
        os.write(file, (("\n" if torn else "") + line + "\n").encode())
        os.fsync(file)
    finally:
        os.close(file)


def read_steering_records(run: Run) -> list[SteeringRecord]:
    """The run's steering records, oldest first; a line cut short by a killed writer is left out with a warning in the log.

    Raises InputError naming the line for a record of another version, or with unknown keys or values.
    """
    path = run.path / FILE
    records = []
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            msgspec.json.decode(line)
        except msgspec.DecodeError:
            log.warning("%s line %d was cut short and is left out", path, number)
            continue
        records.append(from_json(line, SteeringRecord, f"'{path}' line {number}"))
    return records
