"""What a sweep's overrides expand to: axes of values, and the points of their grid."""

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser, create_functions
from hydra.core.override_parser.types import ChoiceSweep, Glob, IntervalSweep, Override, RangeSweep, Transformer

from gdexp.config import sources
from gdexp.config.refusal import Refusal, nearest

LARGEST = 100_000  # jobs; more are taken for a slip


class Setting(NamedTuple):
    """One key at one point of a sweep.

    Args:
        key: as typed, with `+` where it adds.
        value: plain Python.
        text: the same as one types it.
    """

    key: str
    value: Any
    text: str


Point = tuple[Setting, ...]


def parser() -> OverridesParser:
    """Return Hydra's parser with functions of our own beside its own."""
    functions = create_functions()
    for function in (logspace, linspace, loguniform, uniform):
        functions.register(name=function.__name__, func=function)
    return OverridesParser(functions=functions, config_loader=None)


def linspace(start: int | float, stop: int | float, n: int) -> ChoiceSweep:
    """Return n numbers from start to stop, evenly spaced, both ends exact."""
    if not 1 <= n <= LARGEST:
        raise ValueError(f"linspace gives 1 to {LARGEST} numbers, not {n}")
    inner = [start + (stop - start) * i / (n - 1) for i in range(1, n - 1)]
    return ChoiceSweep(list=[float(v) for v in [start, *inner, stop][:n]])


def logspace(start: int | float, stop: int | float, n: int) -> ChoiceSweep:
    """Return n numbers from start to stop, evenly spaced in their logarithm; ends and powers of ten are exact.

    >>> logspace(1e-4, 1, 5).list
    [0.0001, 0.001, 0.01, 0.1, 1.0]
    """
    if not 1 <= n <= LARGEST or start <= 0 or stop <= 0:
        raise ValueError(f"logspace gives 1 to {LARGEST} numbers between positive ends, got {start}, {stop}, {n}")
    exponents: Any = linspace(math.log10(start), math.log10(stop), n).list
    inner = [float(f"1e{round(e)}") if abs(e - round(e)) < 1e-12 else 10.0**e for e in exponents[1:-1]]
    return ChoiceSweep(list=[float(v) for v in [start, *inner, stop][:n]])


def uniform(low: int | float, high: int | float) -> IntervalSweep:
    """Return the interval that samples are drawn from evenly."""
    if not low < high:
        raise ValueError(f"uniform needs low < high, got {low}, {high}")
    return IntervalSweep(start=float(low), end=float(high))


def loguniform(low: int | float, high: int | float) -> IntervalSweep:
    """Return the interval that samples are drawn from evenly in their logarithm."""
    if not 0 < low < high:
        raise ValueError(f"loguniform needs 0 < low < high, got {low}, {high}")
    return IntervalSweep(start=float(low), end=float(high), tags={"log"})


def points(overrides: Sequence[Override], sweep: Mapping[str, Any]) -> Iterator[Point]:
    """Yield the points of a sweep: the grid of its axes, the last one varying fastest, times the samples.

    Args:
        overrides: that vary something.
        sweep: the config's node of that name: samples, seed, each.

    Raises:
        Refusal: an axis can't be enumerated or is empty, or the sweep is too large.
    """
    parts = [_Part((), overrides, sweep)] if not sweep["each"] else list(_parts(overrides, sweep))
    if (count := sum(part.count for part in parts)) > LARGEST:
        sizes = "; ".join(part.sizes() for part in parts)
        raise Refusal(f"a sweep of {count} jobs ({sizes}): at most {LARGEST} are trained at once")
    if sweep["samples"] and not any(part.drawn for part in parts):
        raise Refusal("`sweep.samples` needs an axis to draw from, as optimizer.lr=loguniform(1e-4,1)")
    for part in parts:
        yield from part.points()


