"""What was measured of a run's features, as a person reads it: columns of the feature table, sentences of the card, labels.

Reading needs neither torch nor the store. A run whose evidence is missing, damaged or of other weights has none, and a sentence
that says why.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypedDict, final

import pandas as pd

from interp.errors import InputError
from interp.evaluation.estimates import Estimate
from interp.evaluation.evidence import (
    EVIDENCE_FILE,
    GRADES,
    CausalTest,
    Counterpart,
    Detected,
    FeatureEvidence,
    Grade,
    Output,
    Reading,
    read_evidence,
)
from interp.evaluation.number_text import short
from interp.index.token_text import show_blanks
from interp.runs.feature_labels import FeatureLabels
from interp.runs.record import RECORD, Run

GRADE_RULES: dict[Grade, str] = {
    "none": "No concept is detected on test text.",
    "detects": (
        "On test text, F1 is above that of random directions cut to its rate (whole interval), precision is at least half-way "
        "from the base rate to 1, and hits are in at least 5 documents. No test of what it does decides."
    ),
    "detects and acts": (
        "It detects a concept, and a test of what it does to that concept is above its control with its whole interval, none "
        "below."
    ),
    "contradicted": (
        "It detects a concept, but a test of what it does to that concept is below its control with its whole interval."
    ),
}
BEST_FIRST: tuple[Grade, ...] = ("detects and acts", "detects", "contradicted", "none")
MEASURES = {"excess": "excess F1", "simulability": "simulability", "stability": "stability"}
"""Columns of numbers and their names: F1 less that of random directions; AUROC of predicting its firing from the tokens around;
mean cosine with its counterparts under other seeds."""
_FLOATS = ("f1", "null", *MEASURES, "lift")


@final
class TokenPart(TypedDict):
    """A token within a line."""

    token: str


@final
class LinkPart(TypedDict):
    """A feature of another run within a line."""

    text: str
    run: str
    """Its run as STORE/RUN; empty where the run is no longer there."""
    feature: int


Line = list[str | TokenPart | LinkPart]


class EvidenceCard(TypedDict):
    """What the card of a feature says of its evidence."""

    missing: str
    """Why there is none; then the rest is empty."""
    grade: str
    rule: str
    fires_on: list[Line]
    does: list[Line]


class EvidenceColumns(TypedDict):
    """The columns of the feature table that are made of evidence, by feature number. Words are numbers of a list of words."""

    grades: list[Grade]
    grade: list[int]
    labels: list[str]
    """The automatic labels, each once."""
    label: list[int]
    """-1 for a feature without one."""
    concepts: list[str]
    """The concepts that features were compared with or are estimated to make the model write, each once."""
    concept: list[int]
    """The one that its firing says most of, detected or not; -1 where it was compared with none."""
    f1: list[float | None]
    null: list[float | None]
    """F1 of random directions cut to its rate, each with its own best concept."""
    output: list[int]
    """The concept that it is estimated to make the model write; -1 where the estimate is not above chance."""
    output_sign: list[int]
    lift: list[float | None]
    """Its output effect, in standard deviations over random directions."""
    excess: list[float | None]
    simulability: list[float | None]
    stability: list[float | None]


class ShownLabel(NamedTuple):
    """The label that a feature is shown with."""

    text: str
    is_automatic: bool
    """Made from the evidence; a person has given none."""

    @property
    def marked(self) -> str:
        """As plain text, with a mark if it is automatic."""
        return f"{self.text} (auto)" if self.is_automatic else self.text


@dataclass(frozen=True)
class RunEvidence:
    """The evidence of a run's features, or why there is none to show."""

    features: tuple[FeatureEvidence, ...] = ()
    """One a feature, in order."""
    missing: str = ""
    """A sentence, where there is none."""

    @cached_property
    def columns(self) -> pd.DataFrame:
        """One row a feature: grade, the concept that it detects and the nearest (or ""), F1, that of the null, excess,
        simulability and stability (NaN where not measured), the concept that it is estimated to make the model write (or ""),
        by how much (lift) and with which sign, automatic label (or "")."""
        return pd.DataFrame(
            {
                "grade": [one.grade for one in self.features],
                "concept": [
                    one.detected.concept if one.detected and one.grade != "none" else "" for one in self.features
                ],
                "nearest": [one.detected.concept if one.detected else "" for one in self.features],
                "f1": [one.detected.f1 if one.detected else None for one in self.features],
                "null": [
                    one.detected.f1 - one.detected.excess.value if one.detected else None for one in self.features
                ],
                "excess": [one.detected.excess.value if one.detected else None for one in self.features],
                "simulability": [one.simulability for one in self.features],
                "stability": [
                    sum(other.cosine for other in one.seeds) / len(one.seeds) if one.seeds else None
                    for one in self.features
                ],
                "output_concept": [
                    one.output.concept if one.output and one.output.lift > one.output.chance else ""
                    for one in self.features
                ],
                "output_sign": [one.output.sign if one.output else 1 for one in self.features],
                "lift": [one.output.lift if one.output else None for one in self.features],
                "label": [automatic_label(one) for one in self.features],
            }
        ).astype(dict.fromkeys(_FLOATS, float))

    @property
    def concepts(self) -> list[str]:
        """Concepts that at least one feature detects, in order of the alphabet."""
        return sorted(set(self.columns["concept"]) - {""})

    @property
    def written(self) -> list[str]:
        """Concepts that at least one feature is estimated to make the model write, in order of the alphabet."""
        return sorted(set(self.columns["output_concept"]) - {""})


