"""A training session: the loop with its record, its hooks and its checkpoints."""

import functools
import json
import math
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from gdexp import stop
from gdexp.average import in_place
from gdexp.build.encoding import Unkept
from gdexp.build.state import State
from gdexp.checkpoint import Checkpoints
from gdexp.config import direction
from gdexp.config.refusal import Refusal, TakenOver, Withdrawn
from gdexp.failure import is_of_users_code
from gdexp.lines import warn
from gdexp.terminal import Progress, SweepProgress, resume_line
from gdexp.tracking import code
from gdexp.train import Epoch, Loop, OnStep, evaluate, settle

if TYPE_CHECKING:
    from torch import Tensor

    from gdexp.build import Parts
    from gdexp.tracking import Record

_ENDS = ("epochs", "max_steps", "max_seconds", "patience", "target")


DEFAULT_OBJECTIVES = ("val_loss", "train_loss")


_OF_CONTENTS = (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError, AssertionError)


class Unfit(Refusal):
    """A checkpoint from which a run can't go on."""


class End(NamedTuple):
    """What became of a run: its outcome, the first and last value of each metric, and what it is ordered by.

    Args:
        objective: name, value, and which way it is better.
    """

    outcome: str
    metrics: dict[str, tuple[float, ...]]
    objective: tuple[str, float, str] | None


