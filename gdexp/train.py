"""The training loop, written once, for one run or for several that train as one. It knows no config, file or MLflow.

for epoch in train(learner, data, epochs=100, batch_size=64, seed=0):
    print(epoch.epoch, epoch.train_loss)
"""

import itertools
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from gdexp.average import Average
from gdexp.config.refusal import Refusal
from gdexp.data import TensorData
from gdexp.data.batches import Batches, groups
from gdexp.data.generators import put_back
from gdexp.data.loading import Loader
from gdexp.measures import after_epoch, means
from gdexp.reading import Metrics
from gdexp.schedule import Schedule
from gdexp.watch import Watch

_EVALUATION_BATCHES = 8  # how many batches go through at once where no gradients are kept
OnStep = Callable[[int, Mapping[str, Tensor], Sequence[int | None]], object]


class Learner(Protocol):
    """What is trained: gradients, step and state."""

    def train_step(self, batch: Any) -> Mapping[str, Tensor]:
        """Update the weights by one batch and return scalars measured before the update, `train_loss` first."""

    def evaluate(self, batch: Any) -> Mapping[str, Tensor]:
        """Return scalars, means over the batch's rows, without touching the weights."""

    def weights(self) -> Mapping[str, Tensor]:
        """Return the live tensors that make up the weights, buffers included, by name."""


class Learners(Learner, Protocol):
    """Several runs as one learner: each measure is (runs,), each tensor of the weights (runs, …)."""

    def keep(self, places: Tensor) -> None:
        """Go on with the runs at these places only."""


class Run(NamedTuple):
    """What each of several runs has for itself.

    Args:
        seed: of the order of the rows, see `gdexp.data.order`.
        schedule: of the learning rate; `lr` is recorded.
        watch: stops the run and keeps the best weights.
    """

    seed: int = 0
    schedule: Schedule | None = None
    watch: Watch | None = None


class Epoch(NamedTuple):
    """What one pass over the training rows gave.

    Args:
        epoch: 1, 2, ….
        metrics: `train_loss`, measured before the updates; `val_loss` and the like, measured after.
        diverged: the run ended here, and its weights are those that began its last sound epoch.
        stopped: why the run ended here before its time, if it did.
        last: the run ended here.
        run: which of several, from 0.
    """

    epoch: int
    metrics: dict[str, float]
    diverged: bool = False
    stopped: str | None = None
    last: bool = False
    run: int = 0

    @property
    def train_loss(self) -> float:
        """Mean loss over the training rows, each measured before the update that used it."""
        return self.metrics["train_loss"]


def train(
    learner: Learner,
    data: TensorData,
    *,
    seed: int = 0,
    schedule: Schedule | None = None,
    watch: Watch | None = None,
    **options: Any,
) -> Iterator[Epoch]:
    """Train one run, and yield each epoch when it is over.

    Args:
        learner: updated in place.
        data: on the learner's device.
        seed: as in `Run`.
        schedule: likewise.
        watch: likewise.
        options: those of `Loop`.
    """
    for [epoch] in Loop(learner, data, [Run(seed, schedule, watch)], **options):
        yield epoch


