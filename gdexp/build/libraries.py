"""Functions of scikit-learn and torchmetrics as metrics: given what they take, and tried before the start."""

import inspect
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gdexp.config.refusal import Refusal
from gdexp.metrics import Metric, classes

# what the second argument of a function of scikit-learn says that it takes
_PROBABILITIES = ("y_proba", "y_prob")
_SCORES = ("y_score", *_PROBABILITIES)
_PREDICTIONS = ("y_pred", "labels_pred", "y2")
_OF_PROBABILITIES = ("log_loss", "d2_log_loss_score", "brier_score_loss")  # whatever older versions call it
_TASKS = {"classes": "multiclass", "label": "binary", "labels": "multilabel"}


class Shape(NamedTuple):
    """What a model gives: one of the kinds that metrics take, how many columns of it, and whether that are log-odds."""

    kind: str
    columns: int
    likelihood: bool


def is_library(function: Any) -> bool:
    """Say whether a metric is one of these libraries'."""
    return _home(function) in ("sklearn", "torchmetrics")


def adapted(key: str, function: Any, shape: Shape | None) -> Metric:
    """Return a library's metric as a function of output and target, as `gdexp.metrics` describes them.

    Args:
        key: where it is named.
        function: of scikit-learn or torchmetrics, or a class of the latter.
        shape: what the model gives; None: that isn't known.

    Raises:
        Refusal: it doesn't take that.
    """
    name = getattr(function, "__name__", str(function))
    of_numbers = "regression" in function.__module__
    if shape is None or of_numbers != (shape.kind == "numbers"):
        wanted = "a continuous target of the output's shape" if of_numbers else "classes"
        raise Refusal(f"`{key}`: {name} needs {wanted}, which this data and loss don't have")
    measure = _of_sklearn(key, function, shape) if _home(function) == "sklearn" else _of_torchmetrics(function, shape)
    try:
        value = measure(*_made_up(shape))
    except Exception as error:
        raise Refusal(f"`{key}`: {name} can't measure {_words(shape)}: {_first_line(error)}") from error
    if value.numel() != 1 or not math.isfinite(value.item()):
        raise Refusal(f"`{key}`: {name} gives no single number of {_words(shape)}")

    def metric(output: Tensor, target: Tensor) -> Tensor:
        try:
            return measure(output, target)
        except ValueError:  # such rows have no value of it
            return torch.tensor(math.nan)

    return metric


def _of_sklearn(key: str, function: Any, shape: Shape) -> Metric:
    takes = list(inspect.signature(function).parameters)
    second = takes[1] if len(takes) > 1 else ""
    if second not in _SCORES + _PREDICTIONS:
        raise Refusal(f"`{key}`: {function.__name__} is no metric of predictions and a target")
    of_probabilities = second in _PROBABILITIES or function.__name__ in _OF_PROBABILITIES
    if of_probabilities and not shape.likelihood:
        raise Refusal(f"`{key}`: {function.__name__} needs probabilities of classes, which this loss doesn't give")
    of_scores = second in _SCORES or of_probabilities
    given = _keywords(function, shape, of_scores)

    def measure(output: Tensor, target: Tensor) -> Tensor:
        true, predicted = target.numpy(force=True), _predicted(output, target, shape, of_scores).numpy(force=True)
        with warnings.catch_warnings(action="ignore"):  # of classes that don't occur
            return torch.as_tensor(function(true, predicted, **given), dtype=torch.float64)

    return _squeezed(measure)


def _keywords(function: Any, shape: Shape, of_scores: bool) -> dict[str, Any]:
    """Return those arguments that scikit-learn wants beside target and predictions for more than two classes."""
    known, given = inspect.signature(function).parameters, dict[str, Any]()
    several = shape.columns > 2 or shape.kind == "labels"
    if "average" in known and several and known["average"].default == "binary":
        given["average"] = "macro"
    if "multi_class" in known and shape.kind == "classes" and shape.columns > 2:
        given["multi_class"] = "ovr"
    if "labels" in known and of_scores and shape.kind == "classes" and shape.columns > 2:
        given["labels"] = list(range(shape.columns))
    if "zero_division" in known:
        given["zero_division"] = 0
    return given


def _of_torchmetrics(function: Any, shape: Shape) -> Metric:
    known = _parameters(function)
    wanted = {"task": _TASKS.get(shape.kind), "num_classes": shape.columns, "num_labels": shape.columns}
    if shape.kind != "classes":
        del wanted["num_classes"]
    given = {k: v for k, v in wanted.items() if k in known and v is not None}

    def measure(output: Tensor, target: Tensor) -> Tensor:
        predicted = _predicted(output, target, shape, of_scores=True, whole=True)
        if not isinstance(function, type):
            return torch.as_tensor(function(predicted, target, **given))
        metric = function(**given)  # it gathers what it has seen, so each measurement has its own
        metric.update(predicted, target)
        return torch.as_tensor(metric.compute())

    return _squeezed(measure)


def _predicted(output: Tensor, target: Tensor, shape: Shape, of_scores: bool, whole: bool = False) -> Tensor:
    """Return predictions, or probabilities: of two classes that of the second one, unless all are wanted."""
    if shape.kind == "numbers":
        return output.double()
    if not of_scores:
        return classes(output, target)[0]
    if shape.kind != "classes":
        return output.double().sigmoid()
    shares = output.double().softmax(1)
    return shares[:, 1] if shape.columns == 2 and not whole else shares


def _squeezed(measure: Metric) -> Metric:
    """Return a metric that is given a single column as (rows,)."""

    def squeezed(output: Tensor, target: Tensor) -> Tensor:
        single = output.shape == target.shape and output.shape[1] == 1
        return measure(output.flatten(), target.flatten()) if single else measure(output, target)

    return squeezed


def _made_up(shape: Shape) -> tuple[Tensor, Tensor]:
    """Return output and target of some rows, in which every class occurs."""
    draw = torch.Generator().manual_seed(0)
    rows = 4 * max(shape.columns, 2)
    output = torch.rand(rows, shape.columns, generator=draw) + 0.5
    if shape.kind == "numbers":
        return output, torch.rand(rows, shape.columns, generator=draw) + 0.5
    if shape.kind == "classes":
        return output, torch.arange(rows) % shape.columns
    return output - 1, torch.stack([torch.arange(rows) % 2] * shape.columns, 1)


def _parameters(function: Any) -> Mapping[str, Any]:
    makers: list[Callable[..., Any]] = [function]
    if isinstance(function, type):
        makers = [function.__new__, function.__init__]  # type: ignore[misc]
    return {name: p for make in makers for name, p in inspect.signature(make).parameters.items()}


def _home(function: Any) -> str:
    module = str(getattr(function, "__module__", "") or "")
    return "sklearn" if module.startswith("sklearn.metrics") else module.partition(".")[0]


def _words(shape: Shape) -> str:
    what = {"classes": "classes", "label": "label", "labels": "labels", "numbers": "columns of numbers"}
    return f"{shape.columns} {what[shape.kind]}"


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
