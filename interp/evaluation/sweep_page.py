"""A steering sweep as a short table and as one HTML file that needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count

from interp.evaluation.estimates import Estimate
from interp.evaluation.frontier import FrontierPoint, frontier, leading_concepts
from interp.evaluation.frontier_figures import share_by_fluency, share_by_kl
from interp.evaluation.html_page import figure_html, html_page, list_html, table_html
from interp.evaluation.number_text import percent
from interp.evaluation.sweep_table import SweepTable

HEADINGS = ["concept", "feature", "best strength", "KL", "without", "with", "gain", "fluency", "harmonic mean"]
"""Of the summary: the strength with the largest harmonic mean of share and fluency, and what is so there."""
NOTES = [
    "Best strength: the largest mean harmonic mean of share and fluency; where a judge of one's own gives numbers that are no "
    "shares, the largest mean number. It was chosen on the same texts, which flatters it.",
    "Gain: with less without, paired by text; brackets are 95 % intervals over prompts and samples. = marks one whose interval "
    "is not above 0.",
    "Fluency: min(1, exp(-(NLL - the prompt's mean NLL without steering))); in brackets that of the texts without steering.",
    "No control is in a sweep: what a feature adds beyond random ones chosen as freely, interp evaluate measures.",
]


def frontiers(table: SweepTable) -> dict[str, dict[int, list[FrontierPoint]]]:
    """The frontier of each concept asked for; or, of all that the judge knows, of the four that a feature added most of."""
    return {concept: frontier(table, concept) for concept in leading_concepts(table)}


def summary_cells(found: Mapping[str, Mapping[int, Sequence[FrontierPoint]]]) -> list[list[str]]:
    """Lines of cells, the headings first: each feature at its best strength, by concept."""
    lines = [HEADINGS]
    for concept, features in found.items():
        for feature, points in features.items():
            best = next(point for point in points if point.is_best)
            text = _percent if best.score else "{:.3g}".format
            lines.append(
                [
                    concept,
                    str(feature),
                    f"{best.strength:.3g}",
                    f"{best.kl:.3f}" + ("" if best.reached else " (target missed)"),
                    text(best.baseline_share.value),
                    text(best.share.value),
                    _signed(best.gain, text),
                    f"{best.fluency.value:.2f} ({best.baseline_fluency.value:.2f})",
                    f"{best.score.value:.2f}" if best.score else "-",
                ]
            )
    return lines


def sweep_page(table: SweepTable, *, unit: str) -> str:
    """The page; ``unit`` is that of the strengths, as printed after a number."""
    request, found, numbers = table.request, frontiers(table), count(1)
    title = f"Steering with features of {request.run}"
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        _sentence(table, unit),
        table_html(summary_cells(found)),
        list_html(NOTES),
    ]
    for concept, points in found.items():
        parts.append(f"<h2>{html.escape(concept)}</h2>")
        axis = html.escape(f"share of the continuation: {concept}" if request.judge != concept else concept)
        note = "Bars are 95 % intervals over prompts and samples; open: the target KL was not reached."
        draw = partial(share_by_kl, points, title=axis)
        parts += figure_html("What is written, against the effect on neutral text", note, draw, numbers)
        draw = partial(share_by_fluency, points, title=axis)
        parts += figure_html("What is written, against fluency", "Up and to the right is better.", draw, numbers)
        parts += _texts(table, points)
    lines = [["option", "value"], *([name, str(getattr(request, name))] for name in request.__struct_fields__)]
    parts.append(f"<details><summary>What was asked for</summary>{table_html(lines)}</details>")
    return html_page(title, parts)


def _sentence(table: SweepTable, unit: str) -> str:
    request = table.request
    n = len(table.columns["text"])
    text = (
        f"{n:,} texts of {request.n_tokens} tokens: {len(request.features)} features at {len(table.steerings())} strengths in "
        f"all ({unit}), {len(request.prompts)} prompts, {len(request.seeds)} seeds, {request.n_samples} samples each; "
        f"mode {request.mode}, judged by {request.judge}."
    )
    if not request.concepts and len(table.concepts) > 1:
        text += " Shown are the concepts that a feature added most of; the table has all that the judge knows."
    return f"<p>{html.escape(text)}</p>"


def _texts(table: SweepTable, features: Mapping[int, Sequence[FrontierPoint]]) -> list[str]:
    """The first text of the first prompt at each feature's best strength, beside its baseline."""
    shown = []
    firsts = [int(rows.argmax()) for rows in table.steerings()]
    for feature, points in features.items():
        best = next(point.strength for point in points if point.is_best)
        row = next(
            row for row in firsts if (table.columns["feature"][row], table.columns["strength"][row]) == (feature, best)
        )
        for name, column in (("without", "baseline_text"), (f"feature {feature} at {best:.3g}", "text")):
            shown.append(f"<p><b>{html.escape(name)}</b></p><pre>{html.escape(table.columns[column][row])}</pre>")
    prompt = html.escape(table.request.prompts[0])
    head = f"<summary>The first text of the first prompt at each best strength</summary><pre>{prompt}</pre>"
    return [f"<details>{head}{''.join(shown)}</details>"]


def _percent(share: float) -> str:
    return f"{percent(share)} %"


def _signed(gain: Estimate, text: Callable[[float], str]) -> str:
    value, low, high = (("+" if each >= 0 else "") + text(each) for each in (gain.value, gain.low, gain.high))
    return f"{value} [{low}, {high}]" + ("" if gain.is_above_zero else " =")
