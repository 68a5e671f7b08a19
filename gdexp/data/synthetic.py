"""Data made from a formula and a seed."""

import math

import torch

from gdexp.data import TensorData


def line() -> TensorData:
    """Return the tutorial's four points: x = 1, 2, 3, 4 of shape (4, 1) and y = 2x."""
    x = torch.tensor([[1.0], [2.0], [3.0], [4.0]], dtype=torch.float64)
    return TensorData((x, 2 * x))


def none() -> TensorData:
    """Return one row without columns, for a model that needs no data: an epoch is one step."""
    return TensorData(torch.empty(1, 0))


def linear_regression(rows: int = 1000, features: int = 10, noise: float = 0.1, seed: int = 0) -> TensorData:
    """Draw y = x·w + b + noise·ε, with x, w, b, ε standard normal.

    Returns:
        inputs (rows, features) and target (rows, 1), float64.
    """
    _at_least(1, rows=rows, features=features)
    _at_least(0, noise=noise, seed=seed)
    g = torch.Generator().manual_seed(seed)
    w, b = _normal(g, features, 1), _normal(g, 1)
    x, e = _normal(g, rows, features), _normal(g, rows, 1)
    return TensorData((x, x @ w + b + noise * e))


def classification(
    rows: int = 1000, features: int = 10, classes: int = 3, separation: float = 2.0, seed: int = 0
) -> TensorData:
    """Draw one Gaussian cloud of unit variance a class, around centres drawn with deviation `separation`.

    Returns:
        inputs (rows, features), float64, and target (rows,), int64; the classes are equally frequent.
    """
    _at_least(1, rows=rows, features=features)
    _at_least(2, classes=classes)
    _at_least(0, separation=separation, seed=seed)
    g = torch.Generator().manual_seed(seed)
    centres = separation * _normal(g, classes, features)
    target = (torch.arange(rows) % classes)[torch.randperm(rows, generator=g)]
    return TensorData((centres[target] + _normal(g, rows, features), target), classes=classes)


def moons(rows: int = 1000, noise: float = 0.1, seed: int = 0) -> TensorData:
    """Draw two half circles that reach into each other, with noise·ε, ε standard normal.

    Returns:
        inputs (rows, 2), float64, and target (rows,), int64: upper (0) and lower (1), equally frequent.
    """
    g = _drawn(rows, noise, seed)
    upper, lower = rows // 2, rows - rows // 2
    a, b = _spaced(0, math.pi, upper), _spaced(0, math.pi, lower)
    first = torch.stack([a.cos(), a.sin()], 1)
    second = torch.stack([1 - b.cos(), 0.5 - b.sin()], 1)
    return _points(g, [first, second], noise)


def circles(rows: int = 1000, factor: float = 0.5, noise: float = 0.1, seed: int = 0) -> TensorData:
    """Draw a circle of radius 1 around one of radius `factor`, with noise·ε, ε standard normal.

    Returns:
        inputs (rows, 2), float64, and target (rows,), int64: outer (0) and inner (1).
    """
    g = _drawn(rows, noise, seed)
    if not 0 <= factor < 1:
        raise ValueError(f"`data.factor` must be in [0, 1), got {factor}")
    outer, inner = (_spaced(0, 2 * math.pi, n + 1)[:-1] for n in (rows // 2, rows - rows // 2))
    rings = [torch.stack([outer.cos(), outer.sin()], 1), factor * torch.stack([inner.cos(), inner.sin()], 1)]
    return _points(g, rings, noise)


def spirals(rows: int = 1000, classes: int = 2, turns: float = 1.0, noise: float = 0.05, seed: int = 0) -> TensorData:
    """Draw arms r = t, angle = 2π·(turns·t + class/classes), t in [0, 1], with noise·ε, ε standard normal.

    Returns:
        inputs (rows, 2), float64, and target (rows,), int64.
    """
    _at_least(2, classes=classes)
    g = _drawn(rows, noise, seed)
    arms = []
    for c in range(classes):
        t = _spaced(0, 1, rows // classes + (c < rows % classes))
        angle = 2 * math.pi * (turns * t + c / classes)
        arms.append(torch.stack([t * angle.cos(), t * angle.sin()], 1))
    return _points(g, arms, noise)


def sine(rows: int = 2000, noise: float = 0.0, seed: int = 0) -> TensorData:
    """Return y = sin x + noise·ε on evenly spaced x from -π to π, ε standard normal.

    Returns:
        inputs (rows, 1) and target (rows, 1), float64.
    """
    g = _drawn(rows, noise, seed)
    x = _spaced(-math.pi, math.pi, rows)[:, None]
    return TensorData((x, x.sin() + noise * _normal(g, rows, 1)))


def xor(rows: int = 1000, noise: float = 0.1, seed: int = 0) -> TensorData:
    """Draw the corners of the unit square in turn, with noise·ε, ε standard normal.

    Returns:
        inputs (rows, 2), float64, and target (rows,), int64: 1 where one coordinate is 1.
    """
    g = _drawn(rows, noise, seed)
    corner = torch.arange(rows) % 4
    x, y = corner // 2, corner % 2
    inputs = torch.stack([x, y], 1).double() + noise * _normal(g, rows, 2)
    return TensorData((inputs, x ^ y), classes=2)


def _drawn(rows: int, noise: float, seed: int) -> torch.Generator:
    _at_least(2, rows=rows)
    _at_least(0, noise=noise, seed=seed)
    return torch.Generator().manual_seed(seed)


def _points(g: torch.Generator, clouds: list[torch.Tensor], noise: float) -> TensorData:
    """Return the rows of each class, one class after the other, with noise."""
    target = torch.cat([torch.full((len(cloud),), c) for c, cloud in enumerate(clouds)])
    x = torch.cat(clouds)
    return TensorData((x + noise * _normal(g, *x.shape), target), classes=len(clouds))


def _spaced(start: float, stop: float, count: int) -> torch.Tensor:
    return torch.linspace(start, stop, count, dtype=torch.float64)


def _normal(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _at_least(low: int, **values: float) -> None:
    for name, value in values.items():
        if value < low:
            raise ValueError(f"`data.{name}` must be at least {low}, got {value}")
