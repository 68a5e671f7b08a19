"""Loss by epoch: all runs, coloured by the swept number, with bands over seeds or folds."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from gdexp.compare.comparison import Comparison
from gdexp.compare.pictures.axes import STYLES, cut, hue, panels, subplots
from gdexp.compare.settings import Repetitions, Setting
from gdexp.tracking.reader import Reader

_LEGEND = 10  # settings that are named in a legend
_FAR = 100.0  # times the largest loss of runs that didn't diverge: what is above is cut off

Curve = tuple[np.ndarray, np.ndarray]  # epochs, values
Curves = Mapping[str, Curve]  # by run id


def of(found: Comparison, reader: Reader) -> Iterator[tuple[str, str, Any]]:
    """Yield the pictures of curves."""
    rows = found.selection.rows
    keys = [k for k in dict.fromkeys(("train_loss", "val_loss", found.selection.objective)) if _has(rows, k)]
    read = {key: _by_run(found, reader, key) for key in keys}
    if len(rows) == 1:
        shown = {key: curves for key, curves in read.items() if curves}
        yield "curve", f"Loss of {cut(rows[0].name, 80)} by epoch", partial(_one, found, shown)
        return
    for key, curves in read.items():
        if curves:
            repeats = Repetitions.of(*found.settings).noun(2)
            several = any(len(s.rows) > 1 for s in found.settings)
            bands = f"; lines are medians over {repeats}, bands their range" if several else ""
            yield f"curves_{key}", f"{key} of all runs by epoch{bands}", partial(_all, found, key, curves)


def _has(rows: Sequence[Any], key: str) -> bool:
    return any(key in row.metrics for row in rows)


def _by_run(found: Comparison, reader: Reader, key: str) -> dict[str, Curve]:
    places, steps, values = reader.curves([key])[key]
    begins = np.flatnonzero(np.diff(places, prepend=-1))
    ends = np.append(begins[1:], len(places))
    spans = {int(places[b]): (steps[b:e], values[b:e]) for b, e in zip(begins, ends, strict=True)}
    ids = {place: row.run_id for place, row in zip(found.selection.places, found.selection.rows, strict=True)}
    return {ids[place]: curve for place, curve in spans.items() if place in ids}


def _one(found: Comparison, read: Mapping[str, Curves], figure: Any) -> None:
    figure.set_size_inches(6.4, 4)
    axes = figure.subplots()
    [row] = found.selection.rows
    for style, (key, curves) in zip(STYLES, read.items(), strict=False):
        if row.run_id in curves:
            axes.plot(*curves[row.run_id], style, label=key)
    _finish(axes, "loss", [c for curves in read.values() for c in curves.values()], row.outcome == "diverged")
    axes.set_xlabel("epoch")
    axes.legend()
    axes.set_title(cut(row.name, 80))


def _all(found: Comparison, key: str, curves: Curves, figure: Any) -> None:
    shown = panels(found.settings)
    all_axes = subplots(figure, len(shown))
    by = hue(found.settings)
    calm = [curves[r.run_id] for s in found.settings for r in s.rows if r.run_id in curves and r.outcome != "diverged"]
    for axes, (name, made) in zip(all_axes.flat, shown.items(), strict=False):
        band = min(0.2, 3 / len(made))  # many bands are fainter
        for i, setting in reversed(list(enumerate(made))):  # the best on top
            color, style = by.color(setting) if by else f"C{i % 10}", STYLES[0 if by else i // 10 % 4]
            _setting(axes, setting, curves, color, style, band)
        axes.set_title(name)
        if not by and len(made) <= _LEGEND and made[0].params:
            axes.legend(fontsize="small")
    _finish(all_axes.flat[0], key, calm or list(curves.values()), not calm)
    for axes in all_axes[:, 0]:
        axes.set_ylabel(key)
    for axes in all_axes[-1]:
        axes.set_xlabel("epoch")
    figure.suptitle(f"{key} by epoch, {len(curves)} runs")
    if by:
        by.bar(figure, all_axes)


def _setting(axes: Any, setting: Setting, curves: Curves, color: Any, style: str, band: float) -> None:
    repeats = [(r, curves[r.run_id]) for r in setting.rows if r.run_id in curves]
    whole = [curve for row, curve in repeats if row.outcome != "diverged"]
    for row, (steps, values) in repeats:
        if row.outcome == "diverged":
            axes.plot(steps, values, linestyle=(0, (1, 1)), color=color, linewidth=0.9)
    if not whole:
        return
    steps = min((curve[0] for curve in whole), key=len)
    table = np.array([values[: len(steps)] for _, values in whole])
    axes.plot(steps, np.median(table, axis=0), style, color=color, linewidth=1.2, label=cut(setting.name))
    if len(whole) > 1:
        axes.fill_between(steps, table.min(axis=0), table.max(axis=0), color=color, alpha=band, linewidth=0)
    for steps, values in whole:  # what is longer than the shortest
        if len(steps) > table.shape[1]:
            axes.plot(steps[table.shape[1] - 1 :], values[table.shape[1] - 1 :], color=color, linewidth=0.5)


def _finish(axes: Any, name: str, shown: Sequence[Curve], diverged: bool) -> None:
    """Choose the scale, and leave out what flies away from runs that didn't diverge."""
    values = np.concatenate([values for _, values in shown]) if shown else np.ones(1)
    if values.min() >= 0 < values.max():
        axes.set_yscale("log")
        if not diverged:
            least = values[values > 0].min()
            axes.set_ylim(top=values.max() * _FAR**0.5, bottom=max(least * 0.7, values.max() * 1e-18))
    elif not diverged:
        room = 0.05 * (values.max() - values.min() or 1)
        axes.set_ylim(values.min() - room, values.max() + room)
    axes.set_ylabel(name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if shown and max(len(steps) for steps, _ in shown) == 1:
        axes.margins(x=0.5)
