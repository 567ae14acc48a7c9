"""Steering sweeps: one table however often they are interrupted, refused before the first text, and figures by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec import structs, to_builtins
from pyarrow import parquet

from interp.errors import InputError
from interp.evaluation import sweep as sweep_module
from interp.evaluation.fluency import fluency, repetition
from interp.evaluation.frontier import frontier, leading_concepts
from interp.evaluation.frontier_figures import share_by_fluency, share_by_kl
from interp.evaluation.judges import FunctionJudge
from interp.evaluation.resampling import over_prompts
from interp.evaluation.sweep import check_place, check_request, sweep
from interp.evaluation.sweep_page import summary_cells, sweep_page
from interp.evaluation.sweep_records import Part, Steering, SweepJournal, SweepRequest, Written
from interp.evaluation.sweep_table import SweepTable, read_sweep, sweep_table, write_sweep
from interp.metrics import distinct_n
from interp.model.language_model import LanguageModel
from interp.steering.steerer import Steerer

REQUEST = SweepRequest(
    run="made",
    run_identity="0123",
    features=(3, 1),
    mode="add",
    strengths=(),
    kls=(0.05, 0.3),
    prompts=("ab", "é x = "),
    seeds=(4, 2),
    n_samples=3,
    n_tokens=9,
    temperature=1.0,
    judge="letters",
    concepts=(),
)


class Stop(Exception):
    """As if the process were killed."""


def judge(text: str, *, start: int) -> dict[str, float]:
    """Shares of two kinds of characters."""
    written = text[start:] or " "
    return {
        "letter": sum(c.isalpha() for c in written) / len(written),
        "digit": sum(c.isdigit() for c in written) / len(written),
    }


@pytest.fixture(scope="module")
def steerer(byte_model: LanguageModel) -> Steerer:
    site = "blocks.1.hook_resid_post"
    directions = torch.randn(5, byte_model.site(site).d_in, generator=torch.Generator().manual_seed(1))
    return Steerer(byte_model, site, directions, torch.tensor([1.0, 1.2, 0.0, 1.5, 2.0]))


@pytest.fixture(scope="module")
def neutral(byte_model: LanguageModel) -> torch.Tensor:
    drawn = torch.randint(1, byte_model.d_vocab, (2, 16), generator=torch.Generator().manual_seed(2))
    drawn[:, 0] = byte_model.bos_id
    return drawn


@pytest.fixture
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two variants a batch, so that a prompt and a seed take three."""
    monkeypatch.setattr(sweep_module, "_ROWS_PER_PASS", 6)


