"""Runs are trained as one program only where a trial shows that it gives what they give alone.

Nothing is believed of a model, a loss or an optimizer. A few of the runs train some steps, each with
parts of its own that are made as for a run alone, and so does a stack of them. What the trial trains
is thrown away, so that nothing of it is seen by training.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gdexp.build import Loaded, Parts, build, rows
from gdexp.build.apart import Apart
from gdexp.build.attributes import Image, replaced, tensors
from gdexp.build.objects import Objects
from gdexp.build.shared import Shared
from gdexp.build.state import random_state, roots, set_random_state
from gdexp.build.together import build_together, line
from gdexp.build.trained import Trained
from gdexp.build.witness import Again
from gdexp.learner import OneRun
from gdexp.session import make_loop, tested, torch_set_up
from gdexp.stack import Stack

_STEPS = 16
_ALL_TRIED, _TRIED = 9, 4  # runs of a pack that are all tried, and of which a larger one has at least so many tried
_SMALL_PACK, _FEW_VALUES = 64, 5  # runs, and values of an axis, up to which each value is tried
_SHARE = 1e-3  # of a parameter's way in the trial, by which the two may differ
_PRECISION = {torch.float64: 1e-12}  # of a loss, relative; 1e-6 for others
_OTHERS = 1e-4  # likewise of what isn't a loss
_CHECKED = (2, 6, 20, 60, 200, 600, 2000)  # times the trial's steps, at which a stack is looked at again

Options = Mapping[str, str | None]
Config = dict[str, Any]


def train_as_one(first: Parts, configs: Sequence[Config], options: Options, loaded: Loaded, shared: Shared) -> Parts:
    """Make the parts of runs that train as one.

    Args:
        first: the parts of a run with such a config, which nothing has trained.
        configs: checked and resolved.
        options: the option chosen in each group, for messages.
        loaded: what `rows.load` gave for them.
        shared: what all runs share, as it was before their parts were made.

    Raises:
        Apart: one program would give something else, or some of the runs fail.
    """
    kept = random_state()
    with torch_set_up(first):
        try:
            unused = _tried([configs[place] for place in _sample(configs)], options, loaded)
        finally:
            set_random_state(kept)
            _check_shared(shared)  # the reason behind any other
        parts = build_together(first, configs, options, unused)
        set_random_state(kept)
    assert isinstance(parts.learner, Stack)
    last = rows.length(first.data, first.config["trainer"], "step")
    steps = {_STEPS * factor for factor in _CHECKED} | {last or 0}
    parts.learner.witness = Again(
        make=lambda run: build(configs[run], options, loaded).learner,
        steps=steps,
        check=lambda: _check_shared(shared),
    )
    return parts


def _check_shared(shared: Shared) -> None:
    if name := shared.changed():
        raise Apart(f"{name} changes while a model trains, and all runs would share it")


def _sample(configs: Sequence[Config]) -> list[int]:
    """Return the places of the runs that are tried.

    Of a small pack they are all. Else they are spread evenly, one has another seed, and each value of
    an axis that has few is seen.
    """
    count, seeds = len(configs), [config["seed"] for config in configs]
    if count <= _ALL_TRIED:
        return list(range(count))
    places = {i * (count - 1) // (_TRIED - 1) for i in range(_TRIED)}
    others = [place for place, seed in enumerate(seeds) if seed != seeds[0]]
    if others and all(seeds[place] == seeds[0] for place in places):
        places.add(others[len(others) // 2])
    for values in _axes(configs) if count <= _SMALL_PACK else ():
        if len(set(values)) > _FEW_VALUES:
            continue
        for value in dict.fromkeys(values):
            if all(values[place] != value for place in places):
                places.add(values.index(value))
    return sorted(places)


def _axes(configs: Sequence[Config]) -> Iterator[list[str]]:
    """Yield the values that the runs have of each key in which they may differ."""
    for group in ("optimizer", "scheduler", "trainer"):
        for key in configs[0][group]:
            yield [repr(config[group][key]) for config in configs]
    yield [repr(config["seed"]) for config in configs]


def _tried(configs: Sequence[Config], options: Options, loaded: Loaded) -> set[str]:
    """Compare runs alone with a stack of them; return the parameters that got no gradient.

    Raises:
        Apart: they differ, or can't be trained as one.
    """
    alone = [_alone(config, options, loaded) for config in configs]
    if any(trace.unused != alone[0].unused for trace in alone):
        raise Apart("runs that use different parameters")
    fresh = build(configs[0], options, loaded)
    parts = build_together(fresh, configs, options, alone[0].unused)
    try:
        together = _together(parts)
    except Apart:
        raise
    except Exception as error:  # torch.func can't, or the model's code looks at numbers
        raise Apart(line(error)) from error
    for mine, its in zip(together, alone, strict=True):
        _compare(mine, its)
    return alone[0].unused


class _Trace:
    """What one run gave in the trial."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []  # the measures of each step
        self.epochs: list[dict[str, float]] = []
        self.end: dict[str, Tensor] = {}  # weights, and their average, when the run ended
        self.average: dict[str, Tensor] = {}


