"""What the user reads on the terminal."""

import os
import shlex
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gdexp.build import Parts
    from gdexp.tracking import Record
    from gdexp.tracking.frame import Result
    from gdexp.train import Epoch

_LONG_SECONDS = 2.0  # before a bar is shown
_OBJECTIVES = ("val_loss", "train_loss")  # what a sweep is ordered by, if it is there


class Progress:
    """An epoch's line every so often, and on a terminal, once a run has lasted, one bar below them."""

    def __init__(self, config: dict[str, Any], *, quiet: bool = False) -> None:
        trainer = config["trainer"]
        self._config, self._epochs, self._every = config, trainer["epochs"], trainer["log_every"]
        self._quiet = quiet  # one run of many
        self.wants_steps = sys.stdout.isatty() and not quiet
        self._began = time.monotonic()
        self._bar: Any = None
        self._done, self._drawn = 0, 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(self, step: int) -> None:
        """Note a step; a run that lasts gets its bar within its first epoch, too."""
        if self._bar is None and time.monotonic() - self._began > _LONG_SECONDS:
            self._bar = self._started_bar()

    def epoch(self, epoch: "Epoch") -> None:
        """Note an epoch."""
        self._done = epoch.epoch
        if self._bar is not None and time.monotonic() - self._drawn > 0.1:
            self._drawn = time.monotonic()
            rate = epoch.metrics.get("lr", self._config["optimizer"].get("lr"))
            shown = f"loss {epoch.train_loss:.4g}" + (f", rate {rate:.3g}" if rate is not None else "")
            self._bar.update(self._bar.task_ids[0], completed=epoch.epoch, shown=shown)
        if epoch.epoch % self._every == 0 and not self._quiet:
            self._print(epoch_line(epoch, self._epochs))

    def ended(self, epoch: "Epoch") -> None:
        """Say why a run ended before its last epoch, if it did."""
        if self._quiet:
            return
        if epoch.diverged:
            say(divergence_line(epoch, self._config))
        elif epoch.stopped:
            say(f"Stopped at epoch {epoch.epoch}: {epoch.stopped}.")

    def _print(self, line: str) -> None:
        if self._bar is None:
            say(line)
        else:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _started_bar(self) -> Any:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = TextColumn("Epoch"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.fields[shown]}")
        bar = Progress(*columns, TimeRemainingColumn(), transient=True)
        bar.add_task("", total=self._epochs, completed=self._done, shown="")
        bar.start()
        return bar


def epoch_line(epoch: "Epoch", epochs: int) -> str:
    """Return the tutorial's line, with the other measures behind it."""
    extra = [f", {_words(k)}: {_short(v)}" for k, v in epoch.metrics.items() if k != "train_loss"]
    return f"Epoch [{epoch.epoch}/{epochs}], Loss: {epoch.train_loss:.4f}{''.join(extra)}"


def divergence_line(epoch: "Epoch", config: dict[str, Any]) -> str:
    """Return what to do about a run that diverged."""
    lr = config["optimizer"].get("lr")
    remedy = f"try a smaller optimizer.lr than {lr}" if lr else "try a smaller learning rate"
    return f"Diverged at epoch {epoch.epoch}: the loss is {epoch.train_loss:.4g}; {remedy}."


def report(outcome: str, metrics: dict[str, tuple[float, ...]], parts: "Parts", record: "Record") -> str:
    """Return what came out, where it is recorded and how to see it.

    Args:
        outcome: completed or diverged.
        metrics: the first and the last value of each.
        parts: of the run.
        record: of the run, closed.
    """
    first, last = metrics["train_loss"]
    lines = [f"\nOutcome: {outcome}, final loss {last:.6g}"]
    lines += [f"{name}: {value:.6g}" for name, (_, value) in metrics.items() if name != "train_loss"]
    if outcome == "completed" and last > first:
        lines.append(f"The loss is rising: {first:.6g} at first, {last:.6g} at last; try a smaller learning rate.")
    weights = parts.learner.weights()
    if 0 < sum(t.numel() for t in weights.values()) <= 12:
        lines += [f"{name}: {_numbers(t)}" for name, t in weights.items()]
    if record.run_id and record.uri:
        lines += [f"Run: {record.name} ({record.run_id})", f"See it: {_where(record.uri)}"]
    return "\n".join(lines)


def run_line(name: str, outcome: str, metrics: dict[str, tuple[float, ...]]) -> str:
    """Return what became of one run of a sweep."""
    shown = ", ".join(f"{k} {metrics[k][-1]:.6g}" for k in _OBJECTIVES if k in metrics)
    return f"{name}: {outcome}, {shown}"


def sweep_report(results: "Sequence[Result]", failed: int, seconds: float) -> str:
    """Return the counts of a sweep, its best ten runs and how to see them."""
    counts = Counter(r.outcome for r in results) + Counter(failed=failed)
    lines = [f"\n{sum(counts.values())} runs in {seconds:.1f} s: " + ", ".join(f"{n} {k}" for k, n in counts.items())]
    measured = [r for r in results if r.outcome != "diverged"]
    objective = next((k for k in _OBJECTIVES if any(k in r.metrics for r in measured)), None)
    if objective is not None:
        best = sorted((r for r in measured if objective in r.metrics), key=lambda r: r.metrics[objective])[:10]
        width = max(len(r.name) for r in best)
        lines += [f"{r.name:{width}}  {objective} {r.metrics[objective]:.6g}  {r.run_id or ''}".rstrip() for r in best]
    if results and results[0].uri:
        lines.append(f"See them: {_where(results[0].uri)}")
    return "\n".join(lines)


def say(text: str) -> None:
    """Print; a reader that has gone away, as `head` does, must not end the training."""
    try:
        print(text)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _where(uri: str) -> str:
    return f"mlflow ui --backend-store-uri {shlex.quote(uri)}" if uri.startswith("sqlite:") else uri


def _words(name: str) -> str:
    """Return `Val loss` for val_loss."""
    return name if name == "lr" else name.replace("_", " ").capitalize()


def _short(value: float) -> str:
    """Return four digits after the point, or as many that count where these would show nothing."""
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e6 else f"{value:.3e}"


def _numbers(t: Any) -> str:
    return ", ".join(f"{v:.6g}" for v in t.flatten().tolist())
