"""The file behind the Manifolds page, made by the commands a person types, from a bilinear training to what is drawn."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from interp.browse.definitions import MANIFOLDS
from interp.browse.index_parts import build_index_parts
from interp.browse.manifolds import latent_text, ranking_cells, ranking_rows, tokens_to_read
from interp.cli.main import main
from interp.decomposers.bilinear.autoencoder import Bilinear
from interp.errors import InputError
from interp.evaluation.results import read_metrics
from interp.figures import colourings, eigenvalue_bars, manifold_plane, manifold_space
from interp.index.reader import FeatureIndex
from interp.index.token_text import show_blanks
from interp.manifolds.build import ManifoldConfig, build_manifolds
from interp.manifolds.label_curve import LabelCurve
from interp.manifolds.layout import FILE, PLANES, SHAPES
from interp.manifolds.ordinals import POSITION_IN_LINE, fitting_half, ordinals, position_in_line
from interp.manifolds.planes import lay_out_ordinal, random_planes
from interp.manifolds.reader import ManifoldIndex, ManifoldView
from interp.manifolds.shape import points_of
from interp.model.language_model import load_model
from interp.runs.record import Run
from interp.store.reader import ActivationStore

SITE = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def run(bilinear_run: Run) -> Run:
    return bilinear_run


@pytest.fixture(scope="module")
def index(run: Run) -> ManifoldIndex:
    return ManifoldIndex(run)


@pytest.fixture(scope="module")
def view(index: ManifoldIndex) -> ManifoldView:
    return index.view(3)


def test_the_options_of_the_command_are_those_of_the_run(run: Run) -> None:
    assert run.config["structure"] == "combined"
    assert run.config["biased"] is True
    assert (run.config["gamma"], run.config["alpha"], run.config["optimizer"]) == (0.2, 0.05, "muon")
    assert {"loss", "fvu", "error", "density"} <= run.training_curve()[-1].keys()


def test_neighbours_of_latents_are_those_of_their_forms(run: Run) -> None:
    decomposer = run.decomposer()
    assert isinstance(decomposer, Bilinear)
    cosines = decomposer.forms.cosines(decomposer.forms).fill_diagonal_(-2)
    with FeatureIndex(run.index_path) as index:
        nearest = index.feature(3)["neighbours"]["cosine"]
    values, ids = cosines[3].topk(3)
    assert nearest is not None
    assert [number for number, _ in nearest[:3]] == ids.tolist()
    np.testing.assert_allclose([cosine for _, cosine in nearest[:3]], values, atol=1e-5)


def test_index_evaluate_and_info_know_a_bilinear_run(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Its own FVU stands in a column of its own, not among the linear ones."""
    assert run.index_path.exists()
    store = str(run.store_path)
    main(["evaluate", str(run.path), "--store", store, "--n-sequences", "2", "--n-steered", "0", "--all"])
    table = capsys.readouterr().out
    found = read_metrics(run).reconstruction
    assert found.fvu is None
    head, line = table.splitlines()[:2]
    assert head.split()[2:6] == ["own", "FVU", "outside", "span"]
    assert line.split()[2:4] == [f"{value:.3f}".lstrip("0") for value in (found.fvu_own_target, found.fvu_of_span)]
    assert "forms: not held out, " in table
    main(["info", str(run.path), "--json"])
    assert json.loads(capsys.readouterr().out)["record"]["kind"] == "bilinear"


def test_a_view_holds_the_latents_own_projection_furthest_first(run: Run, view: ManifoldView) -> None:
    form = run.decomposer().form(3)  # type: ignore[attr-defined]
    with h5py.File(run.path / FILE) as file:
        rows = file["tokens/row"][:][file["features/point"][3]]
    x = run.store().site(SITE).rows(rows)
    expected = (form.project(x, 3) - form.centre[:3]).numpy()
    np.testing.assert_allclose(view.coordinates, expected, atol=1e-5)
    np.testing.assert_allclose(view.value, form.value(x).numpy(), atol=1e-5)
    distance = (view.coordinates**2).sum(1)
    assert (np.diff(distance[: view.n_far]) <= 1e-6).all()
    assert distance[view.n_far :].max() <= distance[view.n_far - 1] + 1e-6
    assert len(set(rows.tolist())) == len(rows) == 1200