def load_evidence(run: Run, command: str) -> RunEvidence:
    """The evidence kept with a run. Where it cannot be shown, the sentence ends with ``command``, which makes it."""
    try:
        evidence = read_evidence(run)
    except InputError as error:
        return RunEvidence(missing=f"{error} with:  {command}")
    if evidence is None:
        if (run.path / EVIDENCE_FILE).exists():
            why = "The evidence kept with this run is of other weights than it has now; make it again with:"
        else:
            why = "What its features detect and do has not been measured; measure it with:"
        return RunEvidence(missing=f"{why}  {command}")
    if [one.feature for one in evidence.features] != list(range(len(evidence.features))):
        path = run.path / EVIDENCE_FILE
        return RunEvidence(
            missing=f"'{path}' is damaged: its features are not in order; make it again with:  {command}"
        )
    return RunEvidence(evidence.features)


def automatic_label(one: FeatureEvidence) -> str:
    """The label made from the evidence, with the blanks of a token visible; empty where there is none."""
    reading = one.reading
    if one.grade != "none" or reading is None or reading.kind == "label" or not one.label:
        return one.label
    shown = reading.value.strip() or reading.value
    return one.label.removesuffix(shown) + show_blanks(shown)


def shown_labels(own: Mapping[int, str], evidence: RunEvidence) -> dict[int, ShownLabel]:
    """The label of each feature that has one: a person's ``own``, else the automatic one."""
    made = {int(f): ShownLabel(text, True) for f, text in evidence.columns["label"].items() if text}
    return made | {feature: ShownLabel(text, False) for feature, text in own.items() if text}


def evidence_columns(evidence: RunEvidence) -> EvidenceColumns | None:
    """The evidence's columns of the table, as short as can be; None where there is none."""
    if not evidence.features:
        return None
    columns = evidence.columns
    labels = sorted(set(columns["label"]) - {""})
    concepts = sorted(({*columns["nearest"]} | {*columns["output_concept"]}) - {""})
    f1, null, excess, simulability, stability, lift = (
        [None if math.isnan(value) else round(value, 3) for value in columns[name].tolist()] for name in _FLOATS
    )
    return EvidenceColumns(
        grades=list(GRADES),
        grade=[GRADES.index(grade) for grade in columns["grade"]],
        labels=labels,
        label=_places(columns["label"], labels),
        concepts=concepts,
        concept=_places(columns["nearest"], concepts),
        output=_places(columns["output_concept"], concepts),
        output_sign=columns["output_sign"].tolist(),
        f1=f1,
        null=null,
        excess=excess,
        simulability=simulability,
        stability=stability,
        lift=lift,
    )


def _places(texts: Iterable[str], words: Sequence[str]) -> list[int]:
    """The place of each text among ``words``, -1 where it is not there."""
    place = {word: i for i, word in enumerate(words)}
    return [place.get(text, -1) for text in texts]


def counts_of_grades(evidence: RunEvidence) -> str:
    """How many features detect a concept, act, and are contradicted; empty where there is no evidence."""
    if not evidence.features:
        return ""
    counts = evidence.columns["grade"].value_counts()
    n_acts, n_against = int(counts.get("detects and acts", 0)), int(counts.get("contradicted", 0))
    n_detect = len(evidence.features) - int(counts.get("none", 0))
    return f"{n_detect:,} detect a concept, of these {n_acts:,} act, {n_against:,} contradicted"


def evidence_card(run: Run, evidence: RunEvidence, feature: int) -> EvidenceCard:
    """What is known of a feature, in sentences: what it fires on and what it does, apart."""
    if feature >= len(evidence.features):
        missing = evidence.missing or "This feature is not in the evidence of its run."
        return EvidenceCard(missing=missing, grade="", rule="", fires_on=[], does=[])
    one = evidence.features[feature]
    tested: list[Line] = [[_test_text(test)] for test in one.tests]
    does = tested or [["Not tested: only features of the concepts that are detected best are taken out or added."]]
    if one.output is not None:
        does.append([_output_text(one.output)])
    return EvidenceCard(
        missing="",
        grade=one.grade,
        rule=GRADE_RULES[one.grade],
        fires_on=_fires_on(run, one),
        does=does,
    )