class _Part:
    """A grid of axes, at a fixed choice, and the samples at each of its points."""

    def __init__(self, fixed: Point, overrides: Sequence[Override], sweep: Mapping[str, Any]) -> None:
        keys = [*(setting.key for setting in fixed), *(o.get_key_element() for o in overrides)]
        if doubled := [key for key in keys if keys.count(key) > 1]:
            raise Refusal(f"`{doubled[0]}` is given twice")
        self.drawn = [o for o in overrides if o.is_interval_sweep()]
        self._axes = [axis(o) for o in overrides if not o.is_interval_sweep()]
        self._fixed, self._seed, self._samples = fixed, sweep["seed"], sweep["samples"] or 1
        if self.drawn and not sweep["samples"]:
            raise Refusal(f"`{self.drawn[0].input_line}` is drawn: say how often, sweep.samples=64")
        self.count = math.prod(map(len, self._axes)) * (self._samples if self.drawn else 1)

    def sizes(self) -> str:
        """Return what the count comes from."""
        found = [f"{len(values)} of {values[0].key}" for values in self._axes]
        return " × ".join(found + ([f"{self._samples} samples"] if self.drawn else []))

    def points(self) -> Iterator[Point]:
        """Yield the grid, the samples varying fastest."""
        from gdexp.config.draws import draw

        draws = draw(self.drawn, self._samples, self._seed) if self.drawn else [()]
        for grid in itertools.product(*self._axes):
            for sample in draws:
                yield (*self._fixed, *grid, *sample)


def _parts(overrides: Sequence[Override], sweep: Mapping[str, Any]) -> Iterator[_Part]:
    """Yield a part for each option that `sweep.each` gives axes of its own, or that the sweep has beside those."""
    each = sweep["each"]
    swept = {o.get_key_element(): o for o in overrides}
    groups = [g for g in sources.groups() if set(map(str, each)) <= set(sources.options(g))]
    group = next((g for g in groups if g in swept), groups[0] if len(groups) == 1 else None)
    if group is None:
        hint = (
            f"; sweep one of {', '.join(groups)}" if groups else nearest(next(iter(each)), sources.options("optimizer"))
        )
        raise Refusal(f"`sweep.each`: {', '.join(map(str, each))} are no options of one group{hint}")
    chosen = axis(swept.pop(group)) if group in swept else [Setting(group, str(o), str(o)) for o in each]
    if rest := set(map(str, each)) - {setting.value for setting in chosen}:
        raise Refusal(f"`sweep.each`: {group}={min(rest)} isn't in the sweep")
    for setting in chosen:
        axes = each.get(setting.value) or {}
        if not isinstance(axes, Mapping):
            raise Refusal(
                f"`sweep.each.{setting.value}` must be a mapping as {{optimizer.lr: '0.1,0.2'}}, got {axes!r}"
            )
        own = parser().parse_overrides([f"{key}={_text(value)}" for key, value in _flat(axes)])
        yield _Part((setting,), [*swept.values(), *own], sweep)


def _flat(axes: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys, which may be nested too: {optimizer: {lr: …}}."""
    for key, value in axes.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _text(value: Any) -> str:
    from gdexp.config.written import typed

    return value if isinstance(value, str) else typed(value)


def axis(override: Override) -> list[Setting]:
    """Return the values of an axis; of an override that isn't a sweep, its one value.

    Raises:
        Refusal: there are none, or too many.
    """
    key, value = override.get_key_element(), override.value()
    if isinstance(value, Glob):
        found = [Setting(key, name, name) for name in value.filter(sources.options(key))]
    elif not override.is_sweep_override():
        found = [Setting(key, value, override.get_value_element_as_str())]
    else:
        if isinstance(value, RangeSweep) and (count := _length(value)) > LARGEST:
            raise Refusal(f"a sweep of {count} jobs ({key}): at most {LARGEST} are trained at once")
        elements = list(override.sweep_iterator(Transformer.identity))
        found = [Setting(key, Override._convert_value(e), str(Transformer.encode(e))) for e in elements]
    if not found:
        raise Refusal(f"`{override.input_line}` gives no values")
    return found


def as_typed(override: Override) -> str:
    """Return an override without our own functions, for a sweeper of another make."""
    line, key, value = override.input_line or "", override.get_key_element(), override.value()
    if not override.is_sweep_override() or not re.search(r"(log|lin)space\(|uniform\(", line):
        return line
    if isinstance(value, IntervalSweep):
        interval = f"interval({value.start},{value.end})"
        return f"{key}={f'tag(log,{interval})' if 'log' in value.tags else interval}"
    return f"{key}={','.join(setting.text for setting in axis(override))}"


def _length(values: RangeSweep) -> int:
    start, stop, step = values.start or 0, values.stop or 0, values.step
    return max(0, math.ceil((stop - start) / step))


def sweep_keys(overrides: Iterable[Override]) -> list[str]:
    """Return the keys that a sweep varies."""
    return [o.get_key_element() for o in overrides if o.is_sweep_override()]
