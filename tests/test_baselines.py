"""The baselines against scikit-learn, planted features and values worked out by hand."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import NMF as SklearnNMF
from sklearn.decomposition import PCA as SklearnPCA
from sklearn.decomposition import FastICA
from sklearn.exceptions import ConvergenceWarning

from interp.decomposers.base import LinearDecomposer
from interp.decomposers.baselines.diff_means import DiffMeans, DiffMeansConfig
from interp.decomposers.baselines.ica import ICA, ICAConfig
from interp.decomposers.baselines.kmeans import KMeans, KMeansConfig
from interp.decomposers.baselines.neurons import Neurons, NeuronsConfig
from interp.decomposers.baselines.nmf import NMF, NMFConfig
from interp.decomposers.baselines.pca import PCA, PCAConfig
from interp.decomposers.baselines.random_directions import RandomConfig, RandomDirections
from interp.decomposers.baselines.sample import SampledConfig, sampled_rows
from interp.errors import InputError
from interp.metrics import matched_cosine
from interp.runs.training import train_run
from interp.store.reader import ActivationStore
from interp.store.source import ArraySource, LabelledSource


class Memory:
    """A recorder that keeps the records in a list."""

    checkpoints: Path | None = None

    def __init__(self) -> None:
        self.records: list[dict[str, float]] = []

    def log(self, record: dict[str, float]) -> None:
        self.records.append(record)


@pytest.fixture(scope="module")
def rows() -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    spread = torch.linspace(3, 0.1, 12)
    return (torch.randn(500, 12, generator=random) * spread) @ torch.randn(12, 12, generator=random) + 4


def check_record(recorder: Memory, decomposer: LinearDecomposer, x: torch.Tensor) -> None:
    """The one record of a fit has the FVU of the rows, and their squared error a row."""
    [record] = recorder.records
    error = (x - decomposer.decode(decomposer.encode(x))).double().square().sum(1)
    assert record["loss"] == pytest.approx(float(error.mean()), rel=1e-4)
    assert record["fvu"] == pytest.approx(decomposer.fvu(x), rel=1e-4)


# -------------------------------------------------------------------------------------------------- principal components


def test_components_are_those_of_scikit_learn_up_to_sign(rows):
    pca = PCA.fit(ArraySource(rows), PCAConfig(n_features=5))
    reference = SklearnPCA(5, svd_solver="full").fit(rows.double().numpy())
    cosines = (pca.W_dec.double().numpy() * reference.components_).sum(1)
    np.testing.assert_allclose(np.abs(cosines), 1, atol=1e-6)
    codes = reference.transform(rows.double().numpy()) * np.sign(cosines)
    np.testing.assert_allclose(pca.encode(rows).numpy(), codes, atol=1e-3)


def test_the_largest_entry_of_a_component_is_positive(rows):
    components = PCA.fit(ArraySource(rows), PCAConfig(n_features=12)).W_dec
    largest = components.abs().argmax(1)
    assert (components[torch.arange(12), largest] > 0).all()


def test_all_components_reconstruct_and_fewer_leave_the_rest_of_the_variance(rows):
    source = ArraySource(rows)
    assert PCA.fit(source, PCAConfig(n_features=12)).fvu(rows) < 1e-9
    recorder = Memory()
    pca = PCA.fit(source, PCAConfig(n_features=3), recorder)
    values = np.linalg.eigvalsh(np.cov(rows.double().numpy().T, bias=True))
    assert pca.fvu(rows) == pytest.approx(values[:-3].sum() / values.sum(), rel=1e-4)
    assert recorder.records[0]["fvu"] == pytest.approx(pca.fvu(rows), rel=1e-4)
    assert recorder.records[0]["loss"] == pytest.approx(values[:-3].sum(), rel=1e-6)


def test_more_components_than_there_are_dimensions_are_refused(rows):
    with pytest.raises(InputError, match="13 components were asked for, but the site is 12 wide"):
        PCA.fit(ArraySource(rows), PCAConfig(n_features=13))
    with pytest.raises(InputError, match="8 components were asked for, but 8 rows differ in at most 7 dimensions"):
        PCA.fit(ArraySource(rows[:8]), PCAConfig(n_features=8))


@pytest.mark.parametrize("method", [PCA, ICA])
def test_the_default_fits_a_narrow_site_and_all_components_are_said_to_be_exact(rows, method):
    assert method.fit(ArraySource(rows)).n_features == 12
    assert "exact" in PCA.fit(ArraySource(rows)).notes["reconstruction"]
    assert not PCA.fit(ArraySource(rows), PCAConfig(n_features=11)).notes


# ------------------------------------------------------------------------------------------------ the rows that are sampled


def test_a_sample_is_drawn_without_repetition_by_the_seed(rows: torch.Tensor) -> None:
    source = ArraySource(rows)
    drawn = sampled_rows(source, SampledConfig(n_features=3, rows=100))
    assert drawn.shape == (100, 12)
    assert len(torch.unique(drawn, dim=0)) == 100
    assert torch.equal(drawn, sampled_rows(source, SampledConfig(n_features=3, rows=100)))
    assert not torch.equal(drawn, sampled_rows(source, SampledConfig(n_features=3, rows=100, seed=1)))
    everything = sampled_rows(source, SampledConfig(n_features=3, rows=1000))
    assert torch.equal(everything.sort(dim=0).values, rows.sort(dim=0).values)


def test_samples_that_are_too_small_are_refused(rows: torch.Tensor) -> None:
    source = ArraySource(rows)
    with pytest.raises(InputError, match="rows is 0; it must be 1 or more"):
        SampledConfig(rows=0)
    with pytest.raises(InputError, match="20 features cannot be learned from 10 rows; give more --rows"):
        KMeans.fit(source, KMeansConfig(n_features=20, rows=10))
    with pytest.raises(InputError, match="501 features cannot be learned from 500 rows; capture more or ask for fewer"):
        KMeans.fit(source, KMeansConfig(n_features=501))
    with pytest.raises(InputError, match="5 components cannot be told from 5 rows; give more --rows"):
        ICA.fit(source, ICAConfig(n_features=5, rows=5))


# ------------------------------------------------------------------------------------------------ independent components


@pytest.fixture(scope="module")
def mixed() -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """(rows, sources, mixing matrix [6, 16]): skewed sources of variance 1, of which each writes more than the next one."""
    random = np.random.default_rng(0)
    sources = random.exponential(size=(4000, 6)) - 1
    mixing = random.standard_normal((6, 16)) * np.linspace(3, 1, 6)[:, None]
    return torch.from_numpy(sources @ mixing + 0.5).float(), sources, mixing


def test_independent_sources_are_found_with_their_sign(mixed) -> None:
    x, sources, mixing = mixed
    recorder = Memory()
    ica = ICA.fit(ArraySource(x), ICAConfig(n_features=6), recorder)
    z = ica.encode(x).double().numpy()
    correlation = np.corrcoef(z.T, sources.T)[:6, 6:]
    found = np.abs(correlation).argmax(1)
    assert sorted(found) == list(range(6))
    assert (correlation[np.arange(6), found] > 0.99).all()  # not its opposite: the skewness is positive
    cosines = (ica.write_directions().numpy() * mixing[found] / np.linalg.norm(mixing[found], axis=1)[:, None]).sum(1)
    assert (cosines > 0.99).all()
    pca = PCA.fit(ArraySource(x), PCAConfig(n_features=6))
    assert matched_cosine(pca.write_directions().numpy(), mixing)[0] < 0.9
    np.testing.assert_allclose([z.mean(0), z.std(0)], [np.zeros(6), np.ones(6)], atol=1e-4)
    assert (np.diff(ica.W_dec.norm(dim=1).numpy()) < 0).all()
    assert ica.notes == {"rows": 4000, "iterations": ica.notes["iterations"], "convergence": "reached"}
    assert ica.fvu(x) < 1e-6
    assert recorder.records[0]["fvu"] == pytest.approx(ica.fvu(x), abs=1e-9)


def test_unmixing_and_mixing_are_those_of_scikit_learn_up_to_order_and_sign(mixed) -> None:
    x = mixed[0]
    ica = ICA.fit(ArraySource(x), ICAConfig(n_features=4))
    reference = FastICA(4, whiten="unit-variance", random_state=0).fit(x.double().numpy())
    mixing = ica.W_dec.double().numpy()
    order = np.abs(mixing @ reference.components_.T).argmax(1)
    sign = np.sign((mixing * reference.mixing_.T[order]).sum(1))
    assert sorted(order) == [0, 1, 2, 3]
    np.testing.assert_allclose(mixing * sign[:, None], reference.mixing_.T[order], atol=5e-3)
    np.testing.assert_allclose(
        ica.encode(x).numpy() * sign, reference.transform(x.double().numpy())[:, order], atol=5e-3
    )
    recorder = Memory()
    check_record(recorder, ICA.fit(ArraySource(x), ICAConfig(n_features=4), recorder), x)
    assert recorder.records[0]["fvu"] == pytest.approx(
        PCA.fit(ArraySource(x), PCAConfig(n_features=4)).fvu(x), rel=1e-3
    )


def test_iterations_that_do_not_converge_are_said_in_the_notes(mixed) -> None:
    ica = ICA.fit(ArraySource(mixed[0]), ICAConfig(n_features=6, rows=3000, iterations=1))
    assert ica.notes == {
        "rows": 3000, "iterations": 1, "convergence": "not reached; more --iterations or --rows may help"
    }  # fmt: skip
    with pytest.raises(InputError, match="iterations is 0; it must be 1 or more"):
        ICAConfig(iterations=0)


def test_more_independent_components_than_dimensions_are_refused(mixed) -> None:
    source = ArraySource(mixed[0])
    with pytest.raises(InputError, match="17 components were asked for, but the site is 16 wide"):
        ICA.fit(source, ICAConfig(n_features=17))
    with pytest.raises(
        InputError, match="7 components were asked for, but the rows differ in 6 dimensions; ask for few"
    ):
        ICA.fit(source, ICAConfig(n_features=7))


# ----------------------------------------------------------------------------------------------------- non-negative parts


@pytest.fixture(scope="module")
def parts() -> tuple[torch.Tensor, np.ndarray]:
    """(rows, true parts): sums of a few of 8 parts of 5 of 40 coordinates each; where the sum is 0, often a negative number."""
    random = np.random.default_rng(0)
    true = np.zeros((8, 40))
    for i, part in enumerate(true):
        part[5 * i : 5 * i + 5] = random.uniform(0.5, 1.5, 5)
    codes = random.exponential(size=(3000, 8)) * (random.random((3000, 8)) < 0.3)
    x = codes @ true
    x[x == 0] = -random.uniform(0, 0.3, int((x == 0).sum()))
    return torch.from_numpy(x).float(), true


def test_parts_are_found_again_below_negative_numbers(parts) -> None:
    x, true = parts
    recorder = Memory()
    nmf = NMF.fit(ArraySource(x), NMFConfig(n_features=8), recorder)
    assert matched_cosine(nmf.write_directions().numpy(), true)[0] > 0.99
    assert (nmf.W_dec >= 0).all()
    torch.testing.assert_close(nmf.W_dec.norm(dim=1), torch.ones(8))
    assert not nmf.b_dec.any()
    negative = float(x.clamp_max(0).square().sum() / (x - x.mean(0)).square().sum())
    assert negative < nmf.fvu(x) < 1.2 * negative  # hardly more than what it cannot explain
    assert recorder.records[0]["fvu"] == pytest.approx(nmf.fvu(x), rel=0.1)
    assert nmf.notes["target"] == "the positive part of the activations"
    share = float(x.relu().double().square().sum() / x.double().square().sum())
    assert nmf.notes["share_of_squares_in_the_positive_part"] == pytest.approx(share, abs=1e-4)
    assert nmf.notes["rows"] == 3000


def test_parts_and_codes_are_those_of_scikit_learn_and_scipy(parts) -> None:
    x = parts[0]
    config = NMFConfig(n_features=8, rows=1000, passes=5)
    nmf = NMF.fit(ArraySource(x), config)
    reference = SklearnNMF(8, init="random", max_iter=5, random_state=0)
    with pytest.warns(ConvergenceWarning):
        reference.fit(sampled_rows(ArraySource(x), config).relu().numpy())
    features = reference.components_ / np.linalg.norm(reference.components_, axis=1, keepdims=True)
    np.testing.assert_allclose(nmf.W_dec.numpy(), features, atol=1e-6)
    best = np.stack([nnls(features.T.astype(float), row)[0] for row in x[:50].relu().double().numpy()])
    np.testing.assert_allclose(nmf.encode(x[:50]).numpy(), best, atol=2e-3)


def test_activations_without_a_positive_part_are_refused(parts) -> None:
    with pytest.raises(InputError, match="no activation is above zero, so that none has a positive part; use semi-nmf"):
        NMF.fit(ArraySource(-parts[0].abs() - 0.1), NMFConfig(n_features=8))
    with pytest.raises(InputError, match="passes is 0; it must be 1 or more"):
        NMFConfig(passes=0)


# ------------------------------------------------------------------------------------------------------------- clusters


def test_clusters_are_found_and_decode_to_their_centres() -> None:
    random = np.random.default_rng(0)
    centres, which = 4 * random.standard_normal((12, 20)), random.integers(12, size=3000)
    x = torch.from_numpy(centres[which] + 0.3 * random.standard_normal((3000, 20)) + 1).float()
    recorder = Memory()
    kmeans = KMeans.fit(ArraySource(x), KMeansConfig(n_features=12, seed=1), recorder)
    z = kmeans.encode(x)
    assert set(z.unique().tolist()) == {0.0, 1.0}
    assert (z.sum(1) == 1).all()
    found = z.argmax(1).numpy()
    assert len({(a, b) for a, b in zip(which, found, strict=True)}) == 12  # one cluster of rows for each planted one
    distances = torch.cdist(x, kmeans.W_dec + kmeans.b_dec)
    assert (distances.argmin(1).numpy() == found).all()
    torch.testing.assert_close(kmeans.decode(z), (kmeans.W_dec + kmeans.b_dec)[found])
    for cluster in range(12):
        mean = x[found == cluster].mean(0)
        torch.testing.assert_close(kmeans.W_dec[cluster] + kmeans.b_dec, mean, atol=0.1, rtol=0)
    check_record(recorder, kmeans, x)
    assert kmeans.fvu(x) < 0.02


def test_centres_are_those_of_scikit_learn(rows: torch.Tensor) -> None:
    config = KMeansConfig(n_features=7, rows=300)
    kmeans = KMeans.fit(ArraySource(rows), config)
    drawn = sampled_rows(ArraySource(rows), config)
    reference = MiniBatchKMeans(7, batch_size=1024, n_init=1, random_state=0).fit((drawn - drawn.mean(0)).numpy())
    np.testing.assert_allclose(kmeans.W_dec.numpy(), reference.cluster_centers_, atol=1e-5)
    np.testing.assert_array_equal(
        kmeans.encode(drawn).argmax(1).numpy(), reference.predict((drawn - drawn.mean(0)).numpy())
    )
    assert kmeans.notes["rows"] == 300


# --------------------------------------------------------------------------------------------------------------- neurons


def test_neurons_are_the_coordinates_and_decode_to_themselves() -> None:
    x = torch.tensor([[1.0, -2.0, 5.0], [3.0, 2.0, 5.5], [2.0, 3.0, 6.0]])
    everything = Neurons.fit(ArraySource(x), NeuronsConfig())
    assert everything.n_features == 3
    assert torch.equal(everything.encode(x), x)
    assert torch.equal(everything.decode(x), x)
    assert torch.equal(everything.write_directions(), torch.eye(3))
    recorder = Memory()
    two = Neurons.fit(ArraySource(x), NeuronsConfig(n_features=2), recorder)  # variances 2/3, 14/3, 1/6
    assert two.coordinates.tolist() == [0, 1]
    assert torch.equal(two.encode(x), x[:, :2])
    torch.testing.assert_close(two.decode(two.encode(x)), torch.cat([x[:, :2], torch.full((3, 1), 5.5)], 1))
    assert two.fvu(x) == pytest.approx((1 / 6) / (33 / 6), rel=1e-5)
    check_record(recorder, two, x)


def test_the_coordinates_taken_are_those_of_largest_variance_in_their_order(rows: torch.Tensor) -> None:
    neurons = Neurons.fit(ArraySource(rows), NeuronsConfig(n_features=4))
    assert neurons.coordinates.tolist() == sorted(rows.double().var(0).topk(4).indices.tolist())


# ------------------------------------------------------------------------------------------------------ random directions


def test_random_directions_are_isotropic_or_have_the_shape_of_the_covariance() -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(3000, 10, generator=random) * torch.tensor([5.0, *[0.5] * 9]) + 2
    share = {}
    for shape in ("isotropic", "covariance"):
        directions = RandomDirections.fit(ArraySource(x), RandomConfig(n_features=2000, shape=shape))
        w = directions.write_directions()
        torch.testing.assert_close(w.norm(dim=1), torch.ones(2000))
        torch.testing.assert_close(directions.encode(x[:50]), (x[:50] - x.mean(0)) @ w.T, rtol=1e-4, atol=1e-4)
        share[shape] = float(w[:, 0].square().mean())
    assert share["isotropic"] == pytest.approx(1 / 10, rel=0.1)
    assert share["covariance"] > 0.7  # 25 of 27.25, but that rows are brought to unit length


def test_the_fvu_of_directions_is_that_of_the_best_linear_decoder(rows: torch.Tensor) -> None:
    recorder = Memory()
    source = ArraySource(rows)
    directions = RandomDirections.fit(source, RandomConfig(n_features=5, shape="isotropic"), recorder)
    centred = (rows - rows.mean(0)).double().numpy()
    w = directions.write_directions().double().numpy()
    left = centred - centred @ np.linalg.pinv(w) @ w
    expected = np.square(left).sum() / np.square(centred).sum()
    assert directions.fvu(rows) == pytest.approx(expected, rel=1e-4)
    assert directions.span_fvu(rows) == directions.fvu(rows)
    assert recorder.records[0]["fvu"] == pytest.approx(expected, rel=1e-4)
    assert recorder.records[0]["loss"] == pytest.approx(np.square(left).sum() / len(rows), rel=1e-4)
    assert directions.capabilities == ()
    assert RandomDirections.fit(source, RandomConfig(n_features=12)).fvu(rows) < 1e-6
    same = directions.tensors["directions"].clone()
    same[1:] = same[0]
    one = RandomDirections(directions.config, {**directions.tensors, "directions": same})
    left = centred - (centred @ w[0])[:, None] * w[0]
    assert one.fvu(rows) == pytest.approx(np.square(left).sum() / np.square(centred).sum(), rel=1e-4)


# ---------------------------------------------------------------------------------------------------- difference of means


class Labelled(ArraySource):
    """Rows with the labels given for them."""

    def __init__(self, array: torch.Tensor, labels: dict[str, Sequence[int] | np.ndarray]):
        super().__init__(array)
        self._labels = labels

    def labels(self, label_set: str | None = None) -> tuple[tuple[str, ...], np.ndarray]:
        return tuple(self._labels), np.stack([np.asarray(each, np.uint8) for each in self._labels.values()], axis=1)


def test_the_difference_of_means_is_the_labelled_direction_in_units_of_itself() -> None:
    random = np.random.default_rng(0)
    a, b = random.random((2, 4000)) < np.array([[0.3], [0.1]])
    true = random.standard_normal((2, 16))
    x = torch.from_numpy(0.3 * random.standard_normal((4000, 16)) + np.stack([a, b], 1) @ true + 5).float()
    found = DiffMeans.fit(Labelled(x, {"a": a, "b": b}), DiffMeansConfig())
    assert found.n_features == 2
    assert found.notes == {"feature_0": "a", "feature_1": "b"}
    np.testing.assert_allclose(found.tensors["directions"].numpy(), true, atol=0.15)
    z = found.encode(x)
    for i, label in enumerate((a, b)):
        exact = x[label].double().mean(0) - x[~label].double().mean(0)
        np.testing.assert_allclose(found.tensors["directions"][i], exact, atol=1e-5)
        assert float(z[label, i].mean() - z[~label, i].mean()) == pytest.approx(1, abs=1e-4)
        torch.testing.assert_close(found.write_directions()[i].double(), exact / exact.norm(), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.mean(0), torch.zeros(2), atol=1e-4, rtol=0)


def test_the_most_frequent_labels_are_learned_in_their_order_and_the_others_named() -> None:
    random = np.random.default_rng(0)
    x = torch.from_numpy(random.standard_normal((200, 6))).float()
    labels = {f"{n} rows": np.arange(200) < n for n in (9, 20, 191, 50, 30)} | {"indentation_depth": np.arange(200) % 7}
    every = DiffMeans.fit(Labelled(x, labels), DiffMeansConfig())
    assert every.notes == {
        "feature_0": "20 rows", "feature_1": "50 rows", "feature_2": "30 rows",
        "left_out": "9 rows, 191 rows, indentation_depth",
    }  # fmt: skip
    two = DiffMeans.fit(Labelled(x, labels), DiffMeansConfig(n_features=2))
    assert two.notes == {
        "feature_0": "50 rows", "feature_1": "30 rows", "left_out": "9 rows, 20 rows, 191 rows, indentation_depth"
    }  # fmt: skip
    torch.testing.assert_close(two.write_directions(), every.write_directions()[1:])


def test_rows_without_usable_labels_are_refused(rows: torch.Tensor) -> None:
    with pytest.raises(
        InputError, match=r"learns from labels, and these rows have none; fit it to a hook point of a labell"
    ):
        DiffMeans.fit(ArraySource(rows), DiffMeansConfig())
    few = Labelled(rows, {"first": np.arange(500) < 3, "line_depth": np.arange(500) % 5})
    with pytest.raises(
        InputError, match="no label is on 10 rows or more and off as many; capture more text, or name anoth"
    ):
        DiffMeans.fit(few, DiffMeansConfig())


def test_a_store_has_the_labels_of_its_first_set_or_of_the_one_named(tiny_store: ActivationStore) -> None:
    source = tiny_store.site("blocks.0.hook_resid_post")
    assert isinstance(source, LabelledSource)
    names, labels = source.labels()
    assert names == tiny_store.label_sets["letters"]
    assert np.array_equal(labels, tiny_store.labels("letters"))
    fitted = DiffMeans.fit(source, DiffMeansConfig(label_set="letters"))
    assert fitted.notes == {"feature_0": "has_vowel", "feature_1": "is_blank", "left_out": "line_depth"}
    x, has_vowel = torch.cat(list(source.chunks())), labels[:, 0] != 0
    expected = x[has_vowel].double().mean(0) - x[~has_vowel].double().mean(0)
    torch.testing.assert_close(fitted.tensors["directions"][0].double(), expected, atol=1e-5, rtol=0)
    with pytest.raises(InputError, match=r"no label set 'leters' in the store .*; did you mean 'letters'"):
        DiffMeans.fit(source, DiffMeansConfig(label_set="leters"))


def test_a_refused_fit_leaves_no_run(tiny_store: ActivationStore, tmp_path: Path) -> None:
    store = ActivationStore(shutil.copytree(tiny_store.path, tmp_path / "tiny"))
    with pytest.raises(InputError, match="no label set 'python' in the store"):
        train_run(store, "blocks.0.hook_resid_post", DiffMeansConfig(label_set="python"), "supervised")
    assert not (store.path / "runs" / "supervised").exists()
