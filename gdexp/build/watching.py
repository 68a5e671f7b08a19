"""What is measured of a run beside its loss, and which of it decides."""

import functools
from collections.abc import Mapping
from typing import Any

from torch import nn

from gdexp import metrics
from gdexp.build import fit
from gdexp.config import direction, targets
from gdexp.config.refusal import Refusal, nearest
from gdexp.data import TensorData
from gdexp.metrics import Metric
from gdexp.watch import Watch


def make_metrics(wanted: list[str], loss: Any, data: TensorData) -> tuple[dict[str, Metric], Metric | None]:
    """Return the further metrics by name, and the accuracy of a classifier, which is always measured."""
    two = isinstance(loss, fit.TWO_VALUES) and not isinstance(loss, nn.HingeEmbeddingLoss)
    classifies = two or (loss is not None and data.classes is not None)
    threshold: dict[str, Any] = {"threshold": 0.5} if isinstance(loss, nn.BCELoss) else {}
    if wanted and (loss is None or (data.val is None and data.test is None)):
        raise Refusal("`metrics` needs a loss, and validation or test rows: data.val_fraction=0.2")
    found: dict[str, Metric] = {}
    for i, name in enumerate(wanted):
        of_classes, of_numbers = metrics.CLASSIFICATION.get(name) or metrics.top(name), metrics.REGRESSION.get(name)
        if of_classes and classifies:
            if name.startswith("top_") and (two or int(name[4:]) > (data.classes or 0)):
                raise Refusal(
                    f"`metrics`: {name} needs at least {name[4:]} classes, and a loss with an output for each"
                )
            found[name] = functools.partial(of_classes, **threshold) if name in ("accuracy", "f1") else of_classes
        elif of_numbers and isinstance(loss, fit.NUMBERS) and not isinstance(loss, fit.GaussianNLLLoss):
            found[name] = of_numbers
        elif of_classes or of_numbers:
            kind = "classes" if of_classes else "a continuous target of the output's shape"
            raise Refusal(f"`metrics`: {name} needs {kind}, which this data and loss don't have")
        elif "." in name:
            found[name.rpartition(".")[2]] = targets.resolve(f"metrics[{i}]", name)
        else:
            names = [*metrics.CLASSIFICATION, "top_3", *metrics.REGRESSION]
            raise Refusal(f"`metrics`: {name!r} is no metric{nearest(name, names)}")
    found.pop("accuracy", None)
    return found, functools.partial(metrics.accuracy, **threshold) if classifies else None


def make_watch(config: Mapping[str, Any], data: TensorData, loss: Any, further: Mapping[str, Metric]) -> Watch:
    """Return what follows the monitor; its name is checked where it can be known before training."""
    trainer = config["trainer"]
    monitor = trainer["monitor"] or ("val_loss" if data.val is not None else "train_loss")
    known = ["train_loss", "lr", *trainer["record"], *_measured("val", data.val, trainer, further)]
    if loss is not None and monitor not in known:  # a model's own numbers aren't known yet
        raise Refusal(f"`trainer.monitor`: this run has no {monitor!r}{nearest(monitor, known)}")
    mode = direction.of_monitor(monitor, config)
    return Watch(monitor, mode=mode, **{k: trainer[k] for k in ("patience", "min_delta", "target")})


def check_objective(config: Mapping[str, Any], data: TensorData, loss: Any, further: Mapping[str, Metric]) -> None:
    """Refuse to order the runs of a sweep by what they don't measure, likewise."""
    name, trainer = config["sweep"]["objective"], config["trainer"]
    if name is None:
        return
    splits = {"val": data.val, "test": data.test}
    measured = [m for split, rows in splits.items() for m in _measured(split, rows, trainer, further)]
    known = ["train_loss", "lr", *trainer["record"], *measured]
    if loss is not None and name not in known:
        raise Refusal(f"`sweep.objective`: these runs have no {name!r}{nearest(name, known)}")
    direction.of_objective(name, config)


def _measured(split: str, rows: Any, trainer: Mapping[str, Any], further: Mapping[str, Metric]) -> list[str]:
    """Return the names of what is measured on a split."""
    names = [f"{split}_{name}" for name in ("loss", "accuracy", *further)] if rows is not None else []
    return names + [f"{name}_ema" for name in names if trainer["ema"] is not None]