class Session:
    """Trains one run, or several as one, and records them.

    Args:
        parts: of the runs.
        record: of the runs, begun.
        sweep: the bar of the sweep that they belong to.
        texts: that the runs began with, among them their code; None: it isn't looked at once more.
    """

    def __init__(
        self,
        parts: "Parts",
        record: "Record",
        sweep: SweepProgress | None = None,
        texts: Mapping[str, str] | None = None,
    ) -> None:
        self._parts, self._record, self._sweep = parts, record, sweep
        self._texts, self._late = texts, False  # late: code was used that the key of the job doesn't know
        self._first: dict[int, dict[str, float]] = {}  # metrics of each run's first epoch
        self._best: dict[int, float] = {}  # each run's best objective
        self._gaps: dict[int, dict[str, dict[str, Any]]] = {}  # metrics of each run that weren't finite numbers
        self._better = functools.cache(lambda name: direction.of_objective(name, parts.config))
        self._paths = [_Path() for _ in parts.runs] if parts.trajectory else []
        self._ended: Epoch | None = None  # the last epoch of a single run
        record.keep(self._cut_off)

    def train(self, state: Mapping[str, Any] | None = None) -> list[End]:
        """Train to the end; return what became of each run.

        Args:
            state: of a checkpoint to go on from; None: from the beginning.
        """
        parts, ends = self._parts, dict[int, End]()
        shown = nullcontext(self._sweep) if self._sweep else Progress(parts.config)
        with torch_set_up(parts), shown as progress:
            loop = self._loop(progress)
            self._keeper = _Keeper(self, parts, loop, self._record)
            if state is not None:
                self._restore(state)
            else:
                for run, path in enumerate(self._paths):
                    path.add(self._of_run(run, parts.learner.weights()))
            with self._keeper:
                if self._ended is not None:  # all was trained, but the record wasn't closed
                    ends[0] = self._finish(self._ended, tested(self._parts).get(0, {}))
                for epochs in self._checked(loop, state) if not ends else ():
                    self._keeper.before_recording(epochs[0])
                    ended = [epoch for epoch in epochs if epoch.last]
                    measured = tested(self._parts) if ended else {}
                    for epoch in epochs:
                        self._note(epoch)
                    self._ended = ended[0] if ended else None
                    self._keeper.after_epoch(epochs[0])
                    for epoch in ended:
                        ends[epoch.run] = self._finish(epoch, measured.get(epoch.run, {}))
                    progress.epochs(epochs, parts.config["trainer"]["epochs"])
                    if len(ends) < len(parts.runs):
                        stop.obey()
        return [ends[run] for run in sorted(ends)]

    def _restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint, which may be whole and hold anything.

        Raises:
            Unfit: it isn't one of this run; the parts are of no more use then.
        """
        try:
            self._keeper.restore(state)
            self._load_state_dict(state["session"])
        except (Refusal, *_OF_CONTENTS) as error:
            raise Unfit(_first_line(error)) from error

    def _checked(self, loop: Loop, state: Mapping[str, Any] | None) -> Iterator[list[Epoch]]:
        """Yield the epochs of a loop; if its first step fails in torch, it went on from no state of this run."""
        done = loop.steps
        try:
            yield from loop
        except _OF_CONTENTS as error:
            if state is None or loop.steps > done or isinstance(error, Refusal) or is_of_users_code(error):
                raise
            raise Unfit(f"training can't go on from it: {_first_line(error)}") from error

    def state_dict(self) -> dict[str, Any]:
        """Return what is remembered of the epochs so far."""
        ended = self._ended and {**self._ended._asdict(), "ends": self._limits()}
        paths = [path.rows() for path in self._paths]
        numbers = {"first": self._first, "best": self._best, "gaps": self._gaps}
        return {**numbers, "paths": paths, "ended": ended}

    def _load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._first, self._best, self._gaps = dict(state["first"]), dict(state["best"]), dict(state.get("gaps", {}))
        numbers = [*self._best.values(), *(v for own in self._first.values() for v in own.values())]
        if not all(isinstance(v, (int, float)) for v in numbers):
            raise ValueError("what it remembers of the first epoch are no numbers")
        self._paths = [_Path(rows) for rows in state["paths"]]
        ended = dict(state.get("ended") or {})
        if ended and ended.pop("ends") == self._limits():  # else the run is to be longer now
            self._ended = Epoch(**ended)

    def _limits(self) -> dict[str, Any]:
        """Return what decides when a run ends."""
        return {k: self._parts.config["trainer"].get(k) for k in _ENDS}

    def _note(self, epoch: Epoch) -> None:
        """Record an epoch of a run."""
        run, node = epoch.run, self._parts.config["sweep"]
        self._record.add(epoch.epoch, epoch.metrics, run)
        for hook in self._parts.hooks:
            hook(epoch, self._parts.model)
        self._first[run] = epoch.metrics | self._first.get(run, {})
        if run in self._gaps or not all(map(math.isfinite, epoch.metrics.values())):
            self._note_gaps(epoch, epoch.metrics)
        if node["objective_at"] == "best" and self._counts(epoch) and (name := ordered_by(node, epoch.metrics)):
            now, mode = epoch.metrics[name], self._better(name)
            self._best[run] = min(self._best.get(run, now), now, key=lambda value: direction.cost(value, mode))
        if self._paths:
            self._paths[run].add(self._of_run(run, self._parts.learner.weights()))

    def _counts(self, epoch: Epoch) -> bool:
        """Say whether an epoch has what runs are ordered by: without validation it would be the training loss."""
        validated = epoch.last or epoch.epoch % self._parts.config["trainer"]["validate_every"] == 0
        there = validated or self._parts.data.val is None or self._parts.config["sweep"]["objective"] is not None
        return there and not epoch.diverged

    def _note_gaps(self, epoch: Epoch, metrics: Mapping[str, float]) -> None:
        """Note what isn't a finite number, which no store gets; of a loss that ends its run other tags tell."""
        if epoch.diverged:
            return
        gaps = self._gaps.get(epoch.run, {})
        for name, value in metrics.items():
            if name in gaps or not math.isfinite(value):
                gaps.setdefault(name, {"first_epoch": epoch.epoch})["at_end"] = not math.isfinite(value)
        if gaps:
            self._gaps[epoch.run] = gaps

    def _finish(self, epoch: Epoch, measured: Mapping[str, float]) -> End:
        """Record the end of a run."""
        run, last = epoch.run, epoch.metrics | dict(measured)
        self._record.add(epoch.epoch, measured, run)
        self._note_gaps(epoch, measured)
        value = None
        if name := ordered_by(self._parts.config["sweep"], last):
            value = name, self._best.get(run, last[name]), self._better(name)
        outcome = "diverged" if epoch.diverged else "stopped" if epoch.stopped else "completed"
        self._record.finish(outcome, self._files(run), self._tags(epoch), run)
        return End(outcome, {k: (self._first[run].get(k, v), v) for k, v in last.items()}, value)

    def _tags(self, epoch: Epoch) -> dict[str, object]:
        tags: dict[str, object] = {}
        if epoch.diverged:
            tags["gdexp.diverged_at"] = epoch.epoch
        if epoch.stopped:
            tags["gdexp.stopped_because"] = epoch.stopped
        watch = self._parts.runs[epoch.run].watch
        if watch is not None and watch.weights:
            tags["gdexp.best_epoch"] = watch.best_epoch
        if gaps := self._gaps.get(epoch.run):
            tags["gdexp.nan"] = json.dumps(gaps)
        if self._late:
            tags["gdexp.job"] = "unknown"
        return tags

    def look_at_code(self) -> None:
        """Record the code that the first step has brought, of which the job wasn't known to be made."""
        if self._texts is None or not self._record.folders:
            return
        begun = {k.removeprefix("code/"): v for k, v in self._texts.items() if k.startswith("code/")}
        if not (changed := code.later(self._parts.config, begun)):
            return
        self._late = True
        self._record.add_texts({f"code/{name}": text for name, text in changed.items()})
        if self._sweep is not None:
            names = ", ".join(changed)
            self._sweep.note_once(f"No run with {names} counts as already done: it was imported while training")

    def _cut_off(self, run: int) -> Mapping[str, "Tensor"]:
        """Return what is saved of a run that is cut off, perhaps within an epoch."""
        settle(self._parts.learner)
        return self._of_run(run, self._parts.learner.weights())

    def _files(self, run: int) -> dict[str, Mapping[str, "Tensor"]]:
        """Return what is written as safetensors files, by their names."""
        parts = self._parts
        files: dict[str, Mapping[str, Tensor]] = {"weights": self._of_run(run, parts.learner.weights())}
        watch = parts.runs[run].watch
        if watch is not None and watch.weights:
            files["weights_best"] = dict(zip(files["weights"], watch.weights, strict=True))
        if parts.average is not None:
            files["weights_ema"] = self._of_run(run, parts.average.weights)
        if self._paths:  # where the last epoch led is in the final weights
            files["trajectory"] = {name: t[:-1] for name, t in self._paths[run].rows().items()}
        return files

    def _of_run(self, run: int, tensors: Mapping[str, "Tensor"]) -> Mapping[str, "Tensor"]:
        """Return the tensors of one run: those that a stack holds for it now, or as they are."""
        learner: Any = self._parts.learner
        return learner.of_run(run, tensors) if len(self._parts.runs) > 1 else tensors

    def _loop(self, progress: Progress | SweepProgress) -> Loop:
        parts, every = self._parts, self._parts.config["trainer"]["log_steps"]

        def on_step(step: int, measures: Mapping[str, "Tensor"], at: Sequence[int | None]) -> None:
            if every is not None and step % every == 0:
                losses = torch.as_tensor(measures["train_loss"]).detach().reshape(-1).tolist()
                for run, loss in zip(at, losses, strict=True):
                    if run is not None:
                        self._record.add(step, {"train_loss_step": loss}, run)
            progress.step(step)
            self._keeper.after_step()

        return make_loop(parts, on_step)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}".removeprefix("Refusal: ")