@pytest.fixture(scope="module")
def table(steerer: Steerer, neutral: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> SweepTable:
    return sweep(steerer, REQUEST, judge=judge, neutral=neutral, path=tmp_path_factory.mktemp("sweep") / "all.parquet")


# ----------------------------------------------------------------------------------------------------------- the table


def test_a_sweep_holds_every_text_of_every_feature_strength_prompt_and_seed(table: SweepTable) -> None:
    columns = table.columns
    assert len({len(values) for values in columns.values()}) == 1
    keys = [columns[name] for name in ("feature", "target", "prompt", "seed", "sample")]
    assert list(zip(*keys, strict=True)) == [
        (feature, target, prompt, seed, sample)
        for feature in (3, 1)
        for target in (0.05, 0.3)
        for prompt in (0, 1)
        for seed in (4, 2)
        for sample in (0, 1, 2)
    ]
    assert set(columns["run"]) == {"made"}
    assert set(columns["mode"]) == {"add"}
    assert all(columns["reached"])
    assert np.abs(table.values("kl") / table.values("target") - 1).max() < 0.05
    assert [int(rows.sum()) for rows in table.steerings()] == [12] * 4


def test_texts_are_those_that_the_steerer_writes(table: SweepTable, steerer: Steerer, neutral: torch.Tensor) -> None:
    columns = table.columns
    rows = [i for i, f in enumerate(columns["feature"]) if f == 1 and columns["target"][i] == 0.3]
    strength = columns["strength"][rows[0]]
    first = [i for i in rows if (table.columns["prompt"][i], table.columns["seed"][i]) == (0, 2)]
    assert [table.columns["text"][i] for i in first] == steerer.generate(
        "ab", {1: strength}, n_samples=3, n_tokens=9, seed=2
    )
    assert [table.columns["baseline_text"][i] for i in first] == steerer.generate(
        "ab", {}, n_samples=3, n_tokens=9, seed=2
    )
    assert table.columns["kl"][rows[0]] == pytest.approx(steerer.kl(neutral, {1: strength}), rel=1e-3)
    ratio = steerer.perplexity_ratio(neutral, {1: strength})
    assert table.columns["perplexity_ratio"][rows[0]] == pytest.approx(ratio, rel=1e-3)


def test_no_two_prompts_or_seeds_share_their_noise(
    steerer: Steerer, neutral: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    draw = steerer.sample_each

    def watched(*args: Any, seed: int, **options: Any) -> Any:
        seen.append(seed)
        return draw(*args, seed=seed, **options)

    request = structs.replace(REQUEST, prompts=("a", "b", "c"), seeds=(0, 1, 2), features=(1,), kls=(0.1,))
    monkeypatch.setattr(steerer, "sample_each", watched)
    sweep(steerer, request, judge=judge, neutral=neutral, path=tmp_path / "t.parquet")
    assert len(seen) == len(set(seen)) == 9
    assert {0, 1, 2} <= set(seen), "the first prompt's seeds are those of a single steering"


def test_figures_of_texts_are_those_of_their_tokens(table: SweepTable, steerer: Steerer) -> None:
    start = steerer.model.encode("ab")
    usual = np.mean([_nll(steerer, start, seed, {}) for seed in (4, 2)])
    row = next(i for i in range(48) if (table.columns["prompt"][i], table.columns["seed"][i]) == (0, 2))
    strength, feature = table.columns["strength"][row], table.columns["feature"][row]
    tokens = steerer.sample(start.repeat(3, 1), {feature: strength}, n_tokens=9, seed=2)
    nll = _nll(steerer, start, 2, {feature: strength})
    assert table.values("fluency")[row : row + 3] == pytest.approx(fluency(nll, float(usual)), rel=1e-4)
    assert table.values("baseline_fluency")[row : row + 3] == pytest.approx(
        fluency(_nll(steerer, start, 2, {}), float(usual)), rel=1e-4
    )
    assert table.columns["distinct_2"][row] == distinct_n(tokens[0].numpy(), n=2)
    assert table.columns["repetition"][row] == repetition(tokens[0].numpy())
    text = table.columns["text"][row]
    assert table.columns["share_letter"][row] == judge("ab" + text, start=2)["letter"]


def _nll(steerer: Steerer, start: torch.Tensor, seed: int, strengths: dict[int, float]) -> np.ndarray:
    prompts = start.repeat(3, 1)
    tokens = steerer.sample(prompts, strengths, n_tokens=9, seed=seed)
    log_probs = steerer.log_probs(torch.cat([prompts, tokens], 1), n_prompt=len(start))
    return -log_probs.double().mean(1).numpy()


def test_strength_zero_is_the_baseline(steerer: Steerer, neutral: torch.Tensor, tmp_path: Path) -> None:
    request = structs.replace(REQUEST, kls=(), strengths=(0.0, -2.0))
    found = sweep(steerer, request, judge=judge, neutral=neutral, path=tmp_path / "t.parquet").columns
    rows = list(zip(found["strength"], found["kl"], found["text"], found["baseline_text"], strict=True))
    assert all(text == baseline and kl == 0 for strength, kl, text, baseline in rows if strength == 0)
    steered = [(kl, text != baseline) for strength, kl, text, baseline in rows if strength]
    assert all(kl > 0 for kl, _ in steered)
    assert sum(is_other for _, is_other in steered) > len(steered) / 2
    assert set(found["target"]) == set(found["reached"]) == {None}


def test_a_table_is_read_back_as_it_was_and_by_parquet_alone(table: SweepTable, tmp_path: Path) -> None:
    write_sweep(tmp_path / "t.parquet", table)
    found = read_sweep(tmp_path / "t.parquet")
    assert (found.request, found.columns) == (table.request, table.columns)
    assert parquet.read_table(tmp_path / "t.parquet").to_pydict() == table.columns


# --------------------------------------------------------------------------------------------------------- interrupted


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.usefixtures("few_rows")
@pytest.mark.parametrize(
    "torn", [b"", b'{"prompt":0,"seed":4,"fir', '{"prompt":0,"seed":4,"first":0,"texts":[[{"text":"é'.encode()[:-1]]
)
def test_an_interrupted_sweep_ends_with_the_table_of_one_never_interrupted(
    steerer: Steerer, neutral: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: bytes
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    sweep(steerer, REQUEST, judge=judge, neutral=neutral, path=whole / "t.parquet")
    assert list(files(whole)) == ["t.parquet"]
    written, write = [0], sweep_module._write

    def dying(*args: Any) -> Part:
        if written[0] in (0, 3, 4, 9):
            written[0] += 1
            raise Stop
        written[0] += 1
        return write(*args)

    monkeypatch.setattr(sweep_module, "_write", dying)
    for _ in range(4):
        with pytest.raises(Stop):
            sweep(steerer, REQUEST, judge=judge, neutral=neutral, path=cut / "t.parquet")
        assert list(files(cut)) == ["t.journal.jsonl"]
        with (cut / "t.journal.jsonl").open("ab") as file:
            file.write(torn)
    monkeypatch.setattr(steerer, "strengths_for_kl", None)  # is not asked again
    sweep(steerer, REQUEST, judge=judge, neutral=neutral, path=cut / "t.parquet")
    assert files(cut) == files(whole)
    assert written[0] == 12 + 4, "no batch was written twice"


@pytest.mark.usefixtures("few_rows")
def test_a_sweep_that_is_whole_is_read(
    steerer: Steerer, neutral: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.parquet"
    first = sweep(steerer, REQUEST, judge=judge, neutral=neutral, path=path)
    (tmp_path / "t.journal.jsonl").write_text("left by a process killed after the table was written\n")
    monkeypatch.setattr(steerer, "sample_each", None)
    monkeypatch.setattr(steerer, "strengths_for_kl", None)
    again = sweep(steerer, REQUEST, judge=judge, neutral=neutral, path=path)
    assert again.columns == first.columns
    assert list(files(tmp_path)) == ["t.parquet"]


@pytest.mark.usefixtures("few_rows")
def test_a_judge_that_fails_costs_only_its_own_batch(steerer: Steerer, neutral: torch.Tensor, tmp_path: Path) -> None:
    calls = [0]

    def failing(text: str) -> float:
        calls[0] += 1
        return math.nan if calls[0] == 15 else len(text) / 100

    own = FunctionJudge(failing)
    with pytest.raises(
        InputError, match=r"'failing' returned 'nan'.*\(2 of 12 batches are kept in '.*t.journal.jsonl'; the same"
    ):
        sweep(steerer, REQUEST, judge=own, neutral=neutral, path=tmp_path / "t.parquet")
    assert list(files(tmp_path)) == ["t.journal.jsonl"]
    table = sweep(steerer, REQUEST, judge=own, neutral=neutral, path=tmp_path / "t.parquet")
    assert table.columns["share_judge"] == [len(text) / 100 for text in table.columns["text"]]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"features": (3, 4)}, "features"),
        ({"prompts": ("ab", "other"), "judge": "mine"}, "prompts, judge"),
        ({"run_identity": "4567"}, "run_identity"),
        ({"temperature": 0.5}, "temperature"),
    ],
)
def test_the_files_of_another_sweep_are_refused_and_left(
    table: SweepTable, steerer: Steerer, neutral: torch.Tensor, tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    path, other = tmp_path / "t.parquet", structs.replace(REQUEST, **change)
    journal = SweepJournal(request=REQUEST, steerings=())
    (tmp_path / "t.journal.jsonl").write_text(
        json.dumps({"schema": "interp.sweep-journal", "version": 1} | to_builtins(journal))
    )
    before = files(tmp_path)
    with pytest.raises(
        InputError, match=rf"t.journal.jsonl' is of another sweep, which differs in {named}; give another --out"
    ):
        sweep(steerer, other, judge=judge, neutral=neutral, path=path)
    assert files(tmp_path) == before
    write_sweep(path, table)
    before = files(tmp_path)
    with pytest.raises(InputError, match=rf"t.parquet' is of another sweep, which differs in {named};"):
        sweep(steerer, other, judge=judge, neutral=neutral, path=path)
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"no table", "is no Parquet table"), (None, "is None version None, this program reads interp.sweep version 1")],
)
def test_a_file_that_is_no_sweep_is_refused_and_left(tmp_path: Path, content: bytes | None, message: str) -> None:
    import pyarrow

    path = tmp_path / "t.parquet"
    if content is None:
        parquet.write_table(pyarrow.table({"a": [1]}), path)
    else:
        path.write_bytes(content)
    before = files(tmp_path)
    with pytest.raises(InputError, match=message):
        check_place(path, REQUEST)
    assert files(tmp_path) == before
    with pytest.raises(InputError, match=r"there is no sweep '.*none.parquet'; make it with interp steer RUN --sweep"):
        read_sweep(tmp_path / "none.parquet")


