"""The training loop, written once. It knows neither configs nor files nor MLflow.

for epoch in train(learner, data, epochs=100, batch_size=64, seed=0):
    print(epoch.epoch, epoch.train_loss)
"""

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from gdexp.average import Average
from gdexp.data import TensorData
from gdexp.data.batches import Batches, groups
from gdexp.measures import after_epoch
from gdexp.metrics import Metric
from gdexp.schedule import Schedule
from gdexp.watch import Watch

_EVALUATION_BATCHES = 8  # how many batches go through at once where no gradients are kept
OnStep = Callable[[int, Mapping[str, Tensor]], object]


class Learner(Protocol):
    """What is trained: gradients, step and state."""

    def train_step(self, batch: Any) -> Mapping[str, Tensor]:
        """Update the weights by one batch and return scalars measured before the update, `train_loss` first."""

    def evaluate(self, batch: Any) -> Mapping[str, Tensor]:
        """Return scalars, means over the batch's rows, without touching the weights."""

    def weights(self) -> Mapping[str, Tensor]:
        """Return the live tensors that make up the weights, buffers included, by name."""


class Epoch(NamedTuple):
    """What one pass over the training rows gave.

    Args:
        epoch: 1, 2, ….
        metrics: `train_loss`, measured before the updates; `val_loss` and the like, measured after.
        diverged: the run ended here, and its weights are those that began its last sound epoch.
        stopped: why the run ended here before its time, if it did.
    """

    epoch: int
    metrics: dict[str, float]
    diverged: bool = False
    stopped: str | None = None

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
    accumulate: int = 1,
    seed: int = 0,
    divergence_factor: float | None = 1e8,
    max_steps: int | None = None,
    max_seconds: float | None = None,
    schedule: Schedule | None = None,
    average: Average | None = None,
    watch: Watch | None = None,
    metrics: Mapping[str, Metric] | None = None,
    record: Collection[str] = (),
    on_step: OnStep | None = None,
) -> Iterator[Epoch]:
    """Train, and yield each epoch when it is over.

    A run diverges when its train_loss L_e isn't finite or L_e > divergence_factor · (1 + |L_1|).

    Args:
        learner: updated in place.
        data: on the learner's device.
        epochs: passes over the training rows.
        batch_size: rows a batch; None: all.
        accumulate: batches a step.
        seed: of the order of the rows, see `gdexp.data.order`.
        divergence_factor: None: only a loss that isn't finite ends the run.
        max_steps: end after so many steps, within an epoch too.
        max_seconds: stop after so long, likewise.
        schedule: of the learning rate; `lr` is recorded.
        average: of the weights, measured on validation rows as `val_…_ema`.
        watch: stops the run and keeps the best weights.
        metrics: of validation rows, beside those of `learner.evaluate`.
        record: names of `gdexp.measures`.
        on_step: called after each step with its number and its measures.
    """
    batches = Batches(data.train, batch_size)
    live = list(learner.weights().values())
    begun = [t.detach().clone() for t in live]  # the weights that began this epoch,
    before = [t.clone() for t in begun]  # and those that began the one before
    limit, done, deadline = math.inf, 0, math.inf if max_seconds is None else time.monotonic() + max_seconds
    for epoch in range(1, epochs + 1):
        started = time.perf_counter()
        begun, before = before, begun
        _copy(live, begun)
        steps: list[tuple[int, Mapping[str, Tensor]]] = []
        for n, parts in groups(batches(seed, epoch), accumulate):
            measures = learner.train_step(*parts)
            steps.append((n, measures))
            done += 1
            if schedule is not None:
                schedule.after_step()
            if average is not None:
                average.after_step()
            if on_step is not None:
                on_step(done, measures)
            if done == max_steps or time.monotonic() >= deadline:
                break
        found = _means(steps)
        trained = time.perf_counter() - started
        loss = found["train_loss"]
        if schedule is not None:
            found["lr"] = schedule.used
        if not math.isfinite(loss) or loss > limit:
            _copy(begun if all(map(_finite, begun)) else before, live)
            yield Epoch(epoch, found, diverged=True)
            return
        if epoch == 1 and divergence_factor is not None:
            limit = divergence_factor * (1 + abs(loss))
        if data.val is not None:
            found |= _validated(learner, data.val, batch_size, metrics, average)
        if record:
            found |= after_epoch(record, live, sum(n for n, _ in steps), trained, time.perf_counter() - started)
        if schedule is not None:
            schedule.after_epoch(found)
        stopped = None
        if watch is not None:
            stopped = watch.see(epoch, found, _measured_weights(watch, live, begun, average, len(steps)))
        if stopped is None and time.monotonic() >= deadline:
            stopped = f"trainer.max_seconds={max_seconds:g} are over"
        yield Epoch(epoch, found, stopped=stopped)
        if stopped or done == max_steps:
            return


def evaluate(
    learner: Learner, split: Any, batch_size: int | None = None, metrics: Mapping[str, Metric] | None = None
) -> dict[str, float]:
    """Return the learner's measures on a split, means over its rows, and further metrics of the whole."""
    outputs: list[tuple[Tensor, Tensor]] = []
    keep = (outputs,) if metrics else ()
    batches = Batches(split, _EVALUATION_BATCHES * batch_size if batch_size else None)
    found = _means([(n, learner.evaluate(batch, *keep)) for n, batch in batches(None)])
    if metrics:
        output, target = (torch.cat(parts) for parts in zip(*outputs, strict=True))
        found |= {name: float(metric(output, target)) for name, metric in metrics.items()}
    return found


def _validated(
    learner: Learner, split: Any, size: int | None, metrics: Mapping[str, Metric] | None, average: Average | None
) -> dict[str, float]:
    found = {f"val_{k}": v for k, v in evaluate(learner, split, size, metrics).items()}
    if average is not None:
        with average.in_place():
            found |= {f"val_{k}_ema": v for k, v in evaluate(learner, split, size, metrics).items()}
    return found


def _measured_weights(
    watch: Watch, live: Sequence[Tensor], begun: Sequence[Tensor], average: Average | None, steps: int
) -> Sequence[Tensor]:
    """Return the weights that the monitor was measured with: a lone step's loss is that of the weights before it."""
    if average is not None and watch.monitor.endswith("_ema"):
        return list(average.weights.values())
    return begun if watch.monitor.startswith("train_") and steps == 1 else live


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
