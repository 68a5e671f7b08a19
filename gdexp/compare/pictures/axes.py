"""What pictures have in common: which number colours the runs, scales, and names that fit."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, LogNorm, Normalize

from gdexp.compare.settings import RATE, Setting, number

_CMAP = "viridis"
STYLES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


class Hue(NamedTuple):
    """The swept number by which runs are coloured."""

    key: str
    norm: Normalize

    def color(self, setting: Setting) -> Any:
        """Return the colour of a setting; grey if it has no such number."""
        value = number(setting.params.get(self.key))
        return "#888888" if value is None else shade(float(self.norm(value)))

    def bar(self, figure: Any, axes: Any) -> None:
        """Put the scale of colours beside the axes."""
        shown = ListedColormap([shade(i / 255) for i in range(256)])
        mappable = ScalarMappable(self.norm, shown)
        figure.colorbar(mappable, ax=axes, label=label(self.key), shrink=0.9)


def shade(share: float) -> Any:
    """Return a colour for a share from 0 to 1 that stands out from the paper, light or dark."""
    on_dark = matplotlib.rcParams["figure.facecolor"] != "white"
    low, high = (0.22, 1.0) if on_dark else (0.0, 0.92)
    return matplotlib.colormaps[_CMAP](low + (high - low) * share)


def swept_numbers(made: Sequence[Setting]) -> list[str]:
    """Return the params that are numbers and vary, the learning rate first."""
    keys = list(dict.fromkeys(key for setting in made for key in setting.params))
    found = []
    for key in keys:
        values = {number(s.params[key]) for s in made if key in s.params}
        if None not in values and len(values) > 1:
            found.append(key)
    return sorted(found, key=lambda key: key != RATE)


def hue(made: Sequence[Setting]) -> Hue | None:
    """Return the number that colours the runs; None if none is swept."""
    keys = swept_numbers(made)
    if not keys:
        return None
    values = [v for s in made if (v := number(s.params.get(keys[0]))) is not None]
    low, high = min(values), max(values)
    return Hue(keys[0], LogNorm(low, high) if low > 0 and is_logarithmic(values) else Normalize(low, high))


def is_logarithmic(values: Iterable[float]) -> bool:
    """Say whether numbers are best seen on a log axis; a zero among them is left out there."""
    known = [v for v in values if math.isfinite(v) and v != 0]
    return bool(known) and min(known) > 0 and max(known) / min(known) >= 20


def panels(made: Sequence[Setting]) -> dict[str, list[Setting]]:
    """Return the settings by what each panel shows: an optimizer, if there are several."""
    found: dict[str, list[Setting]] = {}
    for setting in made:
        found.setdefault(setting.params.get("optimizer", ""), []).append(setting)
    return found


def subplots(figure: Any, count: int) -> Any:
    """Return the axes of so many panels with common scales: (rows, columns), those left over are off."""
    columns = count if count <= 3 else math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    figure.set_size_inches(max(6.4, 4 * columns), max(4.0, 3.2 * rows))
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for unused in axes.flat[count:]:
        unused.set_axis_off()
    return axes


def label(key: str) -> str:
    """Return what stands at an axis."""
    return f"learning rate ({key})" if key == RATE else cut(key)


def cut(text: str, most: int = 40) -> str:
    """Return a name that fits."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
