"""The feature index against the formulas written out, on a small store with planted features."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from dashboard_workspace import make_workspace

from interp.corpora.packing import Sequences
from interp.decomposers.baselines.pca import PCA, PCAConfig
from interp.errors import InputError
from interp.index.build import IndexConfig, _in_bins, build_index
from interp.index.reader import FeatureIndex, is_stale
from interp.model.language_model import load_model
from interp.runs.record import Run, RunRecord
from interp.runs.training import train_run
from interp.store.manifest import Manifest
from interp.store.reader import ActivationStore
from interp.store.shard import ShardContent
from interp.store.writer import StoreWriter

SITE, D_IN, N_FEATURES, N_CTX, N_SEQ = "blocks.0.mlp.hook_post", 12, 9, 33, 90
DEAD, DENSE, WORDS = 7, 8, ["<bos>", "\n   ", " def", "def", "raise", " é", "\\xe2", "<b>"]


def write_store(folder: Path, seed: int = 0) -> ActivationStore:
    """A store of two shards; a separator at position 20 of every third sequence, the last sequence cut short."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, len(WORDS), (N_SEQ, N_CTX)).astype(np.int32)
    tokens[:, 0] = tokens[::3, 20] = 0
    is_row = tokens > 0
    is_row[-1, 11:] = False
    document = np.repeat(np.arange(N_SEQ, dtype=np.int32) // 3, N_CTX).reshape(N_SEQ, N_CTX)
    manifest = Manifest(
        model_id="demo", model_fingerprint="abc", tokenizer_fingerprint="def", corpus="made up", n_tokens=int(is_row.sum()),
        n_ctx=N_CTX, bos_id=0, sites={SITE: D_IN}, dtype="float32", label_sets={}, sequences_per_shard=60, versions={},
        compressed=False, seconds=0.0, checks={}, shards=(), complete=False,
    )  # fmt: skip
    with StoreWriter(folder, manifest) as writer:
        for part in (slice(0, 60), slice(60, N_SEQ)):
            rows = is_row[part]
            names = {int(number): f"file_{number}.py" for number in np.unique(document[part])}
            sequences = Sequences(
                tokens=tokens[part],
                document=document[part],
                offset=np.zeros_like(tokens[part]),
                is_row=rows,
                labels=np.zeros((*rows.shape, 0), np.uint8),
                document_names=names,
            )
            writer.append(ShardContent(sequences, {SITE: rng.normal(size=(int(rows.sum()), D_IN)).astype(np.float32)}))
        writer.finish()
    return ActivationStore(folder)


class Planted:
    """relu(x W^T - b): eight features of density about 0.02-0.16, one of them dead, and one that nearly always fires."""

    signed_codes = False
    capabilities = ("decode",)

    def __init__(self):
        generator = torch.Generator().manual_seed(3)
        w = torch.nn.functional.normalize(torch.randn(N_FEATURES, D_IN, generator=generator), dim=1)
        w[1] = torch.nn.functional.normalize(w[0] + 0.2 * w[1], dim=0)
        w[DEAD] = 0
        self.directions, self.n_features, self.d_in = w, N_FEATURES, D_IN
        self.W_dec = torch.linspace(0.5, 3, N_FEATURES)[:, None] * w  # what a code adds has a length of its own
        self.threshold = torch.tensor([1.5, 1.5, 1.0, 1.6, 2.0, 1.2, 1.4, 0.0, -2.0])

    def encode(self, x):
        return torch.relu(x @ self.directions.T - self.threshold)

    def decode(self, z):
        return z @ self.W_dec

    def read_directions(self):
        return self.directions

    def write_directions(self):
        return self.directions


@dataclass(frozen=True)
class PlantedRun(Run):
    """A run whose store is real and whose decomposer is given."""

    method: object = None

    def store(self):
        return ActivationStore(self.store_path)

    def decomposer(self):
        return self.method


class PlantedModel:
    """Five-wide residual stream, one logit a word."""

    id, fingerprint = "demo", "abc"

    def __init__(self):
        generator = torch.Generator().manual_seed(4)
        self.w_out, self.w_u = (
            torch.randn(D_IN, 5, generator=generator),
            torch.randn(5, len(WORDS), generator=generator),
        )

    def token_strings(self):
        return WORDS

    def residual_directions(self, site, directions):
        return directions @ self.w_out if site == SITE else None

    def logit_effects(self, residual):
        return residual @ self.w_u


def make_run(folder: Path, method=None) -> PlantedRun:
    store = write_store(folder / "store")
    path = store.path / "runs" / "planted"
    path.mkdir(parents=True)
    (path / "decomposer.safetensors").write_bytes(b"weights")
    record = RunRecord(
        kind="planted", site=SITE, d_in=D_IN, config={}, store_name=store.name, store_identity=store.identity,
        model_id="demo", model_fingerprint="abc", capabilities=["decode"], versions={}, seconds=1.0, complete=True,
    )  # fmt: skip
    return PlantedRun(path, record, method or Planted())


CONFIG = IndexConfig(n_top=20, n_each=5, n_neighbours=4, n_tokens=3, n_sample=1000)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("index"))
    build_index(run, config=CONFIG, model=PlantedModel())
    return run