class _OneTrace(NamedTuple):
    """What a run alone gave, and what its gradients were like."""

    trace: _Trace
    start: dict[str, Tensor]  # weights before the first step
    largest: dict[str, Tensor]  # absolute value that each number's gradient had
    unused: set[str]


def _alone(config: Config, options: Options, loaded: Loaded) -> _OneTrace:
    """Train a run for some steps as it trains alone.

    Raises:
        Apart: it fails, or it keeps something that a stack can't hold for each run.
    """
    try:
        parts = build(config, options, loaded)
        learner = parts.learner
        assert isinstance(learner, OneRun)
        gradients = _Gradients(learner)
        trained = Trained(parts, Objects(roots(parts)))
        objects = {"model": learner.model, "loss": learner.loss}
        before = {name: Image(thing) for name, thing in objects.items() if thing is not None}
        its = tensors(learner.model)
        drawn = random.getstate(), np.random.get_state()
        start = _copies(learner.weights())
        [trace] = _trained(parts, gradients.see)
    except Exception as error:  # the user's own code: the runs fail one by one, with their tracebacks
        raise Apart(line(error)) from error
    for name, image in before.items():
        if changed := image.differs_from(Image(objects[name])):
            raise Apart(f"{changed} changes in the forward pass")
    if changed := replaced(learner.model, its):
        raise Apart(f"{changed} is assigned in the forward pass")
    if random.getstate() != drawn[0] or not _same_state(np.random.get_state(), drawn[1]):
        raise Apart("random numbers that aren't torch's")
    if lacking := trained.lacking(first=True):
        raise Apart(lacking)
    gradients.check(learner)
    return _OneTrace(trace, start, gradients.largest, gradients.unused)


class _Gradients:
    """What the gradients of a run were in the trial."""

    def __init__(self, learner: OneRun) -> None:
        self._named = dict(learner.model.named_parameters())
        self.largest: dict[str, Tensor] = {}
        self._missing: set[str] = set()

    @property
    def unused(self) -> set[str]:
        """The parameters that never had one."""
        return {name for name, p in self._named.items() if p.requires_grad} - set(self.largest)

    def see(self) -> None:
        """Look at the gradients of a step."""
        for name, p in self._named.items():
            if p.grad is None:
                self._missing.add(name)
            elif p.grad.is_sparse:
                raise Apart("sparse gradients")
            else:
                now = p.grad.detach().abs()
                self.largest[name] = torch.maximum(self.largest[name], now) if name in self.largest else now

    def check(self, learner: OneRun) -> None:
        """Refuse gradients that come and go, and those whose size is chance.

        Raises:
            Apart: there are such.
        """
        if name := next(iter(self._missing & set(self.largest)), ""):
            raise Apart(f"{name} has a gradient in some steps only")
        if isinstance(learner.step.optimizer, torch.optim.SGD) or not self.largest:
            return
        norms = {name: float(torch.linalg.vector_norm(t.double())) for name, t in self.largest.items()}
        for name, norm in norms.items():
            if 0 < norm < _noise(self.largest[name]) * max(norms.values()):
                raise Apart(f"the gradient of {name} is a rounding error, as of a bias before a batch norm")


def _together(parts: Parts) -> list[_Trace]:
    """Train a stack for as many steps."""
    assert isinstance(parts.learner, Stack)
    before = Image(parts.learner.module)
    traces = _trained(parts)
    if changed := before.differs_from(Image(parts.learner.module)):
        raise Apart(f"{changed} changes in the forward pass")
    return traces


