"""Stability: the silhouette against its definition, the planted rank found, and what is written and read back."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from interp.cli.main import main
from interp.decomposers.baselines.pca import PCA, PCAConfig
from interp.decomposers.bilinear.autoencoder import Bilinear, BilinearConfig
from interp.decomposers.forms import Forms
from interp.decomposers.semi_nmf.decomposer import SemiNMF, SemiNMFConfig
from interp.errors import InputError
from interp.evaluation.stability import (
    RowSample,
    Stability,
    curve_table,
    feature_stability,
    is_signless,
    recommended_rank,
    refitted_features,
    stability_of,
    write_curve,
)
from interp.runs.record import Run
from interp.runs.training import train_run
from interp.store.reader import ActivationStore
from interp.store.source import ActivationSource, ArraySource, shuffled_batches

SITE = "blocks.1.mlp.hook_post"


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def slow_silhouettes(members: list[np.ndarray], similarity: Callable = np.dot) -> np.ndarray:
    """By the definition: ``members[r][k]`` is the r-th member of cluster k."""
    n, n_features = len(members), len(members[0])
    found = np.zeros((n, n_features))
    for r in range(n):
        for k in range(n_features):
            distance = [[1 - similarity(members[r][k], members[q][j]) for q in range(n)] for j in range(n_features)]
            own = np.mean([distance[k][q] for q in range(n) if q != r])
            other = min(np.mean(distance[j]) for j in range(n_features) if j != k)
            found[r, k] = (other - own) / max(own, other)
    return found.mean(0)


def test_the_silhouette_is_its_definition_however_refits_are_ordered():
    rng = np.random.default_rng(0)
    first = unit(rng.normal(size=(7, 30)))
    refits = [unit(first + 0.1 * rng.normal(size=first.shape)) for _ in range(4)]
    expected = slow_silhouettes([first, *refits])
    shuffled = [refit[rng.permutation(7)] for refit in refits]
    np.testing.assert_allclose(feature_stability(first, shuffled), expected, rtol=1e-5)


def test_features_without_a_sign_are_matched_and_judged_without_it():
    rng = np.random.default_rng(3)
    first = unit(rng.normal(size=(7, 30)))
    refits = [unit(first + 0.1 * rng.normal(size=first.shape)) for _ in range(4)]
    expected = slow_silhouettes([first, *refits], similarity=lambda v, w: abs(v @ w))
    turned = [(rng.choice([-1, 1], (7, 1)) * refit)[rng.permutation(7)] for refit in refits]
    np.testing.assert_allclose(feature_stability(first, turned, has_sign=False), expected, rtol=1e-5)
    assert feature_stability(first, turned).mean() < 0.6 < expected.mean()


def test_signs_are_left_out_by_hand():
    """Two axes in the plane; the refit turns the first round and tilts the second: cosines 1 and .8 to its own, 0 and .6."""
    first, refit = np.eye(2), np.array([[0.6, 0.8], [-1.0, 0.0]])
    # Distances of e0 and -e0 to their own cluster are 0, to the other the mean of 1 and .4; those of e1 are .2 and 1, of
    # (.6, .8) .2 and .4.
    expected = [(0.7 - 0) / 0.7, ((1 - 0.2) / 1 + (0.4 - 0.2) / 0.4) / 2]
    np.testing.assert_allclose(feature_stability(first, [refit], has_sign=False), expected)
    signed = [(1.1 / 1.5 + 0.5 / 0.9) / 2, (-0.4 / 1 + 0.8 / 1.8) / 2]  # with signs the pairs are crossed
    np.testing.assert_allclose(feature_stability(first, [refit]), signed)


def test_quadratic_latents_are_judged_by_their_forms():
    """Against silhouettes of the flattened matrices; the refits have other factors of nearly the same forms."""
    rng = np.random.default_rng(5)
    L, R = rng.normal(size=(2, 7, 12))
    near = [[side + 0.1 * rng.normal(size=side.shape) for side in (L, R)] for _ in range(3)]
    matrices = []
    for left, right in ((L, R), *near):
        outer = left[:, :, None] * right[:, None]
        matrices.append(unit((outer + outer.transpose(0, 2, 1)).reshape(7, -1)))
    expected = slow_silhouettes(matrices, similarity=lambda v, w: abs(v @ w))
    other = [[-2 * right, left][:: rng.choice([-1, 1])] for left, right in near]
    orders = [rng.permutation(7) for _ in near]
    single = torch.arange(7)[:, None], torch.ones(7, 1)
    first, *refits = (
        Forms(*(torch.from_numpy(side[order]).float() for side in sides), *single)
        for sides, order in zip([(L, R), *other], [np.arange(7), *orders], strict=True)
    )
    np.testing.assert_allclose(feature_stability(first, refits, has_sign=False), expected, rtol=1e-4)


def test_methods_whose_axes_have_no_sign_are_known_by_what_they_can_do():
    class Rectified(PCA):
        signed_codes = False

    class NonNegative(Bilinear):
        signed_codes = False

    linear, quadratic = PCAConfig(n_features=1), BilinearConfig(n_features=1)
    assert is_signless(PCA(linear, {}))
    assert not is_signless(Rectified(linear, {}))
    forms = {"L": torch.ones(1, 2), "R": torch.ones(1, 2)}
    assert is_signless(Bilinear(quadratic, forms))
    assert is_signless(NonNegative(quadratic, forms))


def test_features_found_again_score_one_and_those_that_are_not_score_low():
    rng = np.random.default_rng(1)
    first = unit(rng.normal(size=(6, 200)))
    refits = [first[rng.permutation(6)] for _ in range(3)]
    for refit in refits:
        refit[np.argmax(refit @ first[2])] = unit(rng.normal(size=(1, 200)))[0]
    stability = feature_stability(first, refits)
    np.testing.assert_allclose(np.delete(stability, 2), 1.0, atol=1e-6)
    assert abs(stability[2]) < 0.2


def test_a_feature_without_a_direction_is_not_stable_and_one_feature_alone_can_be():
    first = np.eye(3, 8)
    first[1] = 0
    assert feature_stability(first, [first, first]).tolist() == [1, 0, 1]
    assert feature_stability(np.eye(1, 4), [np.eye(1, 4)]).tolist() == [1]


@pytest.mark.slow
def test_the_curve_finds_the_planted_rank():
    rng = np.random.default_rng(0)
    features = unit(rng.normal(size=(12, 96)) * (rng.random((12, 96)) < 0.1))
    codes = rng.exponential(size=(3000, 12)) * (rng.random((3000, 12)) < 0.2)
    rows = codes @ features
    source = ArraySource(torch.from_numpy(rows + 0.05 * rows.std() * rng.standard_normal(rows.shape)).float())
    curve = []
    for rank in (6, 10, 12, 14, 20):
        config = SemiNMFConfig(n_features=rank, sparsity=0.2, passes=30)
        directions = SemiNMF.fit(source, config).write_directions().numpy()
        stability = feature_stability(directions, refitted_features(source, config, n_fits=5))
        curve.append(Stability(5, stability.tolist(), 0.0))
    means = {point.n_features: point.mean for point in curve}
    assert recommended_rank(curve) == 12, means
    assert means[12] > 0.9
    assert means[20] < means[12] - 0.15


def test_the_recommended_rank_is_the_largest_that_is_near_the_best():
    curve = [Stability(3, [value] * rank, 0.0) for rank, value in ((22, 0.78), (24, 0.93), (26, 0.85), (40, 0.40))]
    assert recommended_rank(curve) == 24
    assert recommended_rank([*curve, Stability(3, [0.89] * 30, 0.0)]) == 30
    assert recommended_rank(curve[:1]) == 22


def test_a_sample_of_rows_is_a_source():
    x = torch.arange(60.0).reshape(20, 3)
    sample = RowSample(ArraySource(x), np.array([9, 2, 15, 4]))
    assert isinstance(sample, ActivationSource)
    assert (len(sample), sample.d_in) == (4, 3)
    picked = x[[2, 4, 9, 15]]
    assert torch.equal(sample.rows(np.array([3, 0])), picked[[3, 0]])
    assert torch.equal(torch.cat(list(sample.chunks(3))), picked)
    assert torch.equal(next(shuffled_batches(sample, 4, range(1), seed=0)), picked)
    np.testing.assert_allclose(sample.moments().mean, picked.mean(0))


@pytest.fixture
def store(tiny_store: ActivationStore, tmp_path: Path) -> ActivationStore:
    return ActivationStore(shutil.copytree(tiny_store.path, tmp_path / "tiny"))


def test_stability_is_kept_in_the_run_and_read_back(store: ActivationStore, monkeypatch: pytest.MonkeyPatch):
    run = train_run(store, SITE, SemiNMFConfig(n_features=6, passes=12), "six")
    found = stability_of(run, 2)
    assert (found.n_features, found.n_fits) == (6, 2)
    assert all(-1 <= value <= 1 for value in found.features)
    assert found.fvu == run.training_curve()[-1]["fvu"]
    record = json.loads((run.path / "stability.json").read_text())
    assert record["features"] == found.features
    monkeypatch.setattr(
        "interp.evaluation.stability.refitted_features", lambda *args, **options: pytest.fail("fitted again")
    )
    assert stability_of(run, 2) == found


def test_a_method_without_chance_is_stable_on_other_rows(store: ActivationStore):
    run = train_run(store, SITE, PCAConfig(n_features=2), "pca")
    assert stability_of(run, 3).mean > 0.8


def test_an_axis_that_a_refit_turns_round_is_stable_and_what_an_earlier_version_said_is_made_again(
    store: ActivationStore, monkeypatch: pytest.MonkeyPatch
):
    run = train_run(store, SITE, PCAConfig(n_features=2), "pca")
    axes = run.decomposer().read_directions().numpy()
    monkeypatch.setattr("interp.evaluation.stability.refitted_features", lambda *args, **options: [-axes, axes])
    assert stability_of(run, 2).features == [1, 1]
    kept = json.loads((run.path / "stability.json").read_text())
    (run.path / "stability.json").write_text(json.dumps(kept | {"version": 1, "features": [0.1, 0.1]}))
    assert stability_of(run, 2).features == [1, 1]


def test_the_curve_is_written_as_numbers_and_as_a_page(tmp_path: Path):
    curve = [Stability(3, [0.5, 0.3], 0.4), Stability(3, [0.9], 0.6)]
    write_curve(tmp_path / "mine-stability", curve)
    record = json.loads((tmp_path / "mine-stability.json").read_text())
    assert [point["n_features"] for point in record["curve"]] == [1, 2]
    assert (record["recommended"], record["n_fits"]) == (1, 3)
    assert "plotly" in (tmp_path / "mine-stability.html").read_text()
    table = curve_table(curve).splitlines()
    assert table[1].split() == ["1", "0.900", "100%", "0.600", "<-", "recommended"]
    assert table[2].split() == ["2", "0.400", "0%", "0.400"]


def test_no_refit_is_refused(store: ActivationStore):
    with pytest.raises(InputError, match="stability takes one refit or more, not 0"):
        stability_of(train_run(store, SITE, PCAConfig(n_features=2), "pca"), 0)


# ---------------------------------------------------------------------------------------------------- the command line


def train(store: ActivationStore, *options: str) -> None:
    where = ["--store", str(store.path), "--site", SITE, "--name", "many", "--passes", "12"]
    main(["train", "semi-nmf", *where, *options])


def test_several_ranks_train_a_run_each_and_end_in_a_curve(
    store: ActivationStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    train(store, "--n-features", "8", "3", "5", "--stability", "2")
    printed = capsys.readouterr().out.splitlines()
    runs = store.path / "runs"
    assert [line.split()[0] for line in printed[:3]] == [str(runs / f"many-n{rank}") for rank in (3, 5, 8)]
    record = json.loads((runs / "many-stability.json").read_text())
    assert [point["n_features"] for point in record["curve"]] == [3, 5, 8]
    for point in record["curve"]:
        kept = json.loads((runs / f"many-n{point['n_features']}" / "stability.json").read_text())
        assert len(kept["features"]) == point["n_features"]
        assert kept["mean"] == point["stability"]
        row = next(line for line in printed[4:7] if line.split()[0] == str(point["n_features"]))
        assert f"{point['stability']:.3f}" in row
        assert ("<- recommended" in row) == (record["recommended"] == point["n_features"])
    assert printed[-1] == f"the curve is drawn in {runs / 'many-stability.html'}"
    assert (runs / "many-stability.html").exists()
    monkeypatch.setattr(SemiNMF, "fit", lambda *args, **options: pytest.fail("fitted again"))
    train(store, "--n-features", "8", "3", "5", "--stability", "2")
    assert capsys.readouterr().out.splitlines() == printed


def test_one_rank_makes_one_run_of_the_name_itself(store: ActivationStore, capsys: pytest.CaptureFixture[str]):
    train(store, "--n-features", "6", "--levels", "3", "2")
    assert [path.name for path in (store.path / "runs").iterdir()] == ["many"]
    decomposer = Run.load(store.path / "runs" / "many").decomposer()
    assert isinstance(decomposer, SemiNMF)
    assert decomposer.hierarchy.ranks == (6, 3, 2)
    assert capsys.readouterr().out.startswith(str(store.path / "runs" / "many") + "  loss ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--n-features", "3", "1501"],
            "1501 features cannot be learned from 1500 rows; capture more or ask for fewer",
        ),
        (["--n-features", "3", "5", "--sparsity", "1.2"], "the sparsity is 1.2, but it is a share"),
        (["--n-features", "3", "0"], "the number of features is 0; it must be 1 or more"),
        (["--n-features", "5", "5"], "--n-features names a number twice: 5 5"),
        (["--n-features"], "--n-features needs a number, or several"),
        (["--n-features", "3", "--stability", "-1"], "--stability is a number of refits, 0 or more, not -1"),
        (["--n-features", "8", "4", "--levels", "4"], "the levels 4 must fall from below --n-features 4"),
    ],
)
def test_wrong_options_are_refused_before_any_rank_is_worked_on(
    store: ActivationStore, capsys: pytest.CaptureFixture[str], options: list[str], message: str
):
    with pytest.raises(SystemExit) as stopped:
        train(store, *options)
    assert stopped.value.code == 2
    said = capsys.readouterr()
    assert said.err.startswith("interp: " + message)
    assert said.out == ""
    assert not any((store.path / "runs").glob("*/*"))


@pytest.mark.slow
def test_processes_of_torchrun_train_and_judge_what_one_does(store: ActivationStore, tmp_path: Path):
    other = ActivationStore(shutil.copytree(store.path, tmp_path / "other"))
    options = ["--n-features", "4", "8", "--stability", "1"]
    train(store, *options)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "interp"]
    where = ["--store", str(other.path), "--site", SITE, "--name", "many", "--passes", "12"]
    done = subprocess.run(
        [*torchrun, "train", "semi-nmf", *where, *options], check=True, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.count("the curve is drawn in") == 1
    for name in ("many-n4", "many-n8"):
        alone, together = (Run.load(one.path / "runs" / name) for one in (store, other))
        difference = (together.decomposer().write_directions() - alone.decomposer().write_directions()).norm()
        assert float(difference / alone.decomposer().write_directions().norm()) < 1e-5
        losses = [[line["loss"] for line in run.training_curve()] for run in (alone, together)]
        np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
        assert stability_of(together, 1).mean == pytest.approx(stability_of(alone, 1).mean, abs=1e-3)
