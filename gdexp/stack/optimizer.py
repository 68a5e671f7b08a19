"""torch.optim on a stack of runs: unmodified, with hyperparameters of each run."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gdexp.stack.per_run import PerRun, kept, merged
from gdexp.step import bare_step

Make = Callable[[Mapping[str, nn.Parameter]], Optimizer]  # from parameters by name
_PROBE_STEPS, _PROBE_RUNS = 8, 6


class Pilots(NamedTuple):
    """The ordinary optimizers of the runs, whose hyperparameters steer the stack; they never make a step."""

    make: Make  # for the structure of the groups
    each: list[Optimizer]


class StackedOptimizer:
    """One optimizer over parameters (runs, …).

    Either its hyperparameters are a PerRun wherever the runs differ, or each run has a param group
    of its own, over views of the parameters.

    Args:
        pilots: of the runs.
        parameters: by name, (runs, …).
        apart: a param group for each run.
    """

    def __init__(self, pilots: Pilots, parameters: Mapping[str, nn.Parameter], *, apart: bool) -> None:
        self.apart, self._pilots = apart, list(pilots.each)
        self._parameters = list(parameters.values())
        self._views: list[list[nn.Parameter]] = []
        if apart:
            for place, pilot in enumerate(pilots.each):
                views = {k: nn.Parameter(p.detach()[place], p.requires_grad) for k, p in parameters.items()}
                self._views.append(list(views.values()))
                own = pilots.make(views)
                _steer(own.param_groups, [pilot])
                if place == 0:
                    self.optimizer = own
                else:
                    self.optimizer.param_groups += own.param_groups
                    self.optimizer.state.update(own.state)
        else:
            self.optimizer = pilots.make(parameters)
            self.steer()
        self._step = bare_step(self.optimizer)

    def steer(self) -> None:
        """Take over the hyperparameters that the pilots have now."""
        if not self.apart:
            _steer(self.optimizer.param_groups, self._pilots)
            return
        count = len(self._pilots[0].param_groups)
        for place, pilot in enumerate(self._pilots):
            _steer(self.optimizer.param_groups[place * count : (place + 1) * count], [pilot])

    def step(self, gradients: Sequence[Tensor | None]) -> None:
        """Update the parameters.

        Args:
            gradients: (runs, …) of each parameter; None: it has none.
        """
        for p, g in zip(self._parameters, gradients, strict=True):
            p.grad = None if self.apart else g
        for place, views in enumerate(self._views):
            for view, g in zip(views, gradients, strict=True):
                view.grad = None if g is None else g[place]
        self._step()

    def keep(self, parameters: Mapping[str, nn.Parameter], places: Tensor) -> None:
        """Go on with the runs at these places, whose parameters are these."""
        self._pilots = [self._pilots[place] for place in places.tolist()]
        new = dict(zip(map(id, self._parameters), parameters.values(), strict=True))
        self._parameters = list(parameters.values())
        if self.apart:
            self._keep_views(places.tolist())
            return
        state: Any = {
            new[id(p)]: {k: _cut(v, p, places) for k, v in s.items()} for p, s in self.optimizer.state.items()
        }
        self.optimizer.state.clear()
        self.optimizer.state.update(state)
        for group in self.optimizer.param_groups:
            group.update({k: kept(v, places) for k, v in group.items() if k != "params"})
            group["params"] = [new[id(p)] for p in group["params"]]

    def _keep_views(self, places: Sequence[int]) -> None:
        """Point the views of the runs at these places to where their numbers are now, and forget the others."""
        groups = self.optimizer.param_groups
        count = len(groups) // len(self._views)
        self.optimizer.param_groups[:] = [g for i in places for g in groups[i * count : (i + 1) * count]]
        gone = {id(view) for i, views in enumerate(self._views) if i not in places for view in views}
        for view in [view for view in self.optimizer.state if id(view) in gone]:
            del self.optimizer.state[view]
        self._views = [self._views[i] for i in places]
        for i, views in enumerate(self._views):
            for view, p in zip(views, self._parameters, strict=True):
                view.data = p.detach()[i]


def fitting(pilots: Pilots, parameters: Mapping[str, nn.Parameter]) -> tuple[StackedOptimizer | None, str]:
    """Return the optimizer of a stack that has the bits of the runs' own, and what stood in the way of a better one.

    Nothing is believed: it steps a few times on random numbers, and so do the optimizers of its runs.
    """
    reasons: list[str] = []
    for apart in (False, True):
        if not (reason := _differs(pilots, parameters, apart)):
            return StackedOptimizer(pilots, parameters, apart=apart), "; ".join(reasons)
        reasons.append(reason)
    return None, reasons[-1]


def _differs(pilots: Pilots, parameters: Mapping[str, nn.Parameter], apart: bool) -> str:
    """Return in what way a few runs of a stack differ from themselves alone; nothing if they don't."""
    count = len(pilots.each)
    places = sorted({place * (count - 1) // (_PROBE_RUNS - 1) for place in range(_PROBE_RUNS)})
    some = Pilots(pilots.make, [pilots.each[place] for place in places])
    generator = torch.Generator().manual_seed(0)
    start = {k: _random(p, len(places), generator) for k, p in parameters.items()}
    gradients = [[3 * _random(p, len(places), generator) for p in parameters.values()] for _ in range(_PROBE_STEPS)]
    stack = {k: nn.Parameter(p.clone()) for k, p in start.items()}
    name = type(pilots.each[0]).__name__
    try:
        optimizer = StackedOptimizer(some, stack, apart=apart)
        for g in gradients:
            optimizer.step([t.clone() for t in g])
    except Exception as error:
        return f"{name}: {str(error).splitlines()[0]}"
    for place, pilot in enumerate(some.each):
        alone = {k: nn.Parameter(p[place].clone()) for k, p in start.items()}
        own = pilots.make(alone)
        _steer(own.param_groups, [pilot], foreach=None)
        step = bare_step(own)
        for g in gradients:
            for p, t in zip(alone.values(), g, strict=True):
                p.grad = t[place].clone()
            step()
        if not all(torch.equal(p, s[place]) for p, s in zip(alone.values(), stack.values(), strict=True)):
            return f"{name} doesn't treat each number by itself"
    return ""


def _random(like: Tensor, runs: int, generator: torch.Generator) -> Tensor:
    """Return small random numbers of the shape of a parameter; a few of each dimension tell as much as all."""
    shape = [min(n, 4) for n in like.shape[1:]]
    return torch.randn(runs, *shape, generator=generator).to(like.device, like.dtype)


def _steer(groups: Sequence[dict[str, Any]], pilots: Sequence[Optimizer], foreach: bool | None = False) -> None:
    """Give param groups the hyperparameters of the pilots' groups."""
    for i, group in enumerate(groups):
        there = [pilot.param_groups[i] for pilot in pilots]
        group.update({k: merged([t[k] for t in there]) for k in there[0] if k != "params"})
        if "foreach" in group and foreach is not None:
            group["foreach"] = foreach  # many tensors at once take no tensor for a number


def _cut(value: Any, parameter: Tensor, places: Tensor) -> Any:
    """Return state for the runs at these places: what has the parameter's runs is cut, a count of steps is not."""
    if isinstance(value, PerRun):
        return value.keep(places)
    if isinstance(value, Tensor) and value.dim() and len(value) == len(parameter):
        return value[places.to(value.device)]
    return value
