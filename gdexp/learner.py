"""One run: gradients and step of any module with any torch optimizer."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from gdexp.config.refusal import Refusal
from gdexp.data.nest import copied, same, size
from gdexp.losses import Loss
from gdexp.measures import over, parts_of
from gdexp.reading import Reading
from gdexp.step import Step

LOSS = "loss."  # before the names of the loss's own weights


class OneRun:
    """A learner made of a model, a loss and an optimizer.

    Args:
        model: on its device, with its dtype.
        loss: (output, target) -> scalar; None: the model has a `training_loss(batch)`, which returns
            the loss, or the loss and a dict of further numbers.
        step: over the model's parameters.
        trained_loss: the module that the loss is, or that it wraps; its parameters are weights, too.
        reading: of the outputs of a classifier, whose accuracy is measured beside the loss.
        autocast: the dtype of a mixed-precision forward pass; None: that of the weights.
        compiled: run the model through torch.compile.
        spread: give the model the parts of its inputs one by one, by name or in order.
        validated_with_gradients: evaluate where gradients may be taken, as a loss made of derivatives needs.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss | None,
        step: Step,
        *,
        trained_loss: nn.Module | None = None,
        reading: Reading | None = None,
        autocast: torch.dtype | None = None,
        compiled: bool = False,
        spread: bool = False,
        validated_with_gradients: bool = False,
    ) -> None:
        self.model: Any = model  # Any: nn.Module declares no training_loss
        self.loss: Any = loss
        self.step, self.reading = step, reading
        self._divides = hasattr(loss, "over")
        order = {id(p): place for place, p in enumerate(model.parameters())}
        step.parameters.sort(key=lambda p: order.get(id(p), len(order)))  # a norm's last bits depend on it
        stateful = trained_loss is not None and any(True for _ in trained_loss.state_dict())
        self._loss_module = trained_loss if stateful else None
        own = self._loss_module.parameters() if self._loss_module is not None else ()
        self._loss_learns = any(True for _ in own)
        self._learns = self._loss_learns or next(model.parameters(), None) is not None  # else it has buffers only
        forward: Any = model if loss is not None else self.model.training_loss
        forward = torch.compile(forward) if compiled else forward
        self._forward = spreading(forward) if spread and loss is not None else forward
        self.spread = spread
        device = next(iter(model.state_dict().values()), torch.empty(0)).device
        self.validated_with_gradients = validated_with_gradients
        self._autocast = None if autocast is None else (device.type, autocast)
        self._weights: dict[str, Tensor] = {}
        self._homes: list[Collection[Any]] = []  # of parameters and buffers, by module, as they are at each look
        self._held: list[Any] = []  # what was in them when the weights were listed
        self._writes: bool | None = None  # whether an evaluation changes its batch; None: not known yet
        model.train()

    def train_step(self, *batches: Any) -> Mapping[str, Tensor]:
        """Update the weights by one step on a batch, or on several whose gradients are accumulated.

        Returns:
            `train_loss`, the model's further numbers and the norms asked for: means over the rows,
            from before the update.
        """
        self.step.switch("train")
        if not self.step.needs_closure:
            measures = self._gradients(batches)
            return {**measures, **self.step()}
        measures = self._on_a_copy(batches)

        def closure() -> Tensor:  # an optimizer such as LBFGS evaluates the loss as often as it likes
            return self._on_a_copy(batches)["train_loss"]

        return {**measures, **self.step(closure, measures["train_loss"])}

    def settle(self) -> None:
        """Bring the weights to where they are measured and saved, should the optimizer train others."""
        self.step.switch("eval")

    def evaluate(self, batch: Any, outputs: list[tuple[Any, Any]] | None = None) -> Mapping[str, Tensor]:
        """Return `loss`, for a classifier `accuracy`, and the model's further numbers, in eval mode.

        Args:
            batch: of validation or test rows.
            outputs: takes the model's output and the target.
        """
        self.model.eval()
        if self._loss_module is not None:
            self._loss_module.eval()
        try:
            with torch.set_grad_enabled(self.validated_with_gradients):
                measures, output = self._measured("loss", batch)
            if self.validated_with_gradients:
                measures, output = tree_map(_detached, (measures, output))
            with torch.no_grad():
                if self.reading is not None:
                    measures |= self.reading.accuracy(output, batch[1])
                if outputs is not None:
                    outputs.append((output, batch[1]))
                return measures
        finally:
            self.model.train()
            if self._loss_module is not None:
                self._loss_module.train()

    def measures_of(self, batch: Any) -> dict[str, Any]:
        """Return what a training step measures, and whose gradients it takes, without taking it."""
        return self._measured("train_loss", batch)[0]

    def weights(self) -> Mapping[str, Tensor]:
        """Return the live tensors of the model's state dict, and of a loss that has parameters."""
        if not self._homes or not _hold(self._homes, self._held):
            self._weights = self.model.state_dict(keep_vars=True)
            parts = [self.model]
            if self._loss_learns and self._loss_module is not None:
                self._weights |= self._loss_module.state_dict(keep_vars=True, prefix=LOSS)
                parts.append(self._loss_module)
            homes = [home for part in parts for m in part.modules() for home in (m._parameters, m._buffers)]
            self._homes = [home.values() for home in homes]
            self._held = list(chain.from_iterable(self._homes))
            known = set(map(id, self._held))
            if not all(id(t) in known for t in self._weights.values()):
                self._homes = []  # a state dict that is made anew each time
        return self._weights

    def parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters that model and loss have now, by the names to show."""
        yield from self.model.named_parameters("model")
        if self._loss_module is not None:
            yield from self._loss_module.named_parameters("loss")

    def state_dict(self) -> dict[str, Any]:
        """Return what no attribute of the model, the loss and the optimizer tells: of the scaler, and the mode."""
        return {"scaler": self.step.scaler and self.step.scaler.state_dict(), "mode": self.step.mode}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put it back, and what checkpoints of older versions hold beside it."""
        self.step.mode = state.get("mode", "")
        if self.step.scaler is not None:
            self.step.scaler.load_state_dict(state["scaler"])
        if "model" in state:
            self.model.load_state_dict(state["model"])
            with torch.no_grad():
                for name, b in self.model.named_buffers():
                    b.copy_(state["buffers"][name])
            self.step.optimizer.load_state_dict(state["optimizer"])

    def _gradients(self, batches: tuple[Any, ...]) -> Mapping[str, Tensor]:
        self.step.clear()
        if len(batches) == 1:
            measures, _ = self._measured("train_loss", batches[0])
            if self._learns:
                self.step.backward(measures["train_loss"])
            return measures
        means: dict[str, Tensor] = {}
        for batch, parts in zip(batches, parts_of(self.loss, batches, list(map(size, batches))), strict=True):
            measures, _ = self._measured("train_loss", batch)
            if self._learns:
                self.step.backward(measures["train_loss"] / parts)
            for name, value in measures.items():
                share = value if name == over("train_loss") else torch.as_tensor(value).detach() / parts
                means[name] = means.get(name, 0.0) + share
        return means

    def _on_a_copy(self, batches: tuple[Any, ...]) -> Mapping[str, Tensor]:
        """Do the same with a batch that is needed again: on a copy, unless it is known to stay as it is."""
        if self._writes is False:
            return self._gradients(batches)
        given = copied(batches)
        measures = self._gradients(given)
        self._writes = self._writes or not same(given, batches)
        return measures

    def _measured(self, name: str, batch: Any) -> tuple[dict[str, Tensor], Any]:
        """Return {name: loss, …} of a batch, and the model's output, where the loss is apart."""
        if self._autocast is None:
            return self._forwarded(name, batch)
        device, dtype = self._autocast
        with torch.autocast(device, dtype):
            return self._forwarded(name, batch)

    def _forwarded(self, name: str, batch: Any) -> tuple[dict[str, Tensor], Any]:
        if self.loss is not None:
            inputs, *rest = batch  # the target, and weights of the rows if there are any
            output = self._forward(inputs)
            measures = {name: self.loss(output, *rest)}
            if self._divides:
                measures[over(name)] = self.loss.over(*rest)
            return measures, output
        returned = self._forward(batch)
        if not isinstance(returned, tuple):
            return {name: returned}, None
        if len(returned) != 2 or not isinstance(returned[1], Mapping):
            raise Refusal(
                f"{type(self.model).__name__}.training_loss must return the loss, or (loss, {{name: number}})"
            )
        loss, numbers = returned
        if name in numbers:
            raise Refusal(f"training_loss: the number {name!r} has the name of the loss itself: rename it")
        return {name: loss} | {k: v.detach() if isinstance(v, Tensor) else v for k, v in numbers.items()}, None


def spreading(forward: Callable[..., Any]) -> Callable[[Any], Any]:
    """Return a forward pass that is given the parts of a nest one by one: those of a mapping by their names."""
    return lambda inputs: forward(**inputs) if isinstance(inputs, Mapping) else forward(*inputs)


def _hold(homes: Iterable[Iterable[Any]], tensors: Sequence[Any]) -> bool:
    """Say whether modules still have these parameters and buffers, and none was assigned anew."""
    there = list(chain.from_iterable(homes))
    return len(there) == len(tensors) and all(map(is_, there, tensors))


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value
