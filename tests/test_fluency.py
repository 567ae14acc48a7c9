"""Figures of written text, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from interp.evaluation.fluency import fluency, harmonic_mean, repetition


def test_fluency_is_what_a_token_lost_in_probability_and_never_above_one() -> None:
    found = fluency(np.array([2.0, 3.0, 1.0]), 2.0)
    assert found == pytest.approx([1.0, np.exp(-1.0), 1.0])
    assert fluency(np.array([2.0, 2.5]), np.array([1.0, 2.0])) == pytest.approx([np.exp(-1.0), np.exp(-0.5)])


def test_a_text_without_a_likelihood_has_no_fluency() -> None:
    assert fluency(np.array([np.nan, np.inf]), 2.0).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("tokens", "share"),
    [
        ([1, 2, 3, 4, 5], 0),
        ([1, 2, 3, 4, 1, 2, 3, 4], 1 / 5),  # 1234 2341 3412 4123 1234
        ([7] * 8, 4 / 5),
        ([1, 2, 3, 9, 1, 2, 3, 8], 0),  # three tokens in a row come back, four do not
    ],
)
def test_repetition_is_the_share_of_four_tokens_in_a_row_seen_before(tokens: list[int], share: float) -> None:
    assert repetition(tokens) == pytest.approx(share)


def test_a_text_of_three_tokens_has_no_repetition() -> None:
    assert np.isnan(repetition([1, 2, 3]))


def test_the_harmonic_mean_is_high_only_where_both_are() -> None:
    left, right = np.array([0.5, 1.0, 0.0, 0.2]), np.array([0.5, 0.0, 0.0, 0.6])
    assert harmonic_mean(left, right) == pytest.approx([0.5, 0.0, 0.0, 0.3])