@pytest.fixture(scope="module")
def index(run):
    with FeatureIndex(run.index_path) as index:
        yield index


@pytest.fixture(scope="module")
def codes(run):
    """Every code, [n_tokens, n_features], all at once."""
    source = run.store().site(SITE)
    return run.decomposer().encode(source.rows(np.arange(len(source)))).numpy()


def test_summary_equals_the_formulas(run, index, codes):
    assert index.n_tokens == len(codes)
    assert index.n_features == N_FEATURES
    fires = codes > 0
    summary = index.summary
    assert summary["id"].tolist() == list(range(N_FEATURES))
    assert (summary["n_fire"] == fires.sum(0)).all()
    assert index.l0 == pytest.approx(fires.sum(1).mean())
    np.testing.assert_allclose(summary["density"], fires.mean(0))
    np.testing.assert_allclose(summary["max"], codes.max(0), rtol=1e-6)
    np.testing.assert_allclose(summary["mean"], codes.sum(0) / np.maximum(fires.sum(0), 1), rtol=1e-5)
    total = run.store().site(SITE).moments().total_variance
    norm2 = run.decomposer().W_dec.square().sum(1).numpy()
    np.testing.assert_allclose(summary["importance"], codes.var(0) * norm2 / total, rtol=1e-4)
    best = summary["importance"].to_numpy().argsort()[::-1]
    assert summary["importance_rank"][best[:3]].tolist() == [1, 2, 3]
    assert summary["dead"].tolist() == [f == DEAD for f in range(N_FEATURES)]
    for f in range(N_FEATURES):
        if summary["cut"][f] == 0 and f != DEAD:
            expected = np.quantile(codes[fires[:, f], f], [0.5, 0.99], method="inverted_cdf")
            np.testing.assert_allclose(summary.loc[f, ["p50", "p99"]].to_numpy(float), expected, rtol=1e-6)


def test_a_dense_feature_is_cut_to_its_top_share_and_counted_before(index, codes):
    summary = index.summary
    cut = summary["cut"][DENSE]
    assert summary["density"][DENSE] > 0.9
    assert cut > 0
    assert np.mean(codes[:, DENSE] > cut) == pytest.approx(0.1, abs=0.03)
    rows, values = index.activations(DENSE)
    assert (rows == np.flatnonzero(codes[:, DENSE] > cut)).all()
    np.testing.assert_allclose(values, codes[rows, DENSE], rtol=1e-3)
    assert index.record.n_cut == (summary["cut"] > 0).sum()
    page = index.feature(DENSE)
    exact = np.histogram(codes[:, DENSE][codes[:, DENSE] > 0], page["hist"]["edges"])[0]
    assert sum(page["hist"]["counts"]) == pytest.approx(summary["n_fire"][DENSE], abs=20)
    assert np.abs(np.array(page["hist"]["counts"]) - exact).max() < 60  # five standard errors of the sample of 1000
    assert page["p50"] == pytest.approx(np.quantile(codes[:, DENSE], 0.5), rel=0.05)
    lowest = index.examples(DENSE, "intervals")[-5:]
    assert [example["group"] for example in lowest] == ["0-20 % of max"] * 5
    assert all(0 < example["value"] <= page["max"] / 5 for example in lowest)


