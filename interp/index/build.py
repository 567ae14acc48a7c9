"""Building ``index.h5``: one pass over the run's site, then everything a feature page shows.

Importance of a feature is the share of the site's variance that it adds to the reconstruction,
var(z_f) |w_f|^2 / trace(covariance of x) with w_f its row of W_dec: comparable between runs at a site, and for PCA the
explained variance. A constant code has importance 0: it is part of the mean.
If a decomposer does not reconstruct x, importance is the share of the variance of all codes instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import h5py
import numpy as np
from jaxtyping import Float, Int

from interp.errors import InputError
from interp.files import whole
from interp.index.codes import SiteCodes, read_codes
from interp.index.examples import describe_features
from interp.index.layout import N_BINS, IndexRecord, write_attributes, write_compressed
from interp.index.relations import Neighbours, coactivation_neighbours, cosine_neighbours, nearest
from interp.records import check_options
from interp.runs.firing import Firing
from interp.runs.record import Run


@runtime_checkable
class TokenEffects(Protocol):
    """The methods of ``LanguageModel`` that say which tokens a direction promotes; importing the class would import torch."""

    @property
    def id(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    def token_strings(self) -> list[str]: ...
    def residual_directions(self, site: str, directions: Any) -> Any: ...
    def logit_effects(self, residual: Any) -> Any: ...


@dataclass(frozen=True)
class IndexConfig:
    """What a feature page shows, and how much of it is kept."""

    n_top: int = 50
    """Top examples per feature, at most one per sequence. Fifty fill two screens; fewer hide a second meaning."""
    n_each: int = 10
    """Examples of every other kind: from each fifth of the range, near the threshold, random, not firing."""
    n_neighbours: int = 20
    """Neighbours by cosine and by co-activation."""
    n_tokens: int = 20
    """Promoted tokens, suppressed tokens, and neurons."""
    max_density: float = 0.1
    """A feature firing on more than this share of the tokens keeps only its largest activations, about this share.
    Sparse codes are far below it; without it one dense feature would take as much space as a hundred others."""
    n_sample: int = 4096
    """Tokens drawn to find the cut and the activations below it; the kept share is then right to about 0.5 % of the tokens."""
    seed: int = 0
    """Seed of every random choice; two builds with one seed are equal."""

    def __post_init__(self) -> None:
        check_options(self)
        for name in ("n_top", "n_each", "n_neighbours", "n_tokens", "n_sample"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 < self.max_density <= 1:
            raise InputError(f"max_density must be above 0 and at most 1, not {self.max_density}")


def build_index(run: Run, *, config: IndexConfig = IndexConfig(), model: TokenEffects | None = None) -> Path:
    """Write ``run.index_path`` and return it; an older index stays until the new one is whole.

    Without ``model`` the pages show token numbers, and no promoted or suppressed tokens. Raises InputError if the store
    is empty, the model is not the one the store was captured from, or a code is not finite.
    """
    store, decomposer = run.store(), run.decomposer()
    source = store.site(run.site.read)
    if len(source) == 0:
        raise InputError(f"store {store.path} holds no tokens; capture some before indexing {run.path}")
    if model is not None and model.fingerprint != store.manifest.model_fingerprint:
        expected = store.manifest.model_id
        raise InputError(f"model '{model.id}' is not the one store {store.path} was captured from; give '{expected}'")
    codes = read_codes(decomposer, source, max_density=config.max_density, n_sample=config.n_sample, seed=config.seed)
    Firing(codes.maximum, codes.n_fire).write(run)
    positions = store.positions()
    features = {"n_fire": codes.n_fire, "max": codes.maximum, "mean": codes.mean, "cut": codes.cut}
    features["importance"] = _importance(codes, decomposer, source)
    features |= describe_features(codes, positions[:, 0], n_top=config.n_top, n_each=config.n_each, seed=config.seed)
    below = None
    if decomposer.signed_codes:
        below = read_codes(
            _Negated(decomposer), source, max_density=config.max_density, n_sample=config.n_sample, seed=config.seed
        )
        features |= _below(below, positions[:, 0], config)
    features |= _relations(codes, decomposer, run.site.read, config)
    if model is not None:
        features |= _token_effects(model, run.site.write, decomposer, config.n_tokens)
    vocabulary = None if model is None else model.token_strings()
    record = IndexRecord(
        run=run.name,
        kind=run.kind,
        site=str(run.site),
        run_identity=run.identity,
        store=store.name,
        store_identity=run.store_identity,
        model_id=store.manifest.model_id,
        model_fingerprint=store.manifest.model_fingerprint,
        n_features=len(codes.n_fire),
        n_tokens=len(positions),
        l0=float(codes.n_fire.sum() / len(positions)),
        n_cut=int(np.count_nonzero(codes.cut)),
        positive_side_only=bool(decomposer.signed_codes),
        importance_of="site variance" if "decode" in decomposer.capabilities else "variance of all codes",
        config=asdict(config),
        has_model=model is not None,
    )
    with whole(run.index_path) as partial, h5py.File(partial, "w") as file:
        _write_features(file, features, codes)
        if below is not None:
            _write_acts(file.create_group("acts_below"), below)
        _write_text(file, store, positions, vocabulary)
        write_attributes(file, record)
    return run.index_path


class _Negated:
    """A decomposer whose codes have the other sign: its positive side is the negative one of the original."""

    signed_codes = True

    def __init__(self, decomposer: Any) -> None:
        self.decomposer, self.n_features = decomposer, decomposer.n_features

    def encode(self, x: Any) -> Any:
        return -self.decomposer.encode(x)


def _below(codes: SiteCodes, sequences: Int[np.ndarray, " n_tokens"], config: IndexConfig) -> dict[str, np.ndarray]:
    """What is kept of the negative side, whose codes are given with their sign turned."""
    found = describe_features(codes, sequences, n_top=config.n_top, n_each=1, seed=config.seed)
    kept = {"n_fire": codes.n_fire, "max": codes.maximum} | {
        name: found[name] for name in ("hist", "top_row", "top_value")
    }
    return {f"below_{name}": values for name, values in kept.items()}


def _importance(codes: SiteCodes, decomposer: Any, source: Any) -> Float[np.ndarray, " n_features"]:
    variance = codes.variance
    whole = variance.sum()
    if "decode" in decomposer.capabilities:
        variance = variance * decomposer.W_dec.detach().square().sum(1).cpu().numpy()
        whole = source.moments().total_variance
    return (variance / max(float(whole), 1e-30)).astype(np.float32)


def _relations(codes: SiteCodes, decomposer: Any, site: str, config: IndexConfig) -> dict[str, np.ndarray]:
    """Neighbours of both kinds and, where the site is a layer of neurons, the largest neuron weights."""
    directions = decomposer.read_directions().detach().cpu().numpy()
    if "forms" in decomposer.capabilities:
        forms, is_live = decomposer.forms, decomposer.norms.numpy() > 0
        cosine = nearest(lambda block: forms[block].cosines(forms).numpy(), is_live, config.n_neighbours)
    else:
        cosine = cosine_neighbours(directions, config.n_neighbours)
    coactivation = coactivation_neighbours(codes.acts, config.n_neighbours, seed=config.seed)
    found = {"cosine": cosine, "coactivation": coactivation}
    if site.endswith("mlp.hook_post"):
        found["neurons"] = _largest_weights(directions, config.n_tokens)
    return _as_arrays(found)


def _largest_weights(directions: Float[np.ndarray, "n_features d_in"], n: int) -> Neighbours:
    """Neurons of largest absolute weight in each feature with their signed weights, largest first."""
    ids = np.argsort(-np.abs(directions), axis=1, kind="stable")[:, :n]
    values = np.take_along_axis(directions, ids, axis=1)
    return np.where(values != 0, ids, -1).astype(np.int32), values.astype(np.float32)


def _token_effects(model: TokenEffects, site: str, decomposer: Any, n: int) -> dict[str, np.ndarray]:
    """The tokens each feature's direction promotes and suppresses most, and how many it moves by how much; empty where no
    linear map leads to the logits."""
    residual = model.residual_directions(site, decomposer.write_directions())
    if residual is None:
        return {}
    found: dict[str, list[Neighbours]] = {"promoted": [], "suppressed": []}
    counts = []
    for block in residual.detach().split(1024):  # bounds memory: effects of 1024 features at a time
        effects = model.logit_effects(block)
        is_dead = ~block.any(dim=1, keepdim=True)
        for name, largest in (("promoted", True), ("suppressed", False)):
            values, ids = effects.topk(min(n, effects.shape[1]), dim=1, largest=largest)
            found[name].append((ids.masked_fill(is_dead, -1).cpu().numpy(), values.cpu().numpy()))
        counts.append(_in_bins(effects.cpu().numpy()))
    joined = {name: [np.concatenate(each) for each in zip(*parts, strict=True)] for name, parts in found.items()}
    return _as_arrays({name: (ids, values) for name, (ids, values) in joined.items()}) | {
        "logits_hist": np.concatenate(counts)
    }


def _in_bins(effects: Float[np.ndarray, "n d_vocab"]) -> Int[np.ndarray, "n n_bins"]:
    """Tokens by effect, in linear bins from the lowest to the highest effect of each row; none where all are equal."""
    lowest, highest = effects.min(1, keepdims=True), effects.max(1, keepdims=True)
    width = (highest - lowest) / N_BINS
    places = np.minimum((effects - lowest) / np.where(width > 0, width, 1), N_BINS - 1).astype(np.int64)
    rows = np.arange(len(effects))[:, None] * N_BINS
    counts = np.bincount((rows + places).ravel(), minlength=N_BINS * len(effects)).reshape(-1, N_BINS)
    return np.where(width > 0, counts, 0)


def _as_arrays(found: Mapping[str, Neighbours]) -> dict[str, np.ndarray]:
    ids = {f"{name}_id": ids.astype(np.int32) for name, (ids, _) in found.items()}
    return ids | {f"{name}_value": values.astype(np.float32) for name, (_, values) in found.items()}


def _write_features(file: h5py.File, features: dict[str, np.ndarray], codes: SiteCodes) -> None:
    """The feature arrays and the kept activations. Activations are stored as shares of the feature's maximum: float16
    then neither overflows nor loses a small feature, and no firing token is rounded to 0."""
    for name, values in features.items():
        file[f"features/{name}"] = values
    _write_acts(file.create_group("acts"), codes)


def _write_acts(acts: h5py.Group, codes: SiteCodes) -> None:
    share = codes.acts.data / np.repeat(codes.maximum, np.diff(codes.acts.indptr))
    acts["indptr"] = codes.acts.indptr.astype(np.int64)
    write_compressed(acts, "row", codes.acts.indices.astype(np.int32))
    write_compressed(acts, "value", np.maximum(share, np.finfo(np.float16).smallest_subnormal).astype(np.float16))


def _write_text(
    file: h5py.File, store: Any, positions: Int[np.ndarray, "n_tokens 2"], vocabulary: list[str] | None
) -> None:
    write_compressed(file, "tokens", store.tokens().astype(np.int32))
    write_compressed(file, "positions", positions.astype(np.int32))
    names, of_token = store.documents()
    documents = file.create_group("documents")
    documents.create_dataset("names", data=names, dtype=h5py.string_dtype())
    write_compressed(documents, "of_token", of_token.astype(np.int32))
    if vocabulary is not None:
        encoded = [token.encode() for token in vocabulary]
        file["vocabulary/bytes"] = np.frombuffer(b"".join(encoded), np.uint8)
        file["vocabulary/offsets"] = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