def tested(parts: "Parts") -> dict[int, dict[str, float]]:
    """Measure the test rows, with the weights as they are, with their average and with the best, by run."""
    if parts.data.test is None:
        return {}
    runs = parts.learner.runs if len(parts.runs) > 1 else [0]  # type: ignore[attr-defined]
    arguments = parts.learner, parts.data.test, parts.config["trainer"]["batch_size"], parts.metrics
    several = len(runs) if len(parts.runs) > 1 else None
    found = [{f"test_{k}": v for k, v in own.items()} for own in evaluate(*arguments, several)]
    if parts.average is not None:
        with parts.average.in_place():
            for own, averaged in zip(found, evaluate(*arguments, several), strict=True):
                own |= {f"test_{k}_ema": v for k, v in averaged.items()}
    if best := _best_weights(parts, runs):
        with in_place(parts.learner.weights(), best):
            for run, own, measured in zip(runs, found, evaluate(*arguments, several), strict=True):
                if _has_best(parts, run):
                    own |= {f"test_{k}_best": v for k, v in measured.items()}
    return dict(zip(runs, found, strict=True))


def _has_best(parts: "Parts", run: int) -> bool:
    watch = parts.runs[run].watch
    return watch is not None and bool(watch.weights)


def _best_weights(parts: "Parts", runs: Sequence[int]) -> "dict[str, Tensor]":
    """Return weights of which those runs that have best ones have these; nothing if none has."""
    if not any(_has_best(parts, run) for run in runs):
        return {}
    weights = {k: t.detach().clone() for k, t in parts.learner.weights().items()}
    for place, run in enumerate(runs):
        if (watch := parts.runs[run].watch) is not None and watch.weights:
            for t, best in zip(weights.values(), watch.weights, strict=True):
                (t[place] if len(parts.runs) > 1 else t).copy_(best)
    return weights