def _trained(parts: Parts, see: Callable[[], None] | None = None) -> list[_Trace]:
    """Train some steps; return what each run gave.

    Args:
        parts: of the runs.
        see: called after each step.
    """
    traces = [_Trace() for _ in parts.runs]

    def on_step(_: int, measures: Mapping[str, Tensor], at: Sequence[int | None]) -> None:
        if see is not None:
            see()
        numbers = {k: torch.as_tensor(v).detach().reshape(-1).tolist() for k, v in measures.items()}
        for place, run in enumerate(at):
            if run is not None:
                traces[run].steps.append({k: values[place] for k, values in numbers.items()})

    with torch_set_up(parts):
        for ended in make_loop(parts, on_step, _STEPS):
            measured = tested(parts) if any(epoch.last for epoch in ended) else {}
            for epoch in ended:
                trace = traces[epoch.run]
                trace.epochs.append({**epoch.metrics, "diverged": float(epoch.diverged)})
                if epoch.last:
                    trace.epochs.append(measured.get(epoch.run, {}))
                    trace.end = _of_run(parts, epoch.run, parts.learner.weights())
                    trace.average = _of_run(parts, epoch.run, parts.average.weights if parts.average else {})
    return traces


def _of_run(parts: Parts, run: int, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    learner: Any = parts.learner
    return dict(learner.of_run(run, named)) if len(parts.runs) > 1 else _copies(named)


def _compare(mine: _Trace, alone: _OneTrace) -> None:
    """Refuse what a stack gave for a run where the run alone gave something else."""
    its = alone.trace
    for what, found, wanted in (("step", mine.steps, its.steps), ("epoch", mine.epochs, its.epochs)):
        for number in range(max(len(found), len(wanted))):
            own, other = (side[number] if number < len(side) else {} for side in (found, wanted))
            _compare_numbers(own, other, f"{what} {number + 1}", next(iter(its.end.values())).dtype)
    for kind in ("end", "average"):
        for name, tensor in getattr(its, kind).items():
            if not _moved_alike(getattr(mine, kind)[name], tensor, alone, name):
                raise Apart(f"{name} becomes something else when they are stacked")


def _compare_numbers(found: Mapping[str, float], wanted: Mapping[str, float], where: str, dtype: torch.dtype) -> None:
    for name in found.keys() | wanted.keys():
        a, b = found.get(name), wanted.get(name)
        exact = _PRECISION.get(dtype, 1e-6) if "loss" in name else _OTHERS
        if a is None or b is None or not _close(a, b, exact):
            raise Apart(f"{name} of {where} is {_text(a)} when they are stacked, {_text(b)} alone")


def _moved_alike(found: Tensor, wanted: Tensor, alone: _OneTrace, name: str) -> bool:
    """Say whether a tensor went the same way, but for numbers whose gradient is a rounding error."""
    if not (wanted.is_floating_point() or wanted.is_complex()):
        return torch.equal(found, wanted)
    start, largest = alone.start[name], alone.largest
    if name in largest:
        top = max(float(t.max()) for t in largest.values() if t.numel())
        counts = largest[name] > _noise(largest[name]) * top
        found, wanted, start = (t[counts] for t in (found, wanted, start))
    off = torch.linalg.vector_norm(found - wanted).double()
    way, size = torch.linalg.vector_norm(wanted - start).double(), torch.linalg.vector_norm(wanted).double()
    eps = torch.finfo(wanted.dtype).eps
    return not bool(torch.isfinite(size)) or bool(off <= _SHARE * way + 16 * eps * size)


def _noise(like: Tensor) -> float:
    return 100 * torch.finfo(like.dtype).eps


def _close(a: float, b: float, exact: float) -> bool:
    if a == b or (a != a and b != b):
        return True
    return abs(a - b) <= exact * abs(b)


def _text(value: float | None) -> str:
    return "missing" if value is None else f"{value:.9g}"


def _copies(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in named.items()}


def _same_state(a: Any, b: Any) -> bool:
    return a[0] == b[0] and bool((a[1] == b[1]).all()) and a[2:] == b[2:]
