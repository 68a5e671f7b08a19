"""One metric followed over the epochs: when to stop, and which weights were best."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gdexp.config.refusal import Refusal, nearest

if TYPE_CHECKING:
    from torch import Tensor

# the metrics of gdexp.metrics of which more is better
LARGER_IS_BETTER = ("accuracy", "f1", "auroc", "r2", "top_")


class Watch:
    """Follows a metric.

    Args:
        monitor: its name.
        mode: `min`, `max` or `auto`, which is `max` for accuracy and its like.
        patience: stop after so many epochs without an improvement; None: never.
        min_delta: what counts as one.
        target: stop when the metric is as good as this; None: never.
    """

    def __init__(
        self,
        monitor: str,
        *,
        mode: str = "auto",
        patience: int | None = None,
        min_delta: float = 0.0,
        target: float | None = None,
    ) -> None:
        self.monitor, self.mode = monitor, mode if mode != "auto" else better(monitor)
        self.patience, self.min_delta, self.target = patience, min_delta, target
        self.best, self.best_epoch = float("inf"), 0  # in the sense of smaller is better
        self.weights: list[Tensor] = []  # those of the best epoch
        self._reference, self._waited = float("inf"), 0
        self._epoch: int | None = 0  # the last one seen; None: unknown, of an old checkpoint

    def see(self, epoch: int, metrics: Mapping[str, float], weights: "Sequence[Tensor]") -> str | None:
        """Take an epoch's metrics and weights; return why to stop, if there is a reason."""
        if self.monitor not in metrics:
            raise Refusal(f"`trainer.monitor`: this run has no {self.monitor!r}{nearest(self.monitor, metrics)}")
        value = metrics[self.monitor]
        loss = value if self.mode == "min" else -value
        if loss < self.best or not self.weights:
            self.best, self.best_epoch = loss, epoch
            self.weights = [t.detach().clone() for t in weights]
        self._waited += 1 if self._epoch is None else epoch - self._epoch  # more where not every epoch is validated
        self._epoch = epoch
        if loss < self._reference - self.min_delta:
            self._reference, self._waited = loss, 0
        if self.target is not None and loss <= (self.target if self.mode == "min" else -self.target):
            return f"{self.monitor} is {value:.6g}, the target {self.target:.6g}"
        if self.patience is not None and self._waited >= self.patience:
            best = self.best if self.mode == "min" else -self.best
            return f"{self.monitor} has not improved for {self._waited} epochs on {best:.6g} of epoch {self.best_epoch}"
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return what it has seen."""
        return {k: v for k, v in vars(self).items() if k in _SEEN}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        vars(self).update({k: state.get(k) for k in _SEEN})


_SEEN = ("best", "best_epoch", "weights", "_reference", "_waited", "_epoch")


def better(name: str) -> str:
    """Return `max` for a metric of which more is better, else `min`.

    >>> better("val_accuracy"), better("val_top_3"), better("val_loss")
    ('max', 'max', 'min')
    """
    plain = name.removeprefix("val_").removesuffix("_ema")
    return "max" if plain.startswith(LARGER_IS_BETTER) else "min"