def make_loop(parts: "Parts", on_step: OnStep, max_steps: int | None = None) -> Loop:
    """Return the loop that trains these parts.

    Args:
        parts: of the runs.
        on_step: called after each step.
        max_steps: end before the config says so.
    """
    trainer = parts.config["trainer"]
    keys = (
        *("epochs", "batch_size", "drop_last", "accumulate", "validate_every", "divergence_factor"),
        *("max_steps", "max_seconds", "record"),
    )
    options = {k: trainer[k] for k in keys}
    if max_steps is not None:
        options["max_steps"] = min(max_steps, options["max_steps"] or max_steps)
    return Loop(
        parts.learner,
        parts.data,
        parts.runs,
        average=parts.average,
        metrics=parts.metrics,
        on_step=on_step,
        **options,
    )


class _Keeper:
    """Decides when the state of a run is kept: every so many epochs or minutes, and when it is told to stop."""

    def __init__(self, session: Session, parts: "Parts", loop: Loop, record: "Record") -> None:
        trainer = parts.config["trainer"]
        self._session, self._parts, self._loop, self._record = session, parts, loop, record
        self._every = trainer["checkpoint_every"]
        self._seconds = None if trainer["checkpoint_minutes"] is None else 60 * trainer["checkpoint_minutes"]
        folder, run_id = record.folders[0] if record.folders else None, record.run_ids[0]
        self._files: Checkpoints | None = None
        self._alone = len(parts.runs) == 1
        if self._alone:
            self._state = State(parts, loop)
            if folder is not None and run_id is not None:
                self._files = Checkpoints(folder / "checkpoints", run_id, self._flush)
        self._last = time.monotonic()
        self._due = self._last + self._seconds if self._files and self._seconds else float("inf")
        self._keeps = False  # whether there is a checkpoint yet

    def __enter__(self) -> "_Keeper":
        if self._files is not None:
            self._state.begin_epoch()
        return self

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put the run where a state was taken."""
        if self._files is None:
            raise Refusal("a run goes on where its record is kept")
        self._state.restore(state)

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self._files is not None:
            self._files.close()
        if isinstance(error, KeyboardInterrupt):
            goes_on = resume_line(self._record) if self._files is not None else ""
            error.add_note(f"after epoch {self._loop.epoch}{goes_on}")

    def _flush(self) -> Sequence[str]:
        missing = self._record.flush()
        self._check_owner()
        return missing

    def _check_owner(self) -> None:
        """End when all the records are another process's."""
        if len(self._record.lost) == len(self._parts.runs):
            raise TakenOver(self._record.lost[0])

    def before_recording(self, epoch: Epoch) -> None:
        """Refuse a run that is to have checkpoints and can't, when its first epoch shows it."""
        if self._files is None or self._every is None or epoch.epoch > 1:
            return
        try:
            self._state.taken()
        except Unkept as reason:
            raise Withdrawn(f"`trainer.checkpoint_every={self._every}`: {reason}; or take null") from reason

    def after_step(self) -> None:
        """Keep the state if it is time, or before the process ends on request."""
        if self._loop.steps == 1:
            self._session.look_at_code()
        if self._loop.steps == 1 and self._alone and (lacking := self._state.trained.lacking(first=True)):
            raise Withdrawn(lacking)
        if self._files is not None and (stop.requested is not None or time.monotonic() >= self._due):
            self._keep()
        self._check_owner()
        stop.obey()

    def after_epoch(self, epoch: Epoch) -> None:
        """Keep the state if the epoch is one of every so many, and at the end if it was kept before.

        Epochs that follow faster than states can be written in a fifth of the time are passed over.
        """
        if self._alone and (lacking := self._state.trained.lacking()):
            raise Refusal(lacking)
        if self._files is None:
            return
        wanted = self._every is not None and epoch.epoch % self._every == 0 and not self._files.busy
        if wanted or stop.requested is not None or (epoch.last and (self._keeps or self._every is not None)):
            self._keep()
        if self._files is not None and epoch.last:
            self._files.close()  # so that it is there, whole, before the run says that it has ended
        elif self._files is not None:
            self._state.begin_epoch()

    def _keep(self) -> None:
        assert self._files is not None
        watch = self._parts.runs[0].watch
        best = watch is not None and watch.best_epoch == self._loop.epoch
        if (state := self._taken()) is not None:
            self._files.write(self._loop.steps, state | {"session": self._session.state_dict()}, best)
            self._keeps, self._due = True, time.monotonic() + self._seconds if self._seconds else float("inf")

    def _taken(self) -> dict[str, Any] | None:
        """Return the state; where it can't be told any more, the run goes on without."""
        assert self._files is not None
        try:
            return self._state.taken()
        except Unkept as reason:
            warn(f"no more checkpoints of this run: {reason}")
        self._files.close()
        self._files, self._due = None, float("inf")
        return None


