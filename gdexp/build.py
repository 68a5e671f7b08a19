"""The parts of one run, made from its config so that they fit each other.

Order matters: the data first, which draws nothing of the run's seed; then `torch.manual_seed(seed)`
and the model, so that a plain script with the same seed has the same weights.
"""

import copy
import functools
import math
import random
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from gdexp.config import targets
from gdexp.config.check import SPLIT_DEFAULTS
from gdexp.config.refusal import Refusal
from gdexp.data import TensorData
from gdexp.data.split import rows, split, standardize
from gdexp.learner import OneRun

SMALL_WORK = 1e6  # parameters × rows a step, below which one CPU thread is quickest

# the targets that losses of torch take: class indices (rows,), or numbers of the output's shape
_TAKES_CLASSES = (nn.CrossEntropyLoss, nn.NLLLoss)
_TAKES_NUMBERS = (nn.MSELoss,)


class Parts(NamedTuple):
    """All that one run trains with."""

    config: dict[str, Any]  # resolved, the model's sizes filled in
    data: TensorData  # on the device
    learner: OneRun
    hooks: list[Callable[..., object]]
    threads: int


def build(config: dict[str, Any], options: Mapping[str, str | None]) -> Parts:
    """Make the parts of a run.

    Args:
        config: checked and resolved.
        options: the option chosen in each group, for messages.

    Raises:
        Refusal: the parts don't fit each other. An exception of the user's own code passes.
    """
    trainer = config["trainer"]
    loss = _loss(config["loss"])
    data = _with_target_kind(_load(config["data"]), loss, options)
    config = config | {"model": _sized(config["model"], data)}
    seed_everything(config["seed"])
    model = targets.build("model", config["model"])
    if not isinstance(model, nn.Module):
        raise Refusal(f"`model._target_` must make a torch.nn.Module, got {type(model).__name__}")
    if odd := [k for k, v in model.state_dict().items() if not isinstance(v, Tensor)]:
        raise Refusal(f"`model`: {odd[0]} in the state dict is no tensor and can't be recorded")
    _check_own_loss(model, loss, options)
    data = _fitted(data, model, loss, config)
    work = sum(p.numel() for p in model.parameters()) * (trainer["batch_size"] or rows(data.train))
    device = _device(trainer["device"], work)
    dtype = getattr(torch, trainer["dtype"])
    model.to(device, dtype)
    loss = loss.to(device, dtype) if isinstance(loss, nn.Module) else loss
    data = _each(data, lambda batch: _moved(batch, device, dtype))
    parameters = list(model.parameters()) or [nn.Parameter(torch.zeros(()))]  # a model of buffers only
    optimizer = targets.build("optimizer", config["optimizer"], parameters)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise Refusal(f"`optimizer._target_` must make a torch.optim.Optimizer, got {type(optimizer).__name__}")
    learner = OneRun(model, loss, optimizer, classifies=loss is not None and data.classes is not None)
    hooks = [targets.resolve(f"trainer.on_epoch[{i}]", name) for i, name in enumerate(trainer["on_epoch"])]
    return Parts(config, data, learner, hooks, _threads(trainer["threads"], work))


def seed_everything(seed: int) -> None:
    """Seed every generator that a model may draw from."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _load(node: dict[str, Any]) -> TensorData:
    seed_everything(0)  # a data function that draws gives every run of a sweep the same rows
    own = {k: v for k, v in node.items() if k not in SPLIT_DEFAULTS}
    data = targets.build("data", own)
    if not isinstance(data, TensorData):
        raise Refusal(f"`data._target_` must return gdexp.data.TensorData, got {type(data).__name__}")
    for held_apart in (data.val, data.test):
        if held_apart is not None:
            rows(held_apart)
    if rows(data.train) == 0:
        raise Refusal("`data` has no training rows")
    fractions = {k: node[k] for k in ("val_fraction", "test_fraction", "split_seed")}
    return standardize(split(data, **fractions), node["standardize"])


def _sized(node: dict[str, Any], data: TensorData) -> dict[str, Any]:
    """Fill in `in_features` and `out_features` where the constructor has them and the config doesn't."""
    sizes = _sizes(data)
    takes = targets.parameters(targets.resolve("model._target_", node["_target_"]))
    given = {k: v for k, v in node.items() if v is not None}
    if node["_target_"].startswith("gdexp.") and given.get("in_features", sizes.get("in_features")) != sizes.get(
        "in_features"
    ):
        raise Refusal(
            f"`model.in_features` is {given['in_features']}, but the data has {sizes['in_features']} features"
        )
    return node | {k: v for k, v in sizes.items() if k in takes and k not in given}


def _sizes(data: TensorData) -> dict[str, int]:
    """Return the columns of the inputs and of the target (for classes: their number)."""
    leaves = tree_leaves(data.train)
    sizes = {"in_features": math.prod(leaves[0].shape[1:])}
    if _is_pair(data.train):
        target = data.train[1]
        numbers = target.is_floating_point() or target.dim() > 1
        sizes["out_features"] = math.prod(target.shape[1:]) if numbers else data.classes or 1 + int(target.max())
    return sizes


