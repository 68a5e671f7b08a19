"""The learning rate over a run: torch's own schedulers, moved on once an epoch or once a step."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LinearLR, LRScheduler, ReduceLROnPlateau, SequentialLR


class Schedule:
    """A scheduler behind an optional linear warm-up.

    Args:
        optimizer: whose rates are set.
        make: optimizer -> scheduler of torch's; None: only the warm-up.
        interval: `epoch` or `step`.
        warmup: how many intervals the rate rises first.
        warmup_start_factor: share of the rate that the warm-up begins with.
        monitor: the metric that a scheduler such as ReduceLROnPlateau watches.

    Raises:
        ValueError: `make` gives no scheduler.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        make: Callable[[Optimizer], Any] | None,
        *,
        interval: str = "epoch",
        warmup: int = 0,
        warmup_start_factor: float = 1 / 3,
        monitor: str = "train_loss",
    ) -> None:
        self._optimizer, self._by_step, self._monitor = optimizer, interval == "step", monitor
        ramp = LinearLR(optimizer, warmup_start_factor, total_iters=warmup) if warmup else None
        main: Any = make(optimizer) if make else None
        if main is not None and not isinstance(main, LRScheduler):
            raise ValueError(f"a torch.optim.lr_scheduler.LRScheduler is needed, got {type(main).__name__}")
        self._watches, self._ramp, self._ramps = isinstance(main, ReduceLROnPlateau), ramp, warmup
        if ramp is not None and main is not None and not self._watches:
            main = SequentialLR(optimizer, [ramp, main], milestones=[warmup])
        self._main: Any = main or ramp
        # torch warns if the wrapper that it puts around optimizer.step was passed over, as `Step` does
        optimizer._opt_called = True  # type: ignore[attr-defined]
        self.used = self.rate

    @property
    def rate(self) -> float:
        """The rate of the first group of parameters."""
        return float(self._optimizer.param_groups[0]["lr"])

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where a checkpoint of an older version was; the rates themselves are the optimizer's."""
        self._main.load_state_dict(state["main"])
        if self._ramp is not None:
            self._ramp.load_state_dict(state["ramp"])
        self._ramps, self.used = state["ramps"], state["used"]

    def after_step(self) -> None:
        """Say that the optimizer has made a step."""
        self.used = self.rate
        if self._by_step:
            self._main.step()

    def after_epoch(self, metrics: dict[str, float], validated: bool = True) -> None:
        """Say that an epoch is over, with all that was measured in it.

        Args:
            metrics: by name.
            validated: whether the validation rows were measured; what watches them waits until they are.
        """
        if self._watches and self._ramps:
            self._ramps -= 1
            self._ramp.step()  # type: ignore[union-attr]
        elif self._watches:
            if validated or not self._monitor.startswith("val_"):
                value = metrics[self._monitor]
                self._main.step(value if math.isfinite(value) else math.nan)  # which is no improvement
        elif not self._by_step:
            self._main.step()
