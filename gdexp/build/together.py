"""Runs that one program can train: which these are, and their parts."""

import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gdexp.average import Average
from gdexp.build import SMALL_WORK, Parts, make_model, updates
from gdexp.build.rows import count, seed_everything
from gdexp.data.batches import Batches
from gdexp.data.loading import Loader
from gdexp.learner import OneRun
from gdexp.stack import Stack
from gdexp.stack.optimizer import Pilots, fitting

_FEWEST = 8  # runs that are quicker together than one after another,
_FEWEST_TINY, _TINY_WORK = 4, 1e4  # and where a step is hardly more than its calls
_CHUNK_WORK, _LARGEST_CHUNK = 32e6, 4096  # parameters × rows a step of all runs: more no longer fits a cache
_OF_TIME = ("rows_per_second", "epoch_seconds", "peak_memory")


class Apart(Exception):
    """Why runs can't be trained as one program."""


class Few(Apart):
    """They are too few for it to pay."""


def obstacle(config: Mapping[str, Any]) -> str:
    """Return the key for which runs with such a config train one by one; nothing if there is none."""
    trainer = config["trainer"]
    for name, plain in (("autocast", None), ("compile", False), ("on_epoch", []), ("max_seconds", None)):
        if trainer[name] != plain:
            return f"trainer.{name}"
    if timed := [name for name in trainer["record"] if name in _OF_TIME]:
        return f"trainer.record={timed[0]}"
    return "learner=custom" if config["learner"]["_target_"] is not None else ""


