"""The training loop, written once. It knows neither configs nor files nor MLflow.

for epoch in train(learner, data, epochs=100, batch_size=64, seed=0):
    print(epoch.epoch, epoch.train_loss)
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from gdexp.data import TensorData
from gdexp.data.split import rows

_EVALUATION_BATCHES = 8  # how many batches go through at once where no gradients are kept


class Learner(Protocol):
    """What is trained: gradients, step and state."""

    def train_step(self, batch: Any) -> Mapping[str, Tensor]:
        """Update the weights by one batch and return scalars measured before the update, `train_loss` first."""

    def evaluate(self, batch: Any) -> Mapping[str, Tensor]:
        """Return scalars, means over the batch's rows, without touching the weights."""

    def weights(self) -> Sequence[Tensor]:
        """Return the live tensors that make up the weights, buffers included."""


class Epoch(NamedTuple):
    """What one pass over the training rows gave.

    Args:
        epoch: 1, 2, ….
        metrics: `train_loss`, measured before the updates; `val_loss` and the like, measured after.
        diverged: the run ended here, and its weights are those that began its last sound epoch.
    """

    epoch: int
    metrics: dict[str, float]
    diverged: bool = False

    @property
    def train_loss(self) -> float:
        """Mean loss over the training rows, each measured before the update that used it."""
        return self.metrics["train_loss"]


def train(
    learner: Learner,
    data: TensorData,
    *,
    epochs: int,
    batch_size: int | None = None,
    seed: int = 0,
    divergence_factor: float | None = 1e8,
) -> Iterator[Epoch]:
    """Train, and yield each epoch when it is over.

    A run diverges when its train_loss L_e isn't finite or L_e > divergence_factor · (1 + |L_1|).

    Args:
        learner: updated in place.
        data: on the learner's device.
        epochs: passes over the training rows.
        batch_size: rows a step; None: all.
        seed: of the order of the rows, see `batch_order`.
        divergence_factor: None: only a loss that isn't finite ends the run.
    """
    total = rows(data.train)
    size = min(batch_size or total, total)
    live = learner.weights()
    begun = [t.clone() for t in live]  # the weights that began this epoch,
    before = [t.clone() for t in live]  # and those that began the one before
    limit = math.inf
    for epoch in range(1, epochs + 1):
        begun, before = before, begun
        _copy(live, begun)
        steps = [(n, learner.train_step(batch)) for n, batch in _batches(data.train, total, size, seed, epoch)]
        metrics = _means(steps)
        loss = metrics["train_loss"]
        if not math.isfinite(loss) or loss > limit:
            _copy(begun if all(map(_finite, begun)) else before, live)
            yield Epoch(epoch, metrics, diverged=True)
            return
        if epoch == 1 and divergence_factor is not None:
            limit = divergence_factor * (1 + abs(loss))
        if data.val is not None:
            metrics |= {f"val_{k}": v for k, v in evaluate(learner, data.val, batch_size).items()}
        yield Epoch(epoch, metrics)


def evaluate(learner: Learner, split: Any, batch_size: int | None = None) -> dict[str, float]:
    """Return the learner's measures on a split, means over its rows."""
    total = rows(split)
    size = min(_EVALUATION_BATCHES * (batch_size or total), total)
    return _means([(n, learner.evaluate(batch)) for n, batch in _slices(split, total, size)])


def batch_order(total: int, seed: int, epoch: int) -> Tensor:
    """Return the order in which an epoch of mini-batches takes its rows, on the CPU.

    It is `torch.randperm(total)` of a generator seeded with (1000003·seed + epoch) mod 2³² (torch's
    CPU generator uses 32 bits of a seed), so it depends on nothing else.
    """
    generator = torch.Generator().manual_seed((1_000_003 * seed + epoch) % 2**32)
    return torch.randperm(total, generator=generator)


def _batches(split: Any, total: int, size: int, seed: int, epoch: int) -> Iterator[tuple[int, Any]]:
    """Yield (rows, batch); with one batch an epoch the rows keep their order."""
    if size == total:
        yield total, split
        return
    leaves, shape = tree_flatten(split)
    order = batch_order(total, seed, epoch).to(leaves[0].device, non_blocking=True)
    for index in order.split(size):
        yield len(index), tree_unflatten([t.index_select(0, index) for t in leaves], shape)


def _slices(split: Any, total: int, size: int) -> Iterator[tuple[int, Any]]:
    if size == total:
        yield total, split
        return
    leaves, shape = tree_flatten(split)
    for start in range(0, total, size):
        yield min(size, total - start), tree_unflatten([t[start : start + size] for t in leaves], shape)


def _means(steps: Sequence[tuple[int, Mapping[str, Tensor]]]) -> dict[str, float]:
    """Average each measure over its batches, weighted by their rows; the host waits here, once an epoch."""
    if len(steps) == 1:
        return {name: value.item() if isinstance(value, Tensor) else value for name, value in steps[0][1].items()}
    names = dict.fromkeys(name for _, measures in steps for name in measures)
    means = {}
    for name in names:
        there = [(n, torch.as_tensor(measures[name]).detach()) for n, measures in steps if name in measures]
        values = torch.stack([value for _, value in there]).tolist()
        total = 0.0
        for (n, _), value in zip(there, values, strict=True):
            total += n * value
        means[name] = total / sum(n for n, _ in there)
    return means


@torch.no_grad()
def _copy(source: Sequence[Tensor], target: Sequence[Tensor]) -> None:
    for s, t in zip(source, target, strict=True):
        t.copy_(s)


def _finite(t: Tensor) -> bool:
    return bool(torch.isfinite(t).all())
