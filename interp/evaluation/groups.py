"""Which runs can be compared, which leads in what, and in which settings they differ. Needs neither torch nor the stores.

Runs are compared if they were judged alike: at one site of one model, on one text, with the same labels, sample of rows and
seed. Among those the runs with as many features, or with the same L0 within 10 %, are directly comparable; others differ in how
much they may say of a token, and a lead may come from that alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from msgspec import structs

from interp.evaluation.results import Metrics
from interp.evaluation.table import METRICS, Metric, Score
from interp.records import Record
from interp.runs.record import Run

L0_TOLERANCE = 0.10
"""How much the largest L0 of directly comparable runs may be above the smallest, as a share of it."""
LEADS_IN = ("fvu", "ce_recovered", "concepts", "readable", "stability", "steering")
"""Keys of the metrics in which a run can lead."""
SIZES = ("n_features", "k")
"""Options in which the runs of one method may differ: along these a line is drawn."""

_IN_WORDS = {
    "label_set": "label set",
    "max_rows": "rows sampled",
    "min_positives": "positives a concept needs",
    "min_documents": "documents a concept needs",
    "n_draws": "draws of the nulls",
    "dense_rate": "firing rate that dense codes are cut to",
    "seed": "seed of the judging",
}


class Alike(Record, frozen=True):
    """Runs of a group that are directly comparable."""

    by: str
    """What they share, such as "256 features" or "L0 30 to 32"."""
    runs: tuple[str, ...]


class Lead(Record, frozen=True):
    """The run that is best by a metric, and the next."""

    metric: str
    """Its key."""
    run: str
    next: str
    are_separated: bool | None
    """Whether the intervals of the two do not overlap; None where one has none."""
    are_alike: bool
    """Whether they are directly comparable."""
    is_above_null: bool | None
    """Whether the leader is above its null; None where that was not measured."""


class Group(Record, frozen=True):
    """Runs that were judged alike."""

    conditions: dict[str, str]
    """By what they were judged: site, model, text, label set and so on."""
    runs: tuple[str, ...]
    alike: tuple[Alike, ...]
    leads: tuple[Lead, ...]

    @property
    def title(self) -> str:
        return f"{self.conditions['site']}, judged on {self.conditions['text'].split(' (')[0]}"


class Apart(Record, frozen=True):
    """Two groups whose runs cannot be compared."""

    runs: tuple[str, ...]
    others: tuple[str, ...]
    reasons: tuple[str, ...]


class Settings(Record, frozen=True):
    """What the runs were made with, as text."""

    shared: dict[str, str]
    differing: dict[str, dict[str, str]]
    """By option, of each run; "-" for a run whose method has no such option."""


def grouped(metrics: Mapping[str, Metrics]) -> list[Group]:
    """Runs by what they were judged by, in the order given."""
    together: dict[tuple[tuple[str, str], ...], dict[str, Metrics]] = {}
    for name, each in metrics.items():
        together.setdefault(tuple(_conditions(each).items()), {})[name] = each
    groups = []
    for conditions, of_group in together.items():
        alike = _alike(of_group)
        leads = tuple(lead for metric in METRICS if metric.key in LEADS_IN if (lead := _lead(metric, of_group, alike)))
        groups.append(Group(conditions=dict(conditions), runs=tuple(of_group), alike=alike, leads=leads))
    return groups


def _conditions(metrics: Metrics) -> dict[str, str]:
    """What must be equal for figures to be comparable, in words."""
    judging = {_IN_WORDS[name]: value for name, value in structs.asdict(metrics.config.concepts).items()}
    if judging["label set"] is None:
        judging["label set"] = "the store's first"
    found = {
        "site": metrics.site,
        "model": metrics.model,
        "text": f"{metrics.store} ({metrics.store_identity})",
        **judging,
        "sequences of the loss": metrics.config.n_sequences,
    }
    return {name: str(value) for name, value in found.items()}


def groups_apart(groups: Sequence[Group]) -> tuple[Apart, ...]:
    """Every two groups, whose runs cannot be compared with each other's, and why."""
    return tuple(_apart(*pair) for pair in combinations(groups, 2))


