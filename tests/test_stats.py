"""Intervals and tests: values by hand, and scipy's own where it has the same."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sfl.stats import (
    evenly_spaced,
    holm,
    majority_share,
    mcnemar,
    paired_bootstrap,
    t_interval,
    unseen_share,
    welch,
)  # fmt: skip


def test_students_interval_by_hand() -> None:
    """Mean 0.6, s 0.1, n 3, t(0.975; 2) = 4.30265: half is 4.30265 · 0.1 / √3 = 0.24841."""
    assert t_interval([0.5, 0.6, 0.7]) == pytest.approx((0.6 - 0.24841, 0.6 + 0.24841), abs=1e-5)


def test_welch_by_hand() -> None:
    """Variances 0.01 / 3 and 0.0004 / 2; Welch–Satterthwaite by hand.

    Error √(0.0033333 + 0.0002) = 0.0594418; freedom 0.0035333² / (0.0033333² / 2 + 0.0002² / 1)
    = 1.24844e-5 / 5.59556e-6 = 2.231126.
    """
    found = welch([0.5, 0.6, 0.7], [0.58, 0.60 + 0.0082842712])
    assert found is not None
    assert found.degrees_of_freedom == pytest.approx(2.231126, abs=1e-4)
    middle = sum(found.interval) / 2
    assert middle == pytest.approx((0.58 + 0.6082842712) / 2 - 0.6)
    half = (found.interval[1] - found.interval[0]) / 2
    assert half == pytest.approx(stats.t.ppf(0.975, 2.231126) * 0.0594418, rel=1e-4)


def test_welch_is_scipys() -> None:
    first, second = [0.571, 0.579, 0.575], [0.652, 0.642, 0.649, 0.66]
    found, scipys = welch(first, second), stats.ttest_ind(second, first, equal_var=False)
    assert found is not None and found.p == pytest.approx(scipys.pvalue)
    interval = scipys.confidence_interval(0.95)
    assert found.interval == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize(
    ("first", "second"), [([0.5], [0.6, 0.7]), ([0.5, 0.6], [0.7]), ([0.5, 0.5], [0.6, 0.6])]
)
def test_welch_says_nothing_without_spread(first: list[float], second: list[float]) -> None:
    assert welch(first, second) is None


def test_welch_with_one_side_without_spread() -> None:
    found = welch([0.5, 0.5], [0.6, 0.7])
    assert found is not None and found.degrees_of_freedom == pytest.approx(1)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [
        (0, 0, 1.0),
        (1, 1, 1.0),
        (0, 5, 2 / 32),  # five coins alike
        (1, 5, 2 * 7 / 64),  # (1 + 6) / 64, both sides
        (8, 2, 2 * (1 + 10 + 45) / 1024),
    ],
)
def test_mcnemar_by_hand(only_first: int, only_second: int, p: float) -> None:
    both, neither = 7, 3
    first = np.array(
        [True] * only_first + [False] * only_second + [True] * both + [False] * neither
    )
    second = np.array(
        [False] * only_first + [True] * only_second + [True] * both + [False] * neither
    )
    assert mcnemar(first, second) == pytest.approx(p)
    assert mcnemar(second, first) == pytest.approx(p)


def test_the_paired_bootstrap_has_the_width_that_the_normal_gives() -> None:
    """N 2,000, 300 only the first, 200 only the second: −0.05, sd √(0.25 − 0.0025) / √2000."""
    first = np.array([[True] * 300 + [False] * 200 + [True] * 1500])
    second = np.array([[False] * 300 + [True] * 200 + [True] * 1500])
    low, high = paired_bootstrap(first, second)
    sd = math.sqrt(0.25 - 0.0025) / math.sqrt(2000)
    assert (low, high) == pytest.approx(
        (-0.05 - 1.96 * sd, -0.05 + 1.96 * sd), abs=0.001
    )  # steps of 1 / 2000
    assert paired_bootstrap(first, second) == (low, high)  # nothing hidden is drawn


def test_the_paired_bootstrap_is_scipys() -> None:
    random = np.random.default_rng(5)
    first, second = random.random((2, 400)) < 0.6, random.random((3, 400)) < 0.7
    ours = paired_bootstrap(first, second)
    each = second.mean(axis=0) - first.mean(axis=0)
    scipys = stats.bootstrap((each,), np.mean, method="percentile", rng=1).confidence_interval
    assert ours == pytest.approx((scipys.low, scipys.high), abs=0.003)


def test_images_that_all_differ_alike_leave_open_what_so_few_may_hide() -> None:
    """No draw differs from another; the exact bound of 0 in n is scipy's."""
    for n in (3, 8, 1000):
        right = np.arange(n)[None] % 2 == 0
        bound = stats.binomtest(0, n, alternative="less").proportion_ci(0.95).high
        assert unseen_share(n) == pytest.approx(bound)
        assert paired_bootstrap(right, right) == pytest.approx((-bound, bound))
        ends = paired_bootstrap(np.zeros((1, n), bool), np.ones((1, n), bool))
        assert ends == pytest.approx((1 - 2 * bound, 1.0))
    assert unseen_share(1000) == pytest.approx(3 / 1000, rel=0.01)  # the rule of three


def test_majority_share() -> None:
    assert majority_share([40, 2]) == 40 / 42 and majority_share([5, 0, 5]) == 0.5


def test_holm_by_hand() -> None:
    """Sorted 0.005, 0.01, 0.03, 0.04: times 4, 3, 2, 1; the last is raised to the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert (holm([0.3]), holm([])) == ([0.3], [])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closure_of_bonferronis_test(ps: list[float]) -> None:
    """The corrected p is the largest, over all sets of tests with this one, of size times least p
    (Marcus, Peritz, Gabriel 1976)."""
    for place, corrected in enumerate(holm(ps)):
        sets = [
            [p, *others]
            for p in [ps[place]]
            for size in range(len(ps))
            for others in itertools.combinations(ps[:place] + ps[place + 1 :], size)
        ]
        assert corrected == pytest.approx(max(min(1, len(each) * min(each)) for each in sets))


def test_places_are_spaced_evenly() -> None:
    assert evenly_spaced(10, 4) == [0, 2, 5, 7]
    assert evenly_spaced(3, 128) == [0, 1, 2]
