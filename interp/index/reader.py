"""What a feature page shows, read from a run's ``index.h5`` without the model and without torch.

The activations are stored by feature (CSC), so that one feature's page reads one or two compressed chunks, in about a
millisecond whatever the size of the store.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict, cast

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from interp.errors import InputError, unknown_feature, unknown_name
from interp.index.examples import top_one_a_sequence
from interp.index.layout import KINDS_OF_EXAMPLES, N_BINS, N_INTERVALS, IndexRecord, open_precomputed
from interp.runs.record import Run
from interp.store.manifest import Manifest

if TYPE_CHECKING:
    from scipy import sparse

ExampleKind = Literal["top", "intervals", "near-threshold", "random", "not-firing", "lowest"]
BLOCK = 2**22
"""Activations read at a time when those of some tokens are sought: 25 MB."""
COLUMNS = ("n_fire", "max", "mean", "p50", "p99", "importance", "cut")
Ranked = list[tuple[int, float]]
"""Numbers of features or neurons with their values, best first."""
RankedTokens = list[tuple[str, float]]
"""Tokens with their values, best first."""


class Histogram(TypedDict):
    """Tokens in linear bins."""

    edges: list[float]
    counts: list[int]


class Below(TypedDict):
    """The negative side of a feature with signed codes."""

    n_fire: int
    density: float
    min: float
    hist: Histogram
    """Tokens with a negative code, from the lowest to 0."""


class FeaturePage(TypedDict):
    """Everything on a feature's page but its examples: the columns of ``FeatureIndex.summary``, and lists.

    Token and neuron lists are None where the index was built without the model or the site has none.
    """

    id: int
    n_fire: int
    density: float
    max: float
    mean: float
    p50: float
    p99: float
    importance: float
    importance_rank: int
    cut: float
    dead: bool
    n_tokens: int
    hist: Histogram
    """Firing tokens by activation, from 0 to the maximum."""
    below: Below | None
    """None where codes have one sign, and where the index was built by a version that kept the positive side alone."""
    logits: Histogram | None
    """Tokens of the vocabulary by the effect of the feature's direction on their logit; None also where the index was built
    by a version that did not count them."""
    promoted: RankedTokens | None
    suppressed: RankedTokens | None
    neighbours: dict[str, Ranked | None]
    """By cosine and by co-activation."""
    neurons: Ranked | None


class Example(TypedDict):
    """A token with a feature's activation on it, and the tokens around it."""

    value: float
    """Activation on the token itself."""
    sequence: int
    position: int
    document: str
    tokens: list[str]
    activations: list[float]
    centre: int
    """Place of the token itself in ``tokens``."""
    group: str
    """For kind "intervals": the part of the range it was drawn from, else empty."""


