"""What a sweep's overrides expand to: axes of values, and the points of their grid."""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser, create_functions
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, Transformer

from gdexp.config import sources
from gdexp.config.refusal import Refusal

LARGEST = 100_000  # jobs; more are taken for a slip


class Axis(NamedTuple):
    """One key of a sweep and its values.

    Args:
        key: as typed, with `+` where it adds.
        values: plain Python.
        texts: the same as one types them.
    """

    key: str
    values: list[Any]
    texts: list[str]


def parser() -> OverridesParser:
    """Return Hydra's parser with `logspace` and `linspace` beside its own functions."""
    functions = create_functions()
    functions.register(name="logspace", func=logspace)
    functions.register(name="linspace", func=linspace)
    return OverridesParser(functions=functions, config_loader=None)


def linspace(start: int | float, stop: int | float, n: int) -> ChoiceSweep:
    """Return n numbers from start to stop, evenly spaced, both ends exact."""
    if n < 1:
        raise ValueError(f"linspace needs at least 1 number, got {n}")
    inner = [start + (stop - start) * i / (n - 1) for i in range(1, n - 1)]
    return ChoiceSweep(list=[float(v) for v in [start, *inner, stop][: max(n, 1)]])


def logspace(start: int | float, stop: int | float, n: int) -> ChoiceSweep:
    """Return n numbers from start to stop, evenly spaced in their logarithm; ends and powers of ten are exact.

    >>> logspace(1e-4, 1, 5).list
    [0.0001, 0.001, 0.01, 0.1, 1.0]
    """
    if n < 1 or start <= 0 or stop <= 0:
        raise ValueError(f"logspace needs positive ends and at least 1 number, got {start}, {stop}, {n}")
    exponents: Any = linspace(math.log10(start), math.log10(stop), n).list
    inner = [float(f"1e{round(e)}") if abs(e - round(e)) < 1e-12 else 10.0**e for e in exponents[1:-1]]
    return ChoiceSweep(list=[float(v) for v in [start, *inner, stop][:n]])


def axes(overrides: Iterable[Override]) -> list[Axis]:
    """Return the axes of a sweep.

    Raises:
        Refusal: an axis can't be enumerated or is empty, or the grid is too large.
    """
    found = [_axis(o) for o in overrides if o.is_sweep_override()]
    count = math.prod(len(axis.values) for axis in found)
    if count > LARGEST:
        sizes = " × ".join(f"{len(axis.values)} of {axis.key}" for axis in found)
        raise Refusal(f"a sweep of {count} jobs ({sizes}): at most {LARGEST} are trained at once")
    return found


def points(found: Sequence[Axis]) -> Iterator[tuple[tuple[Any, str], ...]]:
    """Yield (value, text) for each axis, the last one varying fastest."""
    return itertools.product(*(list(zip(axis.values, axis.texts, strict=True)) for axis in found))


def as_typed(override: Override) -> str:
    """Return an override without our own functions, for Hydra's main."""
    line = override.input_line or ""
    if not override.is_sweep_override() or not any(f"{name}(" in line for name in ("logspace", "linspace")):
        return line
    axis = _axis(override)
    return f"{axis.key}={','.join(axis.texts)}"


def _axis(override: Override) -> Axis:
    key = override.get_key_element()
    if isinstance(override.value(), Glob):
        names = override.value().filter(sources.options(key))  # type: ignore[union-attr]
        values, texts = list(names), list(names)
    elif override.is_interval_sweep():
        raise Refusal(f"`{override.input_line}`: an interval has no grid; use linspace or logspace")
    else:
        elements = list(override.sweep_iterator(Transformer.identity))
        values = [Override._convert_value(e) for e in elements]
        texts = [str(Transformer.encode(e)) for e in elements]
    if not values:
        raise Refusal(f"`{override.input_line}` gives no values")
    return Axis(key, values, texts)
