"""Data, model and loss made to fit each other, or refused: sizes and shapes."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from gdexp.config import targets
from gdexp.config.refusal import Refusal
from gdexp.data import TensorData, Weighted
from gdexp.data.loading import Loader
from gdexp.losses import Output, Target, meaning

_LOOKED_AT = 1000  # numbers of a leaf among the rows that are looked at
_NEAR = 0.05  # to 1 is the sum of probabilities, in bfloat16 too


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


def fitted(data: TensorData, output: Any, loss: Any, options: Mapping[str, str | None]) -> TensorData:
    """Refuse an output that doesn't fit the target; else give the target the output's shape.

    Args:
        data: its target settled.
        output: of the model, for the rows that `sample` gives.
        loss: of torch, or anything else, which takes what it gets.
        options: the option chosen in each group, for messages.
    """
    kind, name = meaning(loss).target, f"`loss={options.get('loss')}`"
    if kind is Target.ANY:
        return data
    if not isinstance(output, Tensor):
        raise Refusal(
            f"{name} takes one tensor, but the model gives a {type(output).__name__}: "
            "a loss of your own takes it as it is (loss=custom)"
        )
    target = sample(data)[1]
    if output.dim() == 0 or len(output) != len(target):
        raise Refusal(
            f"the model's output has the shape {list(output.shape)}, but there are {len(target)} rows: "
            "its first dimension must be the row"
        )
    if kind in (Target.CLASSES, Target.SHARES_OR_CLASSES):
        if data.classes is not None and output.dim() > 1 and output.shape[1] != data.classes:
            raise Refusal(
                f"the model has {output.shape[1]} outputs (model.out_features), but the data has {data.classes} classes"
            )
        if data.classes is None and output.dim() == 2 and not target.is_floating_point():
            data = data._replace(classes=output.shape[1])  # a Dataset that didn't say
    else:
        data = _with_shape(data, output, meaning(loss).columns)
    check_range(output, loss, options)
    return data


def each(data: TensorData, change: Callable[[Any], Any]) -> TensorData:
    """Return the data with each split, or each batch of a loader, changed."""
    changed: dict[str, Any] = {}
    for name in ("train", "val", "test"):
        if (split := getattr(data, name)) is not None:
            changed[name] = split.then(change) if isinstance(split, Loader) else change(split)
    return data._replace(**changed)


def sample(data: TensorData, most: int | None = None) -> Any:
    """Return some training rows: of a stream the first batch.

    Args:
        data: in memory or behind a loader.
        most: how many at most; None: two, or more where they are small.
    """
    if isinstance(data.train, Loader):
        return data.train.sample(most or 2)
    width = max((t[0].numel() for t in tree_leaves(data.train)), default=1)
    most = most or min(max(_LOOKED_AT // max(width, 1), 2), 32)
    return tree_map(lambda t: t[:most].clone(), data.train)


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


def has_a_range(loss: Any) -> bool:
    """Say whether a loss takes numbers of a range only, which a model's output may keep to by chance."""
    kind = meaning(loss)
    return kind.output is Output.PROBABILITIES or (kind.target is Target.COUNTS and kind.output is Output.NUMBERS)


def check_range(output: Tensor, loss: Any, options: Mapping[str, str | None]) -> None:
    """Refuse outputs that can't be what the loss takes them for: it would give any number at all.

    Args:
        output: of the model.
        loss: of torch, or anything else.
        options: the option chosen in each group, for messages.
    """
    kind, name, output = meaning(loss).output, f"`loss={options.get('loss')}`", output.detach().double()
    if kind in (Output.LOG_PROBABILITIES, Output.LOG_SHARES) and output.dim() > 1:
        sums = output.exp().sum(1)
        if bool(((sums - 1).abs() > _NEAR).any()) and bool(output.isfinite().all()):
            raise Refusal(
                f"{name} needs log-probabilities, but those of a row of the model's output sum to "
                f"{sums.flatten()[0].item():.3g}, not 1: end it with log_softmax (model.output_activation=log_softmax)"
                + (", or take loss=cross_entropy" if kind is Output.LOG_PROBABILITIES else "")
            )
    if kind is Output.PROBABILITIES and bool(((output < 0) | (output > 1)).any()):
        raise Refusal(
            f"{name} needs probabilities, but the model's output leaves [0, 1]: end it with a sigmoid "
            "(model.output_activation=sigmoid), or take loss=bce_with_logits"
        )
    if has_a_range(loss) and kind is Output.NUMBERS and bool((output < 0).any()):
        raise Refusal(
            f"{name} with loss.log_input=false needs rates, but the model gives negative numbers: "
            "end it with a softplus (model.output_activation=softplus), or take loss.log_input=true"
        )
