"""Whether to believe that the best setting is the best: a sentence."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from gdexp.compare.selection import Selection
from gdexp.compare.settings import Repetitions, Setting, Units, units
from gdexp.compare.statistics import LEAST, LEVEL, Difference, Summary, difference, holm, seeds_needed

_MOST_FRESH = 30  # seeds in the line that confirms
_FRESH = 5  # runs of each setting in it, at least


class Verdict(NamedTuple):
    """What can be said of the first two settings.

    Args:
        text: the sentence.
        winner: whether the first is better than chance explains.
        provisional: it was picked from several.
        p: of the paired t test, corrected for the number of comparisons (Holm); NaN without a test.
        difference: of the first two, over their common seeds or folds.
        fresh: seeds that would confirm it.
    """

    text: str
    winner: bool
    provisional: bool
    p: float
    difference: Difference | None
    fresh: list[int]


def verdict(found: Selection, made: Sequence[Setting]) -> Verdict:
    """Compare the first setting with the second, as one of all comparisons that could have been made."""
    good = [setting for setting in made if setting.summary.n]
    if not good:
        return Verdict("No run ended well: there is nothing to choose from.", False, False, math.nan, None, [])
    if len(good) == 1:
        only = "the only setting" if len(made) == 1 else "the only setting of which a run ended well"
        return Verdict(f"{good[0].name} is {only}.", False, False, math.nan, None, [])
    first, second = good[:2]
    d = _difference(first, second, ranks=True)
    tested = [(other, _difference(first, other)) for other in good[1:]]
    ps = [(t.p, other is second) for other, t in tested if not math.isnan(t.p)]
    adjusted = [p for p, (_, is_second) in zip(holm([p for p, _ in ps]), ps, strict=True) if is_second]
    p = adjusted[0] if adjusted else math.nan
    provisional = len(good) > 2
    wins = p < LEVEL and not first.lost
    text = _won(found, first, second, d, p, len(ps)) if wins else _open(found, first, second, d, p)
    fresh = _fresh(first, second, 0 if wins else _missing(first, second, d.summary, LEVEL) or 0)
    if provisional and wins:
        text += f" It was picked from {len(good)} settings, so it is provisional until fresh seeds confirm it."
    return Verdict(text, wins, provisional, p, d, fresh)


def _common(first: Setting, second: Setting) -> tuple[Units, Units]:
    """Return the numbers of two settings over what both have."""
    folds = min(first.folds, second.folds)
    common = [repeat for repeat in first.values if repeat in second.values]
    one, other = (units({r: setting.values[r] for r in common}, folds) for setting in (first, second))
    return one, other


def _difference(first: Setting, second: Setting, ranks: bool = False) -> Difference:
    one, other = _common(first, second)
    return difference(list(one.values.values()), list(other.values.values()), overlap=one.overlap, ranks=ranks)


def _over(first: Setting, second: Setting) -> str:
    """Say what the test is made over."""
    counted = _common(first, second)[0]
    shown = f"paired t test over {_counted(first, second)}"
    if counted.averaged:
        return f"{shown}, each the mean of {counted.averaged} folds"
    return f"{shown}, corrected for the training rows that folds share" if counted.overlap else shown


def _counted(first: Setting, second: Setting) -> str:
    counted = _common(first, second)[0]
    n = len(counted.values)
    return f"{n} common {'seeds' if counted.averaged else Repetitions.of(first, second).noun(n)}"


def _missing(first: Setting, second: Setting, d: Summary, level: float) -> int | None:
    """Return how many seeds would be needed beside those that there are; None: more than anybody trains."""
    counted, folds = _common(first, second)[0], Repetitions.of(first, second).folds
    if (needed := seeds_needed(d, level)) is None:
        return None
    if counted.averaged or not folds:
        return max(1, needed - d.n)
    least = LEAST * folds if counted.overlap else 0  # further seeds are tested by their means over the folds
    return math.ceil(max(1, needed - d.n, least - d.n) / folds)


def _won(found: Selection, first: Setting, second: Setting, d: Difference, p: float, tests: int) -> str:
    corrected = f" after Holm's correction for {tests} comparisons" if tests > 1 else ""
    how = f"{_over(first, second)}, p = {_p(p)}{corrected}{_ranks(d)}"
    return f"{first.name} is better than {second.name}: {_by(found, d)} ({how})."


def _open(found: Selection, first: Setting, second: Setting, d: Difference, p: float) -> str:
    ahead = f"{first.name} is ahead of {second.name}"
    n, repeats = d.summary.n, Repetitions.of(first, second)
    if n == 0:
        return f"Can't tell: {ahead}, but they have no {repeats.noun(1)} in common; {LEAST} are needed."
    if n > 1 and d.summary.mean == 0 == d.summary.deviation:
        return f"Can't tell: {first.name} and {second.name} end alike at all of {_counted(first, second)}."
    if n < LEAST:
        few = f"one {repeats.noun(1)} doesn't" if n == 1 else f"{n} {repeats.noun(n)} don't"
        by, more = f"{abs(d.summary.mean):.3g}", math.ceil((LEAST - n) / (repeats.folds or 1))
        doubt = f"{few} say whether that is chance; at least {_more(more, repeats)}"
        return f"Can't tell: {ahead} by {by}, but {doubt}."
    seen = f"{_by(found, d)}, {_over(first, second)}, p = {_p(d.p)}{_ranks(d)}"
    if first.lost:
        how = "diverged" if first.diverged else "ended in NaN"
        return f"Can't tell: {ahead}, but {first.diverged or first.nan} of its runs {how} ({seen})."
    missing = _missing(first, second, d.summary, LEVEL * d.p / p if p else LEVEL)
    if missing is None:
        return f"Can't tell: {ahead}, but no number of {repeats.noun(2)} that anybody trains would show it ({seen})."
    return f"Can't tell: {ahead}, but chance may explain it ({seen}); about {_more(missing, repeats)}."


def _fresh(first: Setting, second: Setting, missing: int) -> list[int]:
    """Return seeds that neither setting has had, as many as are needed."""
    used = Repetitions.of(first, second)
    begin = max(used.seeds, default=-1) + 1
    return list(range(begin, begin + min(max(missing, math.ceil(_FRESH / (used.folds or 1))), _MOST_FRESH)))


def _by(found: Selection, d: Difference) -> str:
    s, sign = d.summary, -1 if found.least else 1
    low, high = sorted((sign * s.low, sign * s.high))
    less = "less" if found.least else "more"
    return f"{sign * s.mean:.3g} {less} {found.objective}, 95 % interval {low:.3g} to {high:.3g}"


def _ranks(d: Difference) -> str:
    return "" if math.isnan(d.wilcoxon) else f", Wilcoxon p = {_p(d.wilcoxon)}"


def _p(p: float) -> str:
    return "0" if p == 0 else f"{p:.2g}" if p >= 1e-4 else f"{p:.0e}"


def _more(count: int, repeats: Repetitions) -> str:
    """Say how many further seeds of each setting are needed."""
    each = f", each on {repeats.folds} folds" if repeats.folds else ""
    return f"{count} more seed{'s are' if count != 1 else ' is'} needed{each}"
