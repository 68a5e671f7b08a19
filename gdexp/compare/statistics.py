"""What the numbers of runs say: intervals, tests over common seeds, and how many seeds it would take."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

LEVEL = 0.05
LEAST = 3  # pairs for a test
_POWER = 0.8
_MOST = 10_000  # seeds that anybody would train


class Summary(NamedTuple):
    """Mean and spread of some numbers; the interval is NaN of fewer than two.

    Over folds, which share training rows, the variance of the mean is that of Nadeau and Bengio (2003).
    """

    n: int
    mean: float
    deviation: float  # with n - 1
    low: float  # of the 95 % interval of the mean, by Student's t
    high: float


class Difference(NamedTuple):
    """How two settings differ over the seeds or folds that both have: mean of first − second."""

    summary: Summary
    p: float  # of the paired t test; NaN of fewer than three pairs
    wilcoxon: float  # of Wilcoxon's signed ranks; NaN of fewer than six pairs, and over folds, which aren't independent


def summary(values: Sequence[float], overlap: float = 0.0) -> Summary:
    """Return mean, standard deviation and 95 % interval: mean ± t · deviation · √(1/n + overlap).

    Args:
        values: a number a run.
        overlap: test rows by training rows, 1 / (k − 1), where they are of k folds; 0: they are independent.

    >>> [round(v, 3) for v in summary([1.0, 2.0, 3.0])]
    [3, 2.0, 1.0, -0.484, 4.484]
    """
    x = np.asarray(values, dtype=float)
    n = len(x)
    if n == 0:
        return Summary(0, *[math.nan] * 4)
    mean = float(x.mean())
    if n == 1:
        return Summary(1, mean, *[math.nan] * 3)
    deviation = float(x.std(ddof=1))
    half = float(special.stdtrit(n - 1, 1 - LEVEL / 2)) * deviation * math.sqrt(1 / n + overlap)
    return Summary(n, mean, deviation, mean - half, mean + half)


def difference(
    first: Sequence[float], second: Sequence[float], *, overlap: float = 0.0, ranks: bool = False
) -> Difference:
    """Compare paired numbers.

    Args:
        first: a number a seed or fold.
        second: of the same ones.
        overlap: as in `summary`.
        ranks: also by Wilcoxon's test, whose import takes a second.
    """
    d = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    found = summary(d.tolist(), overlap)
    p = wilcoxon = math.nan
    if found.n >= LEAST:
        p = _paired(found, overlap)
    if found.n >= 6 and ranks and not overlap and np.any(d != 0):
        from scipy import stats

        wilcoxon = float(stats.wilcoxon(d).pvalue)
    return Difference(found, p, wilcoxon)


def _paired(d: Summary, overlap: float) -> float:
    """Return the two-sided p of the t test that the mean of differences is 0.

    t = mean / (deviation · √(1/n + overlap)). Nadeau and Bengio, "Inference for the Generalization Error", Machine
    Learning 52, 2003: without the overlap the folds' common training rows make the mean look surer than it is.
    """
    if d.deviation == 0:
        return 1.0 if d.mean == 0 else 0.0
    t = abs(d.mean) / (d.deviation * math.sqrt(1 / d.n + overlap))
    return float(2 * special.stdtr(d.n - 1, -t))


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979): max over the smaller ones of (m − rank) · p.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order, adjusted, most = sorted(range(len(p)), key=lambda i: p[i]), [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        most = max(most, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = most
    return adjusted


def seeds_needed(d: Summary, level: float = LEVEL) -> int | None:
    """Return how many seeds would show a difference as large as this in four of five experiments.

    The smallest n with P(|t| > t_crit | δ = mean/deviation · √n) ≥ 0.8, t noncentral; None: more than anybody trains.

    Args:
        d: of the differences so far.
        level: of the test, after correction.
    """
    if d.n < 2 or d.deviation == 0 or d.mean == 0:
        return None
    effect = abs(d.mean) / d.deviation
    n = np.unique(np.geomspace(3, _MOST, 400).astype(int))
    critical = special.stdtrit(n - 1, 1 - level / 2)
    power = 1 - special.nctdtr(n - 1, effect * np.sqrt(n), critical)
    enough = n[(power >= _POWER) | (np.isnan(power) & (effect * np.sqrt(n) > 2 * critical))]
    return int(enough[0]) if len(enough) else None
