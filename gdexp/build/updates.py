"""How the weights are updated: the optimizer over groups of parameters, its step and its schedule."""

import functools
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR

from gdexp.build import rows
from gdexp.build.watching import check_objective, is_watched, make_watch
from gdexp.config import targets
from gdexp.config.check import own
from gdexp.config.refusal import Refusal
from gdexp.data import TensorData
from gdexp.reading import Metrics
from gdexp.schedule import Schedule
from gdexp.step import Step
from gdexp.train import Run
from gdexp.watch import Watch


def make_optimizer(node: Mapping[str, Any], parameters: Mapping[str, nn.Parameter]) -> Optimizer:
    """Return the optimizer over parameters by name."""
    optimizer = targets.build("optimizer", own("optimizer", node), _groups(node["param_groups"], parameters))
    if not isinstance(optimizer, Optimizer):
        raise Refusal(f"`optimizer._target_` must make a torch.optim.Optimizer, got {type(optimizer).__name__}")
    return optimizer


def _groups(patterns: dict[str, dict[str, Any]] | None, parameters: Mapping[str, nn.Parameter]) -> list[Any]:
    """Return the parameters, or groups of them: each belongs to the first pattern found in its name."""
    rest = dict(parameters)
    if not rest:
        return [nn.Parameter(torch.zeros(()))]  # a model of buffers only
    if not patterns:
        return list(rest.values())
    groups = []
    for pattern, hyperparameters in patterns.items():
        found = [name for name in rest if re.search(str(pattern), name)]
        if not found:
            raise Refusal(f"`optimizer.param_groups`: {pattern!r} is found in none of {', '.join(rest) or 'the rest'}")
        groups.append({"params": [rest.pop(name) for name in found], **hyperparameters})
    return [{"params": list(rest.values())}, *groups] if rest else groups


def check_sparse(
    config: Mapping[str, Any],
    options: Mapping[str, str | None],
    model: nn.Module,
    gradients: Mapping[str, torch.Tensor],
) -> None:
    """Refuse gradients that the optimizer or a clip can't take, sparse or dense.

    Args:
        config: of the run.
        options: the option chosen in each group, for messages.
        model: a copy, which has the gradients and is given a step.
        gradients: by the names of the parameters.
    """
    trainer, name = config["trainer"], f"`optimizer={options.get('optimizer')}`"
    sparse = [parameter for parameter, g in gradients.items() if g.is_sparse]
    dense = [parameter for parameter, g in gradients.items() if not g.is_sparse]
    if needs_sparse(config) and dense:
        raise Refusal(
            f"{name} needs sparse gradients, as of nn.Embedding(sparse=True): that of {dense[0]} is dense; use adam"
        )
    if not sparse or config["optimizer"]["_target_"] is None:
        return
    for key in ("clip_norm", "clip_value"):
        if trainer[key] is not None:
            raise Refusal(f"`trainer.{key}` must be null: the gradient of {sparse[0]} is sparse and can't be clipped")
    if "grad_norm" in trainer["record"]:
        raise Refusal(f"`trainer.record`: grad_norm isn't known of sparse gradients, as that of {sparse[0]}")
    if not config["optimizer"]["_target_"].startswith("torch.optim."):
        return
    step = make_step(make_optimizer(config["optimizer"], dict(model.named_parameters())), trainer, torch.device("cpu"))
    try:
        if not step.needs_closure:
            step()
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise Refusal(
            f"{name} can't take the sparse gradient of {sparse[0]}: {str(error).splitlines()[0]}; "
            "sgd, adagrad and sparse_adam can"
        ) from error


def needs_sparse(config: Mapping[str, Any]) -> bool:
    """Say whether the optimizer takes sparse gradients only."""
    return str(config["optimizer"]["_target_"]).endswith(".SparseAdam")


def make_step(optimizer: Optimizer | None, trainer: Mapping[str, Any], device: torch.device) -> Step:
    """Return what turns gradients into a step."""
    if optimizer is None:
        raise Refusal("`optimizer=none` needs a learner of your own: learner=custom")
    scaled = trainer["autocast"] == "float16" and device.type == "cuda"
    step = Step(
        optimizer,
        clip_value=trainer["clip_value"],
        clip_norm=trainer["clip_norm"],
        scaler=torch.amp.GradScaler(device.type) if scaled else None,
        record=trainer["record"],
    )
    if scaled and step.needs_closure:
        raise Refusal("`trainer.autocast=float16` scales the loss, which this optimizer can't; use bfloat16")
    return step


def make_run(
    config: Mapping[str, Any], data: TensorData, loss: Any, metrics: Metrics, optimizer: Optimizer | None
) -> Run:
    """Return what a run has for itself: its seed, its schedule and what watches it."""
    trainer = config["trainer"]
    watch = make_watch(config, data, loss, metrics)
    check_objective(config, data, loss, metrics)
    length = rows.length(data, trainer, config["scheduler"]["interval"])
    schedule = make_schedule(config["scheduler"], optimizer, length, watch)
    return Run(config["seed"], schedule, watch if is_watched(trainer) else None)


def _rates_of_groups(target: str | None, arguments: Mapping[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """Return the rates that a schedule sets by itself, a list each, so that groups keep their share of the rate."""
    base: Any = optimizer.defaults.get("lr")
    rates: list[Any] = [group.get("lr") for group in optimizer.param_groups]
    kind = None if target is None else targets.resolve("scheduler._target_", target)
    if not (isinstance(kind, type) and issubclass(kind, (OneCycleLR, CyclicLR))) or set(rates) == {base}:
        return {}
    found: dict[str, list[float]] = {}
    for key in ("max_lr", "base_lr"):
        value = arguments.get(key)
        if not isinstance(value, (int, float)):  # a list is the user's own
            continue
        if not base and value != base:
            line = f"`optimizer.lr` must be above 0, got {base}: each group keeps its share of it"
            raise Refusal(f"{line} under scheduler.{key}")
        found[key] = [rate if value == base else value * (rate / base) for rate in rates]
    return found


def make_schedule(node: Mapping[str, Any], optimizer: Optimizer | None, length: int | None, watch: Watch) -> Any:
    """Return the schedule of the learning rate, None for a constant one.

    Args:
        node: the `scheduler` node.
        optimizer: whose rates it sets.
        length: of the run, in intervals; None: unknown.
        watch: whose monitor a plateau is seen in.
    """
    if node["_target_"] is None and not node["warmup"]:
        return None
    if optimizer is None:
        raise Refusal("`scheduler` must be constant: a learner of your own has its own optimizers")
    arguments = own("scheduler", node)
    for key in ("T_max", "total_iters", "total_steps"):
        if key in arguments and arguments[key] is None:
            if length is None:
                raise Refusal(f"`scheduler.{key}` must be given: the length of the run isn't known")
            arguments[key] = max(length - node["warmup"], 1)
    if length is not None and (arguments.get("total_steps") or length) < length - node["warmup"]:
        raise Refusal(f"`scheduler.total_steps` is {arguments['total_steps']}, but the run has {length}")
    if arguments.get("mode", "") is None:
        arguments["mode"] = watch.mode
    arguments |= _rates_of_groups(node["_target_"], arguments, optimizer)
    make = functools.partial(targets.build, "scheduler", arguments) if node["_target_"] is not None else None
    keys = ("interval", "warmup", "warmup_start_factor")
    try:
        return Schedule(optimizer, make, monitor=watch.monitor, **{k: node[k] for k in keys})
    except Refusal:
        raise
    except ValueError as error:  # torch's own, of the warm-up
        raise Refusal(f"`scheduler`: {error}") from error
