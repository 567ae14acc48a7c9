"""Evidence as a person reads it: columns, sentences and labels from records made by hand, and files that cannot be shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from interp.browse.evidence import (
    BEST_FIRST,
    GRADE_RULES,
    RunEvidence,
    ShownLabel,
    automatic_label,
    counts_of_grades,
    evidence_card,
    evidence_columns,
    evidence_text,
    load_evidence,
    shown_labels,
)
from interp.evaluation.estimates import Estimate
from interp.evaluation.evidence import (
    GRADES,
    CausalTest,
    Counterpart,
    Detected,
    Evidence,
    FeatureEvidence,
    Output,
    Reading,
)
from interp.records import write_record
from interp.runs.feature_labels import FeatureLabels
from interp.runs.record import Run, RunRecord

IMPORT = Detected(
    concept="import_keyword",
    f1=0.62,
    precision=0.7,
    recall=0.556,
    excess=Estimate(value=0.41, low=0.3, high=0.52),
    n_documents=37,
    is_detected=True,
)
WEAK = replace(IMPORT, concept="number", f1=0.1, excess=Estimate(value=-0.02, low=-0.1, high=0.06), is_detected=False)
ACTS = CausalTest(by="ablation", concept="import_keyword", effect=Estimate(value=0.08, low=0.03, high=0.12))
AGAINST = CausalTest(by="steering", concept="import_keyword", effect=Estimate(value=-0.2, low=-0.3, high=-0.1))
FEATURES = (
    FeatureEvidence(
        feature=0,
        sign=1,
        n_fires=1234,
        detected=IMPORT,
        reading=Reading(kind="token", value=" import", purity_select=0.92, purity_test=0.88, is_readable=True),
        tokens=(" import", "from"),
        simulability=0.87,
        seeds=(
            Counterpart(run="sae-1", feature=12, cosine=0.9, chance=0.4),
            Counterpart(run="gone", feature=3, cosine=0.7, chance=0.4),
        ),
        methods=(Counterpart(run="pca", feature=2, cosine=0.5, chance=0.3),),
        tests=(ACTS,),
    ),
    FeatureEvidence(feature=1, sign=-1, n_fires=1, detected=WEAK),
    FeatureEvidence(
        feature=2,
        sign=1,
        n_fires=9,
        reading=Reading(kind="token before", value="\n ", purity_select=0.9, purity_test=0.9, is_readable=True),
    ),
    FeatureEvidence(feature=3, sign=1, n_fires=50, detected=replace(IMPORT, n_documents=5), tests=(ACTS, AGAINST)),
    FeatureEvidence(feature=4, sign=1, n_fires=50, detected=replace(IMPORT, concept="number"), tests=(ACTS,)),
)
EVIDENCE = RunEvidence(FEATURES)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with some bytes for weights, beside which lie the runs ``sae-1`` and ``pca``."""
    record = RunRecord(
        kind="sae",
        site="blocks.0.hook_resid_post",
        d_in=4,
        config={"n_features": 5},
        store_name="demo",
        store_identity="text",
        model_id="demo",
        model_fingerprint="model",
        capabilities=["decode"],
        versions={},
        seconds=None,
        complete=True,
    )
    for name in ("sae", "sae-1", "pca"):
        folder = tmp_path / "demo" / "runs" / name
        folder.mkdir(parents=True)
        write_record(folder / "run.json", record)
        (folder / "decomposer.safetensors").write_bytes(b"some weights of " + name.encode())
    return Run.load(tmp_path / "demo" / "runs" / "sae")


def test_every_grade_has_a_rule_and_a_place() -> None:
    assert set(GRADE_RULES) == set(BEST_FIRST) == set(GRADES)
    assert [one.grade for one in FEATURES] == ["detects and acts", "none", "none", "contradicted", "detects"]


