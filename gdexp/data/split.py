"""Validation and test rows held apart, and standardisation by the training rows."""

from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_map

from gdexp.config.refusal import Refusal
from gdexp.data import TensorData


def rows(batch: Any) -> int:
    """Return the number of rows of a nest of tensors, the first dimension of each."""
    leaves, _ = tree_flatten(batch)
    if not leaves or not all(isinstance(t, torch.Tensor) and t.dim() > 0 for t in leaves):
        raise Refusal("`data`: a split must be a tensor or a nest of tensors, each with rows as its first dimension")
    if len(counts := {len(t) for t in leaves}) > 1:
        raise Refusal(f"`data`: the tensors of a split must have equally many rows, got {sorted(counts)}")
    return counts.pop()


def split(data: TensorData, *, val_fraction: float, test_fraction: float, split_seed: int | None) -> TensorData:
    """Hold validation and test rows apart from the training rows.

    The rows are shuffled by `torch.randperm` of a generator seeded with `split_seed`; None leaves
    their order. Then the last ones are test, those before them validation. Splits that the data
    already has are kept.

    Args:
        data: as loaded.
        val_fraction: share of all rows below 1, or a number of rows.
        test_fraction: likewise.
        split_seed: which shuffle.
    """
    total = rows(data.train)
    if not val_fraction and not test_fraction:
        return data
    order, sizes = partition(data, total, val_fraction, test_fraction, split_seed)
    train, val, test = order.split(sizes)

    def take(index: torch.Tensor) -> Any:
        return tree_map(lambda t: t[index], data.train)

    return data._replace(
        train=take(train), val=take(val) if sizes[1] else data.val, test=take(test) if sizes[2] else data.test
    )


def partition(
    data: TensorData, total: int, val_fraction: float, test_fraction: float, split_seed: int | None
) -> tuple[torch.Tensor, list[int]]:
    """Return the rows in the order that the split takes them, and how many are train, val and test."""
    n_val, n_test = _count("val_fraction", val_fraction, total), _count("test_fraction", test_fraction, total)
    for name, wanted, there in (("val", n_val, data.val), ("test", n_test, data.test)):
        if wanted and there is not None:
            raise Refusal(f"`data.{name}_fraction` must be 0: the data brings its own {name} rows")
    if n_val + n_test >= total:
        raise Refusal(f"`data.val_fraction` and `data.test_fraction` leave no training rows of {total}")
    order = torch.arange(total)
    if split_seed is not None:
        order = torch.randperm(total, generator=torch.Generator().manual_seed(split_seed))
    return order, [total - n_val - n_test, n_val, n_test]


def standardize(data: TensorData, which: str) -> TensorData:
    """Shift and scale columns to mean 0 and deviation 1 over the training rows.

    Args:
        data: split, each split `(inputs, target)`.
        which: `inputs`, `both` (also a continuous target) or `none`. A constant column is only shifted.
    """
    if which == "none":
        return data
    if not (isinstance(data.train, (tuple, list)) and len(data.train) == 2 and _floating(data.train[0])):
        raise Refusal(f"`data.standardize={which}` needs data of the form (inputs, target) with floating inputs")
    columns = [0] if which == "inputs" or not _floating(data.train[1]) else [0, 1]
    moments = {i: _moments(data.train[i]) for i in columns}

    def scale(batch: Any) -> Any:
        if batch is None:
            return None
        return tuple((t - moments[i][0]) / moments[i][1] if i in moments else t for i, t in enumerate(batch))

    return data._replace(train=scale(data.train), val=scale(data.val), test=scale(data.test))


def _moments(t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    deviation, mean = torch.std_mean(t.double(), dim=0, correction=0)
    return mean.to(t.dtype), torch.where(deviation > 0, deviation, 1.0).to(t.dtype)


def _floating(t: Any) -> bool:
    return isinstance(t, torch.Tensor) and t.is_floating_point()


def _count(name: str, fraction: float, total: int) -> int:
    count = round(fraction * total) if fraction < 1 else int(fraction)
    if fraction and not 0 < count < total:
        raise Refusal(f"`data.{name}={fraction}` is {count} of {total} rows: it must leave some on both sides")
    return count
