"""The tree of a hierarchy: who hangs below whom, and where a branch fires, against the sums written out."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import numpy as np
import pytest

from interp.browse.tree import ConceptTree, branch_rows, node_place, tree_rows, tree_text, what_levels_leave
from interp.cli.main import main
from interp.decomposers.baselines.pca import PCAConfig
from interp.decomposers.semi_nmf.decomposer import SemiNMFConfig
from interp.errors import InputError
from interp.index.build import IndexConfig, build_index
from interp.index.reader import FeatureIndex
from interp.index.token_text import show_blanks
from interp.model.language_model import LanguageModel
from interp.runs.record import Run
from interp.runs.training import train_run
from interp.store.reader import ActivationStore

SITE = "blocks.1.mlp.hook_post"


@pytest.fixture(scope="module")
def run(tiny_store: ActivationStore, tiny_model: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Run:
    store = ActivationStore(shutil.copytree(tiny_store.path, tmp_path_factory.mktemp("tree") / "tiny"))
    run = train_run(store, SITE, SemiNMFConfig(n_features=12, passes=12, levels=(5, 2)), "tree")
    build_index(run, config=IndexConfig(max_density=1.0), model=tiny_model)
    return run


@pytest.fixture(scope="module")
def tree(run: Run) -> Iterator[ConceptTree]:
    with FeatureIndex(run.index_path) as index:
        yield ConceptTree(run, index)


def test_every_feature_of_every_level_is_there_once_below_its_heaviest_parent(tree: ConceptTree) -> None:
    nodes = tree.nodes()
    assert sorted((node.level, node.feature) for node in nodes) == [
        (level, feature) for level, rank in enumerate((12, 5, 2)) for feature in range(rank)
    ]
    above: list[tuple[int, int]] = []
    for node in nodes:
        above = above[: node.depth]
        parents = tree.hierarchy.parents(node.level, node.feature)
        if parents:
            assert above[-1] == (node.level + 1, parents[0][0])
            assert node.share == pytest.approx(parents[0][1] / sum(weight for _, weight in parents))
        else:
            assert (node.depth, node.share) == (0, 1.0)
        assert node.leaves == tree.hierarchy.branch(node.level, node.feature)
        above.append((node.level, node.feature))


@pytest.mark.parametrize("level", [0, 1, 2])
def test_the_contexts_of_a_branch_are_where_its_codes_are_largest(tree: ConceptTree, run: Run, level: int) -> None:
    x = run.store().site(SITE).rows(np.arange(len(run.store().site(SITE))))
    codes = tree.hierarchy.lift(run.decomposer().encode(x), level).numpy()  # type: ignore[operator]
    positions = run.store().positions()
    for feature in range(tree.hierarchy.ranks[level]):
        best: dict[int, float] = {}
        for row in np.argsort(-codes[:, feature], kind="stable"):
            best.setdefault(int(positions[row, 0]), float(codes[row, feature]))
        expected = [value for value in best.values() if value > 0][:6]
        found = tree.contexts(level, feature, n=6)
        assert [one["value"] for one in found] == pytest.approx(expected, rel=2e-3)
        assert len({one["sequence"] for one in found}) == len(found)


def test_a_node_is_named_by_the_tokens_of_its_contexts(tree: ConceptTree) -> None:
    node = next(node for node in tree.nodes() if node.level == 1 and node.tokens)
    centres = [one["tokens"][one["centre"]] for one in tree.contexts(1, node.feature)]
    assert node.tokens[0][1] == max(centres.count(token) for token in centres) == centres.count(node.tokens[0][0])
    assert node.name.startswith(show_blanks(node.tokens[0][0]))
    assert show_blanks("\n\t x") == "⏎→␣x"


def test_the_tree_is_rows_and_indented_lines(tree: ConceptTree) -> None:
    nodes = tree.nodes()
    rows, lines = tree_rows(nodes), tree_text(nodes).split("\n")
    assert len(rows) == len(lines) == 19
    assert rows[0]["level"] == 2
    for row, line in zip(rows, lines, strict=True):
        assert line.startswith("  " * row["depth"] + f"{row['level']}.{row['feature']}  {row['name']}")


def test_the_command_prints_what_levels_leave_above_the_tree(
    run: Run, tree: ConceptTree, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["tree", str(run.path)])
    printed = capsys.readouterr().out
    assert printed == "\n".join([*tree.what_levels_leave, tree_text(tree.nodes())]) + "\n"


def test_a_branch_shows_its_depth_and_what_it_takes_from_its_parent(tree: ConceptTree) -> None:
    nodes = tree.nodes()
    for i, (node, (branch, features, share)) in enumerate(zip(nodes, branch_rows(nodes), strict=True)):
        assert branch.removeprefix("\u2003" * node.depth) == f"{node.level}.{node.feature}\u2002{node.name}"
        assert features == str(len(node.leaves))
        assert share == (f"{node.share:.0%}" if node.depth else "-")
        assert node_place(nodes, f"{node.level}.{node.feature}") == i
    assert node_place(nodes, "9.9") is None


def test_what_a_level_leaves_is_said_beside_chance(tree: ConceptTree, run: Run) -> None:
    notes = run.decomposer().notes
    first, second = tree.what_levels_leave
    assert first.startswith(f"Level 1 leaves {notes['level1_unexplained']:.0%} of the 12 features below unexplained (")
    assert f"any 2 directions leave at least {notes['level2_bound']:.0%})." in second
    figures = {"unexplained": 0.401, "null": 0.655, "null_least": 0.6512, "null_most": 0.66, "bound": 0.3}
    assert what_levels_leave((9, 4), {f"level1_{name}": value for name, value in figures.items()}) == [
        "Level 1 leaves 40% of the 9 features below unexplained (66% [65.1, 66.0] if the neurons of each are shuffled; any 4 "
        "directions leave at least 30%)."
    ]
    figures |= {"refitted_null": 0.487, "refitted_null_least": 0.48, "refitted_null_most": 0.49}
    [drawn] = what_levels_leave((9, 4), {f"level1_{name}": value for name, value in figures.items()})
    assert "49% [48.0, 49.0] if features are learned and drawn to their parents in the same way" in drawn
    assert what_levels_leave((9, 4), {}) == []


def test_a_run_without_levels_is_refused(run: Run) -> None:
    flat = train_run(run.store(), SITE, PCAConfig(n_features=2), "flat-pca")
    with (
        FeatureIndex(run.index_path) as index,
        pytest.raises(InputError, match="'flat-pca' has no hierarchy; train semi-nmf"),
    ):
        ConceptTree(flat, index)


def test_a_level_that_is_not_there_is_refused(tree: ConceptTree) -> None:
    with pytest.raises(InputError, match="there is no level 3; the hierarchy has levels 0 to 2"):
        tree.contexts(3, 0)
