"""What the user reads on the terminal."""

import math
import shlex
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from gdexp.config import direction
from gdexp.config.printable import printable
from gdexp.failure import line_of, show
from gdexp.lines import is_terminal, say, warn
from gdexp.tracking.address import of_file, without_password

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Sequence

    from gdexp.build import Parts
    from gdexp.config.compose import Job
    from gdexp.tracking import Record
    from gdexp.tracking.frame import Result
    from gdexp.train import Epoch

_LONG_SECONDS = 2.0  # before a bar is shown


class Progress:
    """An epoch's line every so often, and on a terminal, once a run has lasted, one bar below them."""

    def __init__(self, config: dict[str, Any]) -> None:
        trainer = config["trainer"]
        self._config, self._every = config, trainer["log_every"]
        self._bar = Bar("Epoch", trainer["epochs"])
        self.wants_steps = self._bar.wanted

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def step(self, step: int) -> None:
        """Note a step; a run that lasts gets its bar within its first epoch, too."""
        self._bar.start_if_long()

    def epochs(self, epochs: "Sequence[Epoch]", total: int) -> None:
        """Note an epoch, of so many, and why a run ended before its last one, if it did."""
        for epoch in epochs:
            self._bar.show(epoch.epoch, partial(self._shown, epoch))
            if epoch.epoch % self._every == 0:
                self._bar.print(epoch_line(epoch, total))
            if epoch.diverged:
                self._bar.print(divergence_line(epoch, self._config))
            elif epoch.stopped:
                self._bar.print(f"Stopped at epoch {epoch.epoch}: {epoch.stopped}.")

    def _shown(self, epoch: "Epoch") -> str:
        rate = epoch.metrics.get("lr", self._config["optimizer"].get("lr"))
        return f"loss {epoch.train_loss:.4g}" + (f", rate {rate:.3g}" if rate is not None else "")


class SweepProgress:
    """One bar for all runs of a sweep.

    Args:
        runs: how many.
    """

    def __init__(self, runs: int) -> None:
        self._bar = Bar("Run", runs)
        self.wants_steps = self._bar.wanted
        self._over = 0
        self._noted = set[str]()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def step(self, step: int) -> None:
        """Note a step."""
        self._bar.start_if_long()

    def epochs(self, epochs: "Sequence[Epoch]", total: int) -> None:
        """Note an epoch, of so many, of the runs that are in training; what is done of them counts."""
        self._over += sum(epoch.last for epoch in epochs)
        training = [epoch for epoch in epochs if not epoch.last]
        done = self._over + len(training) * epochs[0].epoch / total
        self._bar.show(done, partial(self._shown, training, total))

    @staticmethod
    def _shown(training: "Sequence[Epoch]", total: int) -> str:
        if not training:
            return ""
        least = min(epoch.train_loss for epoch in training)
        return f"epoch {training[0].epoch}/{total} of {len(training)}, least loss {least:.4g}"

    def note(self, line: str) -> None:
        """Print a line above the bar."""
        self._bar.print(line)

    def note_once(self, line: str) -> None:
        """Print a line above the bar that holds for many of the runs."""
        if line not in self._noted:
            self._noted.add(line)
            self.note(line)


