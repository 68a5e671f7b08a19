"""One metric followed over the epochs: when to stop, and which weights were best."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gdexp.config.direction import cost
from gdexp.config.refusal import Refusal, nearest

if TYPE_CHECKING:
    from torch import Tensor


class Watch:
    """Follows a metric, of which NaN and infinities are worse than any number.

    Args:
        monitor: its name.
        mode: which values are better, `min` or `max`.
        patience: stop after so many epochs without an improvement; None: never.
        min_delta: what counts as one.
        target: stop when the metric is as good as this; None: never.
    """

    def __init__(
        self,
        monitor: str,
        *,
        mode: str = "min",
        patience: int | None = None,
        min_delta: float = 0.0,
        target: float | None = None,
    ) -> None:
        self.monitor, self.mode = monitor, mode
        self.patience, self.min_delta, self.target = patience, min_delta, target
        self.best, self.best_epoch = math.inf, 0  # in the sense of smaller is better; 0: none so far
        self.weights: list[Tensor] = []  # those of the best epoch
        self._reference, self._waited = math.inf, 0
        self._epoch: int | None = 0  # the last one seen; None: unknown, of an old checkpoint

    def see(self, epoch: int, metrics: Mapping[str, float], weights: "Sequence[Tensor]") -> str | None:
        """Take an epoch's metrics and weights; return why to stop, if there is a reason."""
        if self.monitor not in metrics:
            raise Refusal(f"`trainer.monitor`: this run has no {self.monitor!r}{nearest(self.monitor, metrics)}")
        value = metrics[self.monitor]
        loss = cost(value, self.mode)
        if loss < self.best:
            self.best, self.best_epoch = loss, epoch
            self.weights = [t.detach().clone() for t in weights]
        self._waited += 1 if self._epoch is None else epoch - self._epoch  # more where not every epoch is validated
        self._epoch = epoch
        if loss < self._reference - self.min_delta:
            self._reference, self._waited = loss, 0
        if self.target is not None and loss <= cost(self.target, self.mode):
            return f"{self.monitor} is {value:.6g}, the target {self.target:.6g}"
        if self.patience is not None and self._waited >= self.patience:
            return f"{self.monitor} has not improved for {self._waited} epochs {self._since()}"
        return None

    def _since(self) -> str:
        if not self.best_epoch:
            return "and was no finite number in any"
        best = self.best if self.mode == "min" else -self.best
        return f"on {best:.6g} of epoch {self.best_epoch}"

    def state_dict(self) -> dict[str, Any]:
        """Return what it has seen."""
        return {k: v for k, v in vars(self).items() if k in _SEEN}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        vars(self).update({k: state.get(k) for k in _SEEN})


_SEEN = ("best", "best_epoch", "weights", "_reference", "_waited", "_epoch")
