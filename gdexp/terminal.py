"""What the user reads on the terminal."""

import os
import shlex
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gdexp.build import Parts
    from gdexp.tracking import Record
    from gdexp.train import Epoch


def epoch_line(epoch: "Epoch", epochs: int) -> str:
    """Return the tutorial's line, with the other measures behind it."""
    extra = [f", {k.replace('_', ' ').capitalize()}: {v:.4f}" for k, v in epoch.metrics.items() if k != "train_loss"]
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
    from gdexp.tracking.store import store_uri

    first, last = metrics["train_loss"]
    lines = [f"\nOutcome: {outcome}, final loss {last:.6g}"]
    lines += [f"{name}: {value:.6g}" for name, (_, value) in metrics.items() if name != "train_loss"]
    if outcome == "completed" and last > first:
        lines.append(f"The loss is rising: {first:.6g} at first, {last:.6g} at last; try a smaller learning rate.")
    weights = parts.learner.model.state_dict()
    if 0 < sum(t.numel() for t in weights.values()) <= 12:
        lines += [f"{name}: {_numbers(t)}" for name, t in weights.items()]
    if record.run_id:
        uri = shlex.quote(store_uri(parts.config["tracking"]["uri"]))
        lines += [f"Run: {record.name} ({record.run_id})", f"See it: mlflow ui --backend-store-uri {uri}"]
    return "\n".join(lines)


def say(text: str) -> None:
    """Print; a reader that has gone away, as `head` does, must not end the training."""
    try:
        print(text)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _numbers(t: Any) -> str:
    return ", ".join(f"{v:.6g}" for v in t.flatten().tolist())
