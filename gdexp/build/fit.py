"""Data, model and loss made to fit each other, or refused: kinds of target, sizes and shapes."""

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from gdexp.config import targets
from gdexp.config.refusal import Refusal
from gdexp.data import TensorData
from gdexp.data.loading import Loader
from gdexp.data.nest import moved
from gdexp.losses import GaussianNLLLoss

# the targets that losses of torch take: class indices (rows,), numbers of the output's shape,
# or two values of the output's shape, 0 and 1 or -1 and 1
CLASSES = (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss)
NUMBERS = (
    *(nn.MSELoss, nn.L1Loss, nn.HuberLoss, nn.SmoothL1Loss, nn.PoissonNLLLoss, nn.KLDivLoss),
    GaussianNLLLoss,
)
_ZERO_ONE = (nn.BCEWithLogitsLoss, nn.BCELoss, nn.MultiLabelSoftMarginLoss)
_PLUS_MINUS = (nn.SoftMarginLoss, nn.HingeEmbeddingLoss)
TWO_VALUES = _ZERO_ONE + _PLUS_MINUS


def with_target_kind(data: TensorData, loss: Any, options: Mapping[str, str | None]) -> TensorData:
    """Refuse a target that the loss can't take; read it the way that the loss does.

    Args:
        data: split.
        loss: of torch, or anything else, whose target is left alone.
        options: the option chosen in each group, for messages.
    """
    name, source = f"`loss={options.get('loss')}`", f"data={options.get('data')}"
    if loss is not None and not is_pair(sample(data)):
        raise Refusal(f"{name} needs data of the form (inputs, target); loss=none takes any")
    if isinstance(loss, CLASSES):
        return _with_classes(data, loss, name, source)
    if isinstance(loss, NUMBERS):
        return _with_numbers(data, loss, name, source)
    if isinstance(loss, TWO_VALUES):
        return _with_two_values(data, loss, name, source)
    return data


def _sizes(data: TensorData, loss: Any) -> dict[str, Any]:
    """Return what a model's constructor may ask for: in_features, in_shape and out_features."""
    batch = sample(data)
    inputs = tree_leaves(batch[0] if is_pair(batch) else batch)
    found: dict[str, Any] = {}
    if inputs and isinstance(inputs[0], Tensor):
        found = {"in_features": math.prod(inputs[0].shape[1:]), "in_shape": list(inputs[0].shape[1:])}
    if is_pair(batch):
        target = batch[1]
        if target.is_floating_point() or target.dim() > 1:
            found["out_features"] = math.prod(target.shape[1:]) * (2 if isinstance(loss, GaussianNLLLoss) else 1)
        elif data.classes or not isinstance(data.train, Loader):
            found["out_features"] = data.classes or 1 + int(data.train[1].max())
    return found


def sized(group: str, node: dict[str, Any], data: TensorData, loss: Any) -> dict[str, Any]:
    """Fill in the sizes that the constructor has and the config doesn't give."""
    known = _sizes(data, loss)
    takes = targets.parameters(targets.resolve(f"{group}._target_", node["_target_"]))
    given = {k: v for k, v in node.items() if v is not None}
    features = known.get("in_features")
    if node["_target_"].startswith("gdexp.") and given.get("in_features", features) != features:
        raise Refusal(f"`{group}.in_features` is {given['in_features']}, but the data has {features} features")
    if "out_features" in takes and "out_features" not in {**known, **given} and is_pair(sample(data)):
        raise Refusal(f"`{group}.out_features` must be given: data without `classes` doesn't say how many there are")
    return node | {k: v for k, v in known.items() if k in takes and k not in given}


def fitted(data: TensorData, model: nn.Module, loss: Any, config: Mapping[str, Any]) -> TensorData:
    """Refuse a model whose output doesn't fit the target; else give the target the output's shape.

    Model and loss are tried on two rows, in copies, drawing nothing.
    """
    output = _tried(model, data, config) if loss is not None else None
    if output is None:
        return data
    if isinstance(loss, CLASSES):
        if data.classes is not None and output.dim() > 1 and output.shape[1] != data.classes:
            raise Refusal(
                f"the model has {output.shape[1]} outputs (model.out_features), but the data has {data.classes} classes"
            )
        if data.classes is None and output.dim() == 2 and not sample(data)[1].is_floating_point():
            data = data._replace(classes=output.shape[1])  # a Dataset that didn't say
    elif isinstance(loss, NUMBERS + TWO_VALUES):
        data = _with_shape(data, output, 2 if isinstance(loss, GaussianNLLLoss) else 1)
    _try_loss(loss, output, sample(data)[1])
    return data


def each(data: TensorData, change: Callable[[Any], Any]) -> TensorData:
    """Return the data with each split, or each batch of a loader, changed."""
    changed: dict[str, Any] = {}
    for name in ("train", "val", "test"):
        if (split := getattr(data, name)) is not None:
            changed[name] = split.then(change) if isinstance(split, Loader) else change(split)
    return data._replace(**changed)


def sample(data: TensorData) -> Any:
    """Return two training rows."""
    return data.train.sample() if isinstance(data.train, Loader) else tree_map(lambda t: t[:2], data.train)


