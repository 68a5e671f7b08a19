"""The final objective against what was swept: a line for one number, a map for two."""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from gdexp.compare.comparison import Comparison
from gdexp.compare.pictures.axes import MARKERS, STYLES, cut, is_logarithmic, label, panels, subplots, swept_numbers
from gdexp.compare.settings import Setting, number

_SERIES = 8  # lines in a panel
_WRITTEN = 100  # cells of a map that are labelled
_LOST = "\\\\\\\\"  # hatch of what diverged


def of(found: Comparison) -> Iterator[tuple[str, str, Any]]:
    """Yield the pictures of what was swept."""
    keys = swept_numbers(found.settings)
    metric = found.selection.objective
    if keys:
        yield "sensitivity", f"{metric} against {keys[0]}; hatched: runs diverge", partial(_lines, found, keys[0])
    if len(keys) == 2 and len(panels(found.settings)) == 1:
        yield "map", f"{metric} over {keys[0]} and {keys[1]}; hatched: runs diverge", partial(_map, found, *keys)


def _lines(found: Comparison, key: str, figure: Any) -> None:
    shown = panels(found.settings)
    all_axes = subplots(figure, len(shown))
    good = [s.summary.mean for s in found.settings if s.summary.n]
    rates = [x for s in found.settings if (x := number(s.params.get(key))) is not None]
    logarithmic = is_logarithmic(rates)
    if logarithmic:
        all_axes.flat[0].set_xscale("log")
    if is_logarithmic(good):
        all_axes.flat[0].set_yscale("log")
    for axes, (name, made) in zip(all_axes.flat, shown.items(), strict=False):
        series = _series(made, key)
        if len(series) > max(_SERIES, len(made) // 2):  # points that were drawn share nothing
            series = {"": made}
        for i, (rest, settings) in enumerate(list(series.items())[:_SERIES]):
            _line(axes, settings, key, cut(rest), i, joined=rest != "" or len(series) > 1 or not _drawn(made, key))
        lost = _lost(made, key, logarithmic)
        for low, high in lost:
            axes.axvspan(low, high, facecolor="none", edgecolor="#888888", hatch=_LOST, linewidth=0, zorder=0)
        if len(series) > 1:
            axes.legend(fontsize="small")
        if not good:
            axes.text(0.5, 0.5, "all runs diverged", transform=axes.transAxes, ha="center")
            axes.set_yticks([])
        more = f" (the best {_SERIES} of {len(series)})" if len(series) > _SERIES else ""
        axes.set_title(f"{name}{more}")
    for axes in all_axes[:, 0]:
        axes.set_ylabel(f"{found.selection.objective} ({found.selection.at} epoch)")
    for axes in all_axes[-1]:
        axes.set_xlabel(label(key))
    figure.suptitle(f"{found.selection.objective} against {label(key)}")


def _series(made: Sequence[Setting], key: str) -> dict[str, list[Setting]]:
    """Return the settings that differ in the number only, by what they share, the best first."""
    found: dict[str, list[Setting]] = {}
    for setting in made:
        rest = " ".join(f"{k.rpartition('.')[2]}={v}" for k, v in setting.params.items() if k not in (key, "optimizer"))
        if key in setting.params:
            found.setdefault(rest, []).append(setting)
    return found


def _drawn(made: Sequence[Setting], key: str) -> bool:
    """Say whether the settings differ in more than the number, as points that were drawn do."""
    return any(k not in (key, "optimizer") for setting in made for k in setting.params)


def _line(axes: Any, settings: Sequence[Setting], key: str, name: str, i: int, *, joined: bool) -> None:
    points = sorted((x, s.summary) for s in settings if s.summary.n and (x := number(s.params.get(key))) is not None)
    xs = [x for x, _ in points]
    mean = [s.mean for _, s in points]
    half = [0.0 if math.isnan(s.high) else s.high - s.mean for _, s in points]
    low = [max(m - h, m * 0.01) if axes.get_yscale() == "log" else m - h for m, h in zip(mean, half, strict=True)]
    style = {
        "color": f"C{i}",
        "linestyle": STYLES[i % 4] if joined else "",
        "marker": MARKERS[i % 8],
        "markersize": 3.5,
    }
    axes.plot(xs, mean, linewidth=1.2, label=name, **style)
    if any(half):
        axes.fill_between(xs, low, np.add(mean, half), color=f"C{i}", alpha=0.2, linewidth=0)


def _lost(made: Sequence[Setting], key: str, logarithmic: bool) -> list[tuple[float, float]]:
    """Return where runs diverge, from halfway to the last number at which none does."""
    diverged: dict[float, bool] = {}
    for setting in made:
        if (x := number(setting.params.get(key))) is not None:
            diverged[x] = diverged.get(x, False) or setting.diverged > 0
    to, back = (math.log, math.exp) if logarithmic else (float, float)
    known = sorted(diverged)
    spans = []
    for i, x in enumerate(known):
        if diverged[x]:
            gap = to(known[1]) - to(known[0]) if len(known) > 1 else 1.0
            low = (to(known[i - 1]) + to(x)) / 2 if i else to(x) - gap / 2
            high = (to(known[i + 1]) + to(x)) / 2 if i + 1 < len(known) else to(x) + gap / 2
            spans.append((back(low), back(high)))
    merged: list[tuple[float, float]] = []
    for span in spans:
        if merged and math.isclose(merged[-1][1], span[0]):
            merged[-1] = merged[-1][0], span[1]
        else:
            merged.append(span)
    return merged


def _map(found: Comparison, x_key: str, y_key: str, figure: Any) -> None:
    from matplotlib.colors import LogNorm

    figure.set_size_inches(7, 5)
    axes = figure.subplots()
    points = [(number(s.params.get(x_key)), number(s.params.get(y_key)), s) for s in found.settings]
    known = [(x, y, s) for x, y, s in points if x is not None and y is not None]
    xs, ys = (sorted({p[i] for p in known}) for i in range(2))  # type: ignore[type-var]
    good = [s.summary.mean for _, _, s in known if s.summary.n]
    positive = [v for v in good if v > 0]
    norm = LogNorm(min(positive), max(positive)) if is_logarithmic(good) else None
    name = f"{found.selection.objective} ({found.selection.at} epoch)"
    if len(xs) * len(ys) <= 4 * len(known):
        table = np.full((len(ys), len(xs)), np.nan)
        for x, y, s in known:
            i, j = ys.index(y), xs.index(x)
            table[i, j] = s.summary.mean
            if s.diverged:
                box = {"facecolor": "none", "edgecolor": "#888888", "hatch": _LOST, "linewidth": 0}
                axes.add_patch(_rectangle(j - 0.5, i - 0.5, **box))
            elif len(known) <= _WRITTEN and s.summary.n:
                frame = {"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.65, "linewidth": 0}
                axes.text(j, i, f"{s.summary.mean:.2g}", ha="center", va="center", size=7, color="black", bbox=frame)
        shown = axes.imshow(table, norm=norm, cmap="viridis", origin="lower", aspect="auto")
        axes.set_xticks(range(len(xs)), [f"{v:.3g}" for v in xs], rotation=45)
        axes.set_yticks(range(len(ys)), [f"{v:.3g}" for v in ys])
        axes.grid(False)
    else:
        ended = [p for p in known if p[2].summary.n]
        lost = [p for p in known if p[2].diverged]
        colors = [s.summary.mean for _, _, s in ended]
        shown = axes.scatter([p[0] for p in ended], [p[1] for p in ended], c=colors, norm=norm, cmap="viridis")
        axes.scatter([p[0] for p in lost], [p[1] for p in lost], marker="x", color="#888888", label="diverged")
        if lost:
            axes.legend()
        axes.set_xscale("log" if is_logarithmic(xs) else "linear")  # type: ignore[arg-type]
        axes.set_yscale("log" if is_logarithmic(ys) else "linear")  # type: ignore[arg-type]
    figure.colorbar(shown, ax=axes, label=name)
    axes.set_xlabel(label(x_key))
    axes.set_ylabel(label(y_key))
    axes.set_title(name)


def _rectangle(x: float, y: float, **style: Any) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), 1, 1, **style)
