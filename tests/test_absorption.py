"""Absorbed fractions and nested labels, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csc_array, csr_array

from interp.errors import InputError
from interp.evaluation.absorption import absorbed_fractions, absorption, nested_pairs

WRITE = np.array([[1, 0, 0], [0.6, 0.8, 0], [0, 0, 1], [0.05, np.sqrt(1 - 0.05**2), 0]])
"""Feature 0 is the class's own; 1 has cosine .6 with it, 2 none, 3 less than the .1 that absorbing takes."""
DIRECTION = np.array([2.0, 0, 0])  # its length must not matter


def fractions(codes: list[list[float]], x: list[float] | None = None, own: tuple[int, ...] = (0,)) -> list[float]:
    """Of activations that the codes rebuild exactly, or whose first coordinate is given."""
    z = np.array(codes, np.float64)
    rows = z @ WRITE
    if x is not None:
        rows[:, 0] = x
    return absorbed_fractions(rows, csr_array(z), WRITE, DIRECTION, np.array(own)).tolist()


def test_nothing_fully_or_partly_absorbed():
    assert fractions([[4, 0, 3, 0]]) == [0]  # the own feature carries all 4
    assert fractions([[0, 5, 3, 0]]) == [1]  # p = .6 * 5 = 3, none of it from the own feature
    # p = 1 + 3 = 4, of which the other feature carries 3
    assert fractions([[1, 5, 0, 0]]) == pytest.approx([3 / 4])


def test_more_than_is_missing_is_not_counted():
    # p = 2.5, own 1; the other's 3 (some other feature points back) makes up for 1.5 at most
    assert fractions([[1, 5, 0, 0]], x=[2.5]) == pytest.approx([1.5 / 2.5])
    assert fractions([[3, 5, 0, 0]], x=[2.5]) == [0]  # own alone is more than there is


def test_small_parts_and_slanting_features_do_not_absorb():
    assert fractions([[0.5, 1, 0, 0]], x=[4]) == [0]  # .6 of 4 is less than .4
    assert fractions([[2, 1, 0, 0]], x=[4]) == [0]  # nor .6, whatever the own feature adds
    assert fractions([[0, 0, 9, 100]], x=[5]) == [0]  # 100 * .05 = 5, but cosine .05
    assert fractions([[0, 0, 0, 0]], x=[5]) == [0]


def test_an_activation_against_the_direction_has_nothing_to_absorb():
    assert fractions([[0, 5, 0, 0], [0, 5, 0, 0]], x=[-3, 0]) == [0, 0]


def test_own_features_that_point_back_leave_everything_to_others():
    write = np.concatenate([WRITE, [[-1.0, 0, 0]]])
    z = csr_array(np.array([[0, 5, 0, 0, 1]], np.float64))
    assert absorbed_fractions(np.array([[2.0, 4, 0]]), z, write, DIRECTION, np.array([0, 4])).tolist() == [1]
    # Nor is there anything to absorb if the whole lies against the direction, less far than its own features.
    z = csr_array(np.array([[0, 1, 0, 0, 3]], np.float64))
    assert absorbed_fractions(np.array([[-2.4, 0.8, 0]]), z, write, DIRECTION, np.array([0, 4])).tolist() == [0]


def test_at_most_three_features_absorb_together():
    write = np.array([[0.5, np.sqrt(0.75)]] * 5 + [[1, 0]])
    z = csr_array(np.array([[1, 1, 1, 1, 1, 0]] * 2, np.float64))
    # Three carry 1.5: .4 of 3.75, less of 3.76. All five would carry 2.5.
    x = np.array([[3.75, 0], [3.76, 0]])
    assert absorbed_fractions(x, z, write, np.array([1.0, 0]), np.array([5])).tolist() == [1, 0]


def test_own_features_named_twice_count_once_and_scales_of_codes_do_not_matter():
    assert fractions([[1, 5, 0, 0]], own=(0, 0)) == pytest.approx([3 / 4])
    z = np.array([[1, 5, 0, 2.0]])
    scales = np.array([2, 0.25, 1, 8])
    expected = absorbed_fractions(z @ WRITE, csr_array(z), WRITE, DIRECTION, np.array([0]))
    scaled = absorbed_fractions(z @ WRITE, csr_array(z / scales), WRITE * scales[:, None], DIRECTION, np.array([0]))
    np.testing.assert_allclose(scaled, expected)


