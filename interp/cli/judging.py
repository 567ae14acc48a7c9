"""The judges that ``--judge`` stands for, and what is printed of their judgement."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from interp.corpora.documents import LabelSet, TextJudge
from interp.corpora.labels.registry import LABEL_SETS, judge_of
from interp.errors import InputError, unknown_name
from interp.evaluation.judges import command_judge
from interp.evaluation.results import read_metrics
from interp.evaluation.token_judge import TokenJudge
from interp.model.language_model import LanguageModel
from interp.runs.record import Run
from interp.steering.continuations import SteeringRequest, SteeringResult

TOKENS = "tokens"
"""What ``--judge`` is given for a regression on tokens."""
_SHOWN = 3


def judging_set(run: Run, concepts: Sequence[str]) -> LabelSet | None:
    """The first label set of the run's store that can judge a text, of all these concepts; None if none can judge a text.

    Raises InputError with the near names where those that can do not know the concepts.
    """
    sets = [LABEL_SETS[name] for name in run.store().label_sets if name in LABEL_SETS]
    known = {each.name: each.judge("", start=0) for each in sets if each.judge is not None}
    for each in sets:
        if set(concepts) <= known.get(each.name, {}).keys():
            return each
    for labels in known.values():
        unknown = next(concept for concept in concepts if concept not in labels)
        raise unknown_name("concept", unknown, labels, "what label sets of this store judge")
    return None


def own_judge(given: str, run: Run, model: LanguageModel) -> TextJudge:
    """The judge that ``--judge`` stands for: a regression on tokens, trained now, or a command."""
    return TokenJudge.train(run.store(), model) if given == TOKENS else command_judge(given)


def judged_lines(
    given: str | None,
    concept: str | None,
    *,
    run: Run,
    model: LanguageModel,
    request: SteeringRequest,
    result: SteeringResult,
) -> list[str]:
    """What a judge says of the texts written without and with the feature: ``--judge``, or a label set's of a concept.

    Of a regression on tokens without a concept, the three labels whose probability changed most.
    """
    if given is None:
        judge = judge_of(concept, run.store().label_sets) if concept else None
        if judge is None or concept is None:
            return []
        before, after = (found[concept] for found in _means(judge, request, result))
        return [f"{concept}: {before:.1%} of the characters written without, {after:.1%} with the feature"]
    judge = own_judge(given, run, model)
    if concept is not None and isinstance(judge, TokenJudge) and concept not in judge.accuracy:
        raise unknown_name("concept", concept, judge.accuracy, "what a regression on tokens can judge")
    without, steered = _means(judge, request, result)
    changes = sorted(without, key=lambda label: -abs(steered[label] - without[label]))
    labels = [concept] if concept in without else changes[:_SHOWN]
    lines = [
        f"{label}, by {given}: mean {without[label]:.4g} without, {steered[label]:.4g} with the feature "
        f"({len(result.steered)} texts each)"
        for label in labels
    ]
    return [*lines, *accuracy_lines(judge, run, labels)]


def accuracy_lines(judge: TextJudge, run: Run, concepts: Sequence[str]) -> list[str]:
    """How good a regression on tokens is, on documents that it was not fitted on, and what it must not have seen."""
    if not isinstance(judge, TokenJudge):
        return []
    lines = [
        f"The judge of {concept} is right in {found.balanced_accuracy:.0%} (balanced, chance 50 %) of {found.n_windows} "
        f"windows of other documents, of which {found.base_rate:.1%} have it; fitted on {judge.n_documents} documents of "
        f"'{run.store().name}'."
        for concept, found in judge.accuracy.items()
        if concept in concepts
    ]
    try:
        chosen_on = read_metrics(run).store_identity
    except InputError:  # not evaluated, so nothing was chosen by measuring
        return lines
    if chosen_on == run.store_identity:
        lines.append(
            "This run was evaluated on the same text, so its features may have been chosen on documents of the judge; "
            "evaluate it with --store on other text."
        )
    return lines


def _means(judge: TextJudge, request: SteeringRequest, result: SteeringResult) -> list[dict[str, float]]:
    """The mean of each label over the texts without, and over those with the feature."""
    means = []
    for texts in (result.baseline, result.steered):
        found = [judge(request.prompt + text, start=len(request.prompt)) for text in texts]
        means.append({label: fmean(each[label] for each in found) for label in found[0]})
    return means
