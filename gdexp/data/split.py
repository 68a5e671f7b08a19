"""Validation and test rows held apart, and standardisation by the training rows."""

from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_map

from gdexp.config.refusal import Refusal
from gdexp.data import TensorData, Weighted
from gdexp.data.partition import Plan, partition

_ALWAYS = 10  # different values that may be classes in however few rows
_NEARLY_ALL = 0.9  # share of the rows


def rows(batch: Any) -> int:
    """Return the number of rows of a nest of tensors, the first dimension of each."""
    leaves, _ = tree_flatten(batch)
    if not leaves or not all(isinstance(t, torch.Tensor) and t.dim() > 0 for t in leaves):
        raise Refusal(
            "`data`: a split must be a tensor or a nest of tensors, each with rows as its first dimension; anything "
            "else comes in a DataLoader"
        )
    if len(counts := {len(t) for t in leaves}) > 1:
        raise Refusal(
            f"`data`: the tensors of a split must have equally many rows, got {sorted(counts)}; "
            "batches of anything else come from a DataLoader"
        )
    return counts.pop()


def split(data: TensorData, **keys: Any) -> TensorData:
    """Hold validation and test rows apart from the training rows; splits that the data already has are kept.

    Args:
        data: as loaded.
        keys: those of `Plan`.
    """
    total, plan = rows(data.train), Plan(**keys)
    if not plan.val_fraction and not plan.test_fraction and not plan.folds:
        return data
    order, sizes = partition(data, total, plan)
    train, val, test = order.split(sizes)

    def take(index: torch.Tensor) -> Any:
        return tree_map(lambda t: t[index], data.train)

    return data._replace(
        train=take(train), val=take(val) if sizes[1] else data.val, test=take(test) if sizes[2] else data.test
    )


def too_many_classes(different: int, rows: int) -> bool:
    """Say whether values are no names of classes since nearly each row has one of its own."""
    return different > _ALWAYS and different >= _NEARLY_ALL * rows


def few_classes(data: TensorData, classes: int | None, ignored: int | None = None) -> list[str]:
    """Return in words where classes lack: any of them among the training rows, all but one among the others.

    Args:
        data: split.
        classes: how many there are; None: the target isn't one of classes.
        ignored: the number of rows that have none.
    """
    found = []
    for name, part in zip(("training", "validation", "test"), data[:3], strict=True):
        target = part[1] if isinstance(part, (tuple, list)) and len(part) > 1 else None
        if classes is None or not isinstance(target, torch.Tensor) or target.numel() != len(target):
            continue
        labels = target.unique()
        there = len(labels) if ignored is None else int((labels != ignored).sum())
        if there < (classes if name == "training" else 2):
            found.append(f"the {name} rows hold {there} of {classes} classes")
    return found


def standardize(data: TensorData, which: str) -> TensorData:
    """Shift and scale columns to mean 0 and deviation 1 over the training rows.

    Args:
        data: split, each split `(inputs, target)`.
        which: `inputs`, `both` (also a floating target) or `none`. A constant column is only shifted.
    """
    if which == "none":
        return data
    is_pair = isinstance(data.train, (tuple, list)) and len(data.train) == 2
    if not ((is_pair or isinstance(data.train, Weighted)) and _floating(data.train[0])):
        raise Refusal(f"`data.standardize={which}` needs data of the form (inputs, target) with floating inputs")
    columns = [0] if which == "inputs" or not _floating(data.train[1]) else [0, 1]
    moments = {i: _moments(data.train[i]) for i in columns}

    def scale(batch: Any) -> Any:
        if batch is None:
            return None
        scaled = [(t - moments[i][0]) / moments[i][1] if i in moments else t for i, t in enumerate(batch)]
        return Weighted(*scaled) if isinstance(batch, Weighted) else tuple(scaled)

    return data._replace(train=scale(data.train), val=scale(data.val), test=scale(data.test))


def _moments(t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    deviation, mean = torch.std_mean(t.double(), dim=0, correction=0)
    return mean.to(t.dtype), torch.where(deviation > 0, deviation, 1.0).to(t.dtype)


def _floating(t: Any) -> bool:
    return isinstance(t, torch.Tensor) and t.is_floating_point()
