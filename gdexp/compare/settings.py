"""Runs gathered by setting: one for each choice of params, with its seeds and folds together."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gdexp.compare.selection import Selection
from gdexp.compare.statistics import LEAST, Summary, summary
from gdexp.tracking.reader import Reader, Row

RATE = "optimizer.lr"
FOLD = "data.fold"
_OF_FOLD = " fold "  # between seed and fold, where runs differ in both
ENDED = ("completed", "stopped")


class Setting(NamedTuple):
    """The runs that differ in the seed and in the fold only; of the same ones twice the newest counts."""

    params: dict[str, str]  # in which the settings differ
    rows: list[Row]
    values: dict[str, float]  # of the objective, by seed and fold, of the runs that ended well
    diverged: int
    summary: Summary
    best: float
    seconds: float  # of a run, in the mean
    nan: int = 0  # runs whose objective is no finite number, though they ended well

    @property
    def lost(self) -> int:
        """How many runs have no value, which is worse than any."""
        return self.diverged + self.nan

    @property
    def folds(self) -> int:
        """How many folds the rows were dealt into, of which runs may be some; 0: they weren't."""
        return _folds(self.rows)

    @property
    def name(self) -> str:
        """What it is called, as one would type it."""
        return " ".join(f"{_short(key)}={value}" for key, value in self.params.items()) or "all runs"


def repetition(row: Row, found: Selection) -> str:
    """Return what tells a run from the others of its setting: its seed, and its fold where folds differ."""
    seed = row.params.get("seed", "")
    return f"{seed}{_OF_FOLD}{row.params.get(FOLD, '')}" if FOLD in found.params else seed


class Repetitions(NamedTuple):
    """What the runs of settings are repeated over."""

    seeds: list[int]
    folds: int  # 0: they aren't folds

    @classmethod
    def of(cls, *made: Setting) -> "Repetitions":
        """Return those of some settings."""
        pairs = [repeat.partition(_OF_FOLD) for setting in made for repeat in setting.values]
        numbers = {int(seed) for seed, _, _ in pairs if seed.lstrip("-").isdigit()}
        return cls(sorted(numbers), len({fold for _, _, fold in pairs if fold}))

    def noun(self, count: int) -> str:
        """Return what so many of them are called."""
        name = "seed" if not self.folds else "fold" if len(self.seeds) < 2 else "repetition"
        return name + "s" * (count != 1)


class Units(NamedTuple):
    """Numbers by what they are counted by in a test.

    Args:
        values: by seed, by fold, or by both.
        overlap: test rows by training rows, 1 / (k − 1), over k folds; 0: the numbers are independent.
        averaged: folds that each number is the mean of; 0: it is that of a run.
    """

    values: dict[str, float]
    overlap: float = 0.0
    averaged: int = 0


def units(values: Mapping[str, float], folds: int) -> Units:
    """Return means over the folds, where enough seeds have all of them, else the numbers of the runs.

    Args:
        values: by seed and fold.
        folds: into which the rows were dealt.
    """
    by_seed: dict[str, dict[str, float]] = {}
    for repeat, value in values.items():
        seed, _, fold = repeat.partition(_OF_FOLD)
        by_seed.setdefault(seed, {})[fold] = value
    seen = {fold for own in by_seed.values() for fold in own}
    if len(seen) < 2:
        return Units(dict(values))
    whole = {seed: sum(own.values()) / len(own) for seed, own in by_seed.items() if own.keys() == seen}
    if len(whole) >= LEAST:
        return Units(whole, averaged=len(seen))
    return Units(dict(values), overlap=1 / (max(folds, len(seen)) - 1))


