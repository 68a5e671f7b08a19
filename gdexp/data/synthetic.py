"""Data made from a formula and a seed."""

import torch

from gdexp.data import TensorData


def line() -> TensorData:
    """Return the tutorial's four points: x = 1, 2, 3, 4 of shape (4, 1) and y = 2x."""
    x = torch.tensor([[1.0], [2.0], [3.0], [4.0]], dtype=torch.float64)
    return TensorData((x, 2 * x))


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


def _normal(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _at_least(low: int, **values: float) -> None:
    for name, value in values.items():
        if value < low:
            raise ValueError(f"`data.{name}` must be at least {low}, got {value}")
