"""Which of the measures of a run decides."""

from collections.abc import Mapping
from typing import Any

from gdexp.config import direction
from gdexp.config.refusal import Refusal, nearest
from gdexp.data import TensorData
from gdexp.reading import Metrics
from gdexp.watch import Watch


def make_watch(config: Mapping[str, Any], data: TensorData, loss: Any, further: Metrics) -> Watch:
    """Return what follows the monitor; its name is checked where it can be known before training."""
    trainer = config["trainer"]
    monitor = trainer["monitor"] or ("val_loss" if data.val is not None else "train_loss")
    measured = _measured("val", data.val, trainer, further)
    known = ["train_loss", "lr", *trainer["record"], *further.of_train, *measured]
    if loss is not None and monitor not in known:  # a model's own numbers aren't known yet
        raise Refusal(f"`trainer.monitor`: this run has no {monitor!r}{nearest(monitor, known)}")
    mode = direction.of_monitor(monitor, config)
    return Watch(monitor, mode=mode, **{k: trainer[k] for k in ("patience", "min_delta", "target")})


def is_watched(trainer: Mapping[str, Any]) -> bool:
    """Say whether a run has best weights."""
    return any(trainer[k] is not None for k in ("monitor", "patience", "target"))


def check_objective(config: Mapping[str, Any], data: TensorData, loss: Any, further: Metrics) -> None:
    """Refuse to order the runs of a sweep by what they don't measure, likewise."""
    name, trainer = config["sweep"]["objective"], config["trainer"]
    if name is None:
        return
    splits = {"val": data.val, "test": data.test}
    measured = [m for split, rows in splits.items() for m in _measured(split, rows, trainer, further)]
    known = ["train_loss", "lr", *trainer["record"], *further.of_train, *measured]
    if loss is not None and name not in known:
        raise Refusal(f"`sweep.objective`: these runs have no {name!r}{nearest(name, known)}")
    direction.of_objective(name, config)


def _measured(split: str, rows: Any, trainer: Mapping[str, Any], further: Metrics) -> list[str]:
    """Return the names of what is measured on a split."""
    names = [f"{split}_{name}" for name in ("loss", "accuracy", *further.names)] if rows is not None else []
    ends = ["_ema"] if trainer["ema"] is not None else []
    if split == "test" and is_watched(trainer):
        ends.append("_best")
    return names + [f"{name}{end}" for end in ends for name in names]
