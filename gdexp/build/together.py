"""Runs that one program can train: which these are, and their parts."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gdexp.average import Average
from gdexp.build import SMALL_WORK, Parts, make_model, updates
from gdexp.build.apart import Apart, Few
from gdexp.build.attributes import differing
from gdexp.build.rows import count, seed_everything
from gdexp.build.start import start_from
from gdexp.data.loading import Loader
from gdexp.dtypes import move
from gdexp.learner import OneRun
from gdexp.optimizers import Muon
from gdexp.stack import Stack
from gdexp.stack.optimizer import Pilots, fitting
from gdexp.step import Step

_FEWEST = 8  # runs that are quicker together than one after another,
_FEWEST_TINY, _TINY_WORK = 4, 1e4  # and where a step is hardly more than its calls
_CHUNK_WORK, _LARGEST_CHUNK = 32e6, 4096  # parameters × rows a step of all runs: more no longer fits a cache
_OF_TIME = ("rows_per_second", "epoch_seconds", "peak_memory")


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
    if reason := _obstacle_in(first.learner.step):
        raise Apart(reason)
    if first.learner.validated_with_gradients:
        raise Apart("gradients in validation")
    if first.learner.spread:
        raise Apart("inputs that the model takes one by one")
    sweep, trainer = first.config["sweep"], first.config["trainer"]
    parameters = sum(p.numel() for p in first.model.parameters())
    if not parameters:
        raise Apart("no parameters")
    if isinstance(first.loss, nn.Module) and any(True for _ in first.loss.parameters()):
        raise Apart("a loss with parameters")
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


def _obstacle_in(step: Step) -> str:
    """Return why runs with such an optimizer train one by one; nothing if there is no reason."""
    name = type(step.optimizer).__name__
    if step.needs_closure:
        return f"{name} takes a closure that evaluates the loss"
    if step.has_modes:
        return f"{name} has train() and eval()"
    if isinstance(step.optimizer, (Muon, getattr(torch.optim, "Muon", Muon))):
        return f"{name} rounds to bfloat16, which enlarges rounding errors"
    return ""


def build_together(
    first: Parts, configs: Sequence[dict[str, Any]], options: Mapping[str, str | None], unused: Collection[str] = ()
) -> Parts:
    """Make the parts of runs that train as one, of models that nothing has called yet.

    Args:
        first: the parts of a run with such a config, whose model and loss are called for all of them.
        configs: checked and resolved.
        options: the option chosen in each group, for messages.
        unused: names of the parameters that the loss doesn't depend on.

    Raises:
        Apart: they can't. That one program gives what the runs give alone isn't known yet.
    """
    trainer, loss, template = first.config["trainer"], first.loss, next(first.model.parameters())

    def fresh(seed: int) -> tuple[nn.Module, Tensor]:
        seed_everything(seed)
        model = make_model({**configs[0], "model": first.config["model"]}, loss, options)
        assert model is not None
        move(model, template.device, getattr(torch, trainer["dtype"]))
        start_from(model, first.config)
        return model, torch.get_rng_state()

    models = {seed: fresh(seed) for seed in dict.fromkeys(config["seed"] for config in configs)}
    if reason := differing([first.model, *(model for model, _ in models.values())]):
        raise Apart(reason)
    each = [models[config["seed"]] for config in configs]
    own = each if len(models) > 1 else each[:1]
    generators = [
        _generator(template.device, state, config["seed"]) for (_, state), config in zip(own, configs, strict=False)
    ]
    try:
        stack = Stack(
            first.model,
            [model for model, _ in each],
            loss,
            generators,
            reading=first.reading,
            clip_value=trainer["clip_value"],
            clip_norm=trainer["clip_norm"],
            record=trainer["record"],
            unused=unused,
        )
    except RuntimeError as error:
        raise Apart(line(error)) from error
    named = dict(first.model.named_parameters())
    pilots = [updates.make_optimizer(config["optimizer"], named) for config in configs]

    def make(run: int, parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
        return updates.make_optimizer(configs[run]["optimizer"], parameters)

    runs = [updates.make_run(c, first.data, loss, first.metrics, p) for c, p in zip(configs, pilots, strict=True)]
    stack.optimizer = fitting(Pilots(make, pilots), stack.parameters)
    stack.scheduled = any(run.schedule is not None for run in runs)
    average = None if trainer["ema"] is None else Average(stack.weights(), trainer["ema"])
    return first._replace(learner=stack, runs=runs, average=average)


def _generator(device: torch.device, state: Tensor, seed: int) -> torch.Generator:
    """Return what a run draws from: on the CPU, the global generator as it is when its model is built."""
    generator = torch.Generator(device)
    return generator.set_state(state) if device.type == "cpu" else generator.manual_seed(seed)


def line(error: Exception) -> str:
    """Return the first line of what an error says."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