class Bar:
    """A bar of rich's, on a terminal, for what takes longer than a moment."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total = what, total
        self.wanted = is_terminal()
        self._began, self._drawn, self._done = time.monotonic(), 0.0, 0.0
        self._bar: Any = None

    def start_if_long(self) -> None:
        """Show the bar if there is a reason by now."""
        if self._bar is None and self.wanted and time.monotonic() - self._began > _LONG_SECONDS:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = TextColumn(self._what), MofNCompleteColumn(), BarColumn(), TextColumn("{task.fields[shown]}")
            self._bar = Progress(*columns, TimeRemainingColumn(), transient=True)
            self._bar.add_task("", total=self._total, completed=self._done, shown="")
            self._bar.start()

    def show(self, done: float, shown: "Callable[[], str]") -> None:
        """Move the bar, with what is shown beside it; it isn't drawn more than ten times a second."""
        self._done = done
        if self._bar is not None and time.monotonic() - self._drawn > 0.1:
            self._drawn = time.monotonic()
            with suppress(Exception):  # of a terminal that has gone away
                self._bar.update(self._bar.task_ids[0], completed=done, shown=shown())

    def print(self, line: str) -> None:
        """Print a line above the bar."""
        if self._bar is None:
            say(line)
            return
        try:
            self._bar.console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
        except Exception:  # of a terminal that has gone away
            self._bar, self.wanted = None, False
            say(line)

    def stop(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            with suppress(Exception):
                self._bar.stop()
            self._bar = None


def epoch_line(epoch: "Epoch", epochs: int) -> str:
    """Return the tutorial's line, with the other measures behind it."""
    extra = [f", {_words(k)}: {_short(v)}" for k, v in epoch.metrics.items() if k != "train_loss"]
    return f"Epoch [{epoch.epoch}/{epochs}], Loss: {epoch.train_loss:.4f}{''.join(extra)}"


def divergence_line(epoch: "Epoch", config: dict[str, Any]) -> str:
    """Return what to do about a run that diverged."""
    lr = config["optimizer"].get("lr")
    remedy = f"try a smaller optimizer.lr than {lr}" if lr else "try a smaller learning rate"
    return f"Diverged at epoch {epoch.epoch}: the loss is {epoch.train_loss:.4g}; {remedy}."


def report(
    outcome: str, metrics: dict[str, tuple[float, ...]], parts: "Parts", name: str, record: "Record"
) -> list[str]:
    """Return the lines that say what came out, where it is recorded and how to see it.

    Args:
        outcome: completed, diverged or stopped.
        metrics: the first and the last value of each.
        parts: of the run.
        name: of the run.
        record: of the run, closed.
    """
    first, last = metrics["train_loss"]
    lines = ["", f"Outcome: {outcome}, final loss {last:.6g}"]
    lines += [f"{name}: {value:.6g}" for name, (_, value) in metrics.items() if name != "train_loss"]
    if outcome == "completed" and last > first:
        lines.append(f"The loss is rising: {first:.6g} at first, {last:.6g} at last; try a smaller learning rate.")
    weights = parts.learner.weights()
    if 0 < sum(t.numel() for t in weights.values()) <= 12:
        lines += [f"{name}: {_numbers(t)}" for name, t in weights.items()]
    if record.run_ids[0] and record.uri:
        lines.append(f"Run: {name} ({record.run_ids[0]})")
        with suppress(Exception):  # that it can't be shown where it is takes nothing from the run
            lines.append(f"See it: {_where(record.uri, record.run_ids[0])}")
    return lines


def resume_line(record: "Record") -> str:
    """Return how a run that was cut off goes on, "" for one that can't from where it is recorded."""
    if not str(record.uri).startswith("sqlite:"):
        return ""
    return f"; to go on: python -m gdexp.resume {record.run_ids[0]}{_store_word(str(record.uri))}"


def sweep_report(
    results: "Sequence[Result]",
    failed: int,
    jobs: "Sequence[Job]",
    objective: tuple[str, str] | None,
    seconds: float,
) -> list[str]:
    """Return the lines that say the counts of a sweep, its best ten runs and how to see them.

    Args:
        results: of the runs that did not fail.
        failed: how many did.
        jobs: of the sweep.
        objective: the metric that they are ordered by, and whether its `min` or its `max` is best.
        seconds: that the sweep took.
    """
    outcomes = Counter(r.outcome for r in results)
    counts = {k: outcomes[k] for k in ("completed", "diverged", "stopped")} | {"failed": failed}
    shown = ", ".join(f"{n} {k}" for k, n in counts.items() if n or k == "completed")
    count, stacked = len(results) + failed, sum(r.stacked for r in results)
    how = f", {stacked} of them as one program with others" if stacked else ""
    whole = f"{count} run{'s' * (count != 1)}" if count == len(jobs) else f"{count} of {len(jobs)} runs"
    lines = ["", f"{whole} in {seconds:.1f} s{how}: {shown}"]
    lines += _best_runs(results, *objective) if objective else []
    if results and results[0].uri and results[0].run_id:
        with suppress(Exception):
            lines.append(f"See them: {_where(results[0].uri, results[0].run_id, jobs[0].sweep)}")
    return lines


def _best_runs(results: "Sequence[Result]", metric: str, mode: str) -> list[str]:
    """Return a line for each of the best ten runs, and one for the best of all."""
    measured = [
        (direction.cost(r.objective, mode), r.objective, r)
        for r in results
        if r.outcome != "diverged" and r.objective is not None and r.objective_name == metric
    ]
    best = sorted(measured, key=lambda run: run[0])[:10]
    width = max((len(r.name) for *_, r in best), default=0)
    lines = [f"{r.name:{width}}  {metric} {value:.6g}  {r.run_id or ''}".rstrip() for _, value, r in best]
    if best and math.isfinite(best[0][0]):
        _, value, first = best[0]
        lines.append(f"Best: {first.name}, {metric} {value:.6g}" + (f" ({first.run_id})" if first.run_id else ""))
    return lines


def failures_report(failed: "Sequence[tuple[Job, Exception]]") -> None:
    """Print the errors of the jobs that failed: each traceback of the user's own code once, and a line for each job."""
    seen = set()
    for _, error in failed:
        if line_of(error) is None and (key := (type(error), str(error))) not in seen:
            seen.add(key)
            show(error)
    for job, error in failed:
        line = line_of(error) or f"{type(error).__name__}: {error}".splitlines()[0]
        warn(f"{job.label} failed: {line}")


def plan_report(planned: "Iterable[tuple[Sequence[Job], str]]", done: "Container[int]", most: int = 100) -> list[str]:
    """Return the lines that say the jobs of a sweep by packs, and how each pack would be trained."""
    lines, jobs, packs = [], 0, 0
    for members, how in planned:
        jobs, packs = jobs + len(members), packs + 1
        lines.append(f"{len(members)} runs {how}" if len(members) > 1 else "1 run")
        states = ["done" if job.number in done else "" for job in members]
        lines += [
            f"  {j.number}  {j.name or ''}  {is_done}".rstrip() for j, is_done in zip(members, states, strict=True)
        ][:most]
        lines += [f"  … and {len(members) - most} more"] if len(members) > most else []
    head = f"{jobs} jobs in {packs} pack{'s' * (packs > 1)}"
    ready = sum(line.endswith("  done") for line in lines)
    return [f"{head}{f', {ready} already done' if ready else ''}; nothing is trained", *lines]


def _where(uri: str, run_id: str, sweep: str | None = None) -> str:
    """Return what opens MLflow's UI on a run or a sweep, and the address there."""
    from gdexp.tracking import view

    there = view.address(uri, run_id, sweep)
    if uri.startswith("http"):
        return there
    return f"python -m gdexp.ui{_store_word(uri)}, then {there}"


def _store_word(uri: str) -> str:
    """Return the word of a command line that names a store, "" for the usual one."""
    if uri == of_file(Path.cwd() / "mlflow.db"):
        return ""
    return f" {shlex.quote(f'tracking.uri={without_password(uri)}')}"


def _words(name: str) -> str:
    """Return `Val loss` for val_loss."""
    return name if name == "lr" else name.replace("_", " ").capitalize()


def _short(value: float) -> str:
    """Return four digits after the point, or as many that count where these would show nothing."""
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e6 else f"{value:.3e}"


def _numbers(t: Any) -> str:
    return ", ".join(f"{v:.6g}" for v in t.flatten().tolist())