def test_columns_are_those_of_the_records() -> None:
    columns = EVIDENCE.columns
    assert columns["concept"].to_list() == ["import_keyword", "", "", "import_keyword", "number"]
    assert columns["excess"].to_list()[:2] == [0.41, -0.02]
    assert columns["stability"][0] == pytest.approx(0.8)
    assert columns["stability"].isna().to_list() == [False, True, True, True, True]
    assert EVIDENCE.concepts == ["import_keyword", "number"]


def test_the_payload_names_words_once_and_has_nothing_where_nothing_was_measured() -> None:
    columns = evidence_columns(EVIDENCE)
    assert columns is not None
    assert [columns["grades"][i] for i in columns["grade"]] == [one.grade for one in FEATURES]
    assert columns["labels"] == ["after ⏎␣", "import_keyword", "number"]
    assert columns["label"] == [1, -1, 0, 1, 2]
    assert columns["excess"] == [0.41, -0.02, None, 0.41, 0.41]
    assert columns["stability"] == [0.8, None, None, None, None]
    assert evidence_columns(RunEvidence(missing="none yet")) is None


def test_a_token_in_a_label_is_trimmed_and_its_blanks_are_seen() -> None:
    reading = Reading(kind="token", value=" import", purity_select=1.0, purity_test=1.0, is_readable=True)
    one = FeatureEvidence(feature=0, sign=1, n_fires=9, reading=reading)
    assert automatic_label(one) == "token import"
    assert automatic_label(replace(one, reading=replace(reading, value="    "))) == "token ␣␣␣␣"
    assert automatic_label(replace(one, reading=replace(reading, kind="label", value="a  b"))) == "a  b"
    assert automatic_label(replace(one, reading=replace(reading, is_readable=False))) == ""


def test_a_persons_label_wins_and_automatic_ones_are_marked() -> None:
    labels = shown_labels({3: "mine", 4: "", 1: "weak"}, EVIDENCE)
    assert labels == {
        0: ShownLabel("import_keyword", True),
        1: ShownLabel("weak", False),
        2: ShownLabel("after ⏎␣", True),
        3: ShownLabel("mine", False),
        4: ShownLabel("number", True),
    }
    assert (labels[0].marked, labels[3].marked) == ("import_keyword (auto)", "mine")


def test_the_card_says_in_sentences_what_it_fires_on_and_what_it_does_apart(run: Run) -> None:
    card = evidence_card(run, EVIDENCE, 0)
    assert card["grade"] == "detects and acts"
    assert card["rule"] == GRADE_RULES["detects and acts"]
    assert card["fires_on"] == [
        [
            "It fires on import_keyword: 70% of the tokens it fires on are one, and it fires on 56% of all there are "
            "(F1 .62; random directions that fire as often reach .21; excess +.41 [+.30, +.52]; in 37 documents)."
        ],
        ["It fires on 1,234 tokens of the judged text; the tokens around predict its firing with AUROC .87."],
        ["Its strongest tokens are ", {"token": " import"}, ": 92% of them on select, 88% on test."],
        ["Strongest tokens: ", {"token": " import"}, ", ", {"token": "from"}],
        [
            "Under other seeds: ",
            {"text": "feature 12 of sae-1", "run": "demo/sae-1", "feature": 12},
            ", cosine .90 beside .40 by chance",
            "; ",
            {"text": "feature 3 of gone", "run": "", "feature": 3},
            ", cosine .70 beside .40 by chance",
            ".",
        ],
        [
            "In other methods: ",
            {"text": "feature 2 of pca", "run": "demo/pca", "feature": 2},
            ", cosine .50 beside .30 by chance",
            ".",
        ],
    ]
    assert card["does"] == [
        [
            "Taking it out makes import_keyword less likely: it acts (+.08 [+.03, +.12] nats of log-probability beyond its "
            "control)."
        ]
    ]


