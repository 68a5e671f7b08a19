"""How the batches of an epoch come out of a split, in memory or behind a loader."""

from collections.abc import Iterable, Iterator
from typing import Any

from torch.utils._pytree import tree_flatten, tree_unflatten

from gdexp.data.loading import Loader
from gdexp.data.order import batch_order
from gdexp.data.split import rows


class Batches:
    """The batches of a split.

    Args:
        split: a nest of tensors, or a Loader, which has its own batch size.
        size: rows a batch; None: all.
    """

    def __init__(self, split: Any, size: int | None) -> None:
        self._split = split
        if not isinstance(split, Loader):
            self._total = rows(split)
            self._size = min(size or self._total, self._total)

    def __call__(self, seed: int | None, epoch: int = 0) -> Iterator[tuple[int, Any]]:
        """Yield (rows, batch) of an epoch; with one batch, or without a seed, the rows keep their order."""
        if isinstance(self._split, Loader):
            yield from self._split.batches(seed, epoch)
        elif self._size == self._total:
            yield self._total, self._split
        else:
            leaves, form = tree_flatten(self._split)
            if seed is None:
                for start in range(0, self._total, self._size):
                    parts = [t[start : start + self._size] for t in leaves]
                    yield len(parts[0]), tree_unflatten(parts, form)
                return
            order = batch_order(self._total, seed, epoch).to(leaves[0].device, non_blocking=True)
            for index in order.split(self._size):
                yield len(index), tree_unflatten([t.index_select(0, index) for t in leaves], form)


def groups(batches: Iterable[tuple[int, Any]], size: int) -> Iterator[tuple[int, list[Any]]]:
    """Yield the rows and the batches of each step; the last step may have fewer batches than `size`."""
    group: list[tuple[int, Any]] = []
    for part in batches:
        group.append(part)
        if len(group) == size:
            yield sum(n for n, _ in group), [batch for _, batch in group]
            group = []
    if group:
        yield sum(n for n, _ in group), [batch for _, batch in group]