def test_histogram_of_an_uncut_feature_is_exact(index, codes):
    page = index.feature(0)
    assert index.summary["cut"][0] == 0
    fires = codes[:, 0][codes[:, 0] > 0]
    edges = np.linspace(0, codes[:, 0].max(), 41)
    assert page["hist"]["edges"] == pytest.approx(edges, rel=1e-6)
    assert page["hist"]["counts"] == np.histogram(fires, edges.astype(np.float32))[0].tolist()


def test_top_examples_are_the_largest_of_each_sequence(run, index, codes):
    sequences = run.store().positions()[:, 0]
    for f in (0, DENSE):
        largest = np.sort([codes[sequences == s, f].max() for s in range(N_SEQ)])[::-1]
        examples = index.examples(f, "top", 8)
        assert len({example["sequence"] for example in examples}) == len(examples) == 20
        np.testing.assert_allclose([example["value"] for example in examples], largest[:20], rtol=1e-6)


@pytest.mark.parametrize("context", [2, 8, 24, None])
@pytest.mark.parametrize("which", ["top", "intervals", "near-threshold", "random", "not-firing"])
def test_examples_show_the_stored_text_and_every_activation(run, index, codes, which, context):
    store = run.store()
    tokens, dense = store.tokens(), np.zeros((N_SEQ, N_CTX))
    names, of_token = store.documents()
    f = 2 if which == "not-firing" else 0
    cut = index.summary["cut"][f]
    dense[tuple(store.positions().T)] = np.where(codes[:, f] > cut, codes[:, f], 0)
    examples = index.examples(f, which, context)
    assert examples
    for example in examples:
        s, p, reach = example["sequence"], example["position"], N_CTX if context is None else context
        window = slice(max(1, p - reach), min(11 if s == N_SEQ - 1 else N_CTX, p + reach + 1))
        assert example["tokens"] == [WORDS[token] for token in tokens[s, window]]
        assert example["centre"] == p - window.start
        assert example["document"] == names[of_token[s, p]]
        np.testing.assert_allclose(example["activations"], dense[s, window], rtol=1e-3, atol=1e-6)
        assert example["activations"][example["centre"]] == example["value"]
        assert (example["value"] > 0) == (which != "not-firing")
    json.dumps(examples)


def test_a_window_crosses_separators_and_ends_where_capture_ended(run, index):
    whole = [example for f in range(N_FEATURES) for example in index.examples(f, "random", None)]
    assert any("<bos>" in example["tokens"] and len(example["tokens"]) == N_CTX - 1 for example in whole)
    for example in whole:
        assert len(example["tokens"]) == (10 if example["sequence"] == N_SEQ - 1 else N_CTX - 1)


def test_intervals_cover_the_range_highest_first(index):
    page, examples = index.feature(2), index.examples(2, "intervals")
    groups = [example["group"] for example in examples]
    assert list(dict.fromkeys(groups)) == [f"{low}-{low + 20} % of max" for low in (80, 60, 40, 20, 0)]
    assert groups[-5:] == ["0-20 % of max"] * 5
    for example in examples:
        low, high = (int(part) / 100 for part in example["group"].split(" ")[0].split("-"))
        assert low * page["max"] < example["value"] <= high * page["max"]
    assert len({(example["sequence"], example["position"]) for example in examples}) == len(examples)


def test_near_threshold_examples_are_the_smallest(index, codes):
    smallest = np.sort(codes[:, 0][codes[:, 0] > 0])[:5]
    np.testing.assert_allclose([e["value"] for e in index.examples(0, "near-threshold")], smallest, rtol=1e-6)


def test_random_examples_are_drawn_evenly_from_all_firing_tokens(tmp_path, codes):
    run = make_run(tmp_path)
    build_index(run, config=IndexConfig(n_each=200, n_sample=1000))
    with FeatureIndex(run.index_path) as index:
        for f in (2, DENSE):
            values = [example["value"] for example in index.examples(f, "random", 1)]
            fires = codes[:, f][codes[:, f] > 0]
            standard_error = fires.std() / np.sqrt(200)
            assert np.mean(values) == pytest.approx(fires.mean(), abs=4 * standard_error)


