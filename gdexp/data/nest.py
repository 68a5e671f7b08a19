"""A batch as a nest of leaves, which need not be tensors: how many rows it counts for, and how it moves to a device."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_leaves, tree_map

from gdexp.data import Weighted
from gdexp.dtypes import partner

_TARGETS = ("y", "target", "targets", "label", "labels")  # under which names batches hold what is to be learnt


def size(batch: Any) -> int:
    """Return how many rows a batch counts for: the number of its targets, else the length of its first leaf.

    In memory that is its number of rows. A loader's batch may hold leaves of other lengths: the
    nodes and edges of graphs, a packed sequence, or texts.

    >>> size((["one text", "another"], torch.zeros(2))), size({"x": torch.zeros(9, 3), "y": torch.zeros(4)})
    (2, 4)
    """
    for nest in (target(batch), batch):
        for leaf in tree_leaves(nest):
            if isinstance(leaf, Tensor) and leaf.dim() > 0:
                return len(leaf)
    return len(batch) if hasattr(batch, "__len__") else 1


def target(batch: Any) -> Any:
    """Return what a batch says is to be learnt; None if it doesn't say."""
    if isinstance(batch, Weighted) or (isinstance(batch, (tuple, list)) and len(batch) == 2):
        return batch[1]
    if isinstance(batch, Mapping):
        return next((batch[name] for name in _TARGETS if name in batch), None)
    if isinstance(batch, (Tensor, tuple, list)):
        return None
    return next((getattr(batch, name) for name in _TARGETS if hasattr(batch, name)), None)


def copied(batch: Any) -> Any:
    """Return a nest whose tensors may be written into."""
    return tree_map(lambda leaf: leaf.clone() if callable(getattr(leaf, "clone", None)) else leaf, batch)


def same(one: Any, other: Any) -> bool:
    """Say whether two nests hold the same numbers, as far as they are tensors."""
    pairs = zip(tree_leaves(one), tree_leaves(other), strict=True)
    return all(torch.equal(a, b) for a, b in pairs if isinstance(a, Tensor) and a.layout == torch.strided)


def moved(batch: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Move a nest to a device, its floating tensors also to a dtype; leaves that can't be moved stay as they are."""
    pinned = device.type == "cuda"

    def move(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return leaf.to(device, partner(leaf, dtype), non_blocking=pinned)
        if isinstance(leaf, PackedSequence):  # its batch sizes stay on the CPU
            return leaf.to(device, partner(leaf.data, dtype))  # type: ignore[arg-type]
        return leaf.to(device) if callable(getattr(leaf, "to", None)) else leaf

    return tree_map(move, batch, is_leaf=lambda nest: isinstance(nest, PackedSequence))
