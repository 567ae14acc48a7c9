"""A hierarchy of concepts: the features of semi-NMF factorised again, and those again.

    F_0 ~ W_0 F_1,   F_1 ~ W_1 F_2,   ...      W_l >= 0 [K_l, K_(l+1)],   K_0 > K_1 > K_2 > ...

Level 0 are the features themselves; every level is a semi-NMF of the features below it as rows, under the same constraints.
A row of W_l is what a feature takes from its parents. Codes G_0 of rows carry over to any level, G_l = G_0 W_0 ... W_(l-1), and
stay non-negative. (Trigeorgis et al. 2014, deep semi-NMF; for MLP features arXiv 2506.10920.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError, unknown_feature

Weighted = list[tuple[int, float]]
"""Features with their weights, heaviest first."""


@dataclass(frozen=True)
class Hierarchy:
    """The levels above a decomposer's features, and how they hang together."""

    features: tuple[Float[Tensor, "_ d_in"], ...]
    """F_l of every level, unit rows."""
    weights: tuple[Float[Tensor, "_ _"], ...]
    """W_l of every level but the last: non-negative, a row a feature, a column a parent."""

    @property
    def ranks(self) -> tuple[int, ...]:
        """Features at each level."""
        return tuple(len(level) for level in self.features)

    def parents(self, level: int, feature: int) -> Weighted:
        """What a feature is made of at the level above; empty at the last level."""
        self._check(level, feature)
        return _heaviest(self.weights[level][feature]) if level < len(self.weights) else []

    def children(self, level: int, feature: int) -> Weighted:
        """The features of the level below that are made of this one, with its weight in each; empty at level 0."""
        self._check(level, feature)
        return _heaviest(self.weights[level - 1][:, feature]) if level > 0 else []

    def path(self, feature: int) -> list[int]:
        """A feature of level 0, its heaviest parent, the heaviest parent of that, ...: one number a level.

        Shorter where a feature has no parent.
        """
        path = [feature]
        self._check(0, feature)
        for level in range(len(self.weights)):
            if not (above := self.parents(level, path[-1])):
                break
            path.append(above[0][0])
        return path

    def branch(self, level: int, feature: int) -> list[int]:
        """The features of level 0 whose path goes through this one."""
        self._check(level, feature)
        paths = [self.path(leaf) for leaf in range(self.ranks[0])]
        return [leaf for leaf, path in enumerate(paths) if len(path) > level and path[level] == feature]

    def lift(self, z: Float[Tensor, "n n_features"], level: int) -> Float[Tensor, "n _"]:
        """Codes of level 0 as codes of another level."""
        self._check(level, 0)
        for weights in self.weights[:level]:
            z = z @ weights
        return z

    def decode(self, z: Float[Tensor, "n n_features"], level: int = 0) -> Float[Tensor, "n d_in"]:
        """Reconstruction of rows from their codes of level 0, by the features of ``level``."""
        return self.lift(z, level) @ self.features[level]

    def to_tensors(self) -> dict[str, Tensor]:
        """The levels above 0 as they are saved: ``level1.features``, ``level1.weights``, ..."""
        tensors: dict[str, Tensor] = {}
        for level, weights in enumerate(self.weights, start=1):
            tensors |= {f"level{level}.features": self.features[level], f"level{level}.weights": weights}
        return tensors

    @classmethod
    def from_tensors(cls, features: Float[Tensor, "K d_in"], tensors: Mapping[str, Tensor]) -> Hierarchy:
        """The levels saved beside ``features``."""
        n = sum(name.endswith(".weights") for name in tensors)
        above = [tensors[f"level{level}.features"] for level in range(1, n + 1)]
        return cls((features, *above), tuple(tensors[f"level{level}.weights"] for level in range(1, n + 1)))

    def _check(self, level: int, feature: int) -> None:
        if not 0 <= level < len(self.features):
            raise InputError(f"there is no level {level}; the hierarchy has levels 0 to {len(self.features) - 1}")
        if not 0 <= feature < self.ranks[level]:
            raise unknown_feature(feature, self.ranks[level])


def _heaviest(weights: Float[Tensor, " n"]) -> Weighted:
    values, ids = weights.sort(descending=True, stable=True)
    return [(int(i), float(value)) for i, value in zip(ids, values, strict=True) if value > 0]
