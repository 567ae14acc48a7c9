"""A comparison in plain sentences: who leads in what, whether that is shown, and who cannot be compared with whom."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from interp.evaluation.groups import Apart, Group, Lead
from interp.evaluation.number_text import short
from interp.evaluation.results import Metrics
from interp.evaluation.table import METRICS

if TYPE_CHECKING:  # it loads torch, which the sentences do without
    from interp.evaluation.compare import Comparison

_METRICS = {metric.key: metric for metric in METRICS}


def group_sentences(group: Group, metrics: Mapping[str, Metrics]) -> list[str]:
    """What is directly comparable in a group, and which run leads in what."""
    if len(group.runs) == 1:
        return [f"{group.runs[0]} has no other run to be compared with."]
    lines = [f"Directly comparable, with {each.by}: {', '.join(each.runs)}." for each in group.alike]
    alone = [name for name in group.runs if not any(name in each.runs for each in group.alike)]
    if alone:
        lines.append(f"Of another number of features and another L0 than all the others: {', '.join(alone)}.")
    return [*lines, *(lead_sentence(lead, metrics) for lead in group.leads)]


def lead_sentence(lead: Lead, metrics: Mapping[str, Metrics]) -> str:
    """One lead, with both figures and what their intervals say."""
    metric = _METRICS[lead.metric]
    first, second = (metric.cell(metric.score(metrics[name])) for name in (lead.run, lead.next))
    verdict = {
        True: "the intervals do not overlap",
        False: "the intervals overlap, so no difference is shown",
        None: "there are no intervals to tell them apart by",
    }[lead.are_separated]
    text = f"{metric.heading}: {lead.run} leads with {first}; next is {lead.next} with {second}; {verdict}."
    if lead.is_above_null is False:
        text += " Even the leader is not above its null."
    if not lead.are_alike:
        text += " The two differ in both number of features and L0, which may be all there is to it."
    return text


def apart_sentence(apart: Apart) -> str:
    """Who cannot be compared with whom, and why."""
    return f"{', '.join(apart.runs)} cannot be compared with {', '.join(apart.others)}: {'; '.join(apart.reasons)}."


def matched_sentences(comparison: Comparison) -> list[str]:
    """Of every run that was matched, the run whose features are most like its own."""
    lines = []
    for matched in comparison.matched:
        for i, name in enumerate(matched.runs):
            cosines = [cosine if j != i else -1.0 for j, cosine in enumerate(matched.cosines[i])]
            nearest = cosines.index(max(cosines))
            cosine, chance = short(matched.cosines[i][nearest]), short(matched.chance[i][nearest])
            lines.append(f"{name} is most like {matched.runs[nearest]}: mean cosine {cosine}, by chance {chance}.")
    return [*lines, *comparison.unmatched]
