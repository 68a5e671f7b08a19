"""From gradients to new weights: loss scaling, clipping, the optimizer's step, and the norms of both."""

import dis
import functools
import inspect
import itertools
import os
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, clip_grad_value_, get_total_norm
from torch.optim import Optimizer
from torch.optim import optimizer as torch_optimizer


class Step:
    """What happens between the gradients and the next forward pass.

    Args:
        optimizer: over the parameters.
        clip_value: largest absolute value in a gradient, applied first; None: any.
        clip_norm: largest 2-norm of all gradients together; None: any.
        scaler: of the loss, for float16; None: the loss as it is.
        record: `grad_norm` (before clipping), `update_norm` or both are returned.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        clip_value: float | None = None,
        clip_norm: float | None = None,
        scaler: torch.amp.GradScaler | None = None,
        record: Collection[str] = (),
    ) -> None:
        self.optimizer, self.scaler = optimizer, scaler
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._clip_value, self._clip_norm, self._record = clip_value, clip_norm, record
        self._step = bare_step(optimizer)
        self.needs_closure = _takes_closure(optimizer, wanted=scaler is None)
        self.has_modes = any(callable(getattr(optimizer, mode, None)) for mode in ("train", "eval"))
        self.mode = ""  # in which an optimizer that has modes is

    def clear(self) -> None:
        """Forget the gradients."""
        for p in self.parameters:
            p.grad = None

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss."""
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def switch(self, mode: str) -> None:
        """Bring an optimizer that has modes into one: `train` before steps, `eval` before weights are used.

        A schedule-free optimizer, for one, keeps the weights where gradients are taken while it
        trains, and moves them to their average for all else (Defazio et al. 2024).
        """
        if self.has_modes and mode != self.mode:
            if callable(own := getattr(self.optimizer, mode, None)):
                own()
            self.mode = mode

    def __call__(self, closure: Callable[[], Tensor] | None = None, loss: Tensor | None = None) -> dict[str, Tensor]:
        """Update the parameters and return the norms that are wanted.

        Args:
            closure: computes loss and gradients anew, for an optimizer that takes one.
            loss: that the gradients are of.
        """
        before = [p.detach().clone() for p in self.parameters] if "update_norm" in self._record else None
        norms = self._clipped()
        if closure is not None:
            self.optimizer.step(self._known_at_first(closure, loss))  # type: ignore[arg-type]
        elif self.scaler is not None:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self._step()
        if before is not None:
            moves = [p.detach() - b for p, b in zip(self.parameters, before, strict=True)]
            norms["update_norm"] = get_total_norm(moves)
        return norms

    def _known_at_first(self, closure: Callable[[], Tensor], loss: Any) -> Callable[[], Tensor]:
        """Return the closure for an optimizer, which gives what is known already as long as the weights are the same.

        So the gradients are there for an optimizer that looks at them before it calls the closure, or
        that doesn't call it, and nothing is computed twice for one that calls it first.
        """
        weights = [p.detach().clone() for p in self.parameters]
        gradients = [p.grad for p in self.parameters]
        versions = [g is not None and g._version for g in gradients]
        calls = itertools.count()

        def evaluate() -> Tensor:
            unmoved = next(calls) == 0 and all(map(torch.equal, self.parameters, weights))
            if unmoved and versions == [g is not None and g._version for g in gradients]:
                for p, g in zip(self.parameters, gradients, strict=True):
                    p.grad = g
                return loss
            with torch.enable_grad():
                value = closure()
            self._clipped()
            return value

        return evaluate

    def _clipped(self) -> dict[str, Tensor]:
        """Clip the gradients; return their norm from before."""
        if self._clip_norm is None and self._clip_value is None and "grad_norm" not in self._record:
            return {}
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norms = {"grad_norm": get_total_norm(gradients)} if "grad_norm" in self._record else {}
        if self._clip_value is not None:
            clip_grad_value_(self.parameters, self._clip_value)
        if self._clip_norm is not None:
            clip_grad_norm_(self.parameters, self._clip_norm)
        return norms


