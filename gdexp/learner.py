"""One run: gradients and step of any module with any torch optimizer."""

import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim import optimizer as torch_optimizer

Loss = Callable[[Any, Any], Tensor]


class OneRun:
    """A learner made of a model, a loss and an optimizer.

    Args:
        model: on its device, with its dtype.
        loss: (output, target) -> scalar; None: the model has a `training_loss(batch)`, which returns
            the loss, or the loss and a dict of further numbers.
        optimizer: over the model's parameters.
        classifies: targets are class indices and outputs (rows, classes): accuracy is measured too.
    """

    def __init__(self, model: nn.Module, loss: Loss | None, optimizer: Optimizer, *, classifies: bool = False) -> None:
        self.model: Any = model  # Any: nn.Module declares no training_loss
        self.loss, self.optimizer, self.classifies = loss, optimizer, classifies
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._learns = next(model.parameters(), None) is not None  # else it has buffers only
        self._step = _plain_step(optimizer)
        self._closure = inspect.signature(optimizer.step).parameters.get("closure")
        model.train()

    def train_step(self, batch: Any) -> Mapping[str, Tensor]:
        """Update the weights by one batch; return the loss, and the model's further numbers, before the update."""
        if self._closure is not None and self._closure.default is inspect.Parameter.empty:
            return self._step_with_closure(batch)
        measures = self._gradients(batch)
        self._step()
        return measures

    def evaluate(self, batch: Any) -> Mapping[str, Tensor]:
        """Return `loss`, for a classifier `accuracy`, and the model's further numbers, in eval mode."""
        self.model.eval()
        try:
            with torch.no_grad():
                if self.loss is None:
                    return _with_numbers("loss", self.model.training_loss(batch))
                inputs, target = batch
                output = self.model(inputs)
                measures = {"loss": self.loss(output, target)}
                if self.classifies:
                    measures["accuracy"] = (output.argmax(1) == target).double().mean()
                return measures
        finally:
            self.model.train()

    def weights(self) -> list[Tensor]:
        """Return the live tensors of the state dict."""
        return [t.detach() for t in self.model.state_dict(keep_vars=True).values()]

    def _gradients(self, batch: Any) -> Mapping[str, Tensor]:
        for p in self._parameters:
            p.grad = None
        if self.loss is None:
            measures = _with_numbers("train_loss", self.model.training_loss(batch))
        else:
            inputs, target = batch
            measures = {"train_loss": self.loss(self.model(inputs), target)}
        if self._learns:
            measures["train_loss"].backward()
        return measures

    def _step_with_closure(self, batch: Any) -> Mapping[str, Tensor]:
        """Let an optimizer such as LBFGS evaluate the loss as often as it likes; the first time counts."""
        evaluations: list[Mapping[str, Tensor]] = []

        def closure() -> Tensor:
            evaluations.append(self._gradients(batch))
            return evaluations[-1]["train_loss"]

        self.optimizer.step(closure)  # type: ignore[arg-type]
        return evaluations[0]


def _with_numbers(name: str, returned: Any) -> dict[str, Tensor]:
    """Return {name: loss, …} for a training_loss that returned the loss or (loss, numbers)."""
    if not isinstance(returned, tuple):
        return {name: returned}
    loss, numbers = returned
    return {name: loss} | {k: v.detach() if isinstance(v, Tensor) else v for k, v in numbers.items()}


def _plain_step(optimizer: Optimizer) -> Callable[[], object]:
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
    bare = torch.no_grad()(inspect.unwrap(kind.step))
    return lambda: bare(optimizer)


def spare_dynamo() -> None:
    """Let the first optimizer of this process be made without importing torch._dynamo.

    `Optimizer.add_param_group` is wrapped to be left alone by torch.compile, and the wrapper imports
    torch._dynamo (823 modules) on its first call; marked as dealt with, it calls straight through.
    For the command line only: a host that compiles its own optimizers keeps torch as it is.
    """
    inner = getattr(Optimizer.add_param_group, "__wrapped__", None)
    if inner is not None and os.environ.get("GDEXP_PLAIN") != "1":
        inner.__dynamo_disable = inner
