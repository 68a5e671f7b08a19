"""How much rows and classes count in the loss, so that a mean over batches is that of all rows at once."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gdexp.build.fit import sample
from gdexp.config.refusal import Refusal
from gdexp.data import TensorData, Weighted
from gdexp.data.loading import Loader
from gdexp.losses import OwnWeighted, Quotient, divides_by_more_than_rows, is_torchs

BALANCED = "balanced"
_KEYS = ("weight", "pos_weight")


def without_balanced(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return a loss's node with null for weights that the data decide."""
    return {k: None if k in _KEYS and v == BALANCED else v for k, v in node.items()}


def balance(node: Mapping[str, Any], loss: Any, data: TensorData) -> None:
    """Give the loss the weights that make classes count alike, where the config wants it.

    A class c with n_c of n training rows gets n / (classes · n_c), as scikit-learn has it; a label
    that is there p times gets (n - p) / p as its `pos_weight`.
    """
    wanted = [key for key in _KEYS if node.get(key) == BALANCED]
    if not wanted:
        return
    key = f"`loss.{wanted[0]}=balanced`"
    if isinstance(data.train, Loader):
        raise Refusal(f"{key} needs data in memory, not a Dataset or DataLoader")
    target = data.train[1]
    if wanted == ["pos_weight"]:
        there = target.double().sum(0)
        loss.pos_weight = torch.where(there > 0, (len(target) - there) / there.clamp(min=1e-12), 1.0).float()
        return
    if target.is_floating_point() or not hasattr(loss, "weight"):
        raise Refusal(f"{key} needs an index of a class in each row")
    counted = target[target != getattr(loss, "ignore_index", -1)]
    counts = torch.bincount(counted.flatten(), minlength=data.classes or 0).double()
    present = int((counts > 0).sum())
    loss.weight = torch.where(counts > 0, len(counted.flatten()) / (present * counts), 1.0).float()


def weighed(loss: Any, data: TensorData, name: str) -> Any:
    """Return the loss, as a quotient where the mean of a batch isn't over its rows alike.

    Args:
        loss: on its own.
        data: settled.
        name: of the loss, for messages.
    """
    if loss is None:
        return None
    weighted = isinstance(sample(data), Weighted)
    _check_weights(data)
    if is_torchs(loss):
        ignores = may_ignore(loss, data) or _has_weightless_class(loss)
        _check_counted(loss, data)
        if loss.reduction != "none" and (weighted or _varies(data) or divides_by_more_than_rows(loss, ignores)):
            return Quotient(loss, weighted, ignores)
        return loss
    if weighted and not _takes_weights(loss):
        raise Refusal(f"{name} takes no weights of rows: give it a third argument `weights`")
    return OwnWeighted(loss) if weighted else loss


def _check_counted(loss: Any, data: TensorData) -> None:
    """Refuse a split in which the loss ignores every row."""
    index = getattr(loss, "ignore_index", None)
    for split, name in ((data.train, "training"), (data.val, "validation"), (data.test, "test")):
        if index is not None and split is not None and not isinstance(split, Loader) and (split[1] == index).all():
            raise Refusal(f"`loss.ignore_index={index}` ignores all {name} rows")


def _check_weights(data: TensorData) -> None:
    """Refuse weights of rows that no mean can be taken with."""
    for split, name in zip(data[:3], ("training", "validation", "test"), strict=True):
        if not isinstance(split, Weighted):
            continue
        weights = split.weights
        if weights.shape != (len(weights),) or bool((weights < 0).any()) or not bool((weights > 0).any()):
            raise Refusal(
                f"`data`: the weights of the {name} rows must be numbers from 0 on, one for each row, and not all 0"
            )


def may_ignore(loss: Any, data: TensorData) -> bool:
    """Say whether there may be rows of the class that the loss ignores."""
    index = getattr(loss, "ignore_index", None)
    if not isinstance(index, int):
        return False
    splits = [split for split in data[:3] if split is not None]
    return any(isinstance(split, Loader) or bool((split[1] == index).any()) for split in splits)


def _has_weightless_class(loss: Any) -> bool:
    """Say whether rows of some class count nothing, so that a batch may count nothing."""
    weight = getattr(loss, "weight", None)
    return hasattr(loss, "ignore_index") and isinstance(weight, Tensor) and bool((weight == 0).any())


def _varies(data: TensorData) -> bool:
    """Say whether rows may have more numbers in one batch than in another, as sequences have."""
    target = sample(data)[1]
    return isinstance(data.train, Loader) and isinstance(target, Tensor) and target.shape[1:].numel() > 1


def _takes_weights(loss: Any) -> bool:
    """Say whether the third argument of a loss, after output and target, is called `weights`."""
    call = loss.forward if isinstance(loss, nn.Module) else loss
    try:
        return list(inspect.signature(call).parameters)[2:3] == ["weights"]
    except (TypeError, ValueError):
        return False
