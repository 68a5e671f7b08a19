"""Which metrics a run can measure: each takes some kinds of output, and the loss says which kind there is."""

from collections.abc import Sequence
from typing import Any

from gdexp.build import fit, names
from gdexp.build.libraries import Shape, adapted, is_library
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
    if wanted and loss is None:
        raise Refusal("`metrics` needs a loss: a model returns numbers of its own beside its training_loss")
    names.check_metrics(wanted)
    apart = [name for name in wanted if not _is_of_train(name)]
    if apart and data.val is None and data.test is None:
        raise Refusal(
            f"`metrics`: {apart[0]} needs validation or test rows: data.val_fraction=0.2; "
            f"that of training rows is called train_{apart[0]}"
        )
    kinds = _kinds(reading, data)
    found: dict[str, Metric] = {}
    train: dict[str, Metric] = {}
    own: dict[str, Metric] = {}
    for i, name in enumerate(wanted):
        plain = name.removeprefix("train_") if _is_of_train(name) else name
        if metric := known(plain):
            if reading is None:
                raise Refusal(_unknown(plain))
            _check(plain, metric.takes, kinds, data)
            (found if plain == name else train)[plain] = metric.function
        elif "." in name:
            function, last = targets.resolve(f"metrics[{i}]", name), name.rpartition(".")[2]
            if is_library(function):
                found[last] = adapted(f"metrics[{i}]", function, _shape(kinds, data))
            else:
                own[last] = function
        else:
            raise Refusal(f"`metrics`: {name!r} is no metric{nearest(name, [*KNOWN, 'top_3'])}")
    found.pop("accuracy", None)  # it is measured anyway
    return Metrics(found, own, reading, Metrics(train, {}, reading) if train else None)


def _unknown(name: str) -> str:
    return (
        f"`metrics`: {name} needs to know what the model's output is, and this loss doesn't say: a loss of your own "
        'says it by an attribute, `my_loss.output = "scores"` (or logits, probabilities, numbers, …)'
    )


def _is_of_train(name: str) -> bool:
    return name.startswith("train_") and "." not in name


def _shape(kinds: frozenset[str], data: TensorData) -> Shape | None:
    """Return kind and number of the columns that a model gives, None where that isn't known."""
    kind = next((kind for kind in _WORDS if kind in kinds), None)
    if kind is None:
        return None
    target = fit.sample(data)[1]
    if kind == "classes":
        columns = data.classes or (target.shape[1] if target.is_floating_point() and target.dim() > 1 else None)
    else:
        columns = target.shape[1] if kind == "labels" else target.shape[1:].numel()
    return None if columns is None else Shape(kind, columns, "likelihood" in kinds)


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
