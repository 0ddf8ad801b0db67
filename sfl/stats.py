"""How sure an accuracy, or a difference of accuracies, is: intervals and tests.

Knows no runs and no models. scipy gives the distributions; it is imported when they are needed. All
intervals are of 95 %.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RESAMPLES = 10_000  # of the bootstrap; its interval's ends then vary by a few hundredths of an sd


@dataclass(frozen=True)
class Welch:
    """Welch's test: interval of the difference of means, degrees of freedom, two-sided p."""

    interval: tuple[float, float]
    degrees_of_freedom: float
    p: float


def majority_share(counts: Sequence[int]) -> float:
    """The share of the most frequent class: what always answering it would get."""
    return max(counts) / sum(counts)


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Interval of the mean of n ≥ 2 values (Student 1908, Biometrika 6); None if all are equal."""
    if not stdev(values):
        return None
    half = _t_quantile(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    mean = fmean(values)
    return mean - half, mean + half


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """Interval of a proportion, `correct` of n (Wilson 1927, J. Am. Stat. Assoc. 22)."""
    z = 1.959963984540054  # 97.5 % of a normal distribution lie below
    share = correct / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # Exactly 0 or 1 at the ends, where rounding would give something near it.
    low = 0.0 if correct == 0 else centre - half
    return low, 1.0 if correct == n else centre + half


def welch(first: Sequence[float], second: Sequence[float]) -> Welch | None:
    """Of mean(second) − mean(first), for unequal variances (Welch 1947, Biometrika 34).

    None if a side has only one value, or if the values of neither side differ.
    """
    if min(len(first), len(second)) < 2:
        return None
    variances = [stdev(values) ** 2 / len(values) for values in (first, second)]
    variance = sum(variances)
    if not variance:
        return None
    sizes = (len(first), len(second))
    freedom = variance**2 / sum(v**2 / (n - 1) for v, n in zip(variances, sizes, strict=True))
    difference, error = fmean(second) - fmean(first), math.sqrt(variance)
    half = _t_quantile(freedom) * error
    from scipy.special import stdtr

    p = 2 * float(stdtr(freedom, -abs(difference) / error))
    return Welch((difference - half, difference + half), freedom, p)


def mcnemar(first: "NDArray[np.bool_]", second: "NDArray[np.bool_]") -> float:
    """Two-sided p of the exact test of two runs on the same images (McNemar 1947).

    first, second: (N,), whether each image was classified correctly. If the runs were equally good,
    a fair coin would decide which of them is the one that gets an image right.
    """
    from scipy.special import bdtr

    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    rarer, both = min(only_first, only_second), only_first + only_second
    return min(1.0, 2 * float(bdtr(rarer, both, 0.5)))


def holm(ps: Sequence[float]) -> list[float]:
    """The p-values of several tests, corrected for their number (Holm 1979, Scand. J. Stat. 6).

    Rejecting those below α rejects a true hypothesis at all with a probability of at most α,
    however the tests depend on each other. The k-th smallest of n is multiplied by n − k + 1; none
    becomes less than a smaller one, or more than 1.
    """
    corrected, largest = [1.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=lambda place: ps[place])):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[place]))
        corrected[place] = largest
    return corrected


def paired_bootstrap(
    first: "NDArray[np.bool_]", second: "NDArray[np.bool_]"
) -> tuple[float, float]:
    """Interval of the difference of mean accuracies, second − first, over the draw of test images.

    first, second: (runs, N), whether each run classified each image correctly. N images are drawn
    with replacement, each with the answers of all runs; the interval is between the 2.5 and 97.5 %
    percentiles of the differences (Efron 1979, Ann. Stat. 7). The runs are not drawn.

    If the difference is the same on all N images, so is every draw, which would give an interval
    of no width. Then: where it lies if as many images as `unseen_share(N)` say the opposite.
    """
    import numpy as np

    each = second.mean(axis=0) - first.mean(axis=0)
    values, counts = np.unique(each.round(12), return_counts=True)
    if len(values) == 1:
        value, unseen = float(values[0]), unseen_share(len(each))
        return value - (1 + value) * unseen, value + (1 - value) * unseen
    # N draws with replacement are a multinomial over the few values that a difference can have.
    draws = np.random.default_rng(0).multinomial(len(each), counts / len(each), RESAMPLES)
    low, high = np.quantile(draws @ values / len(each), [0.025, 0.975])
    return float(low), float(high)


def unseen_share(n: int) -> float:
    """The most, at 95 %, that happens without being seen once in n images (Clopper, Pearson 1934).

    For large n it is the rule of three, 3/n (Hanley, Lippman-Hand 1983, JAMA 249).
    """
    return 1 - math.pow(0.05, 1 / n)


def _t_quantile(freedom: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))


def evenly_spaced(count: int, wanted: int) -> list[int]:
    """So many numbers below `count`: images of all classes, where images are sorted by class."""
    wanted = min(count, wanted)
    return [place * count // wanted for place in range(wanted)]
