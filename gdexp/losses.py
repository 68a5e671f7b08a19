"""Losses that torch has in another form; any other is torch's or the user's, by `_target_`."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

Loss = Callable[[Any, Any], Tensor]  # (output, target) -> scalar


class GaussianNLLLoss(nn.GaussianNLLLoss):
    """torch's Gaussian negative log likelihood, of an output that holds mean and log-variance.

    ½·(log v + (y - m)²/v), with m the first half of the output's columns and log v the second.
    The output has twice as many columns as the target.
    """

    def forward(self, output: Tensor, target: Tensor) -> Tensor:  # type: ignore[override]
        mean, log_variance = output.chunk(2, dim=1)  # (batch, columns) each
        return super().forward(mean, target, log_variance.exp())
