"""Whether a training ended too early to be judged by: what the last doubling of its tokens gained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from interp.training.config import GradientConfig

WORTH_MORE = 0.05
"""Share of the FVU that the last doubling took away, from which more tokens are advised."""


def gain_of_doubling(curve: Sequence[Mapping[str, float]], config: GradientConfig) -> tuple[float, int] | None:
    """(share, tokens): the held-out FVU fell by this share of itself from half of these tokens to all of them.

    They are the tokens before the learning rate begins to fall, because a falling rate lowers the FVU by itself. FVU over
    tokens is nearly a power law (Gao et al. 2024, arXiv 2406.04093), so the next doubling gains about as much. None where
    nothing can be compared: the rate falls from the start, or there are too few records.
    """
    steps = config.steps * (1 - config.schedule.cooldown)
    before = [record for record in curve if record["step"] <= steps]
    half = [record for record in before if 2 * record["step"] <= before[-1]["step"]]
    if (
        not half
        or 2 * half[-1]["step"] < 0.9 * before[-1]["step"]
        or half[-1]["step"] < 2 * config.schedule.warmup * config.steps
    ):
        return None
    return 1 - before[-1]["fvu"] / half[-1]["fvu"], int(before[-1]["tokens"])


def advice(curve: Sequence[Mapping[str, float]], config: GradientConfig) -> str | None:
    """What to do about a training that ended while it still gained; None where it did not or nothing can be said."""
    found = gain_of_doubling(curve, config)
    if found is None or found[0] < WORTH_MORE:
        return None
    share, tokens = found
    return (
        f"the FVU fell by {share:.0%} while the tokens doubled to {tokens:,}, before the learning rate fell: more tokens would "
        f"gain more; try --tokens {2 * config.tokens} and another --name"
    )