def _apart(group: Group, other: Group) -> Apart:
    reasons = tuple(
        f"{name} {value}, not {other.conditions[name]}"
        for name, value in group.conditions.items()
        if value != other.conditions[name]
    )
    return Apart(runs=group.runs, others=other.runs, reasons=reasons)


def _alike(metrics: Mapping[str, Metrics]) -> tuple[Alike, ...]:
    """Sets of two runs or more: of as many features; of L0 within ``L0_TOLERANCE`` of the smallest of the set."""
    found = []
    for size in sorted({each.n_features for each in metrics.values()}):
        runs = tuple(name for name, each in metrics.items() if each.n_features == size)
        found.append(Alike(by=f"{size} features", runs=runs))
    l0 = {
        name: each.reconstruction.l0
        for name, each in metrics.items()
        if each.reconstruction is not None and each.reconstruction.fires
    }
    rest = sorted(l0, key=lambda name: l0[name])
    while rest:
        runs = tuple(name for name in rest if l0[name] <= (1 + L0_TOLERANCE) * l0[rest[0]])
        ends = [f"{l0[name]:.3g}" for name in (runs[0], runs[-1])]
        found.append(Alike(by="L0 " + " to ".join(dict.fromkeys(ends)), runs=runs))
        rest = rest[len(runs) :]
    return tuple(each for each in found if len(each.runs) > 1)


def _lead(metric: Metric, metrics: Mapping[str, Metrics], alike: Sequence[Alike]) -> Lead | None:
    """None where fewer than two runs have the metric."""
    scores = {name: metric.score(each) for name, each in metrics.items()}
    measured = {name: score for name, score in scores.items() if score.value is not None}
    if len(measured) < 2:
        return None
    sign = 1 if metric.better == "lower" else -1
    first, second = sorted(measured, key=lambda name: sign * measured[name].number)[:2]
    against = measured[first].against_null
    return Lead(
        metric=metric.key,
        run=first,
        next=second,
        are_separated=_separated(measured[first], measured[second]),
        are_alike=any({first, second} <= set(each.runs) for each in alike),
        is_above_null=None if against is None else against == "above",
    )


def _separated(score: Score, other: Score) -> bool | None:
    if score.interval is None or other.interval is None:
        return None
    return score.interval[0] > other.interval[1] or other.interval[0] > score.interval[1]


def settings_of(runs: Mapping[str, Run]) -> Settings:
    """What the runs share, and in what they differ: method, site, store, and every option of the methods."""
    made = {name: _made_with(run) for name, run in runs.items()}
    options = list(dict.fromkeys(option for each in made.values() for option in each))
    values = {option: {name: each.get(option, "-") for name, each in made.items()} for option in options}
    return Settings(
        shared={option: next(iter(of.values())) for option, of in values.items() if len(set(of.values())) == 1},
        differing={option: of for option, of in values.items() if len(set(of.values())) > 1},
    )


def _made_with(run: Run) -> dict[str, str]:
    what: dict[str, Any] = {
        "method": run.kind,
        "site": run.site,
        "model": run.model_id,
        "store": f"{run.record.store_name} ({run.store_identity})",
    }
    return {name: str(value) for name, value in (what | _options(run.config)).items()}


def _options(config: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Options by their names, those of a part as "part.option"."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= _options(value, f"{before}{name}.") if isinstance(value, dict) else {f"{before}{name}": value}
    return found


def families(runs: Mapping[str, Run]) -> dict[str, str]:
    """The method of each run in words: runs that differ in nothing but ``SIZES`` are of one family.

    A family is called by its method, and by the options in which runs of that method differ.
    """
    options = {name: {k: v for k, v in _options(run.config).items() if k not in SIZES} for name, run in runs.items()}
    names = {}
    for name, run in runs.items():
        peers = [options[other] for other, each in runs.items() if each.kind == run.kind]
        own = [f"{k} {v}" for k, v in options[name].items() if any(peer.get(k) != v for peer in peers)]
        names[name] = f"{run.kind}, {', '.join(own)}" if own else run.kind
    return names
