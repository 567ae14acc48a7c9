"""Names of hook points: which layer they belong to, and which of them a person means."""

from __future__ import annotations

import pytest

from interp.errors import InputError
from interp.model.sites import Site, layer_of, resolve_names

KNOWN = [
    "hook_embed",
    "blocks.0.hook_resid_post",
    "blocks.0.mlp.hook_post",
    "blocks.1.hook_resid_post",
    "blocks.1.mlp.hook_post",
    "blocks.10.mlp.hook_post",
    "ln_final.hook_normalized",
]


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("hook_embed", -1),
        ("pos_embed.hook_out", -1),
        ("blocks.0.hook_resid_pre", 0),
        ("blocks.11.attn.hook_z", 11),
        ("ln_final.hook_normalized", 12),
        ("unembed.hook_out", 12),
        ("rotary_emb.hook_cos", 12),
    ],
)
def test_layer_of_says_after_which_block_a_forward_pass_may_stop(name: str, layer: int) -> None:
    assert layer_of(name, n_layers=12) == layer


def test_names_and_globs_are_resolved_in_order_without_repeats() -> None:
    patterns = ("blocks.1.hook_resid_post", "blocks.?.mlp.hook_post", "blocks.[01].*", "hook_embed")
    assert resolve_names(patterns, KNOWN) == [
        "blocks.1.hook_resid_post",
        "blocks.0.mlp.hook_post",
        "blocks.1.mlp.hook_post",
        "blocks.0.hook_resid_post",
        "hook_embed",
    ]


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (
            ("blocks.1.mlp.hook_pst",),
            r"no hook point 'blocks.1.mlp.hook_pst' in this model; did you mean 'blocks.1.mlp",
        ),
        (("zzz",), r"no hook point 'zzz' in this model; it has 'hook_embed', "),
        (("blocks.7.*",), r"the pattern 'blocks.7.\*' matches no hook point of this model"),
        ((), r"no hook point was named; give at least one"),
    ],
)
def test_a_name_that_means_nothing_is_refused_with_advice(patterns: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve_names(patterns, KNOWN)


def test_a_site_reads_and_writes_one_hook_point_or_two():
    one, two = Site.of("blocks.2.hook_mlp_out"), Site.of("blocks.2.ln2.hook_normalized -> blocks.2.hook_mlp_out")
    assert (one.read, one.write, str(one)) == ("blocks.2.hook_mlp_out",) * 3
    assert (two.read, two.write) == ("blocks.2.ln2.hook_normalized", "blocks.2.hook_mlp_out")
    assert Site.of(str(two)) == two == Site.of(two)


@pytest.mark.parametrize("text", ["", "->", "a->", "a->b->c"])
def test_a_text_that_is_no_site_is_refused(text):
    with pytest.raises(InputError, match=r"is no site; give a hook point, or two as READ->WRITE"):
        Site.of(text)
