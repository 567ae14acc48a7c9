"""What no column of the table says, in sentences: what was not evaluated, is not new text, or is no more than chance.

Needs neither torch nor the stores.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from interp.evaluation.number_text import short
from interp.evaluation.results import ConceptReport, Metrics

if TYPE_CHECKING:
    from interp.runs.record import Run


def remark_lines(runs: Mapping[str, Run], found: Sequence[Metrics | None]) -> list[str]:
    """The remarks on runs by their names; one that is true of several runs is made once."""
    by_remark: dict[str, list[str]] = {}
    for (name, run), metrics in zip(runs.items(), found, strict=True):
        for remark in _remarks(run, metrics):
            by_remark.setdefault(remark, []).append(name)
    lines = [f"{', '.join(names)}: {remark}." for remark, names in by_remark.items()]
    if len({metrics.store_identity for metrics in found if metrics}) > 1:
        lines.append("The runs were evaluated on different stores, so their figures are not comparable.")
    return lines


def _remarks(run: Run, metrics: Metrics | None) -> Iterator[str]:
    if metrics is None:
        yield f"not evaluated by this version; run: interp evaluate {run.path}"
        return
    if not metrics.complete:
        yield f"the evaluation was interrupted; to finish it, run the same command again: interp evaluate {run.path}"
    text = metrics.held_out
    if text.n_trained_on is None:
        yield "whether the text is held out is unknown: the run's own store has changed, or has another tokenizer"
    elif not text.is_held_out:
        yield f"not held out, {text.n_trained_on} of {text.n_documents} documents were trained on"
    if metrics.reconstruction is not None and metrics.reconstruction.reason:
        yield f"no FVU, {metrics.reconstruction.reason}"
    if metrics.concepts_left_out:
        yield f"no concepts, {metrics.concepts_left_out}"
    if metrics.concepts is not None:
        yield from _remarks_on_concepts(metrics.concepts)
    if metrics.steering is not None and metrics.steering.reason:
        yield f"no steering, {metrics.steering.reason}"


def _remarks_on_concepts(report: ConceptReport) -> Iterator[str]:
    if report.f1 is None:
        yield "no concept is left to find"
    elif report.excess is not None and not report.excess.is_above_zero:
        what = {null.name: f" ({null.what})" for null in report.nulls}.get(report.best_null or "", "")
        how = "worse than" if report.excess.high < 0 else "no better than"
        yield f"concepts are found {how} by the best null, {report.best_null}{what}"
    if report.readable_excess is not None and not report.readable_excess.is_above_zero:
        how = "fewer" if report.readable_excess.high < 0 else "no more"
        yield f"{how} features are readable than random directions are"
    if report.f1 is not None:
        beaten = [each for each in report.baselines if each.difference.high < 0]
        level = [each for each in report.baselines if each.difference.low <= 0 <= each.difference.high]
        for baselines, how in ((beaten, "better"), (level, "as well, within the interval of the difference")):
            if baselines:
                figures = ", ".join(f"{each.name} {short(each.f1.value)}" for each in baselines)
                yield f"simple methods find the concepts {how} (F1): {figures}, against {short(report.f1.value)}"
    if report.left_out:
        yield f"labels left out, since too few tokens or documents have them: {', '.join(report.left_out)}"