def chunks(first: Parts, runs: int, whole: int | None = None) -> list[int]:
    """Return how many runs train as one program at a time: a function of config, data and count only.

    Args:
        first: the parts of one of the runs.
        runs: how many are to be trained here,
        whole: of how many in other processes too; None: of these.

    Raises:
        Apart: they are better trained one by one.
    """
    if reason := obstacle(first.config):
        raise Apart(reason)
    if isinstance(first.data.train, Loader):
        raise Apart("a Dataset or DataLoader")
    assert isinstance(first.learner, OneRun)
    if first.learner.step.needs_closure:
        raise Apart(f"{type(first.learner.step.optimizer).__name__} evaluates the loss by itself")
    if first.learner.validated_with_gradients:
        raise Apart("gradients in validation")
    sweep, trainer = first.config["sweep"], first.config["trainer"]
    parameters = sum(p.numel() for p in first.model.parameters())
    if not parameters:
        raise Apart("no parameters")
    work = parameters * min(trainer["batch_size"] or math.inf, count(first.data) or 1)
    fewest = _FEWEST_TINY if work <= _TINY_WORK else _FEWEST
    if sweep["chunk"] == "auto":
        if (whole or runs) < fewest:
            raise Few(f"fewer than {fewest} runs")
        if work > SMALL_WORK and next(first.model.parameters()).device.type == "cpu":
            raise Apart("large steps, which are no quicker together")
        most = 2 ** int(math.log2(min(max(_CHUNK_WORK / work, _FEWEST), _LARGEST_CHUNK)))
    else:
        most = sweep["chunk"]
    if runs < 2:
        raise Few("one run")
    parts = min(-(-runs // most), runs // 2)  # a lone one may round differently
    return [runs // parts + (i < runs % parts) for i in range(parts)]


def build_together(first: Parts, configs: Sequence[dict[str, Any]], options: Mapping[str, str | None]) -> Parts:
    """Make the parts of runs that train as one.

    Args:
        first: the parts of a run with such a config, whose data they share.
        configs: checked and resolved.
        options: the option chosen in each group, for messages.

    Raises:
        Apart: they can't; what one program gives was compared with what two of the runs give alone.
    """
    assert isinstance(first.learner, OneRun)
    trainer, data, loss = first.config["trainer"], first.data, first.loss
    template = next(first.model.parameters())
    models: dict[int, tuple[nn.Module, Tensor]] = {}  # by seed, with the state of the random numbers after it
    for seed in dict.fromkeys(config["seed"] for config in configs):
        seed_everything(seed)
        model = make_model({**configs[0], "model": first.config["model"]}, loss, options)
        assert model is not None
        models[seed] = model.to(template.device, template.dtype), torch.get_rng_state()
    each = [models[config["seed"]] for config in configs]
    own = each if len(models) > 1 else each[:1]
    try:
        stack = Stack(
            [model for model, _ in each],
            loss,
            [
                _generator(template.device, state, config["seed"])
                for (_, state), config in zip(own, configs, strict=False)
            ],
            reading=first.reading,
            clip_value=trainer["clip_value"],
            clip_norm=trainer["clip_norm"],
            record=trainer["record"],
        )
    except RuntimeError as error:
        raise Apart(_line(error)) from error
    _compare(stack, each, first)
    named = dict(first.model.named_parameters())
    pilots = [updates.make_optimizer(config["optimizer"], named) for config in configs]

    def make(parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
        return updates.make_optimizer(configs[0]["optimizer"], parameters)

    runs = [updates.make_run(c, data, loss, first.metrics, p) for c, p in zip(configs, pilots, strict=True)]
    stack.optimizer, reason = fitting(Pilots(make, pilots), stack.parameters)
    if stack.optimizer is None:
        raise Apart(reason)
    stack.scheduled = any(run.schedule is not None for run in runs)
    average = None if trainer["ema"] is None else Average(stack.weights(), trainer["ema"])
    return first._replace(learner=stack, runs=runs, average=average)


def _generator(device: torch.device, state: Tensor, seed: int) -> torch.Generator:
    """Return what a run draws from: on the CPU, the global generator as it is when its model is built."""
    generator = torch.Generator(device)
    return generator.set_state(state) if device.type == "cpu" else generator.manual_seed(seed)


def _compare(stack: Stack, each: Sequence[tuple[nn.Module, Tensor]], first: Parts) -> None:
    """Refuse to train runs as one where its first step isn't that of the runs alone.

    The first and the last run are tried, in copies; parameters on which the loss doesn't depend are noted.
    """
    loss = first.loss
    _, batch = next(Batches(first.data.train, first.config["trainer"]["batch_size"])(None))
    places = [0, len(each) - 1]
    pair = stack.part(places)
    alone = [_alone(copy.deepcopy(each[place][0]), each[place][1], loss, batch) for place in places]
    optimizer = first.learner.step.optimizer  # type: ignore[attr-defined]
    if not isinstance(optimizer, torch.optim.SGD) and any(_is_noise(list(own.values())) for _, own, _ in alone):
        raise Apart("gradients that are rounding errors only, as of a bias before a batch norm")
    unused = [{name for name, g in gradients.items() if g is None} for _, gradients, _ in alone]
    if unused[0] != unused[1]:
        raise Apart("runs that use different parameters")
    stack.unused = pair.unused = unused[0] & {name for name, p in stack.parameters.items() if p.requires_grad}
    try:
        with warnings.catch_warnings(action="ignore"):
            measures, gradients = pair.gradients(batch)
            weights = {name: t.clone() for name, t in pair.weights().items()}
            for split in filter(None, first.data[1:3]):
                pair.evaluate(next(Batches(split, 2)(None))[1])
    except Exception as error:
        raise Apart(_line(error)) from error
    for i, (value, own, state) in enumerate(alone):
        same = _close(measures["train_loss"][i], value)
        same = same and all(_close(gradients[k][i], g) for k, g in own.items() if g is not None)
        if not (same and all(_close(weights[k][i], t) for k, t in state.items())):
            raise Apart("a model that computes something else when it is stacked")


def _alone(model: nn.Module, state: Tensor, loss: Any, batch: Any) -> tuple[Tensor, dict[str, Any], dict[str, Tensor]]:
    """Return loss, gradients and weights of a run after its first forward and backward pass."""
    kept = torch.get_rng_state()
    model.train()
    torch.set_rng_state(state)
    try:
        value: Any = loss(model(batch[0]), batch[1]) if loss is not None else model.training_loss(batch)  # type: ignore[operator]
        value = value[0] if isinstance(value, tuple) else value
        value.backward()
    except Exception as error:  # the user's own code: the runs fail one by one, with their tracebacks
        raise Apart(_line(error)) from error
    finally:
        torch.set_rng_state(kept)
    gradients = {name: p.grad for name, p in model.named_parameters()}
    if any(g is not None and g.is_sparse for g in gradients.values()):
        raise Apart("sparse gradients")
    return value.detach(), gradients, {k: t.detach() for k, t in model.state_dict().items()}


def _is_noise(gradients: Sequence[Tensor | None]) -> bool:
    """Say whether a gradient is zero but for rounding; a step that is normalised by its size follows chance."""
    norms = [float(torch.linalg.vector_norm(g.double())) for g in gradients if g is not None]
    least = max(norms, default=0.0) * max((torch.finfo(g.dtype).eps for g in gradients if g is not None), default=0.0)
    return any(0 < norm < 100 * least for norm in norms)


def _close(found: Tensor, wanted: Tensor) -> bool:
    """Say whether two results agree to half of their digits; both may be infinite or NaN."""
    if not wanted.is_floating_point():
        return torch.equal(found, wanted)
    error = torch.linalg.vector_norm((found.detach() - wanted).double())
    size = torch.linalg.vector_norm(wanted.double())
    return not math.isfinite(size) or bool(error <= torch.finfo(wanted.dtype).eps ** 0.5 * size.clamp(min=1e-12))


def _line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
