"""Random search: samples of several axes at once, drawn by a scrambled Sobol sequence."""

import math
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.types import Override

from gdexp.config.grid import Point, Setting
from gdexp.config.written import typed


def draw(axes: Sequence[Override], samples: int, seed: int) -> list[Point]:
    """Draw points that fill the box of all axes evenly (Sobol 1967, scrambled as Owen 1995).

    Args:
        axes: each an interval; in its logarithm where it is tagged `log`, whole numbers where both
            its ends are, as in int(interval(1,8)).
        samples: how many; a power of two fills the box best.
        seed: of the scrambling.
    """
    from torch.quasirandom import SobolEngine

    engine = SobolEngine(len(axes), scramble=True, seed=seed)
    shares = engine.draw(samples, dtype=_double()).tolist()  # (samples, axes), in [0, 1)
    return [tuple(_setting(a, u) for a, u in zip(axes, row, strict=True)) for row in shares]


def _setting(axis: Override, share: float) -> Setting:
    interval: Any = axis.value()
    value = _at(interval.start, interval.end, share, "log" in interval.tags)
    return Setting(axis.get_key_element(), value, typed(value))


def _at(low: float, high: float, share: float, by_log: bool) -> float:
    """Return a number of an interval, to six digits: enough to tell samples apart, and to type one again."""
    if isinstance(low, int) and isinstance(high, int):
        return min(low + int(share * (high - low + 1)), high)
    value = low * (high / low) ** share if by_log else low + share * (high - low)
    digits = 6 - math.ceil(math.log10(abs(value))) if value else 6
    return min(max(round(value, digits), low), high)


def _double() -> Any:
    import torch

    return torch.float64
