"""Splits that don't lie in memory: a `torch.utils.data.Dataset` or `DataLoader` in a split's place."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, Subset, default_collate

from gdexp.config.refusal import Refusal
from gdexp.data import TensorData
from gdexp.data.order import batch_order
from gdexp.data.partition import Plan, partition
from gdexp.data.split import rows


class Loader:
    """Batches of one split, made by the workers of a DataLoader and changed on arrival.

    Args:
        loader: of torch's; None: a Dataset's, made when its batch size is known.
        dataset: the rows.
    """

    def __init__(self, dataset: Any, loader: DataLoader | None = None) -> None:
        self.dataset, self.given = dataset, loader
        self._loader = loader
        self._order: _Order | None = None
        self._changes: list[Callable[[Any], Any]] = []

    @property
    def rows(self) -> int | None:
        """Number of rows, None for a stream."""
        return None if isinstance(self.dataset, IterableDataset) else len(self.dataset)

    def sample(self) -> Any:
        """Return a batch of two rows, or of a stream the first batch."""
        if self.rows is None or self.given is not None:
            batch = next(iter(self.given or DataLoader(self.dataset, batch_size=2)))
        else:
            batch = default_collate([self.dataset[i] for i in range(min(2, self.rows))])
        for change in self._changes:
            batch = change(batch)
        return batch

    def then(self, change: Callable[[Any], Any]) -> "Loader":
        """Return the same split with a further change to each batch."""
        new = Loader(self.dataset, self.given)
        new._changes = [*self._changes, change]
        return new

    def prepare(self, batch_size: int | None, workers: int, pin_memory: bool, drop_last: bool = False) -> None:
        """Make the DataLoader, once.

        Workers are seeded by torch from the generator, and they seed `random` and numpy in turn,
        as torch's notes on reproducibility say.
        """
        if self.given is not None:
            return
        total = self.rows
        if batch_size is None and total is None:
            raise Refusal("`trainer.batch_size` must be a number: the data is a stream of unknown length")
        self._order = None if total is None else _Order(total, batch_size or total)
        self._loader = DataLoader(
            self.dataset,
            batch_size=batch_size or total,
            sampler=self._order,
            drop_last=drop_last,
            num_workers=workers,
            pin_memory=pin_memory,
            worker_init_fn=_seed_worker,
            generator=torch.Generator(),
        )

    def batches(self, seed: int | None, epoch: int = 0) -> Iterator[tuple[int, Any]]:
        """Yield (rows, batch) of an epoch.

        Args:
            seed: of the order of the rows and of the workers; None: in their own order.
            epoch: likewise.
        """
        assert self._loader is not None, "prepare() comes first"
        if self.given is None:
            assert isinstance(self._loader.generator, torch.Generator)
            self._loader.generator.manual_seed((1_000_003 * (seed or 0) + epoch) % 2**32)
        if self._order is not None:
            self._order.seed, self._order.epoch = seed, epoch
        for batch in self._loader:
            for change in self._changes:
                batch = change(batch)
            yield rows(batch), batch


def from_torch(found: Any) -> TensorData | None:
    """Return Datasets or DataLoaders, one or (train, val) or (train, val, test), as data; None for anything else."""
    parts = found if isinstance(found, (tuple, list)) else (found,)
    if not 1 <= len(parts) <= 3 or not all(isinstance(p, (Dataset, DataLoader)) for p in parts):
        return None
    splits = [Loader(p.dataset, p) if isinstance(p, DataLoader) else Loader(p) for p in parts]
    names = getattr(splits[0].dataset, "classes", None)  # as torchvision's datasets have
    train, val, test = (*splits, None, None)[:3]
    return TensorData(train, val, test, len(names) if isinstance(names, (list, tuple)) else None)


def split_dataset(data: TensorData, **keys: Any) -> TensorData:
    """Hold rows of a Dataset apart, the same ones as `split` does of tensors.

    Args:
        data: as loaded.
        keys: those of `Plan`.
    """
    train, plan = data.train, Plan(**keys)
    if not plan.val_fraction and not plan.test_fraction and not plan.folds:
        return data
    if train.given is not None or train.rows is None:
        keys = "`data.fold` must be null" if plan.folds else "`data.val_fraction` and `data.test_fraction` must be 0"
        raise Refusal(f"{keys}: the data brings its own loader")
    if plan.split != "random":
        raise Refusal(f"`data.split={plan.split}` needs data in memory, not a Dataset")
    order, sizes = partition(data, train.rows, plan)
    parts = [Loader(Subset(train.dataset, index.tolist())) for index in order.split(sizes)]
    return data._replace(
        train=parts[0], val=parts[1] if sizes[1] else data.val, test=parts[2] if sizes[2] else data.test
    )


class _Order(Sampler[int]):
    """The order of rows that tensors in memory would have."""

    def __init__(self, total: int, batch_size: int) -> None:
        self.total, self.shuffles = total, batch_size < total
        self.seed: int | None = None
        self.epoch = 0

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator[int]:
        if self.seed is None or not self.shuffles:
            return iter(range(self.total))
        return iter(batch_order(self.total, self.seed, self.epoch).tolist())


def _seed_worker(worker: int) -> None:
    seed = torch.initial_seed() % 2**32
    random.seed(seed)
    np.random.seed(seed)