def test_labels_and_text_belong_to_the_points(run: Run, view: ManifoldView) -> None:
    store = run.store()
    with h5py.File(run.path / FILE) as file:
        rows = file["tokens/row"][:][file["features/point"][3]]
    strings = load_model(run.model_id).token_strings()
    for name, values in ordinals(store, strings).items():
        np.testing.assert_array_equal(view.ordinals[name], values[rows])
    assert {"position", POSITION_IN_LINE, "indentation_depth", "bracket_depth"} <= view.ordinals.keys()
    sequence, place = store.positions()[rows[7]]
    tokens = store.tokens()[sequence]
    assert view.text["text"][7] == strings[tokens[place]]
    assert view.text["before"][7].endswith(strings[tokens[place - 1]][-5:] if place > 1 else "")


def test_every_ranking_lists_every_latent_best_first(index: ManifoldIndex) -> None:
    assert index.rankings[:3] == ["circle", "curve", "surface"]
    for by in index.rankings:
        table = index.table(by)
        assert sorted(table["id"]) == list(range(12))
        if by in SHAPES:
            known = table["score"].dropna()
            assert known.is_monotonic_decreasing
            assert known.between(0, 1).all()
    assert set(PLANES[1:]) <= set(index.table("position").columns)
    with pytest.raises(InputError, match="no ranking 'circl' in this run; did you mean 'circle'"):
        index.table("circl")
    with pytest.raises(InputError, match="no feature 12; this run has 0-11"):
        index.view(12)


