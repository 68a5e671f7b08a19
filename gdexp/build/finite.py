"""Data that hold NaN or infinite values are refused by row and column; no rate would mend what they do to a loss."""

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from gdexp.build.fit import each, is_pair
from gdexp.config.refusal import Refusal
from gdexp.data import TensorData
from gdexp.data.loading import Loader
from gdexp.data.nest import moved
from gdexp.losses import Target, meaning

_ROWS = {"train": "training", "val": "validation", "test": "test"}
_TRIED = 4  # rows


def gap(data: TensorData) -> str:
    """Return in words where the first value stands that isn't finite; nothing if all are, or can't be seen."""
    for split, name in _ROWS.items():
        batch = getattr(data, split)
        if batch is not None and not isinstance(batch, Loader) and (found := _gap(batch)):
            return f"{found} of the {name} rows"
    return ""


def check_known(data: TensorData, loss: Any) -> TensorData:
    """Refuse such values where the loss is known; the batches of a loader are looked at as they come."""
    if loss is None or meaning(loss).target is Target.ANY:
        return data
    if data.gap:
        raise Refusal(_line(data.gap))
    return each(data, _checked) if isinstance(data.train, Loader) else data


def check_size(data: TensorData, dtype: torch.dtype) -> None:
    """Refuse numbers that are finite, but not in the dtype of training.

    Args:
        data: in that dtype; what it held before that wasn't finite is the model's affair.
        dtype: of the weights.
    """
    if not data.gap and (found := gap(data)):
        name = str(dtype).removeprefix("torch.")
        raise Refusal(
            f"`trainer.dtype={name}` makes an infinite value of a number in the data ({found}, counted from 0): "
            "scale it, as data.standardize does, or use trainer.dtype=float64"
        )


def check_own(data: TensorData, model: nn.Module, loss: Any) -> None:
    """Refuse such values where model and loss of the user's own don't pass over them, tried on rows that have some."""
    if not data.gap:
        return
    splits = [getattr(data, split) for split in _ROWS if getattr(data, split) is not None]
    batch = next(split for split in splits if _gap(split))
    bad = torch.stack([_odd(t).reshape(len(t), -1).any(1) for t in tree_leaves(batch)]).any(0)  # (rows,)
    order = bad.double().argsort(descending=True, stable=True)[:_TRIED]
    value = _tried(model, loss, tree_map(lambda t: t[order], batch))
    if not math.isfinite(value):
        raise Refusal(f"{_line(data.gap)}; their loss, or its gradient, isn't finite")


def _tried(model: nn.Module, loss: Any, batch: Any) -> float:
    """Return the sum of loss and gradients in a copy; 0 where it raises, which the run then says for itself."""
    state = torch.get_rng_state()
    batch = moved(batch, torch.device("cpu"), torch.get_default_dtype())
    try:
        trial: Any = copy.deepcopy(model)
        value: Any = trial.training_loss(batch) if loss is None else loss(trial(batch[0]), *batch[1:])
        value = value[0] if isinstance(value, tuple) else value
        value.backward()
        gradients = [p.grad.sum().item() for p in trial.parameters() if p.grad is not None]
        return value.item() + sum(gradients)
    except Exception:
        return 0.0
    finally:
        torch.set_rng_state(state)


def _checked(batch: Any) -> Any:
    if found := _gap(batch):
        raise Refusal(_line(f"{found} of a batch"))
    return batch


def _gap(batch: Any) -> str:
    parts: Mapping[str, Any] = {"values": batch}
    if is_pair(batch):
        parts = {"inputs": batch[0], "target": batch[1], "weights": batch[2] if len(batch) > 2 else None}
    for name, nest in parts.items():
        for t in tree_leaves(nest):
            if isinstance(t, Tensor) and (t.is_floating_point() or t.is_complex()) and (place := _place(t)):
                return f"{place} of the {name}"
    return ""


def _place(t: Tensor) -> str:
    """Return which value isn't finite, and where."""
    if not t.numel() or bool(torch.isfinite(t.sum())):  # quick; a sum of finite numbers may still overflow
        return ""
    odd = _odd(t)
    if not odd.any():
        return ""
    row, *column = (int(i) for i in torch.unravel_index(odd.flatten().to(torch.uint8).argmax(), t.shape))
    value = t[(row, *column)].item()
    where = f", column {', '.join(map(str, column))}" if column else ""
    return f"{'NaN' if value != value else value} in row {row}{where}"


def _odd(t: Tensor) -> Tensor:
    return ~torch.isfinite(t)


def _line(where: str) -> str:
    return (
        f"`data` holds {where} (counted from 0): leave such rows out or fill them in, "
        "those of a table by data.missing=drop or mean"
    )
