"""Data, model and loss made to fit each other, or refused: sizes and shapes."""

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from gdexp.config import targets
from gdexp.config.refusal import Refusal
from gdexp.data import TensorData, Weighted
from gdexp.data.loading import Loader
from gdexp.data.nest import moved
from gdexp.losses import Target, meaning


def _sizes(data: TensorData, loss: Any) -> dict[str, Any]:
    """Return what a model's constructor may ask for: in_features, in_shape and out_features."""
    batch = sample(data)
    inputs = tree_leaves(batch[0] if is_pair(batch) else batch)
    found: dict[str, Any] = {}
    if inputs and isinstance(inputs[0], Tensor):
        found = {"in_features": math.prod(inputs[0].shape[1:]), "in_shape": list(inputs[0].shape[1:])}
    if is_pair(batch) and isinstance(target := next(iter(tree_leaves(batch[1])), None), Tensor):
        numbers = target.is_floating_point() or target.is_complex()
        if numbers or (data.classes is None and target.dim() > 1):
            found["out_features"] = math.prod(target.shape[1:]) * meaning(loss).columns
        elif data.classes or not isinstance(data.train, Loader):
            found["out_features"] = data.classes or 1 + int(tree_leaves(data.train[1])[0].max())
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
    kind = meaning(loss).target
    if kind in (Target.CLASSES, Target.SHARES_OR_CLASSES):
        if data.classes is not None and output.dim() > 1 and output.shape[1] != data.classes:
            raise Refusal(
                f"the model has {output.shape[1]} outputs (model.out_features), but the data has {data.classes} classes"
            )
        if data.classes is None and output.dim() == 2 and not sample(data)[1].is_floating_point():
            data = data._replace(classes=output.shape[1])  # a Dataset that didn't say
    elif kind is not Target.ANY:
        data = _with_shape(data, output, meaning(loss).columns)
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
    """Say whether a batch has the form (inputs, target), with or without weights."""
    return isinstance(batch, Weighted) or (isinstance(batch, (tuple, list)) and len(batch) == 2)


def with_target(data: TensorData, change: Callable[[Any], Any]) -> TensorData:
    """Return data of that form with each target changed."""

    def changed(batch: Any) -> Any:
        target = change(batch[1])
        return batch._replace(target=target) if isinstance(batch, Weighted) else (batch[0], target)

    return each(data, changed)


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
        return with_target(data, lambda target: target.reshape(-1, *shape))
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
