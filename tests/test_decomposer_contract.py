"""What every decomposer promises. Each registered method goes through all of it, so a new one is tested by existing."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterator
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from interp.decomposers import Decomposer, LinearDecomposer, kind_of, kinds, load, read_config, registry
from interp.decomposers.base import register
from interp.errors import InputError
from interp.store.moments import Moments, moments_of
from interp.store.source import ArraySource, as_source
from interp.training.config import DecomposerConfig, GradientConfig

N_ROWS, D_IN, N_FEATURES = 600, 48, 40
DETERMINISTIC = {"pca", "neurons", "diff-means"}
"""Methods that draw nothing at random."""
WITHOUT_UNTRAINED = {"pca", "ica", "nmf", "kmeans", "neurons", "random", "diff-means"}
"""Baselines, which have no untrained form."""


class Labelled(ArraySource):
    """Rows with a label for each of the first N_FEATURES coordinates, on the upper half of it: for methods that need labels."""

    def labels(self, label_set: str | None = None) -> tuple[tuple[str, ...], np.ndarray]:
        some = self._array[:, :N_FEATURES].numpy()
        return tuple(f"coordinate {i}" for i in range(N_FEATURES)), (some > np.median(some, axis=0)).astype(np.uint8)


every_kind = pytest.mark.parametrize("kind", kinds())
every_linear_kind = pytest.mark.parametrize(
    "kind", [kind for kind in kinds() if issubclass(registry[kind], LinearDecomposer)]
)


def config_of(kind: str, **options: int) -> DecomposerConfig:
    """The method's own defaults, made small."""
    config_type = registry[kind].config_type
    if issubclass(config_type, GradientConfig):
        options = {"tokens": 6400, "batch": 64, **options}
    return config_type(**{"n_features": N_FEATURES, **options})


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    """Rows of a rank above N_FEATURES, with a mean, partly sparse: something for every method."""
    random = torch.Generator().manual_seed(0)
    codes = torch.rand(N_ROWS, 60, generator=random) * (torch.rand(N_ROWS, 60, generator=random) < 0.1)
    return codes @ torch.randn(60, D_IN, generator=random) + 0.05 * torch.randn(N_ROWS, D_IN, generator=random) + 0.2


@pytest.fixture(scope="module")
def fitted(x) -> dict[str, Decomposer]:
    return {kind: registry[kind].fit(Labelled(x), config_of(kind)) for kind in kinds()}


# ------------------------------------------------------------------------------------------------- what a fit results in


@every_kind
def test_a_fit_is_of_its_kind_config_and_size(kind, fitted):
    decomposer = fitted[kind]
    assert type(decomposer) is registry[kind]
    assert decomposer.kind == kind
    assert decomposer.config == config_of(kind)
    assert (decomposer.n_features, decomposer.d_in) == (N_FEATURES, D_IN)


@every_kind
def test_codes_are_finite_and_signed_only_where_announced(kind, fitted, x):
    z = fitted[kind].encode(x)
    assert z.shape == (N_ROWS, N_FEATURES)
    assert z.dtype == torch.float32
    assert torch.isfinite(z).all()
    assert not z.requires_grad
    assert bool((z < 0).any()) == fitted[kind].signed_codes
    assert (z != 0).any(0).sum() > N_FEATURES / 2