class _Path:
    """The weights that began each epoch of a run, one row an epoch, and those that the last one led to."""

    def __init__(self, rows: Mapping[str, "Tensor"] | None = None) -> None:
        self._points: list[dict[str, Tensor]] = []
        if rows:
            self._points = [dict(zip(rows, point, strict=True)) for point in zip(*rows.values(), strict=True)]

    def add(self, weights: Mapping[str, "Tensor"]) -> None:
        self._points.append({k: t.detach().cpu().clone() for k, t in weights.items()})

    def rows(self) -> dict[str, "Tensor"]:
        """Return (epochs + 1, …) for each weight."""
        return {name: torch.stack([point[name] for point in self._points]) for name in self._points[0]}


def ordered_by(node: Mapping[str, Any], metrics: Mapping[str, float]) -> str | None:
    """Return the name of what the runs of a sweep are ordered by, of those metrics that there are."""
    names = [node["objective"]] if node["objective"] else DEFAULT_OBJECTIVES
    return next((name for name in names if name in metrics), None)


@contextmanager
def torch_set_up(parts: "Parts") -> Iterator[None]:
    """Set threads and determinism of this process for a run, and put them back."""
    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    uninitialized: Any = torch.utils.deterministic
    fills = uninitialized.fill_uninitialized_memory
    torch.set_num_threads(parts.threads)
    if parts.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
        uninitialized.fill_uninitialized_memory = False  # slow, for debugging
        torch.set_deterministic_debug_mode("error")  # unlike use_deterministic_algorithms, imports nothing
    try:
        with warnings.catch_warnings():
            if len(parts.runs) > 1:  # of calls that torch.func makes for each run apart
                warnings.filterwarnings("ignore", "There is a performance drop")
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(mode)
        uninitialized.fill_uninitialized_memory = fills
