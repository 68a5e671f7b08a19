"""Lazy modules, which get their shapes in the first forward pass, initialised as a plain script initialises them."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from gdexp.build import fit
from gdexp.build.look import Tried
from gdexp.build.untouched import untouched
from gdexp.config.refusal import Refusal
from gdexp.data import TensorData
from gdexp.data.batches import Batches
from gdexp.data.loading import Loader
from gdexp.data.nest import moved
from gdexp.learner import spreading


def initialize(tried: Tried, data: TensorData) -> None:
    """Give the lazy modules of a model their parameters, and touch nothing else of it.

    A copy makes the first forward pass. It shows what each lazy module is called with, and where the
    generator is then: dropout before it may have drawn. The model's own modules are initialised from
    these, so their weights are those of `torch.manual_seed(seed)`, building and a first forward pass,
    and what is drawn next is what a plain script would draw next.

    Args:
        tried: the model as it was built, and what goes with it.
        data: whose first batch is taken. An error of the user's own code passes.
    """
    model = tried.model
    if not any(map(_is_lazy, model.modules())):
        return
    calls: dict[str, tuple[tuple[Any, ...], Mapping[str, Any], Tensor]] = {}
    with untouched(model):
        trial = tried.copy()[0].train()
        for name, module in trial.named_modules():
            if _is_lazy(module):
                note = _noting(calls, name)
                module.register_forward_pre_hook(note, prepend=True, with_kwargs=True)
        _first_pass(trial, tried, data)
    modules = dict(model.named_modules())
    for name, (arguments, named, state) in calls.items():
        torch.set_rng_state(state)
        module = modules[name]
        module._infer_parameters(module, arguments, named)  # torch's own hook, which calls initialize_parameters
    if left := [name for name, module in modules.items() if _is_lazy(module)]:
        raise Refusal(f"`model`: {left[0]} is lazy, and a forward pass doesn't reach it: its shape isn't known")


def _first_pass(trial: nn.Module, tried: Tried, data: TensorData) -> None:
    """Make the forward pass of the first step."""
    if isinstance(data.train, Loader):
        batch = fit.sample(data)
    else:
        _, batch = next(Batches(data.train, tried.config["trainer"]["batch_size"])(tried.config["seed"], 1))
    batch = moved(batch, torch.device("cpu"), torch.get_default_dtype())
    if tried.loss is None and hasattr(trial, "training_loss"):
        trial.training_loss(batch)  # type: ignore[operator]
    else:
        inputs = batch[0] if fit.is_pair(batch) else batch
        (spreading(trial) if tried.spread else trial)(inputs)


def _is_lazy(module: Any) -> bool:
    return isinstance(module, LazyModuleMixin) and module.has_uninitialized_params()  # type: ignore[misc]


def _noting(calls: dict[str, Any], name: str) -> Callable[..., None]:
    def note(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        calls.setdefault(name, (arguments, named, torch.get_rng_state()))

    return note
