"""What steering did, in lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from interp.evaluation.steering_results import NULLS, SteeringEffect, SteeringReport


def steering_lines(name: str, report: SteeringReport) -> Iterator[str]:
    """A head, and two lines for each concept: what was written, and what the controls add."""
    kl, n = report.config.target_kl, len(report.effects)
    yield (
        f"{name}: share of the written text that is the concept, without -> with its feature, at KL {kl:g}; more than chance "
        f"for {report.n_above_controls} of {n} concepts"
    )
    for effect in report.effects:
        gain = effect.difference
        yield (
            f"  {effect.concept:<22}{effect.baseline_share:>6.1%} -> {effect.steered_share:>6.1%}  "
            f"[{gain.low:+.1%}, {gain.high:+.1%}]  feature {effect.feature}, fluency {effect.fluency:.2f}, "
            f"{effect.n_texts} texts: {verdict(effect)}"
        )
        yield "  " + " " * 22 + ", ".join(f"{each.name} {each.difference.value:+.1%}" for each in effect.controls)


def verdict(effect: SteeringEffect) -> str:
    """Whether the gain is real, and if not, what is as good."""
    if not effect.difference.is_above_zero:
        return "no more than without"
    as_good = [each.name for each in effect.controls if each.name in NULLS and not each.excess.is_above_zero]
    return f"no more than {' and '.join(as_good)}" if as_good else "more than chance"


def changed_texts(report: SteeringReport) -> Iterator[str]:
    """Of each concept that is written more than by chance, two texts, without and with its feature: those of the kept ones that
    differ most in it."""
    for effect in report.effects:
        if effect.is_above_controls:
            most = max(range(len(effect.gains)), key=lambda i: effect.gains[i])
            yield f"--- {effect.concept}, where it changed most: without feature {effect.feature}"
            yield effect.prompts[most] + effect.baseline_texts[most].rstrip()
            yield f"--- with feature {effect.feature}"
            yield effect.prompts[most] + effect.texts[most].rstrip()
