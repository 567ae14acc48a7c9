"""What is written of a steering sweep while it goes on: what was asked for, the strengths, and batch by batch the texts."""

from __future__ import annotations

from interp.records import FileRecord, Record


class SweepRequest(Record, frozen=True):
    """What a sweep writes. Two sweeps of the same request give the same table."""

    run: str
    """Name of the run."""
    run_identity: str
    """Hash of its weights and options."""
    features: tuple[int, ...]
    mode: str
    """How features are written in."""
    strengths: tuple[float, ...]
    """In the unit of the mode; empty where effects are asked for."""
    kls: tuple[float, ...]
    """Effects on neutral text to aim for, nats per token; empty where strengths are given."""
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    n_samples: int
    """Continuations of each prompt from each seed."""
    n_tokens: int
    """Tokens of a continuation."""
    temperature: float
    judge: str
    """What the judge is called: a label set, or a command."""
    concepts: tuple[str, ...]
    """Concepts that the table holds; none stands for all that the judge knows."""


class Steering(Record, frozen=True):
    """One feature at one strength."""

    feature: int
    target: float | None
    """Effect that was aimed for, nats per token; None where the strength was given."""
    strength: float
    """In the unit of the mode."""
    kl: float
    """Mean KL(p_0 || p_steered) on neutral text, nats per token."""
    reached: bool | None
    """Whether the target was reached; None where the strength was given."""
    perplexity_ratio: float | None
    """Perplexity of neutral text under the steered model over that under the model itself; None if it is not finite."""


class SweepJournal(FileRecord, frozen=True):
    """The first line of a sweep's journal; every other line is a ``Part``."""

    SCHEMA = "interp.sweep-journal"
    VERSION = 1

    request: SweepRequest
    steerings: tuple[Steering, ...]


class Written(Record, frozen=True):
    """One continuation."""

    text: str
    """Without the prompt."""
    nll: float | None
    """Mean over its tokens, nats under the model without steering; None if it is not finite."""
    distinct_2: float | None
    repetition: float | None
    judged: dict[str, float]
    """What the judge gives for each concept."""


class Part(Record, frozen=True):
    """The texts of one batch: of one prompt and one seed, the samples of some steerings in a row."""

    prompt: int
    """Its place in the request, from 0."""
    seed: int
    first: int
    """The first variant: 0 is the baseline, n the nth steering."""
    texts: tuple[tuple[Written, ...], ...]
    """Of each variant, its samples."""