# ------------------------------------------------------------------------------------------------ before the first text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": ()}, "a sweep needs features; give at least one"),
        ({"prompts": ()}, "a sweep needs prompts"),
        ({"seeds": (1, 2, 1)}, "seeds has '1' more than once; give each once"),
        ({"kls": (0.1, 0.1)}, "kls has '0.1' more than once"),
        ({"kls": ()}, "give either strengths or target KLs"),
        ({"strengths": (1.0,)}, "give either strengths or target KLs"),
        ({"kls": (), "strengths": (math.inf,)}, "a strength is not finite"),
        ({"kls": (0.0,)}, "a target KL must be above 0 nats"),
        ({"kls": (math.nan,)}, "a target KL must be above 0 nats"),
        ({"seeds": (-1,)}, "seeds must be whole numbers from 0"),
        ({"n_samples": 0}, "give at least one sample of one token"),
        ({"temperature": math.nan}, "a temperature of 0 or more"),
        ({"features": (3, 5)}, "no feature 5; this run has 0-4"),
        ({"features": (3, -1)}, "no feature -1; this run has 0-4"),
        ({"features": (2, 3)}, "features that never fire on their store: 2; leave them out"),
        ({"mode": "flow"}, "no steering mode 'flow' in the run 'made'; it has 'add'"),
        ({"prompts": ("ab", "a" * 40)}, "41 tokens and 9 new ones exceed the 48 tokens of"),
        ({"concepts": ("lettre",)}, "no concept 'lettre' in what the judge knows; did you mean 'letter'"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    steerer: Steerer,
    neutral: torch.Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.setattr(steerer, "sample_each", None)
    with pytest.raises(InputError, match=message):
        sweep(steerer, structs.replace(REQUEST, **change), judge=judge, neutral=neutral, path=tmp_path / "t.parquet")
    assert files(tmp_path) == {}


def test_a_strength_at_which_the_model_overflows_is_refused(
    steerer: Steerer, neutral: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steerer, "kl", lambda tokens, strengths, mode: math.nan if 1 in strengths else 0.1)
    request = structs.replace(REQUEST, kls=(), strengths=(1000.0,))
    with pytest.raises(
        InputError, match="at strength 1000 of feature 1 the model predicts nothing finite; give smaller"
    ):
        sweep(steerer, request, judge=judge, neutral=neutral, path=tmp_path / "t.parquet")
    assert files(tmp_path) == {}


@pytest.mark.parametrize("name", ["t.csv", "no/t.parquet", "folder.parquet"])
def test_a_table_that_has_no_place_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(InputError, match=r"the table cannot be '.*'; give NAME.parquet in a folder that there is"):
        check_place(tmp_path / name, REQUEST)
    check_request(REQUEST)


def test_a_judge_that_fails_at_once_is_found_before_the_search(
    steerer: Steerer, neutral: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steerer, "strengths_for_kl", None)
    own = FunctionJudge(lambda text: 1 / 0)
    with pytest.raises(InputError, match="'<lambda>' failed with ZeroDivisionError"):
        sweep(steerer, REQUEST, judge=own, neutral=neutral, path=tmp_path / "t.parquet")
    assert files(tmp_path) == {}


# ------------------------------------------------------------------------------------------------------- the frontier


def by_hand(number: float = 1.0) -> SweepTable:
    """Feature 7 at two strengths, two prompts, one seed and two samples; shares are ``number`` times what is listed."""
    request = structs.replace(
        REQUEST, features=(7,), kls=(), strengths=(1.0, 2.0), prompts=("a", "b"), seeds=(0,), n_samples=2, n_tokens=4
    )
    steerings = tuple(
        Steering(feature=7, target=None, strength=s, kl=kl, reached=None, perplexity_ratio=1.0)
        for s, kl in ((2.0, 0.4), (1.0, 0.1))
    )

    def texts(*pairs: tuple[float, float]) -> tuple[Written, ...]:
        return tuple(
            Written(text="t", nll=nll, distinct_2=1.0, repetition=0.0, judged={"c": number * share})
            for share, nll in pairs
        )

    # Baselines of prompt 0 have NLL 1 and 3 (mean 2), those of prompt 1 both 1.
    first = (texts((0.0, 1.0), (0.2, 3.0)), texts((1.0, 3.0), (0.8, 2.0)), texts((0.5, 2.0), (0.5, 2.0)))
    second = (texts((0.0, 1.0), (0.0, 1.0)), texts((0.6, 3.0), (0.4, 3.0)), texts((0.3, 1.0), (0.1, 1.0)))
    parts = [Part(prompt=i, seed=0, first=0, texts=each) for i, each in enumerate((first, second))]
    return sweep_table(SweepJournal(request=request, steerings=steerings), parts)


def test_the_frontier_by_hand() -> None:
    weak, strong = frontier(by_hand(), "c")[7]
    assert (weak.strength, weak.kl, strong.strength, strong.kl) == (1.0, 0.1, 2.0, 0.4)  # smallest effect first
    assert weak.share.value == pytest.approx((0.5 + 0.5 + 0.3 + 0.1) / 4)
    assert strong.share.value == pytest.approx((1.0 + 0.8 + 0.6 + 0.4) / 4)
    assert weak.baseline_share.value == strong.baseline_share.value == pytest.approx(0.05)
    assert strong.gain.value == pytest.approx(0.65)
    e = np.exp
    assert weak.fluency.value == pytest.approx(1.0)
    assert strong.fluency.value == pytest.approx((e(-1) + 1 + e(-2) + e(-2)) / 4)
    assert weak.baseline_fluency.value == pytest.approx((1 + e(-1) + 1 + 1) / 4)

    def harmonic(share: float, flu: float) -> float:
        return 2 * share * flu / (share + flu)

    scores = [harmonic(1.0, e(-1)), harmonic(0.8, 1.0), harmonic(0.6, e(-2)), harmonic(0.4, e(-2))]
    assert strong.score is not None
    assert weak.score is not None
    assert strong.score.value == pytest.approx(np.mean(scores))
    assert weak.score.value == pytest.approx(np.mean([harmonic(s, 1.0) for s in (0.5, 0.5, 0.3, 0.1)]))
    # .494 against .463: the weaker strength writes less of the concept, but better.
    assert (weak.is_best, strong.is_best) == (True, False)


def test_intervals_know_that_texts_of_one_prompt_are_alike() -> None:
    alike = np.repeat([[0.0], [1.0], [0.0], [1.0], [0.0], [1.0]], 50, axis=1)
    mixed = np.tile([0.0, 1.0], (6, 25))
    wide, narrow = over_prompts(alike, seed=0), over_prompts(mixed, seed=0)
    assert wide.value == narrow.value == 0.5
    # Six draws of 0 or 1 with equal chance: 95 % of their means are from 1/6 to 5/6, or 0 to 1.
    assert wide.low <= 1 / 6
    assert wide.high >= 5 / 6
    # 300 draws: 2 * 0.5 / sqrt(300) = 0.058 to either side.
    assert narrow.high - narrow.low == pytest.approx(4 * 0.5 / 300**0.5, rel=0.2)
    alone = over_prompts(np.array([[0.3]]), seed=0)
    assert (alone.low, alone.value, alone.high) == (0.3, 0.3, 0.3)
    assert over_prompts(mixed[:1], seed=0).high > 0.5, "with one prompt its samples alone are drawn"


def test_numbers_that_are_no_shares_have_no_harmonic_mean() -> None:
    points = frontier(by_hand(number=-3.0), "c")[7]
    assert [point.score for point in points] == [None, None]
    assert [point.is_best for point in points] == [True, False]  # -1.05 against -2.1
    assert summary_cells({"c": {7: points}})[1][-1] == "-"


def test_the_concepts_shown_are_those_asked_for_or_those_gained_most(table: SweepTable) -> None:
    letter, digit = (
        max(
            np.mean((table.values(f"share_{c}") - table.values(f"baseline_share_{c}"))[rows])
            for rows in table.steerings()
        )
        for c in ("letter", "digit")
    )
    order = ["letter", "digit"] if letter > digit else ["digit", "letter"]
    assert leading_concepts(table) == order
    assert leading_concepts(table, 1) == order[:1]
    asked = SweepTable(structs.replace(table.request, concepts=("letter", "digit")), table.columns)
    assert leading_concepts(asked, 1) == ["letter", "digit"]
    with pytest.raises(InputError, match="no concept 'digits' in this sweep; did you mean 'digit'"):
        frontier(table, "digits")


def test_the_figures_draw_what_was_found() -> None:
    points = frontier(by_hand(), "c")
    weak, strong = points[7]
    line, dots, *_ = share_by_kl(points, title="c").data
    assert list(line.x) == [0.0, 0.1, 0.4]
    assert list(line.y) == [0.05, weak.share.value, strong.share.value]
    assert list(dots.error_y.array) == [each.share.high - each.share.value for each in (weak, strong)]
    assert list(dots.error_y.arrayminus) == [each.share.value - each.share.low for each in (weak, strong)]
    assert [symbol == "star" for symbol in dots.marker.symbol] == [weak.is_best, strong.is_best]
    line, dots, *_ = share_by_fluency(points, title="c").data
    assert list(line.x) == [weak.baseline_fluency.value, weak.fluency.value, strong.fluency.value]
    assert dots.error_x.array[1] == strong.fluency.high - strong.fluency.value
    with pytest.raises(InputError, match="a frontier needs at least one strength"):
        share_by_kl({}, title="c")


def test_the_page_needs_nothing_else_and_escapes_what_a_model_wrote(table: SweepTable) -> None:
    columns = table.columns | {"text": ["<script>alert(1)</script>"] * len(table.columns["text"])}
    page = sweep_page(SweepTable(table.request, columns), unit="x its maximum")
    assert "default-src 'none'" in page
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert page.count("plotly-graph-div") == 2 * len(table.concepts)
