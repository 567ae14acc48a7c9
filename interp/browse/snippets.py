"""Python for a notebook that shows again what a page of the dashboard shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from interp.browse.features import CONTEXTS, EXAMPLE_KINDS, plain_number
from interp.errors import InputError, unknown_name

_CARD = """\
from IPython.display import HTML, display

from interp.browse.evidence import evidence_text
from interp.figures import contexts_html
from interp.index.reader import FeatureIndex
from interp.runs.record import Run

run = Run.load({path!r})
with FeatureIndex(run.index_path) as index:
    about = index.feature({feature})
    examples = index.examples({feature}, {which!r}, {context!r})
print(f"feature {{about['id']}} of {{run.name}}, density {{about['density']:.3%}}, max {{about['max']:.3g}}")
print(evidence_text(run, {feature}))
print("promotes   ", about["promoted"])
print("suppresses ", about["suppressed"])
print("neighbours ", about["neighbours"]["cosine"])
display(HTML(contexts_html(examples)))
"""
_TEXT = """\
from IPython.display import HTML, display

from interp.browse.on_demand import firing_on
from interp.browse.prompt import encode_prompt
from interp.figures import contexts_html
from interp.model.language_model import load_model
from interp.runs.record import Run

run = Run.load({path!r})
prompt = encode_prompt(load_model(run.model_id), run, {text!r})
display(HTML(contexts_html([firing_on(prompt, {feature})])))
"""
_PROMPT = """\
from interp.browse.prompt import encode_prompt, rank_features
from interp.model.language_model import load_model
from interp.runs.record import Run

run = Run.load({path!r})
prompt = encode_prompt(load_model(run.model_id), run, {text!r})
for place in {tokens!r}:
    print(place, repr(prompt.tokens[place]))
for one in rank_features(prompt, {tokens!r}, by={by!r}):
    print(f"{{one.feature:>6}}  {{one.value:8.3f}}  on {{one.n_active}} tokens")
"""
_TREE = """\
from IPython.display import HTML, display

from interp.browse.tree import ConceptTree, tree_text
from interp.figures import contexts_html
from interp.index.reader import FeatureIndex
from interp.runs.record import Run

run = Run.load({path!r})
with FeatureIndex(run.index_path) as index:
    tree = ConceptTree(run, index)
    print(tree_text(tree.nodes()))
    display(HTML(contexts_html(tree.contexts({level}, {feature}, n=12, context=12))))
"""
_MANIFOLD = """\
from interp.browse.manifolds import latent_text
from interp.figures import eigenvalue_bars, manifold_plane, manifold_space
from interp.manifolds.reader import ManifoldIndex
from interp.runs.record import Run

index = ManifoldIndex(Run.load({path!r}))
print(index.table({by!r}).head(20))
latent = index.view({feature})
print(latent_text(latent))
manifold_plane(latent, {colour!r}).show()
manifold_space(latent, {colour!r}).show()
eigenvalue_bars(latent.eigenvalues).show()
"""


PAGES = ("prompt", "tree", "manifolds")
"""Pages whose address holds all that they show; the card has more, so it asks for its own."""


def page_snippet(path: Path, page: str, address: Mapping[str, str]) -> str:
    """What the page shows at this address. Raises InputError for another page, and for numbers that are none."""
    if page not in PAGES:
        raise unknown_name("page", page, PAGES, "those with Python to copy")
    if page == "prompt":
        tokens = [_whole_number(part) for part in address.get("at", "").split(",") if part]
        return prompt_snippet(path, address.get("text", ""), tokens, address.get("by", "max"))
    if page == "tree":
        level, _, feature = address.get("node", "").partition(".")
        return tree_snippet(path, _whole_number(level), _whole_number(feature))
    by, colour = address.get("rank", "circle"), address.get("colour", "value")
    return manifold_snippet(path, by, _whole_number(address.get("f", "")), colour)


def _whole_number(text: str) -> int:
    number = plain_number(text)
    if number is None:
        raise InputError(f"the address has {text!r} where a number is expected; open the page and copy again")
    return number


def card_snippet(path: Path, feature: int, which: str, context: str) -> str:
    """The card of a feature with examples of one kind. Raises InputError for an unknown kind or context."""
    if which not in EXAMPLE_KINDS:
        raise unknown_name("kind of examples", which, EXAMPLE_KINDS, "a feature card")
    if context not in CONTEXTS:
        raise unknown_name("context", context, CONTEXTS, "a feature card")
    return _CARD.format(path=str(path), feature=feature, which=which, context=CONTEXTS[context])


def text_snippet(path: Path, feature: int, text: str) -> str:
    """Where a feature fires in a text."""
    return _TEXT.format(path=str(path), feature=feature, text=text)


def prompt_snippet(path: Path, text: str, tokens: Sequence[int], by: str) -> str:
    """The features ranked for some tokens of a text (all of them if none are given)."""
    return _PROMPT.format(path=str(path), text=text, tokens=list(tokens), by=by)


def tree_snippet(path: Path, level: int, feature: int) -> str:
    """The tree, and what one of its features fires on."""
    return _TREE.format(path=str(path), level=level, feature=feature)


def manifold_snippet(path: Path, by: str, feature: int, colour: str) -> str:
    """The ranking of latents, and one of them."""
    return _MANIFOLD.format(path=str(path), by=by, feature=feature, colour=colour)