@every_kind
def test_codes_do_not_depend_on_the_rows_beside(kind, fitted, x):
    encode = fitted[kind].encode
    whole = encode(x)
    tolerance = 1e-4 * float(whole.abs().max())
    for size, n in ((1, 20), (7, 100), (250, 500)):
        parts = torch.cat([encode(part) for part in x[:n].split(size)])
        torch.testing.assert_close(parts, whole[:n], rtol=0, atol=tolerance)
    order = torch.randperm(N_ROWS, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(encode(x[order]), whole[order], rtol=0, atol=tolerance)


@every_kind
def test_one_row_whole_texts_and_arrays_have_the_codes_of_their_rows(kind, fitted, x):
    encode = fitted[kind].encode
    rows = encode(x[:12])
    assert torch.equal(encode(x[:12].reshape(3, 4, D_IN)), rows.reshape(3, 4, N_FEATURES))
    assert torch.equal(encode(x[:12].numpy()), rows)
    torch.testing.assert_close(encode(x[5]), rows[5], rtol=0, atol=1e-4 * float(rows.abs().max()))
    for wrong in (x[:3, :-1], np.zeros(())):
        with pytest.raises(
            InputError, match=rf"the rows have shape \[.*\], but this {kind} was trained on rows {D_IN} wide"
        ):
            encode(wrong)


@pytest.mark.parametrize("kind", sorted(set(kinds()) - {"diff-means"}))
def test_an_array_is_fitted_as_its_rows_are(kind, fitted, x):
    again = registry[kind].fit(x.reshape(N_ROWS // 4, 4, D_IN).numpy(), config_of(kind))
    for name, tensor in fitted[kind].tensors.items():
        assert torch.equal(tensor, again.tensors[name]), name


def test_a_method_has_defaults_and_refuses_what_holds_no_rows(x):
    assert registry["neurons"].fit(x).config == registry["neurons"].config_type()
    with pytest.raises(InputError, match=r"learned from a site of a store, .* or an array \[n, d_in\], not list"):
        as_source([[1.0, 2.0]])


@every_kind
def test_no_rows_and_rows_of_zeros_have_codes(kind, fitted):
    assert fitted[kind].encode(torch.zeros(0, D_IN)).shape == (0, N_FEATURES)
    assert torch.isfinite(fitted[kind].encode(torch.zeros(3, D_IN))).all()


@every_kind
def test_encoding_leaves_its_input_alone(kind, fitted, x):
    given = x.clone()
    fitted[kind].encode(given)
    assert torch.equal(given, x)


@every_kind
def test_directions_are_unit_rows_or_zero(kind, fitted):
    directions = fitted[kind].write_directions()
    assert directions.shape == (N_FEATURES, D_IN)
    norms = directions.norm(dim=1)
    assert ((norms - 1).abs() < 1e-5).logical_or(norms == 0).all()


@every_kind
def test_it_explains_more_than_the_mean_does(kind, fitted, x):
    assert 0 < fitted[kind].fvu(x) < 0.9


@every_linear_kind
def test_a_linear_method_reconstructs_by_its_weights_and_fvu_is_the_formula(kind, fitted, x):
    decomposer = fitted[kind]
    assert isinstance(decomposer, LinearDecomposer)
    x_hat = decomposer.encode(x).double() @ decomposer.W_dec.double() + decomposer.b_dec.double()
    torch.testing.assert_close(decomposer.decode(decomposer.encode(x)).double(), x_hat, rtol=0, atol=1e-5)
    expected = ((x - x_hat) ** 2).sum() / ((x.double() - x.double().mean(0)) ** 2).sum()
    assert decomposer.fvu(x) == pytest.approx(float(expected), rel=1e-4)
    scaled = decomposer.W_dec / decomposer.W_dec.norm(dim=1, keepdim=True)
    torch.testing.assert_close(decomposer.write_directions(), scaled)


@every_kind
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(kind, fitted, x):
    again = registry[kind].fit(Labelled(x), config_of(kind))
    for name, tensor in fitted[kind].tensors.items():
        assert torch.equal(again.tensors[name], tensor), name
    other = registry[kind].fit(Labelled(x), config_of(kind, seed=1))
    is_same = torch.equal(other.write_directions(), fitted[kind].write_directions())
    assert is_same == (kind in DETERMINISTIC)


@every_kind
def test_fitting_leaves_the_global_random_state_alone(kind, x):
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1]
    registry[kind].fit(Labelled(x[:200]), config_of(kind))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()


@every_kind
def test_the_training_is_recorded(kind, x):
    records: list[dict[str, float]] = []

    class Memory:
        checkpoints: Path | None = None

        def log(self, record: dict[str, float]) -> None:
            records.append(record)

    registry[kind].fit(Labelled(x), config_of(kind), Memory())
    assert all({"step", "tokens", "loss", "fvu"} <= set(record) for record in records)
    assert [r["step"] for r in records] == sorted({r["step"] for r in records})
    assert json.loads(json.dumps(records)) == records


# ------------------------------------------------------------------------------------------------------------ untrained


@every_kind
def test_the_untrained_form_is_there_or_none_and_depends_on_the_seed_alone(kind, x):
    untrained = registry[kind].untrained(Labelled(x), config_of(kind))
    assert (untrained is None) == (kind in WITHOUT_UNTRAINED)
    if untrained is None:
        return
    assert type(untrained) is registry[kind]
    assert (untrained.n_features, untrained.d_in) == (N_FEATURES, D_IN)
    z = untrained.encode(x)
    assert torch.isfinite(z).all()
    assert (z != 0).any(0).sum() > N_FEATURES / 2
    again = registry[kind].untrained(Labelled(x), config_of(kind))
    assert again.tensors.keys() == untrained.tensors.keys()
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in untrained.tensors.items())
    other = registry[kind].untrained(Labelled(x), config_of(kind, seed=1))
    assert not torch.equal(other.write_directions(), untrained.write_directions())


# ------------------------------------------------------------------------------------------------------- saved and read


@every_kind
def test_a_saved_decomposer_is_read_back_to_the_bit(kind, fitted, x, tmp_path):
    path = tmp_path / "decomposer.safetensors"
    fitted[kind].save(path)
    loaded = load(path)
    assert type(loaded) is type(fitted[kind])
    assert loaded.config == fitted[kind].config
    assert loaded.tensors.keys() == fitted[kind].tensors.keys()
    for name, tensor in fitted[kind].tensors.items():
        assert torch.equal(loaded.tensors[name], tensor), name
        assert loaded.tensors[name].dtype == tensor.dtype
    assert torch.equal(loaded.encode(x), fitted[kind].encode(x))
    assert [file.name for file in tmp_path.iterdir()] == ["decomposer.safetensors"]


def test_a_missing_damaged_or_foreign_file_is_refused(tmp_path, fitted):
    path = tmp_path / "decomposer.safetensors"
    with pytest.raises(InputError, match=r"there is no decomposer at .*; its training was interrupted"):
        load(path)
    fitted["pca"].save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"is damaged \(.*\); train the run again"):
        load(path)
    save_file({"W_dec": torch.zeros(2, 2)}, path)
    with pytest.raises(InputError, match="is not a decomposer of schema version 1; train the run again"):
        load(path)