class Loop:
    """One run or several in training: each iteration is an epoch of those that are still in it.

    A run diverges when its train_loss L_e isn't finite or L_e > divergence_factor · (1 + |L_1|),
    or when model or loss raise because its numbers are no longer finite: `nn.BCELoss` does so.
    One that has ended, so or otherwise, disturbs no other; what it left is cut off when that pays.

    Args:
        learner: updated in place; of several runs, if there are several.
        data: on the learner's device.
        runs: what they have each for itself.
        epochs: passes over the training rows.
        batch_size: rows a batch; None: all.
        drop_last: leave out an epoch's last batch where it is smaller.
        accumulate: batches a step.
        validate_every: measure the validation rows every so many epochs, and in a run's last one.
        divergence_factor: None: only a loss that isn't finite ends the run.
        max_steps: end after so many steps, within an epoch too.
        max_seconds: stop after so long, likewise.
        average: of the weights, measured on validation rows as `val_…_ema`.
        metrics: of validation rows, beside those of `learner.evaluate`.
        record: names of `gdexp.measures`.
        on_step: called after each step with its number, its measures, and the run at each place.
    """

    def __init__(
        self,
        learner: Learner | Learners,
        data: TensorData,
        runs: Sequence[Run],
        *,
        epochs: int,
        batch_size: int | None = None,
        drop_last: bool = False,
        accumulate: int = 1,
        validate_every: int = 1,
        divergence_factor: float | None = 1e8,
        max_steps: int | None = None,
        max_seconds: float | None = None,
        average: Average | None = None,
        metrics: Metrics | None = None,
        record: Collection[str] = (),
        on_step: OnStep | None = None,
    ) -> None:
        self._learner, self._data, self._runs, self._average = learner, data, runs, average
        self._epochs, self._max_steps, self._max_seconds = epochs, max_steps, max_seconds
        self._batch_size, self._accumulate, self._factor = batch_size, accumulate, divergence_factor
        self._metrics, self._record, self._on_step = metrics, record, on_step
        self._validate_every = validate_every
        self._of_train = metrics.of_train if metrics is not None else []
        self._validates = data.val is not None or bool(self._of_train)
        self._one_order = len({run.seed for run in runs}) == 1
        self._batches = Batches(data.train, batch_size, whole=drop_last)
        self._validation = None if data.val is None else _evaluated(data.val, batch_size)
        self._weights = _Weights(learner, len(runs) > 1)
        self._at: list[int | None] = list(range(len(runs)))  # the run at each place, None where it has ended
        self._limits = [math.inf] * len(runs)
        self.epoch, self.steps, self._spent = 0, 0, 0.0  # epochs that are over, steps, seconds before this process
        self._steps: list[tuple[int, Mapping[str, Tensor]]] = []  # rows and measures, of the epoch that isn't over
        self._broken = False  # whether numbers that aren't finite made model or loss raise in this epoch
        self._began = time.monotonic()
        self.caught_up: Callable[[], object] = lambda: None  # called when batches of a resumed epoch were passed over

    def __iter__(self) -> Iterator[list[Epoch]]:
        while self.epoch < self._epochs and self._at.count(None) < len(self._at):
            started = time.perf_counter()
            self._take_steps()
            settle(self._learner)
            steps, self._steps = self._steps, []
            trained = time.perf_counter() - started
            self.epoch += 1
            found = [{"train_loss": math.nan}] if self._broken else means(steps, len(self._at))  # of each run
            finished = self._diverged(found)
            ends = self.epoch == self._epochs or self.steps == self._max_steps
            due = ends or self.epoch % self._validate_every == 0 or self._is_late()
            if due and self._validates:
                finished += self._validate(found, [place for place, _ in _there(self._at)])
            before = _there(self._at)
            late = f"trainer.max_seconds={self._max_seconds:g} are over" if self._is_late() else None
            for place, i in before:
                own, run = found[place], self._runs[i]
                if self._record:
                    whole = time.perf_counter() - started
                    rows = sum(n for n, _ in steps)
                    own |= after_epoch(self._record, self._weights.of(place), rows, trained, whole)
                if run.schedule is not None:
                    run.schedule.after_epoch(own, validated=due)
                stopped = late
                if run.watch is not None and (due or not self._is_measured_after(run.watch.monitor)):
                    begun = len(steps) == 1 and not self._is_measured_after(run.watch.monitor)
                    seen = self._weights.measured(run.watch.monitor, place, self._average, begun)
                    stopped = run.watch.see(self.epoch, own, seen) or late
                last = ends or stopped is not None
                finished.append(Epoch(self.epoch, own, False, stopped, last, i))
                self._at[place] = None if last else i
            if self._validates and not due:  # those that were stopped are measured in their last epoch, too
                stops = {e.run for e in finished if e.stopped}
                finished = self._validate(found, [place for place, i in before if i in stops]) or finished
            yield sorted(finished, key=lambda e: e.run)
            if len(self._at) > 2:
                self._compact()

    def state_dict(self) -> dict[str, Any]:
        """Return where a single run is: between two epochs, or between two steps when called by `on_step`."""
        steps = [(n, {k: torch.as_tensor(v) for k, v in measures.items()}) for n, measures in self._steps]
        spent = self._spent + time.monotonic() - self._began
        own = {"epoch": self.epoch, "done": self.steps, "spent": spent, "limits": self._limits, "steps": steps}
        return own | self._weights.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.epoch, self.steps, self._spent = state["epoch"], state["done"], state["spent"]
        self._limits = list(state["limits"])
        self._steps = [(n, dict(measures)) for n, measures in state["steps"]]
        self._weights.load_state_dict(state)

    def _take_steps(self) -> None:
        """Take the steps of an epoch, or those that are left of it."""
        if not self._steps:
            self._weights.begin_epoch()
        scheduled = [s for _, i in _there(self._at) if (s := self._runs[i].schedule) is not None]
        if self._steps and (self.steps == self._max_steps or self._is_late()):
            return  # its state was taken after its last step
        batches = groups(self._batches(self._seeds(), self.epoch + 1), self._accumulate)
        if passed := len(self._steps):
            next(itertools.islice(batches, passed - 1, None))
            self.caught_up()
        for n, parts in batches:
            try:
                measures = self._learner.train_step(*parts)
            except Exception:
                if not self._is_divergence():
                    raise
                self._broken = True
                break
            self._steps.append((n, measures))
            self.steps += 1
            for schedule in scheduled:
                schedule.after_step()
            if self._average is not None:
                self._average.after_step()
            if self._on_step is not None:
                self._on_step(self.steps, measures, self._at)
            if self.steps == self._max_steps or self._is_late():
                break

    def _is_divergence(self) -> bool:
        """Say whether the learner raises because its weights, or the loss of its last step, are no longer finite.

        Of several runs that train as one an error is never that, for it would end the others too:
        the caller trains them one by one.
        """
        if len(self._runs) > 1:
            return False
        loss_is = not self._steps or bool(torch.isfinite(torch.as_tensor(self._steps[-1][1]["train_loss"])))
        return not (loss_is and all(map(_finite, self._weights.of(0))))

    def _diverged(self, found: Sequence[dict[str, float]]) -> list[Epoch]:
        """End the runs whose loss is no longer sound, and note the rate that each had."""
        ended = []
        for place, i in _there(self._at):
            loss = math.nan if self._broken else found[place]["train_loss"]
            if (schedule := self._runs[i].schedule) is not None:
                found[place]["lr"] = schedule.used
            if not math.isfinite(loss) or loss > self._limits[i]:
                self._weights.restore(place)
                ended.append(Epoch(self.epoch, found[place], True, None, True, i))
                self._at[place] = None
            elif self.epoch == 1 and self._factor is not None:
                self._limits[i] = self._factor * (1 + abs(loss))
        return ended

    def _validate(self, found: Sequence[dict[str, float]], places: Sequence[int]) -> list[Epoch]:
        """Add what the validation rows give to the metrics of the runs at these places; return what ends by it."""
        if not places:
            return []
        try:
            validated = self._validated()
        except Exception:
            if not self._is_divergence():
                raise
            self._broken = True
            return self._diverged(found)
        for place in places:
            if both := found[place].keys() & validated[place].keys():
                raise Refusal(f"{min(both)} is measured on the training rows and on others: rename one of the two")
            found[place] |= validated[place]
        return []

    def _validated(self) -> list[dict[str, float]]:
        """Measure the validation rows, with the weights and with their average."""
        several = len(self._at) if len(self._runs) > 1 else None
        found = self._measured_again(several)
        if self._validation is None:
            return found
        arguments = self._learner, self._validation, self._batch_size, self._metrics, several
        for own, measured in zip(found, evaluate(*arguments), strict=True):
            own |= {f"val_{k}": v for k, v in measured.items()}
        if self._average is not None:
            with self._average.in_place():
                for own, measured in zip(found, evaluate(*arguments), strict=True):
                    own |= {f"val_{k}_ema": v for k, v in measured.items()}
        return found

    def _measured_again(self, several: int | None) -> list[dict[str, float]]:
        """Measure the training rows after the epoch, where that is asked for, and leave no trace of it."""
        wanted = self._metrics.train if self._metrics is not None else None
        if wanted is None:
            return [{} for _ in self._at]
        split = self._data.train
        with put_back(*(split.generators() if isinstance(split, Loader) else ())):
            found = evaluate(self._learner, split, self._batch_size, wanted, several)
        return [{f"train_{name}": own[name] for name in wanted.names} for own in found]

    def _compact(self) -> None:
        """Cut off the runs that have ended once they are half of all; two stay, for one alone may round differently."""
        places = [place for place, _ in _there(self._at)]
        if 2 * len(places) > len(self._at):
            return
        rest = [place for place, i in enumerate(self._at) if i is None]
        index = torch.tensor((places + rest)[: max(len(places), 2)])
        self._learner.keep(index)  # type: ignore[union-attr]
        self._weights.keep(self._learner, index)
        if self._average is not None:
            self._average.keep(self._learner.weights(), index)
        self._at = [self._at[place] for place in index.tolist()]

    def _seeds(self) -> int | list[int]:
        """Return the seed of each place, one for all where the runs have no orders of their own."""
        if self._one_order:
            return self._runs[0].seed
        return [self._runs[0 if i is None else i].seed for i in self._at]

    def _is_measured_after(self, monitor: str) -> bool:
        """Say whether a metric is measured after an epoch, not along with its steps."""
        return monitor.startswith("val_") or monitor in self._of_train

    def _is_late(self) -> bool:
        if self._max_seconds is None:
            return False
        return time.monotonic() - self._began + self._spent >= self._max_seconds