def test_rows_in_blocks_and_features_of_zeros():
    z = np.tile([[1, 5, 0, 0, 7], [0, 5, 0, 0, 7]], (1500, 1)).astype(np.float64)
    write = np.concatenate([WRITE, np.zeros((1, 3))])
    result = absorbed_fractions(z @ write, csr_array(z), write, DIRECTION, np.array([0]))
    np.testing.assert_allclose(result, np.tile([0.75, 1], 1500))


# ----------------------------------------------------------------------------------------------------------------- pairs


def labels_of(*counts: tuple[int, tuple[int, ...]]) -> np.ndarray:
    """Rows with the labels named, as many as said."""
    rows = [np.isin(np.arange(3), labels) for count, labels in counts for _ in range(count)]
    return np.array(rows)


def test_pairs_nest_in_both_parts_and_by_a_factor_of_two():
    part = labels_of((20, (0, 1)), (20, (1,)), (30, (2,)), (10, ()))
    is_test = np.repeat([False, True], len(part))
    assert nested_pairs(np.concatenate([part, part]), is_test) == [(0, 1)]
    outside = labels_of((20, (0, 1)), (1, (0,)), (30, (1,)))  # 20 of 21 is less than .99
    few = labels_of((20, (0, 1)), (19, (1,)))  # 39 are not twice 20
    rare = labels_of((9, (0, 1)), (20, (1,)))
    for other in (outside, few, rare):
        for labels, n in ((np.concatenate([part, other]), len(part)), (np.concatenate([other, part]), len(other))):
            assert nested_pairs(labels, np.arange(len(labels)) >= n) == []
    assert nested_pairs(np.concatenate([rare, rare]), np.arange(58) >= 29, min_tokens=9) == [(0, 1)]


def test_one_in_a_hundred_may_lie_outside():
    part = labels_of((198, (0, 1)), (2, (0,)), (300, (1,)))
    assert nested_pairs(np.concatenate([part, part]), np.arange(1000) >= 500) == [(0, 1)]


def test_absorption_is_the_mean_over_the_inner_tokens_and_the_rest_of_the_outer():
    # Rows: absorbed fully and partly (inner), not and not (rest), and three that the probe does not see or are no outer.
    z = np.array(
        [[0, 5, 0, 0], [1, 5, 0, 0], [4, 0, 0, 0], [4, 0, 3, 0], [0, 5, 0, 0], [0, 5, 0, 0], [0, 5, 0, 0]], float
    )
    labels = np.array([[1, 1], [1, 1], [0, 1], [0, 1], [1, 1], [0, 1], [0, 0]], bool)
    predicted = np.array([[0] * 7, [1, 1, 1, 1, 0, 0, 1]], bool)
    (found,) = absorption(
        [(0, 1)],
        x=z @ WRITE,
        codes=csc_array(z),
        labels=labels,
        predicted=predicted,
        directions=np.stack([np.array([0, 0, 1.0]), DIRECTION]),
        features=np.array([[2], [0]]),
        write=WRITE,
    )
    assert (found.inner, found.outer, found.n_tokens, found.n_rest) == (0, 1, 2, 2)
    assert found.fraction == pytest.approx((1 + 0.75) / 2)
    assert found.rest_fraction == 0


def test_no_tokens_are_nan():
    z = np.array([[0, 5.0, 0, 0]])
    (found,) = absorption(
        [(0, 1)],
        x=z @ WRITE,
        codes=csc_array(z),
        labels=np.array([[True, True]]),
        predicted=np.array([[True], [True]]),
        directions=np.stack([DIRECTION, DIRECTION]),
        features=np.array([[0], [0]]),
        write=WRITE,
    )
    assert (found.fraction, found.n_tokens, found.n_rest) == (1, 1, 0)
    assert np.isnan(found.rest_fraction)


def test_a_direction_of_zeros_is_refused():
    z = csr_array(np.zeros((1, 4)))
    with pytest.raises(InputError, match="all zeros"):
        absorbed_fractions(np.zeros((1, 3)), z, WRITE, np.zeros(3), np.array([0]))
