"""Splits that don't lie in memory: a `torch.utils.data.Dataset` or `DataLoader` in a split's place."""

import copy
import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, Subset, default_collate

from gdexp.config.refusal import Refusal
from gdexp.data import TensorData
from gdexp.data.generators import put_back
from gdexp.data.nest import size
from gdexp.data.order import batch_order
from gdexp.data.partition import Plan, partition

# all batches of a stream whose first one was looked at, by its DataLoader; what a run starts with is no state of it
_BEGUN: WeakKeyDictionary[DataLoader, Iterator[Any]] = WeakKeyDictionary()


class Loader:
    """Batches of one split, made by the workers of a DataLoader and changed on arrival.

    Args:
        dataset: the rows.
        loader: of torch's; None: a Dataset's, made when its batch size is known.
    """

    def __init__(self, dataset: Any, loader: DataLoader | None = None) -> None:
        self.dataset, self.given = dataset, loader
        self._loader = loader
        self._order: _Order | None = None
        self._changes: tuple[Callable[[Any], Any], ...] = ()
        self._apart: list[str] = []  # why rows can't be put together
        self._seen: dict[int, Any] = {}  # the batches that were looked at, by their rows

    @property
    def rows(self) -> int | None:
        """Number of rows, None for a stream."""
        if isinstance(self.dataset, IterableDataset) or not hasattr(self.dataset, "__len__"):
            return None
        return len(self.dataset)

    def sample(self, most: int = 2) -> Any:
        """Return a batch of so many rows, or of a stream the first batch.

        It is taken once, and leaves no trace: generators are given back as they were, a stream gives
        the batch again, and a shuffling DataLoader isn't asked for its order.
        """
        key = 0 if self._streams() else most
        if key not in self._seen:
            with put_back(*self.generators()):
                self._seen[key] = self._first_of_stream() if self._streams() else self._first_rows(most)
        batch = self._seen[key]
        for change in self._changes:
            batch = change(batch)
        return batch

    def generators(self) -> list[torch.Generator | None]:
        """Return the generators of a DataLoader that the data bring, and of its samplers."""
        samplers = [getattr(self.given, name, None) for name in ("sampler", "batch_sampler")]
        return [getattr(part, "generator", None) for part in (self.given, *samplers)]

    def then(self, change: Callable[[Any], Any]) -> "Loader":
        """Return the same split with a further change to each batch."""
        new = copy.copy(self)
        new._changes = (*self._changes, change)
        return new

    def prepare(self, batch_size: int | None, workers: int, seed: int, drop_last: bool = False) -> None:
        """Make the DataLoader, once.

        Workers are seeded by torch from the generator, and they seed `random` and numpy in turn,
        as torch's notes on reproducibility say.
        """
        if self.given is not None:
            return
        total = self.rows
        if total is None and not self._streams():
            raise Refusal("`data`: a Dataset must have a length (__len__), or be an IterableDataset")
        if self._apart and batch_size != 1:
            raise Refusal(
                f"`data`: its rows can't be put together in batches: {self._apart[0]}; bring a DataLoader that does it "
                "by its collate_fn, or take trainer.batch_size=1"
            )
        if batch_size is None and total is None:
            raise Refusal("`trainer.batch_size` must be a number: the data is a stream of unknown length")
        self._order = None if total is None else _Order(total, batch_size or total)
        self._loader = DataLoader(
            self.dataset,
            batch_size=batch_size or total,
            sampler=self._order,
            drop_last=drop_last,
            num_workers=workers,
            worker_init_fn=_seed_worker,
            generator=torch.Generator().manual_seed(_seed(seed, epoch=1)),
        )

    def pin(self) -> None:
        """Put batches of a DataLoader of ours where a GPU fetches them from."""
        if self.given is None and self._loader is not None:
            self._loader.pin_memory = True

    def batches(self, seed: int | None, epoch: int = 0) -> Iterator[tuple[int, Any]]:
        """Yield (rows, batch) of an epoch.

        Args:
            seed: of the order of the rows and of the workers; None: in their own order.
            epoch: likewise.

        Raises:
            Refusal: there is no batch.
        """
        batch = None
        for batch in self._of_epoch(seed, epoch):
            for change in self._changes:
                batch = change(batch)
            yield size(batch), batch
        if batch is None:
            when = f"in epoch {epoch}: a stream that can be read once needs trainer.epochs=1" if epoch else "to measure"
            raise Refusal(f"`data` gave no rows {when}")

    def _of_epoch(self, seed: int | None, epoch: int) -> Iterator[Any]:
        assert self._loader is not None, "prepare() comes first"
        begun = _BEGUN.pop(self._loader, None)
        if begun is not None and epoch == 1:
            return begun
        if self.given is None:
            assert isinstance(self._loader.generator, torch.Generator)
            self._loader.generator.manual_seed(_seed(seed or 0, epoch))
        if self._order is not None:
            self._order.seed, self._order.epoch = seed, epoch
        return iter(self._loader)

    def _streams(self) -> bool:
        return isinstance(self.dataset, IterableDataset)

    def _first_of_stream(self) -> Any:
        assert self._loader is not None, "prepare() comes first"
        batches = iter(self._loader)
        for batch in batches:
            _BEGUN[self._loader] = itertools.chain([batch], batches)
            return batch
        raise Refusal("`data` has no training rows")

    def _first_rows(self, most: int) -> Any:
        loader = self.given
        if loader is None:
            return self._joined([self.dataset[i] for i in range(min(most, len(self.dataset)))])
        try:
            if loader.batch_sampler is None:  # a row of the dataset is a batch
                return loader.collate_fn(self.dataset[0])
            return loader.collate_fn([self.dataset[i] for i in range(min(most, len(self.dataset)))])
        except Exception:  # its rows aren't numbered from 0, or don't go together but by its sampler
            return next(iter(loader))

    def _joined(self, found: list[Any]) -> Any:
        """Return rows of a Dataset as a batch; those that can't be one serve one by one."""
        try:
            return default_collate(found)
        except (RuntimeError, TypeError, KeyError) as error:
            self._apart.append(str(error).splitlines()[0])
            return default_collate(found[:1])


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
        key = "`data.fold` must be null" if plan.folds else "`data.val_fraction` and `data.test_fraction` must be 0"
        raise Refusal(f"{key}: the data brings its own loader")
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


def _seed(seed: int, epoch: int) -> int:
    return (1_000_003 * seed + epoch) % 2**32
