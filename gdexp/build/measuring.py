"""Which metrics a run can measure: each takes some kinds of output, and the loss says which kind there is."""

from collections.abc import Sequence
from typing import Any

from gdexp.build import fit
from gdexp.build.weighting import may_ignore
from gdexp.config import targets
from gdexp.config.refusal import Refusal, nearest
from gdexp.data import TensorData
from gdexp.losses import Meaning, Output, meaning
from gdexp.metrics import KNOWN, Metric, known
from gdexp.reading import Metrics, Reading

_WORDS = {
    "classes": "scores over classes",
    "label": "a logit or probability for one label",
    "labels": "a logit or probability for each label",
    "numbers": "a continuous target of the output's shape",
    "likelihood": "probabilities of classes",
}


def make_reading(loss: Any, data: TensorData) -> Reading | None:
    """Return what reads outputs and targets for metrics; None where it isn't known what they mean."""
    about = Meaning() if loss is None else meaning(loss)
    if about.output is Output.UNKNOWN:
        return None
    ignored = loss.ignore_index if may_ignore(loss, data) else None
    return Reading(about, ignored, getattr(loss, "log_target", False))


def make_metrics(wanted: Sequence[str], loss: Any, data: TensorData, reading: Reading | None) -> Metrics:
    """Return the metrics beside loss and accuracy.

    Raises:
        Refusal: one of them doesn't take what the model gives to this loss.
    """
    if wanted and (loss is None or (data.val is None and data.test is None)):
        raise Refusal("`metrics` needs a loss, and validation or test rows: data.val_fraction=0.2")
    kinds = _kinds(reading, data)
    found: dict[str, Metric] = {}
    own: dict[str, Metric] = {}
    for i, name in enumerate(wanted):
        if metric := known(name):
            _check(name, metric.takes, kinds, data)
            found[name] = metric.function
        elif "." in name:
            own[name.rpartition(".")[2]] = targets.resolve(f"metrics[{i}]", name)
        else:
            raise Refusal(f"`metrics`: {name!r} is no metric{nearest(name, [*KNOWN, 'top_3'])}")
    found.pop("accuracy", None)  # it is measured anyway
    return Metrics(found, own, reading)


def _check(name: str, takes: frozenset[str], kinds: frozenset[str], data: TensorData) -> None:
    if not takes & kinds:
        words = " or ".join(_WORDS[kind] for kind in _WORDS if kind in takes)
        if "classes" in takes:
            words = f"classes: {words}"
        raise Refusal(f"`metrics`: {name} needs {words}, which this data and loss don't have")
    if name.startswith("top_") and int(name[4:]) > (data.classes or int(name[4:])):
        raise Refusal(f"`metrics`: {name} needs at least {name[4:]} classes, and a loss with an output for each")


def _kinds(reading: Reading | None, data: TensorData) -> frozenset[str]:
    """Return the kinds of output that there are, of those that metrics take."""
    if reading is None:
        return frozenset()
    about = reading.meaning
    if about.of_numbers:
        return frozenset({"numbers"})
    if about.of_classes:
        return frozenset({"classes"} if about.output is Output.MARGINS else {"classes", "likelihood"})
    several = fit.sample(data)[1].shape[1:].numel() > 1
    return frozenset({"labels"} if several else {"label", "likelihood"})
