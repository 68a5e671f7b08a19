"""Several runs as one program: gradients and step of models of one structure, on tensors (runs, …)."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from gdexp.data.batches import OfEach
from gdexp.data.split import rows
from gdexp.losses import Loss
from gdexp.measures import over, parts_of
from gdexp.reading import Reading
from gdexp.stack.one_of_many import OneOfMany
from gdexp.stack.optimizer import StackedOptimizer

Named = dict[str, Tensor]


class Witness(Protocol):
    """Watches the steps of a stack."""

    def before(self, stack: "Stack", batches: Sequence[Any]) -> None:
        """See the stack before a step on these batches."""

    def after(self, stack: "Stack", measures: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> None:
        """See it after the step, with what was measured, and the gradients that the step was made with."""


class Stack:
    """The learner of several runs.

    Args:
        module: what is called, with the tensors of each run in the place of its own.
        models: of its structure, each as its run begins with it.
        loss: as in `OneRun`.
        generators: of the random numbers that the runs draw, one a run or one for all.
        reading: as in `OneRun`.
        clip_value: as in `Step`, for each run apart.
        clip_norm: likewise.
        record: likewise.
        unused: names of the parameters that the loss doesn't depend on, which no step changes.
    """

    def __init__(
        self,
        module: nn.Module,
        models: Sequence[nn.Module],
        loss: Loss | None,
        generators: Sequence[torch.Generator],
        *,
        reading: Reading | None = None,
        clip_value: float | None = None,
        clip_norm: float | None = None,
        record: Sequence[str] = (),
        unused: Collection[str] = (),
    ) -> None:
        self.runs = list(range(len(models)))  # which of them are here, by number, in the order of the tensors
        self._generators = list(generators)
        self._reading, self._record = reading, record
        self._clip_value, self._clip_norm = clip_value, clip_norm
        self._module = _Forward(module, loss)
        parameters, buffers = stack_module_state(list(models))  # type: ignore[arg-type]
        learns = {name: p.requires_grad for name, p in models[0].named_parameters()}
        self.parameters = {name: nn.Parameter(p.detach(), learns[name]) for name, p in parameters.items()}
        self.buffers = {name: b.detach().clone() for name, b in buffers.items()}
        self.unused = unused
        self.witness: Witness | None = None
        self.optimizer: StackedOptimizer | None = None
        self.scheduled = False  # whether hyperparameters change while training
        own = {id(t): name for name, t in (*models[0].named_parameters(), *models[0].named_buffers())}
        self._tied = {name: own[id(t)] for name, t in models[0].state_dict(keep_vars=True).items()}

    def train_step(self, *batches: Any) -> Mapping[str, Tensor]:
        """Update the weights by one step on a batch, or on several whose gradients are accumulated.

        Returns:
            what OneRun returns, each (runs,).
        """
        assert self.optimizer is not None
        if self.witness is not None:
            self.witness.before(self, batches)
        measures, gradients = self.gradients(*batches)
        before = [p.detach().clone() for p in self.parameters.values()] if "update_norm" in self._record else []
        norms = self._clipped(gradients)
        if self.scheduled:
            self.optimizer.steer()
        self.optimizer.step([gradients.get(name) for name in self.parameters])
        if before:
            moves = [p.detach() - b for p, b in zip(self.parameters.values(), before, strict=True)]
            norms["update_norm"] = _norms(moves)
        if self.witness is not None:
            self.witness.after(self, measures, gradients)
        return {**measures, **norms}

    def gradients(self, *batches: Any) -> tuple[dict[str, Tensor], Named]:
        """Return the measures and the gradients of each run, as OneRun accumulates them."""
        means: dict[str, Tensor] = {}
        sums: Named = {}
        for batch, parts in zip(batches, self._parts(batches), strict=True):
            gradients, measures = self._differentiated(batch, parts)
            sums = {k: sums[k] + g if k in sums else g for k, g in gradients.items()}
            if len(batches) == 1:
                return measures, gradients
            for name, value in measures.items():
                share = value if name == over("train_loss") else value / parts
                means[name] = means.get(name, 0.0) + share
        return means, sums

    def _parts(self, batches: Sequence[Any]) -> list[Any]:
        """Return by what the loss of each batch is divided, (runs,) where it isn't the same for all."""
        loss: Any = self._module._loss[0]
        if not hasattr(loss, "over") or loss.sums or len(batches) == 1:
            return parts_of(loss, batches, list(map(_rows, batches)))
        if not isinstance(batches[0], OfEach):
            return [part.expand(len(self.runs)) for part in parts_of(loss, batches, [])]
        own = [batch.batch for batch in batches]
        return list(vmap(lambda *batches: tuple(parts_of(loss, batches, [])))(*own))

    def evaluate(self, batch: Any, outputs: list[tuple[Any, Any]] | None = None) -> Mapping[str, Tensor]:
        """Return the measures of each run in eval mode, (runs,).

        Args:
            batch: of validation or test rows, the same for all runs.
            outputs: takes the models' outputs (runs, rows, …) and the target.
        """
        self._module.eval()
        try:
            with torch.no_grad():
                measured = vmap(self._evaluated, in_dims=(0, 0, None))
                measures, output = measured(self._detached() | self.buffers, self._index(), batch)
            if outputs is not None:
                outputs.append((output, batch[1]))
            return measures
        finally:
            self._module.train()

    def weights(self) -> Mapping[str, Tensor]:
        """Return the live tensors of the state dict, (runs, …)."""
        return {name: self.parameters.get(own, self.buffers.get(own)) for name, own in self._tied.items()}  # type: ignore[misc]

    def of_run(self, run: int, tensors: Mapping[str, Tensor]) -> Named:
        """Return one run's part of tensors (runs, …), by its number."""
        place = self.runs.index(run)
        return {name: t[place].detach().clone() for name, t in tensors.items()}

    def keep(self, places: Tensor) -> None:
        """Go on with the runs at these places only."""
        assert self.optimizer is not None
        self.runs = [self.runs[place] for place in places.tolist()]
        if len(self._generators) > 1:
            self._generators = [self._generators[place] for place in places.tolist()]
        self.parameters = {
            k: nn.Parameter(p.detach()[places.to(p.device)], p.requires_grad) for k, p in self.parameters.items()
        }
        self.buffers = {k: b[places.to(b.device)] for k, b in self.buffers.items()}
        self.optimizer.keep(self.parameters, places)

    @property
    def module(self) -> nn.Module:
        """What is called, model and loss, for the runs in turn."""
        return self._module

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return next(iter({**self.parameters, **self.buffers}.values())).device

    def generator(self, place: int) -> torch.Generator:
        """Return what the run at a place draws from."""
        return self._generators[place if len(self._generators) > 1 else 0]

    def _differentiated(self, batch: Any, parts: Any) -> tuple[Named, dict[str, Tensor]]:
        """Return the gradients of loss / parts, and the measures."""
        state = self._detached() | self.buffers
        learning = [k for k, p in self.parameters.items() if p.requires_grad and k not in self.unused]
        others = [k for k in state if k not in learning]
        own, shared = (batch.batch, None) if isinstance(batch, OfEach) else ((), batch)

        same = not isinstance(parts, Tensor)  # for all runs

        def loss(changing: list[Tensor], rest: list[Tensor], index: Tensor, own: Any, part: Any) -> tuple[Tensor, Any]:
            named = dict(zip([*learning, *others], [*changing, *rest], strict=True))
            measures, _ = self._forward("train_loss", named, index, own if shared is None else shared)
            value = measures["train_loss"]
            scaled = value if same and parts == 1 else value / (parts if same else part)
            return scaled, {k: v.detach() for k, v in measures.items()}

        part = () if same else parts
        tensors = [state[k] for k in learning], [state[k] for k in others], self._index(), own, part
        with torch.no_grad():
            if not learning:
                return {}, vmap(loss)(*tensors)[1]
            gradients, (_, measures) = vmap(grad_and_value(loss, has_aux=True))(*tensors)
        return dict(zip(learning, gradients, strict=True)), measures

    def _evaluated(self, state: Named, index: Tensor, batch: Any) -> Any:
        measures, output = self._forward("loss", state, index, batch)
        if self._reading is not None:
            measures |= self._reading.accuracy(output, batch[1])
        return measures, index if output is None else output

    def _forward(self, name: str, state: Named, index: Tensor, batch: Any) -> Any:
        state = {f"model.{k}": t for k, t in state.items()}
        with OneOfMany(self._generators, index):
            measures, output = functional_call(self._module, state, (name, batch))
            return {k: torch.as_tensor(v, device=index.device) for k, v in measures.items()}, output

    def _clipped(self, gradients: Named) -> dict[str, Tensor]:
        """Clip the gradients of each run; return their norms from before."""
        there = list(gradients.values())
        norms = {"grad_norm": _norms(there)} if "grad_norm" in self._record and there else {}
        if self._clip_value is not None:
            torch._foreach_clamp_min_(there, -self._clip_value)
            torch._foreach_clamp_max_(there, self._clip_value)
        if self._clip_norm is not None and there:
            share = (self._clip_norm / (_norms(there) + 1e-6)).clamp(max=1.0)  # as in clip_grad_norm_
            for g in there:
                g.mul_(share.reshape(-1, *[1] * (g.dim() - 1)).to(g.dtype))
        return norms

    def _detached(self) -> Named:
        return {k: p.detach() for k, p in self.parameters.items()}

    def _index(self) -> Tensor:
        return torch.arange(len(self.runs), device=self.device)