def evidence_text(run: Run, feature: int) -> str:
    """The label of a feature and its evidence as lines of plain text."""
    evidence = load_evidence(run, f"interp evaluate {run.path}")
    label = shown_labels({feature: FeatureLabels(run.labels_path).get(feature).label}, evidence).get(feature)
    lines = [f"label       {label.marked}"] if label else []
    card = evidence_card(run, evidence, feature)
    if card["missing"]:
        return "\n".join([*lines, f"evidence    {card['missing']}"])
    lines.append(f"grade       {card['grade']}: {card['rule']}")
    for heading, block in (("what it fires on", card["fires_on"]), ("what it does", card["does"])):
        lines += [heading, *("  " + "".join(map(_part_text, line)) for line in block)]
    return "\n".join(lines)


def _fires_on(run: Run, one: FeatureEvidence) -> list[Line]:
    sentence = _detected_text(one.detected) if one.detected else "No concept was found to compare it with."
    if one.sign < 0:
        sentence += " All of this is about its negative codes."
    lines: list[Line] = [[sentence]]
    firing = f"It fires on {one.n_fires:,} token{_s(one.n_fires)} of the judged text"
    if one.simulability is not None:
        firing = f"{firing}; the tokens around predict its firing with AUROC {short(one.simulability)}"
    lines.append([firing + "."])
    if one.reading:
        lines.append(_reading_line(one.reading))
    if one.tokens:
        # Every token with a comma after it but the last.
        parts = [part for token in one.tokens for part in (TokenPart(token=token), ", ")][:-1]
        lines.append(["Strongest tokens: ", *parts])
    for where, others in (("Under other seeds: ", one.seeds), ("In other methods: ", one.methods)):
        if others:
            # A semicolon after every one but the last.
            listed: Line = [part for other in others for part in (*_counterpart(run, other), "; ")][:-1]
            lines.append([where, *listed, "."])
    return lines


def _detected_text(found: Detected) -> str:
    """The sentence on what it fires on, with its null and interval."""
    start = (
        f"It fires on {found.concept}"
        if found.is_detected
        else f"It detects no concept; the nearest is {found.concept}"
    )
    shares = (
        f"{found.precision:.0%} of the tokens it fires on are one, and it fires on {found.recall:.0%} of all there are"
    )
    null = f"random directions that fire as often reach {short(found.f1 - found.excess.value)}"
    where = f"in {found.n_documents:,} document{_s(found.n_documents)}"
    return f"{start}: {shares} (F1 {short(found.f1)}; {null}; excess {_estimate(found.excess)}; {where})."


def _reading_line(reading: Reading) -> Line:
    kinds: dict[str, Line] = {
        "label": [f"Its strongest tokens have {reading.value} in common"],
        "token": ["Its strongest tokens are ", TokenPart(token=reading.value)],
        "token before": ["Its strongest tokens come after ", TokenPart(token=reading.value)],
    }
    pure = f": {reading.purity_select:.0%} of them on select, {reading.purity_test:.0%} on test"
    return [*kinds[reading.kind], pure + ("." if reading.is_readable else ", not enough to read it by.")]


def _counterpart(run: Run, other: Counterpart) -> Line:
    is_there = (run.path.parent / other.run / RECORD).exists()
    link = LinkPart(
        text=f"feature {other.feature} of {other.run}",
        run=f"{run.path.parent.parent.name}/{other.run}" if is_there else "",
        feature=other.feature,
    )
    return [link, f", cosine {short(other.cosine)} beside {short(other.chance)} by chance"]


def _test_text(test: CausalTest) -> str:
    """The sentence on what it does, with its interval; the control is taken off the effect."""
    acts, against = ("less", "more") if test.by == "ablation" else ("more", "less")
    done = "Taking it out" if test.by == "ablation" else "Adding it"
    unit = "nats of log-probability" if test.by == "ablation" else "of the text"
    measured = f"{_estimate(test.effect)} {unit} beyond its control"
    if test.by == "ablation":
        made = "makes {0} {1} likely: it acts{2}"
    else:
        made = "makes the model write {1} {0}: it acts{2}"
    if test.effect.low > 0:
        return f"{done} {made.format(test.concept, acts, '')} ({measured})."
    if test.effect.high < 0:
        return f"{done} {made.format(test.concept, against, ' against it')} ({measured})."
    return f"{done} changes {test.concept} no more than its control does ({measured})."


def _output_text(output: Output) -> str:
    """What it is estimated to make the model write; an estimate, so it stands after the tests."""
    adding = "Adding its opposite" if output.sign < 0 else "Adding it"
    lift = f"{short(output.lift, '%+.1f')} standard deviations over random directions"
    if output.lift <= output.chance:
        return f"Estimated: {adding.lower()} makes no concept likelier than adding a random direction does."
    return (
        f"Estimated: {adding.lower()} makes the model write {output.concept} ({lift}; 5 % of these exceed "
        f"{short(output.chance, '%.1f')} for their own best concept)."
    )


def _part_text(part: str | TokenPart | LinkPart) -> str:
    if isinstance(part, str):
        return part
    return part["text"] if "text" in part else show_blanks(part["token"])


def _estimate(estimate: Estimate) -> str:
    value, low, high = (short(each, "%+.2f") for each in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"


def _s(n: int) -> str:
    return "" if n == 1 else "s"
