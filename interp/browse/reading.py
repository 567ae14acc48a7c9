"""Reading a feature on the command line: what the index knows of it, and of one of MLP neurons what it is made of.

Of neurons, without any text:

* its neurons, with signs and weights: the entries of its unit direction f;
* what it adds to the residual stream, f W_out, through the layer's own output matrix. The same in a gated MLP, whose
  neurons are taken after the gate;
* the tokens this promotes and suppresses, through the final norm's weight and the unembedding;
* the features it shares neurons with, and whether they use them with the same sign.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError, unknown_feature
from interp.index.reader import Example, FeatureIndex
from interp.runs.record import Run

if TYPE_CHECKING:
    from interp.model.language_model import LanguageModel


@dataclass(frozen=True)
class Sharing:
    """Another feature that uses some of the same neurons."""

    feature: int
    neurons: list[int]
    """The shared neurons, largest product of the two weights first."""
    n_same_sign: int
    """How many of them have the same sign in both."""
    expected: float
    """How many neurons two such features would share by chance."""
    cosine: float
    """Cosine of the two directions."""


@dataclass(frozen=True)
class Reading:
    """What a feature is made of and what it does."""

    feature: int
    n_neurons: int
    """Neurons of non-zero weight."""
    neurons: list[tuple[int, float]]
    """The heaviest neurons with their weights in the unit direction."""
    residual: Float[Tensor, " d_model"]
    """What one unit of its code adds to the residual stream."""
    promoted: list[tuple[str, float]]
    """Tokens whose logits it raises most, with scores that compare only with each other."""
    suppressed: list[tuple[str, float]]
    """Tokens whose logits it lowers most."""
    sharing: list[Sharing]
    """The features that share most of its neurons, most first."""


def read_feature(
    model: LanguageModel, site: str, directions: Float[Tensor, "n_features d_mlp"], feature: int, *, n: int = 10
) -> Reading:
    """Read a row of ``directions`` (unit, or zero) over MLP neurons; lists have at most ``n`` entries.

    Raises InputError for a site that is not MLP neurons, directions of another width, and an unknown feature.
    """
    if not site.endswith("mlp.hook_post"):
        raise InputError(f"'{site}' has no neurons; give a run of a site that ends in mlp.hook_post")
    if (d_mlp := model.site(site).d_in) != directions.shape[1]:
        raise InputError(f"the features are {directions.shape[1]} wide but '{site}' of '{model.id}' is {d_mlp} wide")
    if not 0 <= feature < len(directions):
        raise unknown_feature(feature, len(directions))
    direction = directions[feature]
    residual = model.residual_directions(site, direction[None])
    assert residual is not None  # a layer of neurons has an output matrix
    effects = model.logit_effects(residual)[0]
    tokens = model.token_strings()
    ends = {name: effects.topk(min(n, len(effects)), largest=name == "promoted") for name in ("promoted", "suppressed")}
    named = {
        name: [(tokens[i], v) for v, i in zip(values.tolist(), ids.tolist(), strict=True)]
        for name, (values, ids) in ends.items()
    }
    heaviest = direction.abs().topk(min(n, int(direction.count_nonzero()))).indices.tolist()
    return Reading(
        feature=feature,
        n_neurons=int(direction.count_nonzero()),
        neurons=[(i, float(direction[i])) for i in heaviest],
        residual=residual[0],
        sharing=shared_neurons(directions, feature, n=n),
        **named,
    )


def directions_of_level(run: Run, level: int) -> Float[Tensor, "n_features d_mlp"]:
    """Feature directions of a run, or of a level above them. Raises InputError where there is no such level."""
    decomposer = run.decomposer()
    if level == 0:
        return decomposer.write_directions()
    hierarchy = decomposer.hierarchy
    if hierarchy is None:
        raise InputError(f"'{run.name}' has no hierarchy; train a semi-nmf with --levels")
    hierarchy.parents(level, 0)  # refuses a level that is not there
    return hierarchy.features[level]


def shared_neurons(directions: Float[Tensor, "n_features d_mlp"], feature: int, *, n: int = 10) -> list[Sharing]:
    """At most ``n`` features that share most neurons with ``feature``; ties are in order of number."""
    uses = directions != 0
    counts = (uses & uses[feature]).sum(1)
    counts[feature] = 0
    expected = uses.sum(1) * int(uses[feature].sum()) / directions.shape[1]
    order = counts.argsort(descending=True, stable=True)[:n].tolist()
    return [_sharing(directions, feature, other, float(expected[other])) for other in order if counts[other]]


def _sharing(directions: Tensor, feature: int, other: int, expected: float) -> Sharing:
    products = directions[feature] * directions[other]
    heaviest = products.abs().argsort(descending=True, stable=True)[: int(products.count_nonzero())]
    return Sharing(
        feature=other,
        neurons=heaviest.tolist(),
        n_same_sign=int((products > 0).sum()),
        expected=expected,
        cosine=float(products.sum()),
    )


def reading_text(reading: Reading) -> str:
    """A reading as lines for a person."""
    neurons = "  ".join(f"{i}: {weight:+.2f}" for i, weight in reading.neurons)
    lines = [f"feature {reading.feature}: {reading.n_neurons} neurons", f"neurons     {neurons}"]
    lines.append(f"residual    norm {float(reading.residual.norm()):.3f} for a unit of the code")
    for name in ("promoted", "suppressed"):
        lines.append(f"{name:<12}" + "  ".join(repr(token) for token, _ in getattr(reading, name)))
    lines.append("shares neurons with")
    for one in reading.sharing:
        shown = ", ".join(map(str, one.neurons[:5])) + (", ..." if len(one.neurons) > 5 else "")
        lines.append(
            f"{one.feature:>6}  {len(one.neurons)} ({one.n_same_sign} with the same sign, {one.expected:.1f} by "
            f"chance)  cosine {one.cosine:+.2f}  {shown}"
        )
    return "\n".join(lines)


def firing_text(run: Run, feature: int, *, n: int = 10, with_tokens: bool = True) -> str:
    """How often a feature fires, the tokens its direction promotes and suppresses, and the contexts it fires on most, as lines.

    Without an index they are one line that says how to make it. Raises InputError for an unknown feature.
    """
    if not run.index_path.exists():
        return f"contexts    none yet: interp index {run.path}"
    with FeatureIndex(run.index_path) as index:
        page, examples = index.feature(feature), index.examples(feature, "top", context=8)[:n]
    lines = [f"fires on    {page['density']:.2%} of {page['n_tokens']:,} tokens, at most {page['max']:.3g}"]
    if page["below"] and page["below"]["n_fire"]:
        lines[0] += f"; below zero on {page['below']['density']:.2%}, down to {page['below']['min']:.3g}"
    for name, tokens in (("promoted", page["promoted"]), ("suppressed", page["suppressed"])):
        if with_tokens and tokens:
            lines.append(f"{name:<12}" + "  ".join(repr(token) for token, _ in tokens[:n]))
    lines += ["contexts", *(f"{one['value']:>8.3g}  {_context(one)}  {one['document']}" for one in examples)]
    return "\n".join(lines)


def _context(example: Example) -> str:
    """The tokens around a firing one, which stands in brackets, on one line."""
    tokens = [token.replace("\n", "⏎").replace("\t", "→").replace("\r", "") for token in example["tokens"]]
    centre = example["centre"]
    return "".join([*tokens[:centre], f"[{tokens[centre]}]", *tokens[centre + 1 :]])