def settings(found: Selection) -> list[Setting]:
    """Gather runs, the best setting first; those with runs that diverged or ended in NaN come last."""
    keys = [key for key in found.params if key not in ("seed", FOLD)]
    gathered: dict[tuple[str | None, ...], dict[str, Row]] = {}
    for row in found.rows:  # newest first
        repeats = gathered.setdefault(tuple(row.params.get(key) for key in keys), {})
        own = repetition(row, found)
        if own not in repeats or (row.outcome and not repeats[own].outcome):
            repeats[own] = row
    made = [_setting(dict(zip(keys, values, strict=True)), repeats, found) for values, repeats in gathered.items()]
    sign = 1 if found.least else -1
    return sorted(made, key=lambda s: (s.summary.n == 0, s.lost > 0, sign * s.summary.mean if s.summary.n else 0))


def _setting(params: Mapping[str, str | None], repeats: Mapping[str, Row], found: Selection) -> Setting:
    rows = list(repeats.values())
    ended = [(own, row) for own, row in repeats.items() if row.outcome in ENDED and row.run_id in found.values]
    measured = {own: found.values[row.run_id] for own, row in sorted(ended, key=lambda item: _order(item[0]))}
    values = {own: value for own, value in measured.items() if math.isfinite(value)}
    times = [r.seconds for r in rows if r.end_time is not None]
    return Setting(
        {k: v for k, v in params.items() if v is not None},
        rows,
        values,
        sum(r.outcome == "diverged" for r in rows),
        _summary(values, _folds(rows)),
        (min if found.least else max)(values.values(), default=math.nan),
        sum(times) / len(times) if times else math.nan,
        len(measured) - len(values),
    )


def _summary(values: Mapping[str, float], folds: int) -> Summary:
    """Return mean and deviation of all runs, and the interval of the mean by what they are counted by."""
    all_runs, counted = summary(list(values.values())), units(values, folds)
    s = summary(list(counted.values.values()), counted.overlap)
    half = (s.high - s.low) / 2
    return all_runs._replace(low=all_runs.mean - half, high=all_runs.mean + half)


def by_rate(made: Sequence[Setting]) -> dict[str, list[tuple[float, Setting]]]:
    """Return, for each optimizer, its rates and the best setting at each, in the order of the rates."""
    found: dict[str, dict[float, Setting]] = {}
    for setting in made:  # the best first
        row = setting.rows[0]
        if (rate := number(row.params.get(RATE))) is not None and RATE in setting.params:
            found.setdefault(row.params.get("optimizer", ""), {}).setdefault(rate, setting)
    return {name: sorted(rates.items()) for name, rates in found.items() if len(rates) > 1}


def sensitivities(found: Selection, made: Sequence[Setting], reader: Reader) -> dict[str, float]:
    """Return the sensitivity of each optimizer to its learning rate, the less the better.

    E over the rates of min(L(rate), L₀) − min over the rates of L; L₀ is the loss before training, here that of the
    first epoch at the smallest rate, and a rate that diverges counts as L₀. After Wortsman et al., "Small-scale proxies
    for large-scale Transformer training instabilities", 2023.
    """
    optimizers = by_rate(made)
    if not optimizers or not found.objective.endswith("loss"):
        return {}
    places = {found.rows[i].run_id: place for i, place in enumerate(found.places)}
    sensitivity = {}
    for name, rates in optimizers.items():
        starts = list(reader.first("train_loss", [places[row.run_id] for row in rates[0][1].rows]).values())
        if not starts or not any(s.summary.n and not s.lost for _, s in rates):
            continue
        start = sum(starts) / len(starts)
        losses = [start if s.lost or not s.summary.n else min(s.summary.mean, start) for _, s in rates]
        sensitivity[name] = sum(losses) / len(losses) - min(losses)
    return sensitivity


def number(text: str | None) -> float | None:
    """Return a param as a number, None if it is none."""
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _folds(rows: Sequence[Row]) -> int:
    return min((int(number(row.params.get("data.folds")) or 0) for row in rows), default=0)


def _order(repeat: str) -> list[float]:
    numbers = [number(part) for part in repeat.split(_OF_FOLD)]
    return [math.inf if part is None else part for part in numbers]


def _short(key: str) -> str:
    return key.rpartition(".")[2] if key.startswith("optimizer.") else key
