"""Functions with a known minimum, as models: the point is the only parameter, a step needs no data.

Formulas and minima follow Surjanovic and Bingham, Virtual Library of Simulation Experiments
(2013), and Jamil and Yang (2013); each YAML file in conf/model names its own source.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn


class Objective(nn.Module):
    """A function f of a point x, with `distance` to the nearest minimizer and `gap` to the minimum.

    Args:
        start: where x begins, one number a dimension.
        minimizers: the points where f is least; one number a point stands for every coordinate.
        minimum: f there.
    """

    dimensions: int | None = None  # None: any from `least`
    least = 1
    greater_is_better: ClassVar = {"distance": False, "gap": False}

    def __init__(self, start: Sequence[float], minimizers: Sequence[Sequence[float]], minimum: float) -> None:
        super().__init__()
        if len(start) < self.least or (self.dimensions or len(start)) != len(start):
            raise ValueError(
                f"`model.start` must hold {self.dimensions or f'{self.least} or more'} numbers, got {list(start)}"
            )
        if not minimizers or any(len(m) not in (1, len(start)) for m in minimizers):
            raise ValueError(f"`model.minimizers` must hold points of {len(start)} numbers, got {minimizers}")
        self.x = nn.Parameter(_numbers(start))  # (dimensions,)
        points = [_numbers(m).expand(len(start)) for m in minimizers]
        self.register_buffer("minimizers", torch.stack(points), persistent=False)  # (points, dimensions)
        self.register_buffer("minimum", _numbers(minimum), persistent=False)

    def training_loss(self, batch: object) -> tuple[Tensor, dict[str, Tensor]]:
        """Return f(x), and how far it and x are from the minimum."""
        value, point = self.f(self.x), self.x.detach()
        distance = torch.linalg.vector_norm(point - self.minimizers, dim=1).min()  # type: ignore[operator]
        return value, {"distance": distance, "gap": value.detach() - self.minimum}  # type: ignore[operator]

    def forward(self, x: Tensor) -> Tensor:
        """Return f at points (…, dimensions)."""
        return self.f(x)

    def f(self, x: Tensor) -> Tensor:  # (…, dimensions) -> (…)
        raise NotImplementedError


class Rosenbrock(Objective):
    """Σ 100·(x_{i+1} - x_i²)² + (1 - x_i)²."""

    least = 2

    def f(self, x: Tensor) -> Tensor:
        a, b = x[..., :-1], x[..., 1:]
        return (100 * (b - a**2) ** 2 + (1 - a) ** 2).sum(-1)


class Beale(Objective):
    """(1.5 - x + xy)² + (2.25 - x + xy²)² + (2.625 - x + xy³)²."""

    dimensions = 2

    def f(self, x: Tensor) -> Tensor:
        x, y = x.unbind(-1)
        return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


class Himmelblau(Objective):
    """(x² + y - 11)² + (x + y² - 7)²."""

    dimensions = 2

    def f(self, x: Tensor) -> Tensor:
        x, y = x.unbind(-1)
        return (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2


class Booth(Objective):
    """(x + 2y - 7)² + (2x + y - 5)²."""

    dimensions = 2

    def f(self, x: Tensor) -> Tensor:
        x, y = x.unbind(-1)
        return (x + 2 * y - 7) ** 2 + (2 * x + y - 5) ** 2


class Branin(Objective):
    """(y - 5.1/(4π²)·x² + 5/π·x - 6)² + 10·(1 - 1/(8π))·cos x + 10."""

    dimensions = 2

    def f(self, x: Tensor) -> Tensor:
        x, y = x.unbind(-1)
        valley = y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6
        return valley**2 + 10 * (1 - 1 / (8 * math.pi)) * x.cos() + 10


class StyblinskiTang(Objective):
    """½·Σ x⁴ - 16x² + 5x; `minimum` is that of one coordinate."""

    def __init__(self, start: Sequence[float], minimizers: Sequence[Sequence[float]], minimum: float) -> None:
        super().__init__(start, minimizers, minimum * len(start))

    def f(self, x: Tensor) -> Tensor:
        return 0.5 * (x**4 - 16 * x**2 + 5 * x).sum(-1)


class Matyas(Objective):
    """0.26·(x² + y²) - 0.48·xy."""

    dimensions = 2

    def f(self, x: Tensor) -> Tensor:
        x, y = x.unbind(-1)
        return 0.26 * (x**2 + y**2) - 0.48 * x * y


class SixHumpCamel(Objective):
    """(4 - 2.1x² + x⁴/3)·x² + xy + (-4 + 4y²)·y²."""

    dimensions = 2

    def f(self, x: Tensor) -> Tensor:
        x, y = x.unbind(-1)
        return (4 - 2.1 * x**2 + x**4 / 3) * x**2 + x * y + (-4 + 4 * y**2) * y**2


class GoldsteinPrice(Objective):
    """The product of two polynomials of fourth degree, steep around a shallow middle."""

    dimensions = 2

    def f(self, x: Tensor) -> Tensor:
        x, y = x.unbind(-1)
        first = 19 - 14 * x + 3 * x**2 - 14 * y + 6 * x * y + 3 * y**2
        second = 18 - 32 * x + 12 * x**2 + 48 * y - 36 * x * y + 27 * y**2
        return (1 + (x + y + 1) ** 2 * first) * (30 + (2 * x - 3 * y) ** 2 * second)


class Rastrigin(Objective):
    """10·n + Σ x² - 10·cos 2πx."""

    def f(self, x: Tensor) -> Tensor:
        return 10 * x.shape[-1] + (x**2 - 10 * (2 * math.pi * x).cos()).sum(-1)


class Ackley(Objective):
    """-20·exp(-0.2·√(mean x²)) - exp(mean cos 2πx) + 20 + e."""

    def f(self, x: Tensor) -> Tensor:
        radius = (x**2).mean(-1).sqrt()
        return 20 + math.e - 20 * (-0.2 * radius).exp() - (2 * math.pi * x).cos().mean(-1).exp()


class Quadratic(Objective):
    """½·Σ λ_i·x_i².

    Args:
        start: where x begins; None: 1 in every dimension.
        spectrum: λ, the eigenvalues of the Hessian, not negative; None: `dimensions` numbers evenly
            spaced in their logarithm from `condition_number` down to 1.
        condition_number: largest over smallest eigenvalue, at least 1.
        dimensions: how many.
    """

    def __init__(
        self,
        start: Sequence[float] | None = None,
        spectrum: Sequence[float] | None = None,
        condition_number: float = 100.0,
        dimensions: int = 2,
    ) -> None:
        if spectrum is None:
            if condition_number < 1 or dimensions < 1:
                raise ValueError("`model.condition_number` and `model.dimensions` must be at least 1")
            exponents = torch.linspace(1, 0, dimensions, dtype=torch.float64).tolist()
            spectrum = [condition_number**e for e in exponents]
        if not spectrum or min(spectrum) < 0:
            raise ValueError(f"`model.spectrum` must hold numbers from 0, got {list(spectrum)}")
        if start is not None and len(start) != len(spectrum):
            raise ValueError(f"`model.start` must hold {len(spectrum)} numbers, got {list(start)}")
        super().__init__(start or [1.0] * len(spectrum), [[0.0]], 0.0)
        self.register_buffer("spectrum", _numbers(spectrum), persistent=False)

    def f(self, x: Tensor) -> Tensor:
        return 0.5 * (self.spectrum * x**2).sum(-1)  # type: ignore[operator]


def _numbers(values: Sequence[float] | float) -> Tensor:
    """Return numbers in float64, so that the dtype of the run rounds them once."""
    return torch.tensor(values, dtype=torch.float64)