def _takes_closure(optimizer: Optimizer, wanted: bool) -> bool:
    """Say whether a step gets a closure: it must have one, or it may, isn't torch's own and makes use of one.

    Args:
        optimizer: whose step.
        wanted: whether one that may is to.
    """
    parameter = inspect.signature(optimizer.step).parameters.get("closure")
    if parameter is None or parameter.default is inspect.Parameter.empty:
        return parameter is not None
    step = inspect.unwrap(type(optimizer).step)
    if not wanted or step.__module__.startswith(("torch.optim.", "gdexp.")):
        return False
    code = getattr(step, "__code__", None)
    loads = dis.get_instructions(code) if code is not None else ()
    named = [i.argval for i in loads if i.opname.startswith("LOAD")]
    return code is None or any("closure" in (name if isinstance(name, tuple) else (name,)) for name in named)


def bare_step(optimizer: Optimizer) -> Callable[[], object]:
    """Return the optimizer's step without the wrappers of torch.optim, where they do nothing.

    They import torch._dynamo (about a second, though nothing is compiled) and enter the profiler
    at every step. What they wrap is torch's own step, unmodified; with step hooks registered, for
    classes that aren't torch's, or with GDEXP_PLAIN=1, the step is called as usual.
    """
    kind = type(optimizer)
    hooks = (
        optimizer._optimizer_step_pre_hooks,
        optimizer._optimizer_step_post_hooks,
        torch_optimizer._global_optimizer_pre_hooks,
        torch_optimizer._global_optimizer_post_hooks,
    )
    if os.environ.get("GDEXP_PLAIN") == "1" or not kind.__module__.startswith("torch.optim.") or any(hooks):
        return optimizer.step  # type: ignore[return-value]
    bare: Any = inspect.unwrap(kind.step)

    def step() -> None:
        with torch.no_grad():
            bare(optimizer)

    return step


def spare_dynamo() -> None:
    """Let this process make optimizers and use torch.func without importing torch._dynamo.

    `Optimizer.add_param_group` is wrapped to be left alone by torch.compile, and the wrapper imports
    torch._dynamo (823 modules, about a second) on its first call; marked as dealt with, it calls
    straight through. torch.func's gradient switches compiled autograd off, which nobody has switched
    on, by importing it. For the command line only: a host that compiles keeps torch as it is.
    """
    if os.environ.get("GDEXP_PLAIN") == "1":
        return
    if (inner := getattr(Optimizer.add_param_group, "__wrapped__", None)) is not None:
        inner.__dynamo_disable = inner
    from torch._functorch import eager_transforms

    names = ("outputs", "inputs", "grad_outputs", "retain_graph", "create_graph")
    known = getattr(eager_transforms, "_autograd_grad", None)
    if known is not None and tuple(inspect.signature(known).parameters) == names:
        eager_transforms._autograd_grad = functools.partial(_gradients, known)


def _gradients(
    known: Callable[..., Any],
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    grad_outputs: Sequence[Tensor] | None = None,
    retain_graph: bool = False,
    create_graph: bool = True,
) -> tuple[Tensor, ...]:
    """Return what torch.func's own `known` does, while nothing is compiled."""
    if "torch._dynamo" in sys.modules:
        return known(outputs, inputs, grad_outputs, retain_graph, create_graph)
    weights: Sequence[Tensor | None] = grad_outputs or [None] * len(outputs)
    pairs = [(o, w) for o, w in zip(outputs, weights, strict=True) if o.requires_grad]
    if not pairs:
        return tuple(map(torch.zeros_like, inputs))
    roots, weights = zip(*pairs, strict=True)
    found = torch.autograd.grad(roots, inputs, weights, retain_graph, create_graph, allow_unused=True)
    return tuple(torch.zeros_like(x) if g is None else g for g, x in zip(found, inputs, strict=True))