def settle(learner: Learner) -> None:
    """Let a learner that trains other weights than it is used with bring them there, once its steps are done."""
    if callable(own := getattr(learner, "settle", None)):
        own()


def evaluate(
    learner: Learner,
    split: Any,
    batch_size: int | None = None,
    metrics: Metrics | None = None,
    runs: int | None = None,
) -> list[dict[str, float]]:
    """Return each run's measures on a split, means over its rows, and further metrics of the whole.

    Args:
        learner: of one run or of several.
        split: the rows, or the batches of them.
        batch_size: that of training; None: all.
        metrics: of the whole split.
        runs: how many, where there are several.
    """
    outputs: list[tuple[Any, Any]] = []
    keep = (outputs,) if metrics is not None and metrics.names else ()
    batches = split if isinstance(split, Batches) else _evaluated(split, batch_size)
    found = means([(n, learner.evaluate(batch, *keep)) for n, batch in batches(None)], runs or 1)
    if metrics is not None and keep:
        for place, own in enumerate(found):
            own |= metrics([(_of_place(output, place), target) for output, target in outputs] if runs else outputs)
    return found


def _evaluated(split: Any, batch_size: int | None) -> Batches:
    return Batches(split, _EVALUATION_BATCHES * batch_size if batch_size else None)


def _of_place(outputs: Any, place: int) -> Any:
    return tree_map(lambda t: t[place], outputs)  # (runs, rows, …) -> (rows, …)