class _Forward(nn.Module):
    """A model and its loss as one call, for functional_call."""

    def __init__(self, model: nn.Module, loss: Loss | None) -> None:
        super().__init__()
        self.model: Any = model
        self._divides = hasattr(loss, "over")
        self._loss = (loss,)  # no module of this one: its own tensors are the same for all runs
        self.train()

    def forward(self, name: str, batch: Any) -> tuple[dict[str, Any], Any]:
        [loss] = self._loss
        if loss is not None:
            inputs, *rest = batch
            output = self.model(inputs)
            measures = {name: loss(output, *rest)}
            if self._divides:
                measures[over(name)] = loss.over(*rest)  # type: ignore[attr-defined]
            return measures, output
        returned = self.model.training_loss(batch)
        if not isinstance(returned, tuple):
            return {name: returned}, None
        value, numbers = returned
        return {name: value, **numbers}, None


def _norms(tensors: Sequence[Tensor]) -> Tensor:
    """Return each run's 2-norm of all its numbers together, (runs,)."""
    each = [torch.linalg.vector_norm(t.flatten(1), dim=1) for t in tensors]
    return torch.linalg.vector_norm(torch.stack(each), dim=0)


def _rows(batch: Any) -> int:
    return rows(batch) if not isinstance(batch, OfEach) else _of_one(batch)


def _of_one(batch: OfEach) -> int:
    from torch.utils._pytree import tree_leaves

    return tree_leaves(batch.batch)[0].shape[1]
