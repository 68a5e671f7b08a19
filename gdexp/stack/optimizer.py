"""torch.optim on a stack of runs: unmodified, with hyperparameters of each run."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gdexp.stack.per_run import NotElementwise, PerRun, kept, merged
from gdexp.step import bare_step

Make = Callable[[int, Mapping[str, nn.Parameter]], Optimizer]  # from a run and its parameters by name
_PROBE_STEPS, _PROBE_RUNS = 16, 6


class Pilots(NamedTuple):
    """The ordinary optimizers of the runs, whose hyperparameters steer the stack; they never make a step."""

    make: Make  # another one like a run's
    each: list[Optimizer]


class StackedOptimizer:
    """The optimizer of parameters (runs, …).

    Either it is one, whose hyperparameters are a PerRun wherever the runs differ, or each run has
    its own over views of the parameters: that is what it has alone.

    Args:
        pilots: of the runs.
        parameters: by name, (runs, …).
        apart: an optimizer for each run.

    Raises:
        NotElementwise: the runs differ in more than numbers, and `apart` is false.
    """

    def __init__(self, pilots: Pilots, parameters: Mapping[str, nn.Parameter], *, apart: bool) -> None:
        self.apart, self._pilots = apart, list(pilots.each)
        self._parameters = list(parameters.values())
        self._views: list[list[nn.Parameter]] = []
        if apart:
            for place in range(len(pilots.each)):
                views = {k: nn.Parameter(p.detach()[place], p.requires_grad) for k, p in parameters.items()}
                self._views.append(list(views.values()))
            names = list(parameters)
            own = [dict(zip(names, views, strict=True)) for views in self._views]
            self._optimizers = [pilots.make(place, views) for place, views in enumerate(own)]
        else:
            self._optimizers = [pilots.make(0, parameters)]
            _begin(self._optimizers[0], self._pilots)
        self.steer()
        self._steps = [bare_step(optimizer) for optimizer in self._optimizers]

    def steer(self) -> None:
        """Take over the hyperparameters that the pilots have now."""
        if not self.apart:
            _steer(self._optimizers[0].param_groups, self._pilots)
            return
        for optimizer, pilot in zip(self._optimizers, self._pilots, strict=True):
            _steer(optimizer.param_groups, [pilot], foreach=None)

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
        for step in self._steps:
            step()

    def keep(self, parameters: Mapping[str, nn.Parameter], places: Tensor) -> None:
        """Go on with the runs at these places, whose parameters are these."""
        self._pilots = [self._pilots[place] for place in places.tolist()]
        new = dict(zip(map(id, self._parameters), parameters.values(), strict=True))
        self._parameters = list(parameters.values())
        if self.apart:
            self._keep_views(places.tolist())
            return
        [optimizer] = self._optimizers
        state: Any = {new[id(p)]: {k: _cut(v, p, places) for k, v in s.items()} for p, s in optimizer.state.items()}
        optimizer.state.clear()
        optimizer.state.update(state)
        for group in optimizer.param_groups:
            group.update({k: kept(v, places) for k, v in group.items() if k != "params"})
            group["params"] = [new[id(p)] for p in group["params"]]

    def of_run(self, place: int, optimizer: Optimizer) -> None:
        """Give an optimizer over one run's parameters the hyperparameters and the state that the run has here."""
        _steer(optimizer.param_groups, [self._pilots[place]], foreach=None)
        source = self._optimizers[place if self.apart else 0]
        index = torch.tensor([place])
        for mine, its in zip(_parameters(optimizer), _parameters(source), strict=True):
            state = source.state.get(its, {})
            if not self.apart:
                state = {k: _of_one(_cut(v, its, index), v) for k, v in state.items()}
            if state:
                optimizer.state[mine] = copy.deepcopy(state)
        vars(optimizer).update(_attributes(source))

    def _keep_views(self, places: Sequence[int]) -> None:
        """Point the views of the runs at these places to where their numbers are now, and forget the others."""
        for name in ("_views", "_optimizers", "_steps"):
            setattr(self, name, [getattr(self, name)[place] for place in places])
        for i, views in enumerate(self._views):
            for view, p in zip(views, self._parameters, strict=True):
                view.data = p.detach()[i]