@every_kind
def test_a_config_survives_json_and_refuses_unknown_and_missing_keys(kind):
    record = json.loads(json.dumps(asdict(config_of(kind))))
    assert read_config(kind, record) == config_of(kind)
    with pytest.raises(InputError, match=f"no option 'n_feature' in the {kind} config; did you mean 'n_features'"):
        read_config(kind, {**record, "n_feature": 3})
    del record["seed"]
    with pytest.raises(InputError, match=f"the {kind} config lacks seed; make it again"):
        read_config(kind, record)


def test_an_unknown_method_is_refused_with_the_near_ones():
    with pytest.raises(InputError, match="no decomposer 'seminmf' in this version; did you mean 'semi-nmf'"):
        read_config("seminmf", {})


# --------------------------------------------------------------------------------------------------------- the registry


@every_kind
def test_every_option_has_a_docstring_and_a_default(kind):
    config_type = registry[kind].config_type
    assert is_dataclass(config_type)
    assert config_type.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert registry[kind].__doc__
    assert config_type.__doc__
    documented = {name for parent in config_type.__mro__[:-1] for name in documented_fields(parent)}
    assert {field.name for field in fields(config_type)} <= documented
    assert len(fields(config_type)) <= 12
    assert config_type() == config_type()
    assert kind_of(config_type()) is registry[kind]


def documented_fields(config_type: type) -> Iterator[str]:
    """Names of the annotated fields of a class that a docstring follows."""
    (definition,) = ast.parse(inspect.getsource(config_type)).body
    assert isinstance(definition, ast.ClassDef)
    for field, after in zip(definition.body, definition.body[1:], strict=False):
        is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
            yield field.target.id


def test_two_methods_cannot_share_a_name():
    with pytest.raises(AssertionError, match="two methods are called pca"):
        register(registry["pca"])


# ---------------------------------------------------------------------------------------------------------- wrong input


@every_kind
def test_activations_without_anything_to_learn_are_refused(kind):
    with pytest.raises(InputError, match="every activation is zero; there is nothing to learn at this hook point"):
        registry[kind].fit(Labelled(torch.zeros(100, D_IN)), config_of(kind))
    with pytest.raises(InputError, match="all 100 rows are the same; capture more text, or choose another hook point"):
        registry[kind].fit(Labelled(torch.full((100, D_IN), 0.7)), config_of(kind))


@every_kind
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(kind, x, value):
    broken = x.clone()
    broken[17, 3] = value
    with pytest.raises(InputError, match="hold values that are not finite; capture them again with --dtype float32"):
        registry[kind].fit(Labelled(broken), config_of(kind))


class EmptySource(Labelled):
    """A source without a row, such as a store whose capture found no text."""

    def __init__(self) -> None:
        self._array = torch.zeros(0, D_IN)

    def moments(self) -> Moments:
        return moments_of(iter(()))


@every_kind
def test_no_rows_are_refused(kind):
    with pytest.raises(InputError, match=r"the source is empty|cannot be learned from 0 rows"):
        registry[kind].fit(EmptySource(), config_of(kind))


@every_kind
def test_fewer_rows_than_a_method_needs_are_refused(kind, x):
    with pytest.raises(
        InputError,
        match=r"40 features cannot be learned from 20 rows"
        r"|40 components were asked for, but 20 rows"
        r"|a batch of 64 rows was asked for, but the source holds 20",
    ):
        registry[kind].fit(Labelled(x[:20]), config_of(kind))


@every_kind
def test_no_features_are_refused(kind):
    with pytest.raises(InputError, match="the number of features is 0; it must be 1 or more"):
        replace(config_of(kind), n_features=0)
