"""The names of what a run records: the user's own never meet ours, nor each other."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from gdexp.config.refusal import Refusal
from gdexp.measures import over

_UNLIKE = re.compile(r"[^\w\-. :/]")  # what no name of a metric may hold in MLflow, which takes _ for it
_LONGEST = 250  # characters of such a name
_OF_TRAINING = ("train_loss", "train_accuracy", "train_loss_step", "lr", "grad_norm", "update_norm")
_OF_EPOCHS = ("weight_norm", "rows_per_second", "epoch_seconds", "peak_memory")
_SPLITS = ("val", "test")


def check_numbers(numbers: Collection[str], config: Mapping[str, Any]) -> None:
    """Refuse further numbers of a model that would be recorded under a name that is taken.

    Args:
        numbers: their names, as `training_loss` returns them.
        config: of the run.
    """
    metrics = [_short(name) for name in config["metrics"]]
    taken = dict.fromkeys((*_OF_TRAINING, *_OF_EPOCHS, *_curves(["loss", "accuracy", *metrics])))
    for name in numbers:
        if not isinstance(name, str) or not name or name.endswith(over("")):
            raise Refusal(f"training_loss: a number must be called by a text, got {name!r}")
        for curve in (name, *_curves([name])):
            if len(curve) > _LONGEST:
                raise Refusal(
                    f"training_loss: a name may have {_LONGEST - 10} characters, {name[:40]!r}… has {len(name)}"
                )
            recorded = _UNLIKE.sub("_", curve)
            if recorded in taken:
                other = taken[recorded]
                whose = f"{other!r}, too" if other else "gdexp's own"
                raise Refusal(
                    f"training_loss: the number {name!r} is recorded as {recorded}, which is {whose}: rename it"
                )
            taken[recorded] = name


def check_metrics(wanted: Sequence[str]) -> None:
    """Refuse two metrics of one name, and one that has the name of what is measured anyway."""
    seen: dict[str, str] = {"loss": "the loss"}
    for name in wanted:
        short = _short(name)
        if "." in name and short == "accuracy":
            raise Refusal(f"`metrics`: {name} would be recorded as val_accuracy, which is gdexp's own: rename it")
        if short in seen and seen[short] != name:
            raise Refusal(
                f"`metrics`: {name} would be recorded as val_{short}, which is that of {seen[short]}: rename it"
            )
        if len(short) > _LONGEST - 10:
            raise Refusal(f"`metrics`: a name may have {_LONGEST - 10} characters, {short[:40]}… has {len(short)}")
        seen[short] = name


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def _curves(names: Collection[str]) -> Iterator[str]:
    """Yield the names under which what is measured on rows apart is recorded."""
    for name in names:
        for split in _SPLITS:
            yield f"{split}_{name}"
            yield f"{split}_{name}_ema"
        yield f"test_{name}_best"
