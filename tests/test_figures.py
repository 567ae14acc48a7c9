"""The figures that dashboard and notebooks share show what was recorded, and nothing that was not."""

from __future__ import annotations

import math

import pytest

from interp.browse.palette import BACKGROUNDS, N_LEVELS, contrast, readable_on, shade, token_styles
from interp.errors import InputError
from interp.figures import NEGATIVE, POSITIVE, contexts_html, steering_sweep, training_curves

RECORDS = [
    {"step": 1, "tokens": 1024, "loss": 3.0, "fvu": 0.9, "l0": 32.0},
    {"step": 2, "tokens": 2048, "loss": 2.0, "fvu": 0.5, "l0": 32.0},
]


def test_training_curves_draw_what_was_recorded_against_tokens() -> None:
    figure = training_curves(RECORDS)
    assert [trace.name for trace in figure.data] == ["loss", "fvu", "l0"], "no panel for what was not recorded"
    assert list(figure.data[1].x) == [1024, 2048]
    assert list(figure.data[1].y) == [0.9, 0.5]
    assert figure.layout.xaxis.title.text == "tokens"


def test_training_curves_count_steps_where_tokens_were_not_counted() -> None:
    figure = training_curves([{"step": 5, "loss": 1.0}, {"step": 6, "loss": 0.5}])
    assert list(figure.data[0].x) == [5, 6]
    assert figure.layout.xaxis.title.text == "step"


def test_a_value_that_is_not_finite_leaves_a_gap() -> None:
    assert training_curves([{"step": 1, "loss": math.nan}, {"step": 2, "loss": 1.0}]).data[0].y[0] is None


@pytest.mark.parametrize("records", [[], [{"step": 1}]])
def test_a_run_without_a_curve_says_so(records: list[dict[str, float]]) -> None:
    with pytest.raises(InputError, match="recorded no training curve"):
        training_curves(records)


@pytest.mark.parametrize(("present", "colour"), [(2.0, POSITIVE), (-2.0, NEGATIVE)])
def test_the_sweep_marks_the_present_strength_in_the_colour_of_its_sign(present: float, colour: str) -> None:
    figure = steering_sweep([4.0, 0.0, -4.0], [0.4, 0.0, 0.3], present=present, target=0.2)
    assert list(figure.data[0].x) == [-4.0, 0.0, 4.0], "sorted, or the line would double back"
    assert list(figure.data[0].y) == [0.3, 0.0, 0.4]
    line, target = figure.layout.shapes
    assert (line.x0, line.line.color) == (present, colour)
    assert target.y0 == 0.2


def test_a_sweep_of_unequal_lists_is_refused() -> None:
    with pytest.raises(InputError, match="there are 2 and 1"):
        steering_sweep([0.0, 1.0], [0.0])


def test_contexts_are_escaped_and_shaded_by_activation() -> None:
    example = {
        "value": 2.0,
        "document": "<a>.py",
        "tokens": ["<b>", " x", " y"],
        "activations": [0.0, 1.0, 2.0],
        "centre": 2,
    }
    shown = contexts_html([example])
    assert "&lt;b&gt;" in shown
    assert "&lt;a&gt;.py" in shown
    assert '0.57)"> x</span>' in shown  # 0.15 + 0.85 / 2
    assert '1.00)"><b> y</b></span>' in shown
    assert "<span" not in contexts_html([example | {"activations": [0.0, 0.0, 0.0]}])


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("colour", [POSITIVE, NEGATIVE])
def test_every_level_of_colour_is_readable_and_stronger_than_the_last(theme: str, colour: str) -> None:
    background = BACKGROUNDS[theme]
    shades = [shade(colour, level, background) for level in range(1, N_LEVELS + 1)]
    assert all(contrast(readable_on(one), one) >= 4.5 for one in shades)
    distance = [contrast(one, background) for one in shades]
    assert distance == sorted(set(distance))
    assert shades[-1] == colour
    assert all(f".{prefix}{level}{{" in token_styles() for prefix in "pn" for level in range(1, N_LEVELS + 1))
