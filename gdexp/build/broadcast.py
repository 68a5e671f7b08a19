"""A loss that pairs every output with every target, (rows, 1) with (rows,), because nobody gave them one shape."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from gdexp.config.refusal import Refusal

_FUSED = {F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss}  # they broadcast, and return a mean


class Crossing(Refusal):
    """A loss of every output against every target."""


class NoCrossing(TorchFunctionMode):
    """While it is entered, what is computed of a batch's own numbers may not be broadcast against them.

    A target (rows,) against an output (rows, 1) gives (rows, rows): every output less every target,
    whose mean is no loss of the rows. A loss that means it says so by `target[None, :]`.

    Args:
        batch: whose leaves, and what has their shape and is computed of them alone, are its numbers.
    """

    def __init__(self, batch: Any) -> None:
        super().__init__()
        self._given = {id(leaf): leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)}

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [t for t in (*args, *(kwargs or {}).values()) if isinstance(t, Tensor)]
        if len(tensors) == 2 and isinstance(result, Tensor):
            self._check(func, tensors[0], tensors[1], result)
        given = [t for t in tensors if id(t) in self._given]
        if given and len(given) == len(tensors) and isinstance(result, Tensor) and result.shape == given[0].shape:
            self._given[id(result)] = result
        return result

    def _check(self, func: Any, one: Tensor, other: Tensor, result: Tensor) -> None:
        if one.shape == other.shape or one.numel() != other.numel() or not one.numel() > 1:
            return
        pairs = (one, other), (other, one)
        if not any(_is_computed(a) and id(b) in self._given for a, b in pairs):
            return
        if func in _FUSED or result.numel() > one.numel():
            computed, given = next((a, b) for a, b in pairs if _is_computed(a) and id(b) in self._given)
            raise Crossing(
                f"the loss pairs every row with every row: {_shape(computed)} of the model against {_shape(given)} of "
                "the data; give them one shape, as by target.reshape(output.shape)"
            )


def _is_computed(t: Tensor) -> bool:
    return t.requires_grad and not t.is_leaf


def _shape(t: Tensor) -> str:
    return str(tuple(t.shape)).replace(str(t.shape[0]), "rows", 1) if t.dim() else "()"
