"""What every decomposer is, and what one may be able to do beyond that.

Fitted on an ActivationSource, a decomposer turns rows into codes and names the directions that it reads and writes. The rest
of the code never asks which method it has; it asks for a capability:

    ``LinearDecomposer``        codes decode to activations                      "decode"
    ``QuadraticDecomposer``     latents are quadratic forms                      "forms"
    ``hierarchy``               there are levels of features above the features  "hierarchy"

A method is a folder: a frozen config dataclass, a class, and ``@register``. Its command-line options, its saved form and
its contract tests follow from the registry.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, cast

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from interp.decomposers.forms import Forms, QuadraticForm
from interp.decomposers.hierarchy import Hierarchy
from interp.errors import InputError, unknown_name
from interp.files import whole
from interp.metrics import fvu
from interp.records import Notes, Record, converted, from_json
from interp.store.moments import Moments
from interp.store.source import ActivationSource, Rows, as_source
from interp.training.config import DecomposerConfig
from interp.training.protocol import Recorder

Capability = Literal["decode", "forms", "hierarchy"]

F = TypeVar("F", bound="Decomposer")

SCHEMA = "interp-decomposer"
VERSION = 1


class Decomposer(ABC):
    """A fitted method. Subclasses set ``kind``, ``config_type`` and ``signed_codes``."""

    kind: ClassVar[str]
    """Name on the command line and in the run."""
    config_type: ClassVar[type[DecomposerConfig]]
    signed_codes: ClassVar[bool] = False
    """Whether codes may be negative."""
    writes_elsewhere: ClassVar[bool] = False
    """Whether it may write another hook point than the one it reads."""

    def __init__(self, config: DecomposerConfig, tensors: dict[str, Tensor], notes: Notes | None = None):
        self.config = config
        self.tensors = tensors
        """Everything that is saved, float32, by name."""
        self.notes = notes or {}
        """What the fit found out that a person should know, such as a rank it chose and why; JSON, saved too."""

    @classmethod
    def fit(cls: type[F], rows: Rows, config: Any = None, recorder: Recorder | None = None) -> F:
        """Learn features from a site of a store, or from an array or tensor [n, d_in] (or [..., d_in]: each place is a row).

        Without a config the method's defaults hold. The same rows, config and machine give the same result. Raises InputError
        when the config does not suit the rows.
        """
        return cls._fit(as_source(rows), cls.config_type() if config is None else config, recorder)

    @classmethod
    @abstractmethod
    def _fit(cls: type[F], source: ActivationSource, config: Any, recorder: Recorder | None) -> F:
        """What ``fit`` is for this method."""

    @classmethod
    def untrained(cls, source: ActivationSource, config: Any) -> Decomposer | None:
        """The method with features that it has not learned, a null for what it learns; None where there is no such thing.

        Of ``source`` it knows the scale, the mean and what sets the rate of firing that ``config`` asks for, and whatever its
        features begin as. The same source, config and machine give the same result. Raises InputError as ``fit`` does.
        """
        return None

    def encode(self, x: Float[Tensor, "*batch d_in"] | np.ndarray) -> Float[Tensor, "*batch n_features"]:
        """Codes of rows [n, d_in], of one row, or of whole texts [n_texts, n_tokens, d_in]; an array is taken too.

        A row's codes do not depend on the rows beside it. Raises InputError for rows of another width.
        """
        x = torch.as_tensor(x)
        if not x.ndim or x.shape[-1] != self.d_in:
            raise InputError(
                f"the rows have shape {list(x.shape)}, but this {self.kind} was trained on rows {self.d_in} wide"
            )
        if x.ndim == 2:
            return self._encode(x.float())
        codes = self._encode(x.float().reshape(-1, self.d_in))
        return codes.reshape(*x.shape[:-1], codes.shape[-1])

    @abstractmethod
    def _encode(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "n n_features"]:
        """What ``encode`` is for this method."""

    @abstractmethod
    def write_directions(self) -> Float[Tensor, "n_features d_out"]:
        """What each feature adds at the site it writes, as unit rows; a feature that died is a zero row."""

    def read_directions(self) -> Float[Tensor, "n_features d_in"]:
        """What each feature stands for at the site it reads, as unit rows; an autoencoder writes what it reads."""
        return self.write_directions()

    @property
    def hierarchy(self) -> Hierarchy | None:
        """The levels of features above the features; None where there are none."""
        return None

    @property
    def concepts(self) -> dict[str, int]:
        """Features whose meaning the method was told, by it, as a supervised one is; empty where it was told none."""
        return {}

    @property
    def capabilities(self) -> tuple[Capability, ...]:
        """What this one can do, by name, for readers that have no decomposer in memory."""
        can = {
            "decode": isinstance(self, LinearDecomposer),
            "forms": isinstance(self, QuadraticDecomposer),
            "hierarchy": self.hierarchy is not None,
        }
        return cast("tuple[Capability, ...]", tuple(name for name, is_so in can.items() if is_so))

    @abstractmethod
    def fvu(self, x: Float[Tensor, "n d_in"]) -> float:
        """Fraction of variance unexplained over the rows ``x``, in the method's own target space."""

    def span_fvu(self, x: Float[Tensor, "n d_in"]) -> float | None:
        """Where codes decode to nothing: the share of the variance of ``x`` outside of what its active features span."""
        return None

    @cached_property
    def n_features(self) -> int:
        return int(self.read_directions().shape[0])

    @cached_property
    def d_in(self) -> int:
        return int(self.read_directions().shape[1])

    def save(self, path: Path) -> None:
        """Write a safetensors file with the config in its header, in one step."""
        header = {
            "schema": SCHEMA,
            "version": str(VERSION),
            "kind": self.kind,
            "config": json.dumps(asdict(self.config)),
            "notes": json.dumps(self.notes),
        }
        with whole(path) as partial:
            save_file({name: tensor.contiguous() for name, tensor in self.tensors.items()}, partial, metadata=header)