def test_a_label_ranks_latents_and_random_planes_on_the_documents_that_do_not_judge(
    run: Run, index: ManifoldIndex
) -> None:
    """The columns of ``position`` against the slow way, for latents and for as many random planes."""
    store, decomposer = run.store(), run.decomposer()
    with h5py.File(run.path / FILE) as file:
        rows, position = file["tokens/row"][:], file["ordinals"][index.ordinals.index("position")]
    u = torch.nn.functional.normalize(store.site(SITE).rows(rows), dim=1)
    sequence, place = store.positions()[rows].T
    documents = store.documents()[1][sequence, place]
    is_fit = np.isin(documents, np.unique(documents)[::2])
    clouds = [points_of(decomposer.form(f), u) for f in range(12)]  # type: ignore[attr-defined]
    clouds += [u @ axes.T for axes in random_planes(u.shape[1], 12, seed=0)]
    found = []
    for points in clouds:
        far = points.square().sum(1).argsort(descending=True)[: len(rows) // 10].numpy()
        halves = [far[is_fit[far]], far[~is_fit[far]]]
        curve = LabelCurve.fit(points[halves[0], :2].numpy(), position[halves[0]])
        found.append([curve.r2(points[half, :2].numpy(), position[half]) for half in halves])
    (own, own_r2), (null, null_r2) = np.array(found[:12]).T, np.array(found[12:]).T
    table = index.table("position")
    assert table["id"].to_list() == np.argsort(-own).tolist() != np.argsort(-own_r2).tolist()
    np.testing.assert_allclose(table["score"], own_r2[np.argsort(-own)], atol=1e-4)
    np.testing.assert_allclose(table[PLANES[2]], null_r2[np.argsort(-null)], atol=1e-4)


def test_one_document_is_halved_and_several_alternate() -> None:
    def store(documents: list[int]) -> Any:
        places = np.stack([np.zeros(6, int), np.arange(6)], 1)
        return SimpleNamespace(positions=lambda: places, documents=lambda: ([], np.array([documents])))

    assert fitting_half(store([4, 4, 5, 5, 7, 7]), np.arange(6)).tolist() == [True, True, False, False, True, True]
    assert fitting_half(store([4, 4, 5, 5, 7, 7]), np.array([3, 4])).tolist() == [True, False]
    assert fitting_half(store([4] * 6), np.array([0, 2, 3, 5])).tolist() == [True, True, False, False]


def test_rows_of_a_ranking_say_the_score_and_what_stands_beside_it(index: ManifoldIndex) -> None:
    for by, headings in (("circle", ["latent", "score", "rank"]), ("position", ["latent", "R²", "PCA", "random"])):
        rows, table = ranking_rows(index, by), index.table(by)
        assert [list(row) for row in rows] == [headings] * 12
        assert [row["latent"] for row in rows] == table["id"].to_list()
        np.testing.assert_array_equal([row[headings[1]] for row in rows], table["score"])
        assert set(headings) <= set(MANIFOLDS)
    np.testing.assert_array_equal([row["PCA"] for row in rows], table[PLANES[1]])
    np.testing.assert_array_equal([row["random"] for row in rows], table[PLANES[2]])
    assert ranking_cells([{"latent": 3, "R²": 0.12345, "PCA": -0.5, "random": math.nan}]) == [
        ["3", "0.123", "-0.50", "-"]
    ]


def test_a_latent_is_summed_up_and_read_along_its_curve_or_around_its_centre(view: ManifoldView) -> None:
    flat = replace(view, scores={"circle": 0.25, "curve": 0.5, "surface": math.nan}, n_far=1000)
    assert latent_text(flat) == "circle 0.25 · curve 0.50 · 1,000 strongest tokens and 200 others"
    assert latent_text(replace(flat, scores={"surface": math.nan})).startswith("too few axes for a shape · ")
    label = next(iter(view.curves))
    for colour, rows, values in (
        (label, view.along(label), view.ordinals[label]),
        ("value", view.around(), view.value),
    ):
        read = tokens_to_read(view, colour)
        np.testing.assert_array_equal([one[0] for one in read], values[rows])
        assert [one[1:] for one in read] == [tuple(view.text[n][i] for n in ("before", "text", "after")) for i in rows]


def test_the_r2_of_a_label_is_that_of_its_curve(view: ManifoldView) -> None:
    assert view.label_r2
    for name, by_plane in view.label_r2.items():
        assert list(by_plane) == list(PLANES)
        assert (np.diff(view.curves[name].labels) > 0).all()
        assert all(0 <= row < view.n_far for row in view.along(name))
    far = view.coordinates[: view.n_far, :2]
    rightmost, *_ = view.around(4)
    assert far[rightmost, 0] == far[:, 0].max()


def test_a_label_laid_out_on_a_circle_is_read_there_and_nowhere_else(run: Run, tmp_path: Path) -> None:
    """The plane of a latent that holds the label beats PCA's, which holds something larger, and random ones."""
    from interp.manifolds.build import _labels_along, _Sample

    random = torch.Generator().manual_seed(0)
    label = torch.randint(0, 10, (2000,), generator=random)
    circle = torch.stack([(0.5 * label).cos(), (0.5 * label).sin()], 1)
    circle = circle + 0.05 * torch.randn(2000, 2, generator=random)
    noise = torch.randn(2000, 2, generator=random)
    half = np.arange(2000) % 2 == 0
    constant = np.zeros(2000, np.float32)
    labels = {"depth": label.numpy().astype(np.float32), "constant": constant}
    sample = _Sample(np.arange(2000), torch.zeros(2000, 4), labels, half, noise, None)
    fit_r2, r2, knots = _labels_along([circle, noise], np.arange(2000), sample)
    assert min(fit_r2[0], r2[0, 0]) > 0.95
    assert r2[0, 1] < 0.2
    assert np.isfinite(knots[0, :10]).all()
    assert np.isnan([fit_r2[1], *r2[1]]).all(), "a label that does not vary has no R^2"


def test_position_in_line_counts_the_characters_before_the_token() -> None:
    vocabulary = ["<bos>", "ab", "\n  ", "c", "\n\n"]
    tokens = np.array([[0, 1, 2, 3, 4, 1], [0, 1, 0, 1, 3, 3]])
    expected = [[np.nan, np.nan, np.nan, 2, 3, 0], [np.nan, np.nan, np.nan, 0, 2, 3]]
    np.testing.assert_array_equal(position_in_line(tokens, vocabulary), np.array(expected, np.float32))


def test_two_builds_with_one_seed_are_equal_and_the_number_of_points_is_kept(run: Run, tmp_path: Path) -> None:
    before = (run.path / FILE).read_bytes()
    config = ManifoldConfig(n_points=60)
    views = [ManifoldIndex(Run.load(build_manifolds(run, config=config).parent)).view(0) for _ in range(2)]
    (run.path / FILE).write_bytes(before)
    np.testing.assert_array_equal(views[0].coordinates, views[1].coordinates)
    assert views[0].coordinates.shape == (60, 3)
    assert views[0].text == {}, "no model was given"
    assert POSITION_IN_LINE not in views[0].ordinals


def test_the_demo_builds_manifolds_anew_only_where_they_are_of_an_earlier_training(run: Run, tmp_path: Path) -> None:
    copy = Run.load(shutil.copytree(run.store_path, tmp_path / "tiny") / "runs/forms")
    file, model = copy.path / FILE, load_model(run.model_id)
    before = file.stat().st_mtime_ns
    list(build_index_parts(copy, model, only_stale=True))
    assert file.stat().st_mtime_ns == before
    with h5py.File(file, "r+") as opened:
        facts = json.loads(opened.attrs["facts"])
        opened.attrs["facts"] = json.dumps(facts | {"run_identity": "an earlier training"})
    assert ManifoldIndex(copy).is_stale
    list(build_index_parts(copy, model, only_stale=True))
    assert not ManifoldIndex(copy).is_stale
    with h5py.File(file, "r+") as opened:
        opened.attrs["version"] = 1
    list(build_index_parts(copy, model, only_stale=True))
    assert not ManifoldIndex(copy).is_stale, "a file of an earlier version is made anew"


def test_an_ordinal_is_laid_out_on_the_tokens_of_a_label(run: Run) -> None:
    store = run.store()
    layout = lay_out_ordinal(run, store, "position", among="delimiter")
    n = int((store.labels("python")[:, store.label_sets["python"].index("delimiter")] > 0).sum())
    assert len(layout.view.value) == n
    assert [fit.plane for fit in layout.fits[1:]] == [
        "PCA's first two components",
        "PCA of these tokens alone",
        "the best of 12 random planes",
    ]
    with pytest.raises(InputError, match=r"no ordinal 'positio' in the store .*; did you mean 'position'"):
        lay_out_ordinal(run, store, "positio", among="delimiter")
    with pytest.raises(InputError, match=r"no label 'delimeter' in the store .*; did you mean 'delimiter'"):
        lay_out_ordinal(run, store, "position", among="delimeter")


# ------------------------------------------------------------------------------------------------------------- figures


def test_every_colouring_draws_every_point_in_two_and_three_dimensions(view: ManifoldView) -> None:
    assert colourings(view)[:3] == ["value", "token", "next token"]
    for colour in colourings(view):
        n_unknown = int(np.isnan(view.ordinals[colour]).sum()) if colour in view.ordinals else 0
        for figure in (manifold_plane(view, colour), manifold_space(view, colour)):
            clouds = [trace for trace in figure.data if trace.mode == "markers"]
            assert sum(len(trace.x) for trace in clouds) == len(view.value) - n_unknown
        lines = [trace.name for trace in manifold_plane(view, colour).data if trace.mode == "lines+markers"]
        assert lines == ([f"curve, R² {view.label_r2[colour][PLANES[0]]:.2f}"] if colour in view.curves else [])
    with pytest.raises(InputError, match=r"no colouring 'valu' in latent 3; did you mean 'value'"):
        manifold_plane(view, "valu")


def test_token_text_in_figures_is_escaped(view: ManifoldView) -> None:
    harmful = replace(view, text={name: ["<b>x</b>"] * len(view.value) for name in view.text})
    for trace in manifold_plane(harmful, "token").data:
        assert "<b>x" not in trace.name
        assert all("<b>x" not in text for text in trace.text or ())
    assert show_blanks("a b\n\t") == "a␣b⏎→"


def test_eigenvalues_keep_their_signs(view: ManifoldView) -> None:
    assert list(eigenvalue_bars(view.eigenvalues).data[0].y) == pytest.approx(view.eigenvalues.tolist())


# --------------------------------------------------------------------------------------------------------- wrong input


def test_what_shows_no_manifold_is_refused(run: Run, tiny_store: ActivationStore, tmp_path: Path) -> None:
    options = ["--store", str(run.store_path), "--site", SITE]
    main(["train", "pca", *options, "--name", "pca", "--n-features", "4"])
    pca = Run.load(run.path.with_name("pca"))
    with pytest.raises(InputError, match="'pca' is a run of pca, whose features are directions; train a bilinear one"):
        build_manifolds(pca)
    with pytest.raises(InputError, match=r"no file .*manifolds.h5; build it with `interp index"):
        ManifoldIndex(pca)
    (pca.path / FILE).write_text("no HDF5")
    with pytest.raises(InputError, match="is damaged or not an HDF5 file; rebuild it"):
        ManifoldIndex(pca)
    with pytest.raises(InputError, match="1200 points of a sample of 100 tokens were asked for; give 4 points or more"):
        ManifoldConfig(n_sample=100)


def test_a_store_of_few_tokens_is_refused(tiny_store: ActivationStore, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_store.path, tmp_path / "tiny")
    options = ["--store", str(folder), "--site", "blocks.0.hook_resid_post", "--name", "few"]
    main(["train", "bilinear", *options, "--n-features", "4", "--tokens", "200", "--batch", "100"])
    run = Run.load(folder / "runs/few")
    with pytest.raises(InputError, match=r"holds 1500 tokens, too few to see a shape; capture 4000 or more"):
        build_manifolds(run)
