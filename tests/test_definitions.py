"""Every figure of the pages has a definition that says which way is better, and every definition is shown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from made_metrics import made_effect, made_steering

from app import card
from interp.browse import definitions
from interp.browse.comparison import Alone, ComparedColumn, FeatureOnText
from interp.browse.definitions import DEFINITIONS, tooltip, tooltips
from interp.browse.evidence import MEASURES, EvidenceColumns
from interp.browse.family import Family
from interp.browse.features import FeatureCard, FeatureTable
from interp.browse.prompt import FiringFeature
from interp.browse.runs import ConceptCell, RunRow, steering_rows
from interp.browse.steer_settings import BOUNDS
from interp.browse.steering import SteeredColumn, SteeredText
from interp.browse.tree import TreeNode
from interp.evaluation.estimates import Estimate
from interp.evaluation.table import DIRECTIONS, METRICS
from interp.figures import CURVES
from interp.index.reader import Below, Example
from interp.steering.records import SteeringRecord

APP, BROWSE = Path(card.__file__).parent, Path(definitions.__file__).parent
STEERING = tuple(steering_rows(made_steering(made_effect()))[0])

PAYLOADS: dict[str, tuple[type, ...]] = {
    "features": (FeatureTable, EvidenceColumns, FeatureCard, Below, Family, Example),
    "prompt": (FiringFeature,),
    "compare": (ComparedColumn, FeatureOnText, Alone),
    "tree": (TreeNode,),
    "runs": (RunRow, ConceptCell),
    "steer": (SteeredColumn, SteeredText),
}
NO_FIGURES: dict[str, set[str]] = {
    # Places in lists of words, numbers of features and of tokens, and figures of the index that no page shows.
    "features": {
        "id", "grade", "label", "concept", "output", "output_sign", "tokens", "mean", "p50", "p99", "cut", "neighbours",
        "level", "parent", "sequence", "position", "centre",
    },
    "compare": {"strongest", "features", "of", "alone"},
    "tree": {"level", "feature", "depth"},
    "steer": {"prompt_changes", "control_strength", "excess", "VERSION"},
}  # fmt: skip
"""What holds numbers and is no figure, or stands beside one under its definition."""


def holds_numbers(kind: Any) -> bool:
    """Whether a value of the type is, or holds, a number."""
    return kind in (int, float, Estimate) or any(holds_numbers(part) for part in get_args(kind))


def measured() -> Iterator[tuple[str, str]]:
    """Page and name of every figure of the payloads."""
    for page, kinds in PAYLOADS.items():
        for kind in kinds:
            for name, each in get_type_hints(kind).items():
                if holds_numbers(each) and name not in NO_FIGURES.get(page, ()):
                    yield page, name
    yield from (("runs", name) for name in (*STEERING, *CURVES))
    yield from (("steer", setting) for setting in BOUNDS)


def used() -> set[tuple[str, str]]:
    """Page and name of every definition that a script or a page asks for."""
    scripts = "".join(path.read_text(encoding="utf-8") for path in APP.glob("*.js"))
    found = set(re.findall(r"DEFINITIONS\.(\w+)\.(\w+)", scripts))
    call = re.compile(r"tooltip\((?:PAGE|['\"](\w+)['\"])(?:, )?(.*?)\)")
    for path in [*APP.glob("views/*.py"), *BROWSE.glob("*.py")]:
        for page, names in call.findall(path.read_text(encoding="utf-8")):
            found |= {(page or path.stem, name) for name in re.findall(r"['\"]([\w ]+)['\"]", names)}
    # Those that a page takes by the names of its columns.
    found |= {("features", name) for name in ("f1", *MEASURES, "max", "importance")}
    found |= {("manifolds", name) for name in ("latent", "score", "rank", "R²", "PCA", "random")}
    found |= {("steer", name) for name in (*BOUNDS, *SteeringRecord.__struct_fields__) if name in DEFINITIONS["steer"]}
    return found | {("runs", name) for name in STEERING}


@pytest.mark.parametrize(("page", "name"), sorted(set(measured())))
def test_every_figure_of_the_payloads_has_a_definition(page: str, name: str) -> None:
    assert name in DEFINITIONS[page], f"'{name}' of the page {page} has no definition in interp/browse/definitions.py"


def test_every_definition_is_shown_and_none_that_is_shown_is_missing() -> None:
    defined = {(page, name) for page, figures in DEFINITIONS.items() for name in figures}
    assert used() == defined


def test_a_tooltip_says_what_a_figure_is_and_which_way_is_better() -> None:
    for page, figures in DEFINITIONS.items():
        for name, one in figures.items():
            assert one.says.endswith("."), (page, name)
            assert not any(direction in one.says for direction in DIRECTIONS.values()), (page, name)
            assert one.better is None or one.tooltip == f"{one.says} {DIRECTIONS[one.better]}"
    assert {name for name, one in DEFINITIONS["runs"].items() if one.better is None} <= {
        "run", "kind", "index", "concept", "verdict",
    }  # fmt: skip
    assert tooltip("features", "f1").endswith("reach. Higher is better.")
    assert tooltip("runs", "l0") == f"L0: {next(metric for metric in METRICS if metric.key == 'l0').tooltip}"
    assert tooltips()["prompt"]["density"] == tooltips()["features"]["density"]