def is_pair(batch: Any) -> bool:
    """Say whether a batch has the form (inputs, target)."""
    return isinstance(batch, (tuple, list)) and len(batch) == 2 and isinstance(batch[1], Tensor)


def _with_classes(data: TensorData, loss: Any, name: str, source: str) -> TensorData:
    target = sample(data)[1]
    if target.shape[1:].numel() != 1:  # probabilities of classes, or a class for each pixel
        return data
    if target.is_floating_point():
        raise Refusal(f"{name} needs classes, but the target of {source} is continuous")
    if isinstance(data.train, Loader):
        return data
    splits = [s[1] for s in data[:3] if s is not None]
    ignored = getattr(loss, "ignore_index", None)
    if any(((t < 0) & (t != ignored)).any() for t in splits):
        raise Refusal(f"{name} needs classes from 0 on, but the target has negative numbers")
    highest = max(int(t.max()) for t in splits)
    if data.classes is not None and highest >= data.classes:
        raise Refusal(f"{source} says that it has {data.classes} classes, but its target holds {highest}")
    return data._replace(classes=data.classes or 1 + highest)


def _with_numbers(data: TensorData, loss: Any, name: str, source: str) -> TensorData:
    if not sample(data)[1].is_floating_point():
        if data.classes is not None:
            raise Refusal(f"{name} needs a continuous target, but {source} has classes")
        data = each(data, lambda batch: (batch[0], batch[1].double()))
    for t in _targets(data):
        if isinstance(loss, nn.PoissonNLLLoss) and t.min() < 0:
            raise Refusal(f"{name} needs counts, but the target of {source} has negative numbers")
        if isinstance(loss, nn.KLDivLoss):
            p = t.double().exp() if loss.log_target else t.double()
            if p.dim() < 2 or p.min() < 0 or (p.sum(1) - 1).abs().max() > 1e-3:
                raise Refusal(f"{name} needs rows of probabilities that sum to 1 as the target of {source}")
    return data


def _with_two_values(data: TensorData, loss: Any, name: str, source: str) -> TensorData:
    signs = isinstance(loss, _PLUS_MINUS)
    wanted = "targets of -1 and 1" if signs else "targets of 0 and 1"
    if not sample(data)[1].is_floating_point():
        if data.classes not in (2, None) or any(t.min() < 0 or t.max() > 1 for t in _targets(data)):
            number = f"{data.classes} classes" if data.classes else "other numbers"
            raise Refusal(f"{name} needs two classes, but {source} has {number}")
        data = each(data, lambda b: (b[0], b[1].double() * 2 - 1 if signs else b[1].double()))
    elif any((t.abs() != 1).any() if signs else (t.min() < 0 or t.max() > 1) for t in _targets(data)):
        raise Refusal(f"{name} needs {wanted}, but the target of {source} has other numbers")
    return data._replace(classes=None)


def _targets(data: TensorData) -> list[Tensor]:
    """Return the targets that can be looked at before training."""
    return [split[1] for split in data[:3] if split is not None and not isinstance(split, Loader)]


def _with_shape(data: TensorData, output: Tensor, columns: int) -> TensorData:
    """Give the target the output's shape, where the two differ only by a dimension of one.

    Args:
        data: with numbers as target.
        output: of two rows.
        columns: of the output for each of the target.
    """
    shape, wanted = list(output.shape[1:]), list(sample(data)[1].shape[1:])
    if columns > 1 and shape:
        shape[0] //= columns
    if math.prod(shape) == math.prod(wanted) == 1:  # (rows,) against (rows, 1) would be broadcast
        return each(data, lambda batch: (batch[0], batch[1].reshape(-1, *shape)))
    if shape != wanted or columns * math.prod(wanted) != math.prod(output.shape[1:]):
        raise Refusal(
            f"a row of the model's output has the shape {list(output.shape[1:])}, a row of the target {wanted}"
        )
    return data


def _tried(model: nn.Module, data: TensorData, config: Mapping[str, Any]) -> Tensor | None:
    """Return what a copy of the model makes of two rows; None if that can't be told."""
    state = torch.get_rng_state()
    inputs = moved(sample(data)[0], torch.device("cpu"), torch.get_default_dtype())
    try:
        with torch.no_grad():
            output = copy.deepcopy(model).eval()(inputs)
    except Exception as error:  # the user's own model fails in training, with its traceback and a record
        if type(model).__module__.partition(".")[0] in ("gdexp", "torch"):
            raise Refusal(f"`model={config['model']['_target_']}` can't take this data: {error}") from error
        return None
    finally:
        torch.set_rng_state(state)
    return output if isinstance(output, Tensor) and output.dim() > 0 else None


def _try_loss(loss: Any, output: Tensor, target: Tensor) -> None:
    if type(loss).__module__.partition(".")[0] not in ("gdexp", "torch"):
        return
    target = moved(target, torch.device("cpu"), torch.get_default_dtype())
    try:
        value = loss(output, target)
    except (RuntimeError, ValueError, IndexError) as error:
        raise Refusal(f"`loss` can't take the model's output {list(output.shape)}: {error}") from error
    if value.dim():
        raise Refusal("`loss.reduction` must be mean or sum: none gives one loss a row")