class FeatureIndex:
    """A run's precomputed feature pages, opened read-only; a context manager, or closed with ``close()``.

    ``record`` says what the index was built from.
    Activations are those above 0, unless ``has_below``: then codes have both signs, and examples show both.
    """

    def __init__(self, path: Path) -> None:
        """Open ``path``; InputError if it is missing, damaged or of another schema version."""
        self.path = Path(path)
        self._file, self.record = open_precomputed(self.path, IndexRecord)
        self.n_features = self.record.n_features
        self.n_tokens = self.record.n_tokens
        self.l0 = self.record.l0
        # Opened once: looking a dataset up by name costs as much as reading a row of it.
        self._features = dict(self._file["features"].items())
        self._act_rows, self._act_values = self._file["acts/row"], self._file["acts/value"]
        self._indptr = self._file["acts/indptr"][:]
        self.has_below = "acts_below" in self._file
        """Whether codes have a negative side that is kept."""
        self._indptr_below = self._file["acts_below/indptr"][:] if self.has_below else None

    def close(self) -> None:
        """Close the file; the index cannot be read afterwards."""
        self._file.close()

    def __enter__(self) -> FeatureIndex:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @functools.cached_property
    def summary(self) -> pd.DataFrame:
        """One row a feature: id, n_fire (tokens), density (share of tokens), max, mean, p50, p99 (over firing tokens),
        importance, importance_rank (1 is the most important), cut (activations up to it are not stored), dead."""
        table = pd.DataFrame({"id": np.arange(self.n_features)} | {name: self._features[name][:] for name in COLUMNS})
        table.insert(2, "density", table["n_fire"] / self.n_tokens)
        table["importance_rank"] = table["importance"].rank(ascending=False, method="first").astype(int)
        table["dead"] = table["n_fire"] == 0
        return table

    def feature(self, f: int) -> FeaturePage:
        """Everything on a feature's page but its examples, ready for JSON."""
        self._check(f)
        columns = {name: array[f].item() for name, array in self._columns.items()}
        edges = np.linspace(0.0, columns["max"], N_BINS + 1)
        lists = {
            "n_tokens": self.n_tokens,
            "hist": {"edges": edges.tolist(), "counts": self._features["hist"][f].tolist()},
            "below": self._below(f),
            "logits": self._logits(f),
            "promoted": self._tokens_and_values("promoted", f),
            "suppressed": self._tokens_and_values("suppressed", f),
            "neighbours": {kind: self._ids_and_values(kind, f) for kind in ("cosine", "coactivation")},
            "neurons": self._ids_and_values("neurons", f),
        }
        return cast(FeaturePage, columns | lists)

    def examples(self, f: int, which: ExampleKind, context: int | None = 24) -> list[Example]:
        """Tokens chosen for a feature, each with ``context`` tokens to either side (None: its whole sequence).

        "top" has at most one token a sequence, largest first; "intervals" random tokens from each fifth of the range,
        highest fifth first; "near-threshold" the smallest positive activations; "random" firing and "not-firing"
        tokens are drawn evenly. "lowest" has the most negative codes, one a sequence; none where they are not kept. Activations
        at or below the feature's ``cut`` are 0 in the context.
        """
        self._check(f)
        if which == "lowest":
            return self._lowest(f, context)
        if which not in KINDS_OF_EXAMPLES:
            raise unknown_name("kind of example", which, (*KINDS_OF_EXAMPLES, "lowest"), "an index")
        rows, values = self._features[f"{which}_row"][f], self._features[f"{which}_value"][f]
        groups = [""] * len(rows)
        if which == "intervals":
            width = 100 // N_INTERVALS
            names = [f"{i * width}-{(i + 1) * width} % of max" for i in reversed(range(N_INTERVALS))]
            groups = [name for name in names for _ in range(rows.shape[1])]
            rows, values = rows[::-1].ravel(), values[::-1].ravel()
        present = np.flatnonzero(rows >= 0)
        windows = self._windows(rows[present], values[present], context, self._codes(f))
        return [{**window, "group": groups[i]} for window, i in zip(windows, present.tolist(), strict=True)]

    def examples_of(
        self, activations: Float[np.ndarray, " n_tokens"], n: int, context: int | None = 24
    ) -> list[Example]:
        """``n`` "top" examples of any activations over the store's tokens, such as a weighted sum of features."""
        firing = np.flatnonzero(activations > 0)
        order = firing[np.argsort(activations[firing], kind="stable")]
        best = order[top_one_a_sequence(self._positions[order, 0], n)]
        return self._windows(best, activations[best], context, (firing, activations[firing]))

    def activations(self, f: int) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Rows (ascending) and activations of the feature on every token where it exceeds its cut."""
        self._check(f)
        part = slice(int(self._indptr[f]), int(self._indptr[f + 1]))
        return self._act_rows[part], self._act_values[part] * self._columns["max"][f]

    def codes_on(self, rows: Int[np.ndarray, " n"]) -> sparse.csr_array:
        """Activations of all features on some tokens, [n, n_features]; 0 where a feature does not exceed its cut.

        Reads every activation of the index, ``BLOCK`` at a time: what is stored lies by feature.
        """
        from scipy import sparse  # deferred: 10 MB that only texts in several runs need

        place = np.full(self.n_tokens, -1)
        place[rows] = np.arange(len(rows))
        shape = (len(rows), self.n_features)
        found: list[sparse.coo_array] = []
        for first in range(0, len(self._act_rows), BLOCK):
            at = place[self._act_rows[first : first + BLOCK]]
            here = np.flatnonzero(at >= 0)
            features = np.searchsorted(self._indptr, here + first, side="right") - 1
            values = self._act_values[first : first + BLOCK][here] * self._columns["max"][features]
            found.append(sparse.coo_array((values, (at[here], features)), shape=shape))
        return sparse.csr_array(sum(found, sparse.coo_array(shape)))

    @property
    def documents(self) -> list[str]:
        """Name of each document of the store, by its number."""
        return self._documents[0]

    def passages(self, document: int) -> list[Int[np.ndarray, " _"]]:
        """Rows of the document's tokens, those of one sequence together, in order."""
        return passages(self._positions, self._documents[1], document)

    def tokens_of(self, rows: Int[np.ndarray, " n"]) -> list[str]:
        """Text of the token that each row is of."""
        return self.token_texts(self._tokens[tuple(self._positions[rows].T)].tolist())

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        """Text of tokens; in an index that was built without the model, their numbers in brackets."""
        return [self._vocabulary[token] for token in ids]

    def search_tokens(self, text: str) -> list[int]:
        """Features whose top examples are tokens that are, or contain, ``text``; best first.

        Surrounding blanks do not count unless ``text`` is nothing else. Features are ordered by the share of their
        top examples that is the text itself, then by the share that contains it (in any case), then by number.
        """
        if text == "":
            return []
        sought = text.strip() or text
        inner = [token.strip() if text.strip() else token for token in self._vocabulary]
        equal = np.array([token == sought for token in inner] + [False])
        contains = np.array([sought.lower() in token.lower() for token in inner] + [False])
        n_examples = np.maximum((self._top_tokens >= 0).sum(1), 1)
        is_text = equal[self._top_tokens].sum(1) / n_examples  # the padding, -1, reads the False at the end
        has_text = contains[self._top_tokens].sum(1) / n_examples
        order = np.lexsort((-has_text, -is_text))
        return [int(f) for f in order if has_text[f] > 0]

    @functools.cached_property
    def _columns(self) -> dict[str, np.ndarray]:
        return {str(name): self.summary[name].to_numpy() for name in self.summary}

    @functools.cached_property
    def _tokens(self) -> Int[np.ndarray, "n_sequences n_ctx"]:
        return self._file["tokens"][:]

    @functools.cached_property
    def _positions(self) -> Int[np.ndarray, "n_tokens 2"]:
        return self._file["positions"][:]

    @functools.cached_property
    def _documents(self) -> tuple[list[str], Int[np.ndarray, "n_sequences n_ctx"]]:
        return list(self._file["documents/names"].asstr()[:]), self._file["documents/of_token"][:]

    @functools.cached_property
    def _vocabulary(self) -> list[str]:
        """Every token's text; of an index built without the model, its number in brackets."""
        if "vocabulary" not in self._file:
            return [f"⟨{token}⟩" for token in range(int(self._tokens.max()) + 1)]
        text, offsets = self._file["vocabulary/bytes"][:].tobytes(), self._file["vocabulary/offsets"][:].tolist()
        return [text[i:j].decode() for i, j in itertools.pairwise(offsets)]

    def sequence(self, number: int) -> Int[np.ndarray, " n"]:
        """The token ids of a sequence of the store, BOS first, as far as it has text. InputError for one that is not there."""
        last, position = self._positions[-1].tolist()
        if not 0 <= number <= last:
            raise InputError(f"no sequence {number}; this store has 0-{last}")
        return self._tokens[number, : position + 1] if number == last else self._tokens[number]

    @functools.cached_property
    def strongest_tokens(self) -> list[list[str]]:
        """Of each feature, the different tokens of its top examples, strongest first."""
        rows = self._top_tokens.tolist()
        return [list(dict.fromkeys(self._vocabulary[token] for token in row if token >= 0)) for row in rows]

    @functools.cached_property
    def _top_tokens(self) -> Int[np.ndarray, "n_features n_top"]:
        rows = self._features["top_row"][:]
        sequences, places = self._positions[rows].transpose(2, 0, 1)
        return np.where(rows >= 0, self._tokens[sequences, places], -1)

    def _check(self, f: int) -> None:
        if not 0 <= f < self.n_features:
            raise unknown_feature(f, self.n_features)

    def _ids_and_values(self, name: str, f: int) -> Ranked | None:
        if f"{name}_id" not in self._features:
            return None
        ids, values = self._features[f"{name}_id"][f], self._features[f"{name}_value"][f]
        return [(int(i), float(value)) for i, value in zip(ids, values, strict=True) if i >= 0]

    def _lowest(self, f: int, context: int | None) -> list[Example]:
        if not self.has_below:
            return []
        rows, values = self._features["below_top_row"][f], -self._features["below_top_value"][f]
        return self._windows(rows[rows >= 0], values[rows >= 0], context, self._codes(f))

    def _below(self, f: int) -> Below | None:
        if not self.has_below:
            return None
        n_fire, lowest = int(self._features["below_n_fire"][f]), max(0.0, float(self._features["below_max"][f]))
        counts = self._features["below_hist"][f][::-1].tolist()
        hist = Histogram(edges=np.linspace(-lowest, 0.0, N_BINS + 1).tolist(), counts=counts)
        return Below(n_fire=n_fire, density=n_fire / self.n_tokens, min=-lowest, hist=hist)

    def _codes(self, f: int) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """As ``activations``, with the kept negative codes."""
        rows, values = self.activations(f)
        if self._indptr_below is None:
            return rows, values
        part = slice(int(self._indptr_below[f]), int(self._indptr_below[f + 1]))
        acts = self._file["acts_below"]
        rows = np.concatenate([rows, acts["row"][part]])
        values = np.concatenate([values, acts["value"][part] * -self._features["below_max"][f]])
        order = np.argsort(rows, kind="stable")
        return rows[order], values[order]

    def _logits(self, f: int) -> Histogram | None:
        if "logits_hist" not in self._features:
            return None
        lowest, highest = (float(self._features[f"{name}_value"][f, 0]) for name in ("suppressed", "promoted"))
        edges = np.linspace(lowest, highest, N_BINS + 1)
        return Histogram(edges=edges.tolist(), counts=self._features["logits_hist"][f].tolist())

    def _tokens_and_values(self, name: str, f: int) -> RankedTokens | None:
        pairs = self._ids_and_values(name, f)
        return None if pairs is None else [(self._vocabulary[token], value) for token, value in pairs]

    def _windows(
        self,
        rows: Int[np.ndarray, " n"],
        values: Float[np.ndarray, " n"],
        context: int | None,
        firing: tuple[Int[np.ndarray, " n_firing"], Float[np.ndarray, " n_firing"]],
    ) -> list[Example]:
        """The stored tokens around each row, without the leading BOS, and the feature's activation on each.

        ``firing`` holds the feature's rows and activations. All windows are gathered at once, end to end; a token's place
        is its sequence times n_ctx plus its position.
        """
        sequences, positions = self._positions[rows].T.astype(np.int64)
        n_ctx = self._tokens.shape[1]
        reach = n_ctx if context is None else context
        last_sequence, last_position = self._positions[-1]  # the last sequence may end early
        end = np.where(sequences == last_sequence, last_position + 1, n_ctx)
        first, last = np.maximum(1, positions - reach), np.minimum(end, positions + reach + 1)
        bounds = np.concatenate([[0], np.cumsum(last - first)])
        places = np.arange(bounds[-1]) + np.repeat(sequences * n_ctx + first - bounds[:-1], last - first)
        activations = self._activations_at(places, firing)
        activations[bounds[:-1] + positions - first] = values  # in full precision, and below the cut too
        tokens = [self._vocabulary[token] for token in self._tokens.ravel()[places].tolist()]
        names, of_token = self._documents
        return [
            {
                "value": float(values[i]),
                "sequence": int(sequences[i]),
                "position": int(positions[i]),
                "document": names[of_token[sequences[i], positions[i]]],
                "tokens": tokens[bounds[i] : bounds[i + 1]],
                "activations": activations[bounds[i] : bounds[i + 1]].tolist(),
                "centre": int(positions[i] - first[i]),
                "group": "",
            }
            for i in range(len(rows))
        ]

    def _activations_at(
        self,
        places: Int[np.ndarray, " n_places"],
        firing: tuple[Int[np.ndarray, " n_firing"], Float[np.ndarray, " n_firing"]],
    ) -> Float[np.ndarray, " n_places"]:
        """The activation at each place; 0 where none is stored, as for all separators."""
        rows, values = firing
        if len(rows) == 0:
            return np.zeros(len(places))
        known = self._positions[rows] @ np.array([self._tokens.shape[1], 1])
        nearest = np.minimum(np.searchsorted(known, places), len(known) - 1)
        return np.where(known[nearest] == places, values[nearest].astype(float), 0.0)


def passages(
    positions: Int[np.ndarray, "n_tokens 2"], document_of: Int[np.ndarray, "n_sequences n_ctx"], document: int
) -> list[Int[np.ndarray, " _"]]:
    """Rows of a document's tokens, those of one sequence together, in order: none for a document that there is not.

    ``positions`` are (sequence, position) of each row, ``document_of`` the document number of each token.
    """
    sequences, places = positions.T
    rows = np.flatnonzero(document_of[sequences, places] == document)
    return np.split(rows, np.flatnonzero(np.diff(sequences[rows])) + 1) if len(rows) else []


def is_stale(index: FeatureIndex, run: Run) -> bool:
    """Whether, since the index was built, the run was trained again, or its store was captured again or removed."""
    try:
        store_identity = Manifest.read(run.store_path).identity
    except InputError:
        return True
    return (index.record.store_identity, index.record.run_identity) != (store_identity, run.identity)