class LinearDecomposer(Decomposer):
    """A decomposer whose reconstruction is linear in the codes: ``x^ = z W_dec + b_dec``.

    Both are tensors of these names, unless a method keeps them otherwise.
    """

    @property
    def W_dec(self) -> Float[Tensor, "n_features d_in"]:
        """What one unit of each code adds to the reconstruction."""
        return self.tensors["W_dec"]

    @property
    def b_dec(self) -> Float[Tensor, " d_in"]:
        """The reconstruction of a row whose codes are all zero."""
        return self.tensors["b_dec"]

    def decode(self, z: Float[Tensor, "n n_features"]) -> Float[Tensor, "n d_in"]:
        """Reconstruction from codes."""
        return torch.addmm(self.b_dec, z, self.W_dec)

    def write_directions(self) -> Float[Tensor, "n_features d_in"]:
        norms = self.W_dec.norm(dim=1, keepdim=True)
        return torch.where(norms > 0, self.W_dec / norms.clamp_min(1e-30), torch.zeros(()))

    def fvu(self, x: Float[Tensor, "n d_in"]) -> float:
        """sum |x - x^|^2 / sum |x - mean(x)|^2 over the given rows."""
        return fvu(x, self.decode(self.encode(x)))


class QuadraticDecomposer(Decomposer):
    """A decomposer whose latents are quadratic forms of the row, which have axes and not one direction."""

    @abstractmethod
    def form(self, feature: int) -> QuadraticForm:
        """One latent as an object. Raises InputError for a number that there is not."""

    @property
    @abstractmethod
    def spectra(self) -> tuple[Float[Tensor, "n_features r"], Float[Tensor, "n_features r d_in"]]:
        """(eigenvalues by magnitude, unit eigenvectors) of every latent's form."""

    @property
    @abstractmethod
    def forms(self) -> Forms:
        """Every latent's form in low-rank factors, bias included: what latents are compared by."""

    @property
    def norms(self) -> Float[Tensor, " n_features"]:
        """Frobenius norm of every latent's form, bias included."""
        return self.forms.norms

    def write_directions(self) -> Float[Tensor, "n_features d_in"]:
        """The eigenvector of largest magnitude of each latent's form, the one axis that says most of it; a form has others.

        Its entry of largest magnitude is positive. A latent whose form is zero has a zero row.
        """
        return self.spectra[1][:, 0]


def checked_moments(source: ActivationSource) -> Moments:
    """The moments of a source, checked: its rows vary.

    Raises InputError for rows that are all the same, and for values that are not finite.
    """
    moments = source.moments()
    if moments.mean_norm == 0:
        raise InputError("every activation is zero; there is nothing to learn at this hook point")
    if moments.total_variance <= 1e-12 * moments.mean_norm**2:
        raise InputError(f"all {len(source)} rows are the same; capture more text, or choose another hook point")
    return moments


def check_enough_rows(source: ActivationSource, n_features: int) -> None:
    """Raises InputError where there are fewer rows than features."""
    if len(source) < n_features:
        raise InputError(
            f"{n_features} features cannot be learned from {len(source)} rows; capture more or ask for fewer"
        )


registry: dict[str, type[Decomposer]] = {}
"""Every method by its name."""

D = TypeVar("D", bound=type[Decomposer])


def register(cls: D) -> D:
    """Class decorator that makes a method known by its ``kind``."""
    assert cls.kind not in registry, f"two methods are called {cls.kind}"
    registry[cls.kind] = cls
    return cls


def kinds() -> list[str]:
    """Names of all methods."""
    return sorted(registry)


def read_config(kind: str, options: object) -> DecomposerConfig:
    """A config from plain JSON data. Raises InputError for an unknown method, unknown or missing keys, and wrong values."""
    if kind not in registry:
        raise unknown_name("decomposer", kind, registry, "this version")
    return converted(options, registry[kind].config_type, f"the {kind} config")


class _Header(Record, frozen=True):
    """The header of a saved decomposer besides schema and version; safetensors keeps text alone."""

    kind: str
    config: str
    """JSON."""
    notes: str = "{}"
    """JSON."""


def load(path: Path) -> Decomposer:
    """Read a decomposer saved with ``Decomposer.save``.

    Raises InputError when the file is missing, damaged, or of another schema version.
    """
    if not path.exists():
        raise InputError(f"there is no decomposer at '{path}'; its training was interrupted: run interp train again")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"'{path}' is damaged ({error}); train the run again") from None
    if (header.pop("schema", None), header.pop("version", None)) != (SCHEMA, str(VERSION)):
        raise InputError(f"'{path}' is not a decomposer of schema version {VERSION}; train the run again")
    where = f"the header of '{path}'"
    said = converted(header, _Header, where)
    config = read_config(said.kind, from_json(said.config, dict, f"config in {where}"))
    return registry[said.kind](config, tensors, from_json(said.notes, Notes, f"notes in {where}"))


def kind_of(config: DecomposerConfig) -> type[Decomposer]:
    """The method a config belongs to."""
    return next(method for method in registry.values() if method.config_type is type(config))