def fitting(pilots: Pilots, parameters: Mapping[str, nn.Parameter]) -> StackedOptimizer:
    """Return the optimizer of a stack: one of torch's for all runs where it has their bits, else one for each.

    Nothing is believed: it steps a few times on random numbers, and so do the optimizers of its runs.
    """
    kind = type(pilots.each[0])
    apart = not kind.__module__.startswith("torch.optim.") or _differs(pilots, parameters)
    return StackedOptimizer(pilots, parameters, apart=apart)


def _differs(pilots: Pilots, parameters: Mapping[str, nn.Parameter]) -> bool:
    """Say whether a few runs of a stack with one optimizer differ from themselves alone."""
    count = len(pilots.each)
    places = sorted({place * (count - 1) // (_PROBE_RUNS - 1) for place in range(_PROBE_RUNS)})

    def make(place: int, own: Mapping[str, nn.Parameter]) -> Optimizer:
        return pilots.make(places[place], own)

    generator = torch.Generator().manual_seed(0)
    start = {k: _random(p, len(places), generator) for k, p in parameters.items()}
    alone = [{k: nn.Parameter(p[place].clone()) for k, p in start.items()} for place in range(len(places))]
    own = [make(place, parameters) for place, parameters in enumerate(alone)]
    for place, optimizer in zip(places, own, strict=True):
        _steer(optimizer.param_groups, [pilots.each[place]], foreach=None)
    stack = {k: nn.Parameter(p.clone()) for k, p in start.items()}
    try:
        stacked = StackedOptimizer(Pilots(make, own), stack, apart=False)
        for _ in range(_PROBE_STEPS):
            gradients = [3 * _random(p, len(places), generator) for p in parameters.values()]
            stacked.step([g.clone() for g in gradients])
            _step_alone(own, alone, gradients)
    except Exception:
        return True
    return not all(
        torch.equal(p, s[place])
        for place, named in enumerate(alone)
        for p, s in zip(named.values(), stack.values(), strict=True)
    )


def _step_alone(
    optimizers: Sequence[Optimizer], alone: Sequence[Mapping[str, nn.Parameter]], gradients: Sequence[Tensor]
) -> None:
    for place, optimizer in enumerate(optimizers):
        for p, g in zip(alone[place].values(), gradients, strict=True):
            p.grad = g[place].clone()
        bare_step(optimizer)()


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


def _begin(optimizer: Optimizer, pilots: Sequence[Optimizer]) -> None:
    """Give an optimizer over (runs, …) the state that the constructors of the runs' own have made.

    Raises:
        NotElementwise: that isn't a tensor of the parameter's shape, and differs.
    """
    if any(_attributes(pilot) != _attributes(pilots[0]) for pilot in pilots):
        raise NotElementwise("attributes of the optimizer differ")
    parameters = [_parameters(pilot) for pilot in pilots]
    for i, p in enumerate(_parameters(optimizer)):
        own = [pilot.state.get(there[i], {}) for pilot, there in zip(pilots, parameters, strict=True)]
        for key, value in own[0].items():
            values = [state[key] for state in own]
            if isinstance(value, Tensor) and value.dim():
                optimizer.state[p][key] = torch.stack(values).expand_as(p).clone()
            elif any(v != value for v in values):
                raise NotElementwise(f"{key} in the state differs")


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _attributes(optimizer: Optimizer) -> dict[str, Any]:
    """Return the plain values that an optimizer keeps beside its groups and their state, such as a count of steps."""
    plain = (bool, int, float, str, type(None))
    return {k: v for k, v in vars(optimizer).items() if isinstance(v, plain) and k not in _TORCHS_OWN}


_TORCHS_OWN = ("_warned_capturable_if_run_uncaptured", "_opt_called")


def _cut(value: Any, parameter: Tensor, places: Tensor) -> Any:
    """Return state for the runs at these places: what has the parameter's runs is cut, a count of steps is not."""
    if isinstance(value, PerRun):
        return value.keep(places)
    if isinstance(value, Tensor) and value.dim() and len(value) == len(parameter):
        return value[places.to(value.device)]
    return value


def _of_one(value: Any, before: Any) -> Any:
    """Return the state of a lone run (1, …) without that dimension."""
    if isinstance(value, PerRun):
        return float(value.values[0])
    return value[0] if value is not before else value
