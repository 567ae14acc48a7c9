"""What was measured of each feature, in one record: evidence.json in the folder of a run.

Correlational evidence (what it fires on) and causal evidence (what it does) stay apart. The grade is a rule, not a judgement:

    none                no concept is detected on test
    detects             F1 above that of random directions cut to its rate (whole interval), precision at least half-way from
                        the base rate to 1, in at least 5 documents
    detects and acts    and a causal test of that concept is above its control with its whole interval, none below
    contradicted        it detects, but a causal test of that concept is below its control with its whole interval

A causal test is an ablation (taking the feature out makes the concept's tokens less likely, more than taking as much out along
other directions does) or steering (adding it makes the model write more of the concept, more than the control does).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from interp.evaluation.estimates import Estimate
from interp.records import FileRecord, Record, read_record

if TYPE_CHECKING:
    from interp.runs.record import Run

EVIDENCE_FILE = "evidence.json"
Grade = Literal["none", "detects", "detects and acts", "contradicted"]
GRADES: tuple[Grade, ...] = ("none", "detects", "detects and acts", "contradicted")
N_TOKENS = 8


class Detected(Record, frozen=True):
    """The concept that a feature's firing says most of: chosen on select, figures of test."""

    concept: str
    f1: float
    precision: float
    recall: float
    excess: Estimate
    """F1 less that of random directions cut to the feature's rate, each with its own best concept."""
    n_documents: int
    """Documents with a hit."""
    is_detected: bool
    """Whether it passes the test for detecting the concept."""


class Reading(Record, frozen=True):
    """What a feature's strongest tokens have in common."""

    kind: Literal["label", "token", "token before"]
    value: str
    """Name of the label, or text of the token."""
    purity_select: float
    purity_test: float
    is_readable: bool
    """Whether both are pure enough, over enough documents."""


class Counterpart(Record, frozen=True):
    """The feature of another run that is most like it."""

    run: str
    feature: int
    cosine: float
    chance: float
    """The cosine with the nearest of as many random directions, or forms."""


class CausalTest(Record, frozen=True):
    """What taking the feature out, or adding it, did to a concept's tokens."""

    by: Literal["ablation", "steering"]
    concept: str
    effect: Estimate
    """Less its control, with the sign in which a feature acts for the concept: nats of the concept's tokens (ablation), share
    of the text (steering)."""


class Output(Record, frozen=True):
    """The concept that a feature is estimated to make the model write, from gradients at an equal effect on neutral text.

    An estimate of what adding the feature does to the next token, not a test of it: it says nothing of the grade.
    """

    concept: str
    sign: int
    """-1 where adding the opposite of the feature does."""
    lift: float
    """Gain in log-probability of the tokens that begin the concept, in standard deviations over random directions distributed
    like the activations."""
    chance: float
    """The lift that 5 % of these directions exceed, each for its own best concept."""


class FeatureEvidence(Record, frozen=True):
    """All that is known of one feature."""

    feature: int
    sign: int
    """The sign of its codes that the evidence is about: of signed methods, the one that detects more."""
    n_fires: int
    """Tokens of the judged text on which it fires."""
    threshold: float = 0.0
    """It fires where sign * code is greater: 0 but for methods without firing of their own."""
    detected: Detected | None = None
    reading: Reading | None = None
    tokens: tuple[str, ...] = ()
    """Its strongest tokens, each once."""
    simulability: float | None = None
    """AUROC on test of predicting its firing from the tokens around."""
    seeds: tuple[Counterpart, ...] = ()
    """In runs of the same request from other seeds, paired one to one."""
    methods: tuple[Counterpart, ...] = ()
    """In runs of other methods at the site, the most alike."""
    tests: tuple[CausalTest, ...] = ()
    output: Output | None = None
    """None where there is no concept whose tokens are known."""

    @property
    def grade(self) -> Grade:
        """By the rule above."""
        if self.detected is None or not self.detected.is_detected:
            return "none"
        effects = [test.effect for test in self.tests if test.concept == self.detected.concept]
        if any(effect.high < 0 for effect in effects):
            return "contradicted"
        return "detects and acts" if any(effect.low > 0 for effect in effects) else "detects"

    @property
    def label(self) -> str:
        """A short name made from the evidence: the concept it detects, else what its strongest tokens have in common; else
        empty."""
        if self.grade != "none" and self.detected is not None:
            return self.detected.concept
        reading = self.reading
        if reading is None or not reading.is_readable:
            return ""
        if reading.kind == "label":
            return reading.value
        shown = reading.value.strip() or reading.value
        return f"token {shown}" if reading.kind == "token" else f"after {shown}"


class Evidence(FileRecord, frozen=True):
    """evidence.json."""

    SCHEMA: ClassVar[str] = "interp-evidence"
    VERSION: ClassVar[int] = 1

    run_identity: str
    store_identity: str
    features: tuple[FeatureEvidence, ...]
    """One a feature, in order."""


def read_evidence(run: Run) -> Evidence | None:
    """The evidence kept with a run; None where there is none or where it is about other weights.

    Raises InputError for a damaged file.
    """
    if not (run.path / EVIDENCE_FILE).exists():
        return None
    evidence = read_record(run.path / EVIDENCE_FILE, Evidence, "")
    return evidence if evidence.run_identity == run.identity else None
