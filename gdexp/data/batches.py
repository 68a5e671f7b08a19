"""How the batches of an epoch come out of a split, in memory or behind a loader."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from gdexp.config.refusal import Refusal
from gdexp.data.loading import Loader
from gdexp.data.nest import copied, same
from gdexp.data.order import batch_order
from gdexp.data.split import rows


class OfEach(NamedTuple):
    """A batch with rows of its own for each run: a nest of tensors (runs, rows, …)."""

    batch: Any


class Batches:
    """The batches of a split, whose rows stay as they are whatever is done to a batch.

    The first one is given out as a copy. Where that has been written into, all are copies; else the
    rows themselves are given out, and a write that comes later is seen and refused.

    Args:
        split: a nest of tensors, or a Loader, which has its own batch size.
        size: rows a batch; None: all.
        whole: leave out a last batch that is smaller; a Loader decides that itself.
    """

    def __init__(self, split: Any, size: int | None, whole: bool = False) -> None:
        self._split = split
        self._copies: bool | None = None  # None: not known yet
        self._leaves = [t for t in tree_leaves(split) if isinstance(t, Tensor)]  # none of a Loader
        self._versions = [t._version for t in self._leaves]
        if not isinstance(split, Loader):
            self._total = rows(split)
            self._size = min(size or self._total, self._total)
            self._end = self._total - self._total % self._size if whole else self._total

    def __call__(self, seed: int | Sequence[int] | None, epoch: int = 0) -> Iterator[tuple[int, Any]]:
        """Yield (rows, batch) of an epoch; with one batch, or without a seed, the rows keep their order.

        Several seeds are those of several runs, each with a batch of its own.
        """
        if isinstance(self._split, Loader):
            return self._lent(self._split.batches(seed, epoch))  # type: ignore[arg-type]
        if self._size == self._total:
            return self._lent([(self._total, self._split)])
        leaves, form = tree_flatten(self._split)
        if seed is None:
            return self._lent(self._in_order(leaves, form))
        if isinstance(seed, int):
            return self._drawn(seed, epoch, leaves, form)
        return self._of_each(seed, epoch, leaves, form)

    def _drawn(self, seed: int, epoch: int, leaves: list[Any], form: Any) -> Iterator[tuple[int, Any]]:
        order = batch_order(self._total, seed, epoch).to(leaves[0].device, non_blocking=True)
        for index in order[: self._end].split(self._size):
            yield len(index), tree_unflatten([t.index_select(0, index) for t in leaves], form)

    def _in_order(self, leaves: list[Any], form: Any) -> Iterator[tuple[int, Any]]:
        for start in range(0, self._end, self._size):
            parts = [t[start : start + self._size] for t in leaves]
            yield len(parts[0]), tree_unflatten(parts, form)

    def _lent(self, batches: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
        """Yield batches of the rows themselves, or copies of them."""
        for n, batch in batches:
            if self._copies is None:
                given = copied(batch)
                yield n, given
                self._copies = not same(given, batch)
            else:
                yield n, copied(batch) if self._copies else batch
        if self._versions != [t._version for t in self._leaves]:
            raise Refusal("`data`: the model wrote into its rows, which it hadn't done at first; give it x.clone()")

    def _of_each(self, seeds: Sequence[int], epoch: int, leaves: list[Any], form: Any) -> Iterator[tuple[int, Any]]:
        """Yield batches of (runs, rows, …), in each run's order."""
        orders = {seed: batch_order(self._total, seed, epoch) for seed in set(seeds)}
        order = torch.stack([orders[seed] for seed in seeds]).to(leaves[0].device)  # (runs, rows)
        for index in order[:, : self._end].split(self._size, dim=1):
            parts = [t.index_select(0, index.flatten()).reshape(*index.shape, *t.shape[1:]) for t in leaves]
            yield index.shape[1], OfEach(tree_unflatten(parts, form))


def groups(batches: Iterable[tuple[int, Any]], size: int) -> Iterator[tuple[int, list[Any]]]:
    """Yield the rows and the batches of each step; the last step may have fewer batches than `size`."""
    if size == 1:
        for n, batch in batches:
            yield n, [batch]
        return
    group: list[tuple[int, Any]] = []
    for part in batches:
        group.append(part)
        if len(group) == size:
            yield sum(n for n, _ in group), [batch for _, batch in group]
            group = []
    if group:
        yield sum(n for n, _ in group), [batch for _, batch in group]