def _loss(node: dict[str, Any]) -> Callable[..., Tensor] | None:
    """Return the loss: a class is built, a function is used as it is."""
    if node["_target_"] is None:
        return None
    target = targets.resolve("loss._target_", node["_target_"])
    if isinstance(target, type):
        return targets.build("loss", node)
    arguments = {k: v for k, v in node.items() if k != "_target_"}
    return functools.partial(target, **arguments) if arguments else target


def _check_own_loss(model: nn.Module, loss: Any, options: Mapping[str, str | None]) -> None:
    kind, has_own = type(model).__name__, callable(getattr(model, "training_loss", None))
    if loss is None and not has_own:
        raise Refusal(f"`loss=none` needs a model with training_loss(batch), {kind} has none")
    if loss is not None and has_own:
        raise Refusal(f"`loss={options.get('loss')}`: {kind} has its own training_loss; use loss=none")


def _with_target_kind(data: TensorData, loss: Any, options: Mapping[str, str | None]) -> TensorData:
    """Refuse a target that the loss can't take; read undeclared integers the way it takes them."""
    name = f"`loss={options.get('loss')}`"
    if loss is not None and not _is_pair(data.train):
        raise Refusal(f"{name} needs data of the form (inputs, target); loss=none takes any")
    splits = [s for s in data[:3] if s is not None]
    if isinstance(loss, _TAKES_CLASSES) and data.train[1].shape[1:].numel() == 1:  # not class probabilities
        if data.train[1].is_floating_point():
            raise Refusal(f"{name} needs classes, but the target of data={options.get('data')} is continuous")
        if min(int(s[1].min()) for s in splits) < 0:
            raise Refusal(f"{name} needs classes from 0 on, but the target has negative numbers")
        return data._replace(classes=data.classes or 1 + max(int(s[1].max()) for s in splits))
    if isinstance(loss, _TAKES_NUMBERS) and not data.train[1].is_floating_point():
        if data.classes is not None:
            raise Refusal(f"{name} needs a continuous target, but data={options.get('data')} has classes")
        return _each(data, lambda batch: (batch[0], batch[1].double()))
    return data


def _fitted(data: TensorData, model: nn.Module, loss: Any, config: Mapping[str, Any]) -> TensorData:
    """Refuse a model whose output doesn't fit the target; else give the target the output's shape."""
    if not isinstance(loss, _TAKES_CLASSES + _TAKES_NUMBERS):
        return data
    output = _probe(model, data, config)
    if output is None:
        return data
    if isinstance(loss, _TAKES_CLASSES):
        if data.classes is not None and output.dim() > 1 and output.shape[1] != data.classes:
            raise Refusal(
                f"the model has {output.shape[1]} outputs (model.out_features), but the data has {data.classes} classes"
            )
        return data
    shape, wanted = output.shape[1:], data.train[1].shape[1:]
    if shape.numel() == wanted.numel() == 1:  # (rows,) against (rows, 1) would be broadcast
        return _each(data, lambda batch: (batch[0], batch[1].reshape(-1, *shape)))
    if shape != wanted:
        raise Refusal(f"a row of the model's output has the shape {list(shape)}, a row of the target {list(wanted)}")
    return data


def _each(data: TensorData, change: Callable[[Any], Any]) -> TensorData:
    """Return the data with each split changed."""
    return data._replace(**{k: change(s) for k in ("train", "val", "test") if (s := getattr(data, k)) is not None})


def _probe(model: nn.Module, data: TensorData, config: Mapping[str, Any]) -> Tensor | None:
    """Return what a copy of the model makes of two rows, drawing nothing; None if that can't be told."""
    state = torch.get_rng_state()
    inputs = _moved(tree_map(lambda t: t[:2], data.train[0]), torch.device("cpu"), torch.get_default_dtype())
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


def _is_pair(batch: Any) -> bool:
    return isinstance(batch, (tuple, list)) and len(batch) == 2 and isinstance(batch[1], Tensor)


def _moved(batch: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Move a nest of tensors, floating ones also to the dtype."""
    return tree_map(lambda t: t.to(device, dtype if t.is_floating_point() else t.dtype), batch)


def _device(name: str, work: float) -> torch.device:
    """Return the device that a config names; `auto` takes an accelerator only for work that is worth it."""
    if name == "auto":
        found = torch.accelerator.current_accelerator() if work >= SMALL_WORK else None
        return found if found is not None and torch.accelerator.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise Refusal(f"`trainer.device`: {name!r} can't be used here: {str(error).splitlines()[0]}") from error
    if device.type == "meta":
        raise Refusal("`trainer.device`: 'meta' holds no numbers")
    return device


def _threads(wanted: str | int, work: float) -> int:
    if isinstance(wanted, int):
        return wanted
    return 1 if work < SMALL_WORK else torch.get_num_threads()
