"""How the weights are updated: the optimizer over groups of parameters, its step and its schedule."""

import functools
import itertools
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
from gdexp.config.written import typed
from gdexp.data import TensorData
from gdexp.reading import Metrics
from gdexp.schedule import Schedule
from gdexp.step import Step
from gdexp.train import Run
from gdexp.watch import Watch

_OURS = ("torch.optim.", "gdexp.")
_FEW_ITERATIONS = 5  # of LBFGS, which tell as much as all


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


def check_step(
    config: Mapping[str, Any], options: Mapping[str, str | None], parameters: Mapping[str, nn.Parameter]
) -> None:
    """Refuse gradients that the optimizer, one of its options or a clip can't take: a step is tried with copies.

    Args:
        config: of the run.
        options: the option chosen in each group, for messages.
        parameters: by name, on the CPU, with their gradients.
    """
    node, trainer, name = config["optimizer"], config["trainer"], f"`optimizer={options.get('optimizer')}`"
    gradients = {parameter: p.grad for parameter, p in parameters.items() if p.grad is not None}
    sparse = next((parameter for parameter, g in gradients.items() if g.is_sparse), None)
    dense = next((parameter for parameter, g in gradients.items() if not g.is_sparse), None)
    if needs_sparse(config) and dense is not None:
        raise Refusal(
            f"{name} needs sparse gradients, as of nn.Embedding(sparse=True): that of {dense} is dense; use adam"
        )
    if sparse is not None and node["_target_"] is not None:
        _check_norms_of_sparse(trainer, sparse)
    if not str(node["_target_"]).startswith(_OURS):
        return  # one of the user's own keeps its traceback
    error = _error_of_step(node, trainer, parameters)
    if error is None:
        return
    if isinstance(error, Refusal):
        raise error
    reason = str(error).splitlines()[0]
    key = _culprit(node, trainer, parameters)
    if sparse is not None:
        cure = key or "sgd, adagrad and sparse_adam can"
        raise Refusal(f"{name} can't take the sparse gradient of {sparse}: {reason}; {cure}") from error
    if key:
        raise Refusal(f"{key}: {reason}") from error
    odd = next((parameter for parameter, p in parameters.items() if p.is_complex()), None)
    what = f"the complex {odd}: {reason}; sgd and adam can" if odd is not None else f"this model: {reason}"
    raise Refusal(f"{name} can't take {what}") from error


def _check_norms_of_sparse(trainer: Mapping[str, Any], sparse: str) -> None:
    for key in ("clip_norm", "clip_value"):
        if trainer[key] is not None:
            raise Refusal(f"`trainer.{key}` must be null: the gradient of {sparse} is sparse and can't be clipped")
    if "grad_norm" in trainer["record"]:
        raise Refusal(f"`trainer.record`: grad_norm isn't known of sparse gradients, as that of {sparse}")


def _culprit(node: Mapping[str, Any], trainer: Mapping[str, Any], parameters: Mapping[str, nn.Parameter]) -> str:
    """Return what must be the value of the key without which a step can be made, nothing if there is none."""
    cure = "; trainer.clip_norm may be set" if trainer["clip_norm"] is None else ""
    for key, more in (("clip_value", cure), ("clip_norm", "")):
        if trainer[key] is not None and _error_of_step(node, {**trainer, key: None}, parameters) is None:
            return f"`trainer.{key}` must be null{more}"
    known = targets.parameters(targets.resolve("optimizer._target_", node["_target_"]))
    plain = {key: known[key].default for key in node if key in known} | {"param_groups": None}
    for key, default in plain.items():
        if node[key] != default and _error_of_step({**node, key: default}, trainer, parameters) is None:
            return f"`optimizer.{key}` can't be {typed(node[key])} here; {typed(default)}, the default, can be"
    return ""


def _error_of_step(
    node: Mapping[str, Any], trainer: Mapping[str, Any], parameters: Mapping[str, nn.Parameter]
) -> Exception | None:
    """Return what is wrong with a step of copies; nothing if it can be made."""
    if torch.accelerator.is_available() and trainer["device"] != "cpu":
        node = {key: value for key, value in node.items() if key not in ("fused", "capturable")}  # as it isn't here
    if "max_iter" in node:
        node = {**node, "max_iter": min(node["max_iter"], _FEW_ITERATIONS)}
    own = {name: nn.Parameter(p.detach().clone(), p.requires_grad) for name, p in parameters.items()}
    for name, p in parameters.items():
        own[name].grad = None if p.grad is None else p.grad.clone()
    losses = itertools.count()

    def closure() -> torch.Tensor:  # as of a loss that falls
        for p in own.values():
            p.grad = None if p.grad is None else 0.9 * p.grad
        return torch.tensor(-float(next(losses)))

    try:
        step = make_step(make_optimizer(node, own), trainer, torch.device("cpu"))
        step(closure, torch.ones(())) if step.needs_closure else step()
    except Exception as error:
        return error
    return None


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
