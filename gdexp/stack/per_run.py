"""One hyperparameter of several runs, which torch.optim's own single-tensor code takes for a number."""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor


class NotElementwise(RuntimeError):
    """A calculation in which runs would meet each other, or part ways."""


# functions (x, number) of which the number may be a tensor that is broadcast over the run's own numbers
_ELEMENTWISE = {
    name + underscore
    for name in ("add", "sub", "mul", "div", "true_divide", "lerp", "clamp", "maximum", "minimum", "pow")
    for underscore in ("", "_")
}


class PerRun:
    """One float64 a run. Arithmetic is that of as many Python floats.

    Where torch would take a number it takes a tensor (runs, 1, …): torch hands a call in which this
    stands as an argument to `__torch_function__`.

    Args:
        values: (runs,).

    Raises:
        NotElementwise: in a calculation that can't be done for each run apart.
    """

    __array_ufunc__ = None  # numpy must not take part
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, values: Sequence[float] | np.ndarray) -> None:
        self.values = np.asarray(values, dtype=np.float64)
        self._tensors: dict[tuple[int, torch.dtype, torch.device], Tensor] = {}

    def keep(self, places: Tensor) -> "PerRun":
        """Return the numbers of the runs at these places."""
        return PerRun(self.values[places.numpy()])

    def beside(self, x: Tensor) -> Tensor:
        """Return the numbers as (runs, 1, …), to be broadcast over a tensor (runs, …)."""
        if x.dim() == 0 or len(x) != len(self.values):
            raise NotElementwise(f"a number of each run meets a tensor of shape {tuple(x.shape)}")
        key = x.dim(), x.dtype, x.device
        if key not in self._tensors:
            column = torch.from_numpy(self.values).to(x.device, x.dtype)
            self._tensors[key] = column.reshape(-1, *[1] * (x.dim() - 1))
        return self._tensors[key]

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name, x, named = func.__name__, args[0], dict(kwargs or {})
        if isinstance(x, PerRun):
            raise NotElementwise(f"{name} of a number of each run")
        if name == "full_like":
            return args[1].beside(x).expand_as(x).clone()
        if isinstance(alpha := named.get("alpha"), PerRun):  # x + alpha·y
            if name.rstrip("_") != "add":
                raise NotElementwise(f"{name}(alpha=…)")
            return (x.addcmul_ if name == "add_" else x.addcmul)(args[1], alpha.beside(x))
        if isinstance(value := named.get("value"), PerRun):  # x + value·y·z and x + value·y/z
            if name.rstrip("_") not in ("addcmul", "addcdiv"):
                raise NotElementwise(f"{name}(value=…)")
            return getattr(x, name)(args[1] * value.beside(x), args[2])
        if name not in _ELEMENTWISE:
            raise NotElementwise(name)
        given = [a.beside(x) if isinstance(a, PerRun) else a for a in args]
        return func(*given, **{k: a.beside(x) if isinstance(a, PerRun) else a for k, a in named.items()})

    def _alike(self, compare: Callable[[Any, Any], Any], other: object) -> bool:
        """Return what a comparison says of all runs."""
        found = compare(self.values, other.values if isinstance(other, PerRun) else other)
        if found.all() or not found.any():
            return bool(found.all())
        raise NotElementwise("runs take different branches")

    def _calculated(self, calculate: Callable[[Any, Any], Any], other: Any, swapped: bool = False) -> Any:
        if isinstance(other, Tensor) and other.dim():
            own = self.beside(other)
            return calculate(other, own) if swapped else calculate(own, other)
        number = other.item() if isinstance(other, Tensor) else other.values if isinstance(other, PerRun) else other
        pair = (number, self.values) if swapped else (self.values, number)
        return PerRun(calculate(*pair))

    def __eq__(self, other: object) -> bool:
        return self._alike(operator.eq, other)

    def __ne__(self, other: object) -> bool:
        return self._alike(operator.ne, other)

    def __lt__(self, other: object) -> bool:
        return self._alike(operator.lt, other)

    def __le__(self, other: object) -> bool:
        return self._alike(operator.le, other)

    def __gt__(self, other: object) -> bool:
        return self._alike(operator.gt, other)

    def __ge__(self, other: object) -> bool:
        return self._alike(operator.ge, other)

    def __bool__(self) -> bool:
        return self != 0

    def __float__(self) -> float:
        raise NotElementwise("one number is wanted of several runs")

    def __neg__(self) -> Self:
        return type(self)(-self.values)

    def __add__(self, other: Any) -> Any:
        return self._calculated(operator.add, other)

    def __radd__(self, other: Any) -> Any:
        return self._calculated(operator.add, other, swapped=True)

    def __sub__(self, other: Any) -> Any:
        return self._calculated(operator.sub, other)

    def __rsub__(self, other: Any) -> Any:
        return self._calculated(operator.sub, other, swapped=True)

    def __mul__(self, other: Any) -> Any:
        return self._calculated(operator.mul, other)

    def __rmul__(self, other: Any) -> Any:
        return self._calculated(operator.mul, other, swapped=True)

    def __truediv__(self, other: Any) -> Any:
        return self._calculated(operator.truediv, other)

    def __rtruediv__(self, other: Any) -> Any:
        return self._calculated(operator.truediv, other, swapped=True)

    def __pow__(self, other: Any) -> Any:
        return self._calculated(_power, other)

    def __rpow__(self, other: Any) -> Any:
        return self._calculated(_power, other, swapped=True)


def merged(values: Sequence[Any]) -> Any:
    """Return one hyperparameter for the values that the runs have: itself if they are equal, else a PerRun.

    Raises:
        NotElementwise: they differ in more than numbers.
    """
    first = values[0]
    if all(type(v) is type(first) and v == first for v in values):
        return first
    if isinstance(first, (tuple, list)):
        return tuple(merged(column) for column in zip(*values, strict=True))
    if all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
        return PerRun(values)
    raise NotElementwise(f"the runs have {first!r} and {next(v for v in values if v != first)!r}")


def kept(value: Any, places: Tensor) -> Any:
    """Return a hyperparameter for the runs at these places."""
    if isinstance(value, tuple):
        return tuple(kept(v, places) for v in value)
    return value.keep(places) if isinstance(value, PerRun) else value


def _power(a: Any, b: Any) -> Any:
    """Return a**b as Python's floats have it; numpy's own may differ in the last bit."""
    pairs = np.broadcast_arrays(np.asarray(a, dtype=float), np.asarray(b, dtype=float))
    return np.array([x**y for x, y in zip(*(side.tolist() for side in pairs), strict=True)])
