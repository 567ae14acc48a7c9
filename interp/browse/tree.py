"""The hierarchy of a run as a tree to read: every feature below its heaviest parent, each with the text it fires on.

The codes of a feature above level 0 follow from the weights, G_l = G_0 W_0 ... W_(l-1); its contexts are where they are
largest. The codes G_0 are those that the run's index keeps, so of a feature that fires on a large share of the tokens only
the larger activations count.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import sparse

from interp.errors import InputError
from interp.index.reader import Example, FeatureIndex
from interp.index.token_text import show_blanks
from interp.records import Notes
from interp.runs.record import Run

N_CONTEXTS = 50
"""Contexts that a name is made from, one a sequence: as many as an index keeps of a feature."""


@dataclass(frozen=True)
class TreeNode:
    """One feature of one level."""

    level: int
    feature: int
    """Its number at this level."""
    depth: int
    """0 at the last level, and where a feature has no parent."""
    share: float
    """Weight from the parent it is shown below, as a share of its weights from all parents; 1 without a parent."""
    leaves: list[int]
    """The features of level 0 below it; a feature of level 0 has itself."""
    tokens: list[tuple[str, int]]
    """The commonest tokens of its top contexts, with their counts."""

    @property
    def name(self) -> str:
        """Its three commonest tokens, blanks made visible."""
        return "  ".join(show_blanks(token) for token, _ in self.tokens[:3]) or "fires nowhere"


class ConceptTree:
    """The hierarchy of a semi-NMF run over its index. Raises InputError for a run without levels."""

    def __init__(self, run: Run, index: FeatureIndex):
        hierarchy = run.decomposer().hierarchy
        if hierarchy is None:
            raise InputError(
                f"'{run.name}' has no hierarchy; train semi-nmf with --levels, such as --n-features 200 --levels 50 12"
            )
        self.hierarchy, self._index = hierarchy, index
        self.what_levels_leave = what_levels_leave(hierarchy.ranks, run.decomposer().notes)
        """Of each level, a sentence on how much of the features below it leaves unexplained, beside chance."""
        parts = [index.activations(f) for f in range(index.n_features)]
        bounds = np.cumsum([0, *(len(rows) for rows, _ in parts)])
        rows, values = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
        self._codes = sparse.csc_array((values, rows, bounds), shape=(index.n_tokens, index.n_features))
        self._mixes = [np.eye(index.n_features, dtype=np.float32)]
        """Of each level, W_0 ... W_(l-1)."""
        for weights in hierarchy.weights:
            self._mixes.append(self._mixes[-1] @ weights.numpy())

        self._parents = [
            [hierarchy.parents(level, f) for f in range(rank)] for level, rank in enumerate(hierarchy.ranks)
        ]
        self._leaves: dict[tuple[int, int], list[int]] = defaultdict(list)
        for leaf in range(index.n_features):
            for level, feature in enumerate(hierarchy.path(leaf)):
                self._leaves[level, feature].append(leaf)

    def nodes(self) -> list[TreeNode]:
        """Every feature of every level, depth first, larger branches first."""
        ranks, found = self.hierarchy.ranks, list[TreeNode]()
        for level in reversed(range(len(ranks))):
            roots = [f for f in range(ranks[level]) if not self._parents[level][f]]
            for feature in self._largest_first(level, roots):
                self._add(found, level, feature, depth=0)
        return found

    def contexts(self, level: int, feature: int, *, n: int = N_CONTEXTS, context: int = 24) -> list[Example]:
        """Where a feature of a level fires most, one token a sequence, in the form of ``FeatureIndex.examples``.

        Raises InputError for a level or feature that is not there.
        """
        self.hierarchy.parents(level, feature)
        return self._index.examples_of(self._codes @ self._mixes[level][:, feature], n, context)

    def _add(self, found: list[TreeNode], level: int, feature: int, *, depth: int) -> None:
        """Add the feature and, below it, the features whose heaviest parent it is."""
        tokens = Counter(one["tokens"][one["centre"]] for one in self.contexts(level, feature, context=0))
        parents = self._parents[level][feature]
        share = parents[0][1] / sum(weight for _, weight in parents) if parents else 1.0
        found.append(TreeNode(level, feature, depth, share, self._leaves[level, feature], tokens.most_common(5)))
        if level:
            below = enumerate(self._parents[level - 1])
            own = [child for child, above in below if above and above[0][0] == feature]
            for child in self._largest_first(level - 1, own):
                self._add(found, level - 1, child, depth=depth + 1)

    def _largest_first(self, level: int, features: list[int]) -> list[int]:
        return sorted(features, key=lambda f: -len(self._leaves[level, f]))


def what_levels_leave(ranks: Sequence[int], notes: Notes) -> list[str]:
    """Of each level that the notes of a run have figures of, a sentence: how much of the features below it leaves unexplained,
    beside the same of shuffled features (mean, least and most of five draws) and what any as many directions must leave."""
    sentences = []
    for level, (below, rank) in enumerate(pairwise(ranks), start=1):
        figures = {
            key.removeprefix(f"level{level}_"): float(value)
            for key, value in notes.items()
            if key.startswith(f"level{level}_")
        }
        if not figures:
            continue
        null = f"{_range(figures, 'null')} if the neurons of each are shuffled"
        if "refitted_null" in figures:
            null += f", {_range(figures, 'refitted_null')} if features are learned and drawn to their parents in the same way "
            null += "from rows made of shuffled ones"
        sentences.append(
            f"Level {level} leaves {figures['unexplained']:.0%} of the {below} features below unexplained ({null}; any {rank} "
            f"directions leave at least {figures['bound']:.0%})."
        )
    return sentences


def _range(figures: dict[str, float], name: str) -> str:
    low, high = (100 * figures[f"{name}_{end}"] for end in ("least", "most"))
    return f"{figures[name]:.0%} [{low:.1f}, {high:.1f}]"


def tree_rows(nodes: list[TreeNode]) -> list[dict[str, str | int | float]]:
    """One row for each node, for a table or a figure: level, feature, depth, share of its parent, features below, name."""
    return [
        {
            "level": node.level,
            "feature": node.feature,
            "depth": node.depth,
            "share": round(node.share, 3),
            "features": len(node.leaves),
            "name": node.name,
        }
        for node in nodes
    ]


def branch_rows(nodes: list[TreeNode]) -> list[list[str]]:
    """The cells of one row for each node, for the dashboard: the name, with depth as indentation; features below; share."""
    return [
        [
            "\u2003" * node.depth + f"{node.level}.{node.feature}\u2002{node.name}",
            f"{len(node.leaves):,}",
            f"{node.share:.0%}" if node.depth else "-",
        ]
        for node in nodes
    ]


def node_place(nodes: list[TreeNode], text: str) -> int | None:
    """The place in ``nodes`` of the one written as LEVEL.FEATURE; None if there is none."""
    return next((i for i, node in enumerate(nodes) if f"{node.level}.{node.feature}" == text), None)


def tree_text(nodes: list[TreeNode]) -> str:
    """The tree as indented lines."""
    lines = []
    for node in nodes:
        n = len(node.leaves)
        below = f"{n} feature{'s' * (n > 1)}" if node.level else f"{node.share:.0%}"
        lines.append(f"{'  ' * node.depth}{node.level}.{node.feature}  {node.name}  ({below})")
    return "\n".join(lines)
