"""The evidence of each feature: its grade, its label, and how it is put together."""

from __future__ import annotations

from typing import Any

import pytest
from made_metrics import made_effect, made_steering
from msgspec import structs

from interp.evaluation.ablation_results import AblationControl, AblationEffect, ConceptAblation
from interp.evaluation.estimates import Estimate
from interp.evaluation.evidence import CausalTest, Detected, Evidence, FeatureEvidence, Reading
from interp.evaluation.feature_evidence import ablation_tests, mean_effect, steering_tests
from interp.evaluation.steering_results import SteeringControl

ABOVE, AROUND, BELOW = (Estimate(value=v, low=v - 0.1, high=v + 0.1) for v in (0.3, 0.0, -0.3))


def feature(*tests: tuple[str, Estimate], is_detected: bool = True, **fields: Any) -> FeatureEvidence:
    detected = Detected(
        concept="import", f1=0.6, precision=0.8, recall=0.5, excess=ABOVE, n_documents=9, is_detected=is_detected
    )
    causal = tuple(CausalTest(by="ablation", concept=concept, effect=effect) for concept, effect in tests)
    return FeatureEvidence(feature=0, sign=1, threshold=0.0, n_fires=90, detected=detected, tests=causal, **fields)


def reading(kind: str, value: str, *, is_readable: bool = True) -> Reading:
    return Reading(kind=kind, value=value, purity_select=1.0, purity_test=0.95, is_readable=is_readable)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("evidence", "grade"),
    [
        (FeatureEvidence(feature=0, sign=1, threshold=0.0, n_fires=0), "none"),
        (feature(is_detected=False), "none"),
        (feature(("import", ABOVE), is_detected=False), "none"),
        (feature(), "detects"),
        (feature(("import", AROUND)), "detects"),
        (feature(("import", ABOVE)), "detects and acts"),
        (feature(("string", ABOVE)), "detects"),
        (feature(("string", BELOW)), "detects"),
        (feature(("import", BELOW)), "contradicted"),
        (feature(("import", ABOVE), ("import", BELOW)), "contradicted"),
        (feature(("import", ABOVE), ("import", AROUND)), "detects and acts"),
    ],
)
def test_the_grade_is_the_rule(evidence: FeatureEvidence, grade: str) -> None:
    assert evidence.grade == grade


@pytest.mark.parametrize(
    ("evidence", "label"),
    [
        (feature(), "import"),
        (feature(is_detected=False), ""),
        (feature(reading=reading("label", "import_statement")), "import"),
        (feature(is_detected=False, reading=reading("label", "import_statement")), "import_statement"),
        (feature(reading=reading("token", " import")), "import"),
        (feature(is_detected=False, reading=reading("token", " import")), "token import"),
        (feature(is_detected=False, reading=reading("token before", "self.")), "after self."),
        (feature(is_detected=False, reading=reading("token", "\\n")), "token \\n"),
        (feature(is_detected=False, reading=reading("label", "string", is_readable=False)), ""),
    ],
)
def test_the_label_is_the_concept_or_what_the_strongest_tokens_share(evidence: FeatureEvidence, label: str) -> None:
    assert evidence.label == label


def effect(specific: float | None, interval: tuple[float, float] | None) -> AblationEffect:
    return AblationEffect(
        with_concept=specific, without_concept=0.0, specific=specific, kl=0.1,
        with_concept_interval=interval, specific_interval=interval, kl_interval=None,
    )  # fmt: skip


def ablation(*differences: AblationEffect) -> ConceptAblation:
    controls = tuple(
        AblationControl(
            directions=kind, n_draws=5, mean=effect(0.0, None), with_concept_spread=None, specific_spread=None,
            kl_spread=None, difference=difference,
        )
        for kind, difference in zip(("features", "random"), differences, strict=False)
    )  # fmt: skip
    return ConceptAblation(
        concept="import", feature=7, sign=1, threshold=0.0, n_sequences=4, n_documents=4, n_predictions=90,
        n_with_concept=30, reason=None, own=effect(-0.4, (-0.5, -0.3)), controls=controls,
    )  # fmt: skip


def test_an_ablation_counts_with_the_control_that_does_most() -> None:
    """Taking a feature out that acts lowers the probability: its effect is minus the change, less the control's."""
    found = ablation_tests([ablation(effect(-0.3, (-0.4, -0.25)), effect(-0.4, (-0.5, -0.3)))])
    assert found == [
        (7, 1, CausalTest(by="ablation", concept="import", effect=Estimate(value=0.3, low=0.25, high=0.4)))
    ]
    assert ablation_tests([ablation(effect(None, None))]) == []


def test_steering_counts_less_the_null_that_adds_most() -> None:
    def control(name: str, difference: float, excess: float) -> SteeringControl:
        both = (Estimate(value=value, low=value - 0.05, high=value + 0.05) for value in (difference, excess))
        return SteeringControl(name=name, difference=next(both), excess=next(both), spread=None, fluency=0.5)  # type: ignore[arg-type]

    controls = (control("features", 0.02, 0.28), control("random", 0.1, 0.2), control("difference in means", 0.4, -0.1))
    found = made_effect(feature=7, sign=-1, concept="import", controls=controls)
    ((feature, sign, test),) = steering_tests(made_steering(found))
    assert (feature, sign, test.by, test.concept) == (7, -1, "steering", "import")
    assert (test.effect.value, test.effect.low, test.effect.high) == pytest.approx((0.2, 0.15, 0.25))
    assert found.is_above_controls, "a supervised direction is no null"
    assert not structs.replace(found, controls=(*controls, control("other concepts", 0.3, 0.04))).is_above_controls
    assert not structs.replace(found, difference=AROUND).is_above_controls
    assert steering_tests(made_steering(structs.replace(found, controls=()))) == []


def test_the_mean_of_effects_is_surer_than_each() -> None:
    found = mean_effect([ABOVE, BELOW, ABOVE, ABOVE])
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((0.15, 0.1, 0.2))
    assert mean_effect([]) is None


def test_evidence_is_written_and_read_as_it_is(tmp_path: Any) -> None:
    from interp.records import read_record, write_record

    evidence = Evidence(run_identity="a", store_identity="b", features=(feature(("import", ABOVE)), feature()))
    write_record(tmp_path / "evidence.json", evidence)
    assert read_record(tmp_path / "evidence.json", Evidence, "") == evidence