def test_a_feature_page_is_json_with_neighbours_tokens_and_neurons(run, index):
    page = json.loads(json.dumps(index.feature(0)))
    assert page["id"] == 0
    assert page["neighbours"]["cosine"][0][0] == 1
    assert page["neighbours"]["coactivation"][0][0] == 1
    directions, model = run.decomposer().write_directions(), PlantedModel()
    effects = (directions @ model.w_out @ model.w_u)[0]
    order = effects.argsort(descending=True).tolist()
    assert [token for token, _ in page["promoted"]] == [WORDS[i] for i in order[:3]]
    assert [token for token, _ in page["suppressed"]] == [WORDS[i] for i in order[:-4:-1]]
    assert page["suppressed"][0][1] == pytest.approx(float(effects.min()), rel=1e-5)
    neurons = directions[0].abs().argsort(descending=True)[:3].tolist()
    assert page["neurons"] == [[i, pytest.approx(float(directions[0, i]))] for i in neurons]


def test_a_dead_feature_says_so(index):
    page = index.feature(DEAD)
    assert page["dead"]
    assert page["n_fire"] == page["max"] == sum(page["hist"]["counts"]) == 0
    assert page["promoted"] == page["suppressed"] == page["neurons"] == []
    assert page["neighbours"] == {"cosine": [], "coactivation": []}
    assert index.examples(DEAD, "top") == index.examples(DEAD, "intervals") == []
    assert len(index.examples(DEAD, "not-firing")) == 5


def test_search_finds_features_by_the_tokens_at_their_tops(tmp_path):
    class OneWord(Planted):
        """Feature f fires on word f + 1 alone: its code is read off a one-hot row."""

        def encode(self, x):
            return torch.nn.functional.pad(x[:, :7], (0, 2))

    run = make_run(tmp_path)
    store = run.store()
    words = store.tokens()[tuple(store.positions().T)]

    class OneHot(type(store.site(SITE))):
        def rows(self, indices):
            return torch.eye(D_IN)[words[indices] - 1]

        def chunks(self, size=8192):
            return (self.rows(np.arange(i, min(i + size, len(self)))) for i in range(0, len(self), size))

    @dataclass(frozen=True)
    class OneHotRun(PlantedRun):
        def store(self):
            real = ActivationStore(self.store_path)
            real.site = lambda name: OneHot(real, name)
            return real

    build_index(OneHotRun(run.path, run.record, OneWord()), model=PlantedModel())
    with FeatureIndex(run.index_path) as index:
        assert index.search_tokens("def") == [1, 2]
        assert index.search_tokens(" def ") == [1, 2]
        assert index.search_tokens("E") == [1, 2, 3, 5]
        assert index.search_tokens("\n") == [0]
        assert index.search_tokens("<b") == [6]
        assert index.search_tokens("absent") == index.search_tokens("") == []


def test_a_real_run_shows_its_models_own_tokens_and_effects(tmp_path):
    run = make_workspace(tmp_path).run
    model = load_model(run.model_id, device="cpu")
    directions = run.decomposer().write_directions()
    effects = model.logit_effects(model.residual_directions(run.site.write, directions))
    words, tokens = model.token_strings(), run.store().tokens()
    with FeatureIndex(run.index_path) as index:
        f = int(index.summary["n_fire"].idxmax())
        best, which = effects[f].topk(20)
        assert index.feature(f)["promoted"] == [
            (words[i], pytest.approx(value, rel=1e-4)) for i, value in zip(which.tolist(), best.tolist(), strict=True)
        ]
        example = index.examples(f, "top", None)[0]
        assert example["tokens"][example["centre"]] == words[tokens[example["sequence"], example["position"]]]
        assert f in index.search_tokens(example["tokens"][example["centre"]])
        assert not is_stale(index, run)


