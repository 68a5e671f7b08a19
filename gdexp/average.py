"""An exponential moving average of the weights, by torch.optim.swa_utils."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Average:
    """m ← decay·m + (1 - decay)·w after every step, beginning with the weights after the first.

    As torch's AveragedModel does, only parameters are averaged; buffers are those of the model.

    Args:
        weights: the live tensors by name.
        decay: in [0, 1).
        follow: returns them as they are now; None: they stay the same tensors.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        decay: float,
        follow: Callable[[], Mapping[str, Tensor]] | None = None,
    ) -> None:
        self._follow, self._known = follow, weights
        named = any(isinstance(t, nn.Parameter) for t in weights.values())
        self._live = {k: t.detach() for k, t in weights.items()}
        self.weights = {k: t.clone() for k, t in self._live.items()}
        self._averaged = [
            k
            for k, t in weights.items()
            if (isinstance(t, nn.Parameter) if named else t.is_floating_point() or t.is_complex())
        ]
        self._copied = [k for k in weights if k not in self._averaged]
        self._update, self._steps = get_ema_multi_avg_fn(decay), 0

    @torch.no_grad()
    def after_step(self) -> None:
        """Take in the weights after a step."""
        self._refresh()
        mean, live = ([side[k] for k in self._averaged] for side in (self.weights, self._live))
        if self._steps == 0:
            torch._foreach_copy_(mean, live)
        else:
            self._update(mean, live, self._steps)
        self._steps += 1
        for k in self._copied:
            self.weights[k].copy_(self._live[k])

    def _refresh(self) -> None:
        """Find the tensors of the model where a forward pass assigns a buffer."""
        if self._follow is None or (now := self._follow()) is self._known:
            return
        self._known, self._live = now, {k: t.detach() for k, t in now.items()}
        grown = [k for k, t in self._live.items() if self.weights[k].shape != t.shape]
        self.weights |= {k: self._live[k].clone() for k in grown}

    def state_dict(self) -> dict[str, Any]:
        """Return the average and how many steps it has taken in."""
        return {"weights": self.weights, "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        for k, t in self.weights.items():
            t.copy_(state["weights"][k])
        self._steps = state["steps"]

    def keep(self, weights: Mapping[str, Tensor], places: Tensor) -> None:
        """Go on with the runs at these places, of several whose tensors are (runs, …)."""
        self._live = {k: t.detach() for k, t in weights.items()}
        self.weights = {k: t[places.to(t.device)] for k, t in self.weights.items()}

    def in_place(self) -> AbstractContextManager[None]:
        """Put the average into the model for a while."""
        self._refresh()
        return in_place(self._live, self.weights)


@contextmanager
def in_place(live: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Put other weights into a model for a while.

    Args:
        live: the model's tensors by name.
        weights: of the same names and shapes.
    """
    kept = {k: t.detach().clone() for k, t in live.items()}
    try:
        _set(live, weights)
        yield
    finally:
        _set(live, kept)


@torch.no_grad()
def _set(live: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    for k, t in live.items():
        t.copy_(weights[k])