class _Weights:
    """The live weights, those that began this epoch, and those that began the one before."""

    def __init__(self, learner: Learner, many: bool) -> None:
        self._many, self._learner = many, learner
        self._stacked = list(learner.weights().values())
        self._begun = [t.detach().clone() for t in self._live]
        self._before = [t.clone() for t in self._begun]

    @property
    def _live(self) -> Sequence[Tensor]:
        """The live weights; of one run they may be other tensors now, where a buffer is assigned."""
        return self._stacked if self._many else list(self._learner.weights().values())

    def state_dict(self) -> dict[str, list[Tensor]]:
        return {"begun": self._begun, "before": self._before}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        _copy(state["begun"], self._begun)
        _copy(state["before"], self._before)

    def begin_epoch(self) -> None:
        self._begun, self._before = self._before, self._begun
        _copy(self._live, self._begun)

    def of(self, place: int) -> Sequence[Tensor]:
        """Return the live weights of one run."""
        return self._at(place, self._live)

    def restore(self, place: int) -> None:
        """Give one run the last finite weights that began an epoch."""
        begun = self._at(place, self._begun)
        _copy(begun if all(map(_finite, begun)) else self._at(place, self._before), self._at(place, self._live))

    def measured(self, monitor: str, place: int, average: Average | None, begun: bool) -> Sequence[Tensor]:
        """Return the weights that the monitor was measured with: a lone step's loss is that of those before it.

        Args:
            monitor: its name.
            place: of the run.
            average: of the weights.
            begun: whether an epoch's only step measured it.
        """
        if average is not None and monitor.endswith("_ema"):
            return self._at(place, list(average.weights.values()))
        return self._at(place, self._begun if monitor.startswith("train_") and begun else self._live)

    def keep(self, learner: Learner, places: Tensor) -> None:
        """Go on with the runs at these places."""
        self._stacked = list(learner.weights().values())
        self._begun, self._before = ([t[places.to(t.device)] for t in side] for side in (self._begun, self._before))

    def _at(self, place: int, side: Sequence[Tensor]) -> Sequence[Tensor]:
        return [t[place] for t in side] if self._many else side


def _there(at: Sequence[int | None]) -> list[tuple[int, int]]:
    """Return place and number of the runs that haven't ended."""
    return [(place, i) for place, i in enumerate(at) if i is not None]


def _copy(source: Sequence[Tensor], target: Sequence[Tensor]) -> None:
    if len(source) != len(target):
        raise Refusal("`model`: it has other parameters or buffers than when it was made: register all in __init__")
    with torch.no_grad():
        for s, t in zip(source, target, strict=True):
            if s.shape != t.shape:  # a buffer that grows
                t.data = s.detach().clone()
            else:
                t.copy_(s)


def _finite(t: Tensor) -> bool:
    return bool(torch.isfinite(t).all())