def test_without_the_model_tokens_are_numbers(tmp_path):
    run = make_run(tmp_path)
    assert build_index(run) == run.index_path
    with FeatureIndex(run.index_path) as index:
        page = index.feature(0)
        assert page["promoted"] is page["suppressed"] is None
        assert len(page["neurons"]) == D_IN
        assert set(index.examples(0, "top")[0]["tokens"]) <= {f"⟨{i}⟩" for i in range(len(WORDS))}
        assert not index.record.has_model


def test_signed_codes_are_read_on_their_positive_side(tmp_path):
    store = write_store(tmp_path / "store")
    run = train_run(store, SITE, PCAConfig(n_features=5), "pca")
    build_index(run)
    source = store.site(SITE)
    codes = run.decomposer().encode(source.rows(np.arange(len(source)))).numpy()
    with FeatureIndex(run.index_path) as index:
        assert index.record.positive_side_only
        assert (index.summary["n_fire"] == (codes > 0).sum(0)).all()
        assert index.record.n_cut == 5
        explained = source.moments().spectrum[0][:5] / source.moments().total_variance
        np.testing.assert_allclose(index.summary["importance"], explained, rtol=1e-3)
        assert not any(example["value"] for example in index.examples(0, "not-firing"))
        rows, _ = index.activations(0)
        assert (rows == np.flatnonzero(codes[:, 0] > index.summary["cut"][0])).all()
        below = index.feature(0)["below"]
        assert below["n_fire"] == (codes[:, 0] < 0).sum() == pytest.approx(sum(below["hist"]["counts"]), rel=0.05)
        assert below["min"] == pytest.approx(codes[:, 0].min(), rel=1e-6)
        assert (below["hist"]["edges"][0], below["hist"]["edges"][-1]) == (below["min"], 0.0)
        assert below["hist"]["counts"][-1] > below["hist"]["counts"][0], "small codes are the commonest"
        lowest = index.examples(0, "lowest", 8)
        values = [example["value"] for example in lowest]
        assert values == sorted(values)
        assert values[0] == pytest.approx(codes[:, 0].min(), rel=1e-6)
        shown = [a for example in lowest + index.examples(0, "top", 8) for a in example["activations"]]
        assert min(shown) < 0 < max(shown), "contexts have both signs"
    assert isinstance(run.decomposer(), PCA)


def test_the_logit_histogram_counts_every_token_between_the_ends(tmp_path):
    effects = np.array([[0.0, 1.0, 2.0, 4.0], [0.0, 0.0, 0.0, 0.0]], np.float32)
    counts = _in_bins(effects)
    assert counts.shape == (2, 40)
    assert np.flatnonzero(counts[0]).tolist() == [0, 10, 20, 39]
    assert counts.sum(1).tolist() == [4, 0], "a direction that moves nothing has no histogram"


def test_codes_that_do_not_reconstruct_share_their_own_variance(tmp_path, codes):
    class Quadratic:
        signed_codes, n_features, d_in = False, N_FEATURES, D_IN
        encode, read_directions = Planted().encode, Planted().read_directions
        capabilities = ()

    run = make_run(tmp_path, Quadratic())
    build_index(run)
    with FeatureIndex(run.index_path) as index:
        np.testing.assert_allclose(index.summary["importance"], codes.var(0) / codes.var(0).sum(), rtol=1e-4)
        assert index.record.importance_of == "variance of all codes"


def test_two_builds_are_equal_and_chunks_do_not_matter(tmp_path, monkeypatch):
    run = make_run(tmp_path)

    def content():
        build_index(run, config=CONFIG, model=PlantedModel())
        arrays = {}
        with h5py.File(run.index_path) as file:
            file.visititems(
                lambda name, item: arrays.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
            )
            return arrays | {f"attribute {name}": np.asarray(value) for name, value in file.attrs.items()}

    first, second = content(), content()
    monkeypatch.setattr("interp.runs.firing.CHUNK_VALUES", D_IN * 300)
    in_chunks = content()
    assert first.keys() == second.keys() == in_chunks.keys()
    for name, array in first.items():
        assert (array == second[name]).all(), name
        if name not in ("features/mean", "features/importance"):  # sums over chunks are rounded differently
            assert (array == in_chunks[name]).all(), name