def test_the_card_says_what_is_not_detected_not_tested_and_of_which_sign(run: Run) -> None:
    card = evidence_card(run, EVIDENCE, 1)
    assert card["fires_on"] == [
        [
            "It detects no concept; the nearest is number: 70% of the tokens it fires on are one, and it fires on 56% of all "
            "there are (F1 .10; random directions that fire as often reach .12; excess -.02 [-.10, +.06]; in 37 documents). "
            "All of this is about its negative codes."
        ],
        ["It fires on 1 token of the judged text."],
    ]
    assert card["does"] == [
        ["Not tested: only features of the concepts that are detected best are taken out or added."]
    ]
    assert evidence_card(run, EVIDENCE, 2)["fires_on"][0] == ["No concept was found to compare it with."]
    assert "less import_keyword: it acts against it (-.20 [-.30, -.10] of the text beyond its control)." in str(
        evidence_card(run, EVIDENCE, 3)["does"][1]
    )
    output = Output(concept="string", sign=1, lift=3.21, chance=2.5)
    for estimated, said in (
        (output, "Estimated: adding it makes the model write string (+3.2 standard"),
        (replace(output, sign=-1), "Estimated: adding its opposite makes the model write string"),
        (replace(output, lift=2.4), "Estimated: adding it makes no concept likelier than adding a"),
    ):
        (tested, (line,)) = evidence_card(run, RunEvidence((replace(FEATURES[1], output=estimated),)), 0)["does"]
        assert tested == ["Not tested: only features of the concepts that are detected best are taken out or added."]
        assert str(line).startswith(said)
    assert "not in the evidence" in evidence_card(run, EVIDENCE, 5)["missing"]


def test_large_figures_keep_their_zeros(run: Run) -> None:
    test = replace(ACTS, effect=Estimate(value=10.25, low=-0.5, high=20.0))
    does = evidence_card(run, RunEvidence((replace(FEATURES[0], tests=(test,)),)), 0)["does"]
    assert "no more than its control does (+10.25 [-.50, +20.00] nats of log-probability beyond its control)." in str(
        does
    )


def test_the_same_is_plain_text_on_the_command_line(run: Run) -> None:
    assert evidence_text(run, 0) == (
        "evidence    What its features detect and do has not been measured; measure it with:  interp evaluate "
        f"{run.path}"
    )
    write_record(run.path / "evidence.json", Evidence(run_identity=run.identity, store_identity="", features=FEATURES))
    lines = evidence_text(run, 0).splitlines()
    assert lines[0] == "label       import_keyword (auto)"
    assert lines[1].startswith("grade       detects and acts: It detects a concept, and")
    assert lines[2] == "what it fires on"
    assert "  Strongest tokens: ␣import, from" in lines
    assert lines[-2] == "what it does"
    FeatureLabels(run.labels_path).set(0, label="mine")
    assert evidence_text(run, 0).splitlines()[0] == "label       mine"


def test_counts_of_grades_are_of_all_features() -> None:
    assert counts_of_grades(EVIDENCE) == "3 detect a concept, of these 1 act, 1 contradicted"
    assert counts_of_grades(RunEvidence()) == ""


def test_evidence_is_read_or_the_reason_said_with_the_command(run: Run) -> None:
    path = run.path / "evidence.json"
    assert load_evidence(run, "interp evaluate sae").missing == (
        "What its features detect and do has not been measured; measure it with:  interp evaluate sae"
    )
    written = Evidence(run_identity=run.identity, store_identity="text", features=FEATURES)
    write_record(path, written)
    assert load_evidence(run, "interp evaluate sae") == EVIDENCE

    write_record(path, replace(written, run_identity="others"))
    assert "is of other weights than it has now" in load_evidence(run, "interp evaluate sae").missing
    write_record(path, replace(written, features=FEATURES[::-1]))
    assert "its features are not in order" in load_evidence(run, "interp evaluate sae").missing
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    assert "version 2, this program reads interp-evidence version 1" in load_evidence(run, "interp").missing
    path.write_text("{")
    missing = load_evidence(run, "interp evaluate sae").missing
    assert missing.endswith("it is not valid JSON; make it again with:  interp evaluate sae")
