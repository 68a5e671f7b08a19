"""A stack looked at again while it trains: one run's step, made by itself from where the stack has it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from gdexp.build.apart import Apart
from gdexp.build.state import random_state, set_random_state
from gdexp.data.batches import OfEach
from gdexp.learner import OneRun
from gdexp.stack import Stack
from gdexp.step import bare_step

_GRADIENT, _LOSS, _STEP = 1e-3, 1e-4, 1e-5  # shares by which the two may differ


class Again:
    """Compares a step of a stack with that of one of its runs alone, from time to time.

    From one state the two differ by rounding only. Gradients are compared with what they were at
    first, for near a minimum they are rounding errors themselves. The optimizer gets the stack's
    own gradients, and must make the same step of them.

    Args:
        make: the learner of a run alone, by its number.
        steps: at which a run is looked at, each time another one.
        check: called at these steps, refuses a change of what all runs share.

    Raises:
        Apart: in `before` and `after`, they differ, or they share something that changes.
    """

    def __init__(self, make: Callable[[int], Any], steps: Collection[int], check: Callable[[], None]) -> None:
        self._make, self._due, self._check = make, frozenset(steps), check
        self._step, self._times = 0, 0
        self._first: tuple[Tensor, Tensor] | None = None  # sizes of the loss and of all gradients, by run
        self._seen: tuple[int, OneRun, Mapping[str, Tensor], OneRun] | None = None

    def before(self, stack: Stack, batches: Sequence[Any]) -> None:
        """Make the step of one run, if it is time."""
        self._step += 1
        self._seen = None
        if self._step not in self._due:
            return
        self._check()
        if stack.device.type != "cpu":
            return
        place = (7 * self._times) % len(stack.runs)
        self._times += 1
        kept = random_state()
        try:
            stepping, waiting = (self._as_in(stack, place) for _ in range(2))
            torch.set_rng_state(stack.generator(place).get_state())
            measures = stepping.train_step(*(_own(batch, place) for batch in batches))
        except Exception as error:
            raise Apart(f"a step of one run alone fails: {error}") from error
        finally:
            set_random_state(kept)
        self._seen = place, stepping, measures, waiting

    def after(self, stack: Stack, measures: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> None:
        """Compare the stack's step with it."""
        if self._step in self._due:
            self._check()
        if self._first is None:
            each = [torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients.values()]
            norms = torch.linalg.vector_norm(torch.stack(each), dim=0) if each else measures["train_loss"]
            self._first = measures["train_loss"].abs(), norms
        if self._seen is None:
            return
        place, alone, wanted, waiting = self._seen
        loss_size, gradient_size = (float(sizes[stack.runs[place]]) for sizes in self._first)
        found, loss = float(measures["train_loss"][place]), float(wanted["train_loss"].detach())
        eps = torch.finfo(wanted["train_loss"].dtype).eps
        if abs(found - loss) > _LOSS * abs(loss) + 10 * eps * loss_size:
            raise Apart(f"the loss of step {self._step} is {found:.9g} in the stack, {loss:.9g} alone")
        for name, p in alone.model.named_parameters():
            g = gradients.get(name)
            if (g is None) != (p.grad is None):
                raise Apart(f"{name} has a gradient in some steps only")
            if g is not None and not _near(g[place], p.grad, _GRADIENT, 100 * eps * gradient_size):
                raise Apart(f"the gradient of {name} in step {self._step} isn't that of the run alone")
        self._compare_step(stack, place, gradients, waiting)
        for name, b in alone.model.named_buffers():
            if not _near(stack.buffers[name][place], b, _GRADIENT, 0.0):
                raise Apart(f"{name} in step {self._step} isn't that of the run alone")

    def _as_in(self, stack: Stack, place: int) -> OneRun:
        """Return a run alone that is where the stack has it."""
        alone = self._make(stack.runs[place])
        assert isinstance(alone, OneRun) and stack.optimizer is not None
        with torch.no_grad():
            for named, there in (
                (alone.model.named_parameters(), stack.parameters),
                (alone.model.named_buffers(), stack.buffers),
            ):
                for name, t in named:
                    t.copy_(there[name][place])
        stack.optimizer.of_run(place, alone.step.optimizer)
        return alone

    def _compare_step(self, stack: Stack, place: int, gradients: Mapping[str, Tensor], alone: OneRun) -> None:
        """Refuse another step than the run's own optimizer makes with the same gradients."""
        begun = {name: p.detach().clone() for name, p in alone.model.named_parameters()}
        for name, p in alone.model.named_parameters():
            p.grad = gradients[name][place].clone() if name in gradients else None
        bare_step(alone.step.optimizer)()
        for name, p in alone.model.named_parameters():
            move = float(torch.linalg.vector_norm(p.detach() - begun[name]))
            found = stack.parameters[name].detach()[place]
            if not _near(found, p.detach(), 8 * torch.finfo(p.dtype).eps, _STEP * move):
                raise Apart(f"{name} after step {self._step} isn't what the run's own optimizer makes of it")


def _own(batch: Any, place: int) -> Any:
    return tree_map(lambda t: t[place], batch.batch) if isinstance(batch, OfEach) else batch


def _near(found: Tensor, wanted: Tensor, share: float, floor: float) -> bool:
    """Say whether two tensors are the same but for a share of their size; what isn't finite is let pass."""
    if not (wanted.is_floating_point() or wanted.is_complex()):
        return torch.equal(found, wanted)
    size = float(torch.linalg.vector_norm(wanted.detach()))
    off = float(torch.linalg.vector_norm(found.detach() - wanted.detach()))
    return not off < float("inf") or off <= share * size + floor