def test_values_beyond_float16_and_tiny_ones_are_kept(tmp_path):
    class Extreme(Planted):
        def encode(self, x):
            return super().encode(x) * torch.tensor([1e6, 1e-9, 1, 1, 1, 1, 1, 1, 1])

    run = make_run(tmp_path, Extreme())
    build_index(run)
    plain = Planted().encode(run.store().site(SITE).rows(np.arange(run.store().n_rows))).numpy()
    with FeatureIndex(run.index_path) as index:
        for f, scale in ((0, 1e6), (1, 1e-9)):
            rows, values = index.activations(f)
            np.testing.assert_allclose(values, plain[rows, f] * scale, rtol=2e-3)
            assert len(rows) == np.count_nonzero(plain[:, f])


def test_an_index_is_stale_when_the_run_or_the_store_has_changed(tmp_path):
    run = make_run(tmp_path)
    build_index(run)
    with FeatureIndex(run.index_path) as index:
        assert not is_stale(index, run)
        (run.path / "decomposer.safetensors").write_bytes(b"other weights")
        assert is_stale(index, PlantedRun(run.path, run.record, run.method))
        (run.path / "decomposer.safetensors").write_bytes(b"weights")
        assert not is_stale(index, PlantedRun(run.path, run.record, run.method))
        other = write_store(tmp_path / "other", seed=1)
        (other.path / "store.json").replace(run.store_path / "store.json")
        assert is_stale(index, run)
        (run.store_path / "store.json").unlink()
        assert is_stale(index, run)


def test_a_failed_build_leaves_the_index_that_was_there(tmp_path):
    class Broken(Planted):
        def encode(self, x):
            return super().encode(x) * torch.tensor([1, 1, 1, torch.nan, 1, 1, 1, 1, 1])

    run = make_run(tmp_path)
    build_index(run)
    before = run.index_path.read_bytes()
    with pytest.raises(InputError, match="feature 3 has codes that are not finite numbers"):
        build_index(PlantedRun(run.path, run.record, Broken()))
    model = PlantedModel()
    model.token_strings = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        build_index(run, model=model)
    assert run.index_path.read_bytes() == before
    assert sorted(path.name for path in run.path.iterdir()) == [
        "decomposer.safetensors",
        "firing.safetensors",
        "index.h5",
    ]


def test_another_model_is_refused(tmp_path):
    run, model = make_run(tmp_path), PlantedModel()
    model.id, model.fingerprint = "gpt2", "xyz"
    with pytest.raises(InputError, match=r"model 'gpt2' is not the one store .* was captured from; give 'demo'"):
        build_index(run, model=model)


def test_wrong_files_and_numbers_have_messages(run, index, tmp_path):
    with pytest.raises(InputError, match="no feature 99999; this run has 0-8"):
        index.feature(99999)
    with pytest.raises(InputError, match="no feature -1; this run has 0-8"):
        index.examples(-1, "top")
    with pytest.raises(InputError, match=r"no file .*index.h5; build it with `interp index "):
        FeatureIndex(tmp_path / "index.h5")
    cut = tmp_path / "cut.h5"
    cut.write_bytes(run.index_path.read_bytes()[:5000])
    with pytest.raises(InputError, match="is damaged or not an HDF5 file; rebuild it with `interp index "):
        FeatureIndex(cut)
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file.attrs.update({"schema": "feature index", "version": 2})
    with pytest.raises(InputError, match="is not a feature index of schema version 1; rebuild it with `interp index "):
        FeatureIndex(other)
    with pytest.raises(InputError, match="max_density must be above 0 and at most 1, not 0"):
        IndexConfig(max_density=0)
    with pytest.raises(InputError, match="n_top must be at least 1, not 0"):
        IndexConfig(n_top=0)


def test_reading_a_feature_imports_no_torch(run):
    code = (
        "import sys; from interp.index.reader import FeatureIndex, is_stale;"
        "from interp.runs.feature_labels import FeatureLabels;"
        f"index = FeatureIndex({str(run.index_path)!r}); index.feature(0); index.examples(0, 'top'); index.summary;"
        "index.search_tokens('def'); assert 'torch' not in sys.modules, 'torch'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
