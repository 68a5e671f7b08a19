"""All that a run needs to go on, as plain containers and tensors."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_map_only

from gdexp.build import Parts
from gdexp.build.encoding import Unkept
from gdexp.build.objects import Objects
from gdexp.build.trained import Trained
from gdexp.config.refusal import Refusal
from gdexp.data.loading import Loader
from gdexp.learner import OneRun
from gdexp.train import Loop


class State:
    """What is kept of a run, compared with its parts as they were before its first step.

    Args:
        parts: of one run, before it is trained.
        loop: that trains it.
    """

    def __init__(self, parts: Parts, loop: Loop) -> None:
        [self._run] = parts.runs
        self._parts, self._loop = parts, loop
        self.objects = Objects(roots(parts), grads=not isinstance(parts.learner, OneRun))
        self.trained = Trained(parts, self.objects)
        self._loads = any(isinstance(split, Loader) for split in parts.data[:3])
        self._begun: dict[str, Any] | None = None  # what decides about the batches, when the epoch began

    def begin_epoch(self) -> None:
        """Note what a loader's batches come from: within an epoch they are made once more, and passed over."""
        if self._loads:
            try:
                state = {"random": random_state(), "objects": self.objects.changes("data")}
            except Unkept:  # said when a state is wanted
                return
            self._begun = tree_map_only(torch.Tensor, torch.clone, state)

    def taken(self) -> dict[str, Any]:
        """Return the state of the run between two steps.

        Raises:
            Unkept: training changed something that can't be kept.
        """
        run, average = self._run, self._parts.average
        return {
            "loop": self._loop.state_dict(),
            "objects": self.objects.changes(),
            "learner": _own_state(self._parts.learner),
            "watch": run.watch and run.watch.state_dict(),
            "average": average and average.state_dict(),
            "random": random_state(),
            "begun": self._begun,
            "data": self._parts.identity.sha256,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put the run where a state was taken.

        Raises:
            Refusal: the state isn't one of such a run.
        """
        run, average = self._run, self._parts.average
        if state.get("data", self._parts.identity.sha256) != self._parts.identity.sha256:
            raise Refusal("the checkpoint doesn't fit this run: it was trained on other data")
        _check_like("loop", self._loop.state_dict(), state.get("loop"))
        _check_like("random", random_state() | {"cuda": []}, state.get("random"))
        try:
            if state["learner"] is not None:
                self._parts.learner.load_state_dict(state["learner"])  # type: ignore[attr-defined]
            is_older = "objects" not in state and "model" in (state["learner"] or {})
            self.objects.restore([] if is_older else state["objects"])
            self._loop.load_state_dict(state["loop"])
            for part, name in ((run.schedule, "schedule"), (run.watch, "watch"), (average, "average")):
                if part is not None and name in state:
                    part.load_state_dict(state[name])
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise Refusal(f"the checkpoint doesn't fit this run: {str(error).splitlines()[0]}") from error
        set_random_state(state["random"])
        if (begun := state.get("begun")) is not None and state["loop"]["steps"]:
            self._begun = begun
            self.objects.restore(begun["objects"])
            set_random_state(begun["random"])
            self._loop.caught_up = lambda: self._catch_up(state)

    def _catch_up(self, state: Mapping[str, Any]) -> None:
        """Put back what passing over batches has moved."""
        self.objects.restore([c for c in state["objects"] if c[0].startswith("data")])
        set_random_state(state["random"])


def _check_like(name: str, ours: Any, given: Any) -> None:
    """Refuse what isn't built as a state of this run is: other keys, shapes, or a text for a number."""
    if isinstance(ours, Mapping):
        if not isinstance(given, Mapping) or given.keys() != ours.keys():
            raise Refusal(f"the checkpoint doesn't fit this run: it has other keys in {name}")
        for key in ours:
            _check_like(f"{name}.{key}", ours[key], given[key])
    elif isinstance(ours, torch.Tensor):
        if not isinstance(given, torch.Tensor) or (given.shape, given.dtype) != (ours.shape, ours.dtype):
            raise Refusal(f"the checkpoint doesn't fit this run: {name} has another shape")
    elif isinstance(ours, (list, tuple)):
        if not isinstance(given, (list, tuple)):
            raise Refusal(f"the checkpoint doesn't fit this run: {name} is no list")
        for i, pair in enumerate(zip(ours, given, strict=False)):
            _check_like(f"{name}[{i}]", *pair)
    elif isinstance(ours, (int, float)) and not isinstance(given, (int, float)):
        raise Refusal(f"the checkpoint doesn't fit this run: {name} is no number")


def roots(parts: Parts) -> dict[str, Any]:
    """Return the parts that may hold state, the first name of each being the one that is shown."""
    [run], learner = parts.runs, parts.learner
    roots: dict[str, Any] = {"model": parts.model} if parts.model is not learner else {}
    roots["loss"] = parts.loss
    if isinstance(learner, OneRun):
        roots["optimizer"] = learner.step.optimizer
    else:
        roots["learner"] = learner
    roots["scheduler"] = run.schedule
    for name in ("train", "val", "test"):
        if isinstance(split := getattr(parts.data, name), Loader):
            roots[f"data_{name}"] = split
    roots["metrics"], roots["trainer.on_epoch"] = parts.metrics, parts.hooks
    return roots


def _own_state(learner: Any) -> Any:
    """Return the scaler of ours, or what a learner of the user's own says that it needs."""
    if isinstance(learner, OneRun):
        return learner.state_dict()
    kept, load = (getattr(type(learner), name, None) for name in ("state_dict", "load_state_dict"))
    if kept is None or load is None or kept is torch.nn.Module.state_dict:
        return None
    return learner.state_dict()


def random_state() -> dict[str, Any]:
    name, keys, *rest = np.random.get_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    version, numbers, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": cuda,
        "random": [version, torch.tensor(numbers), gauss],
        "numpy": [str(name), torch.tensor(keys, dtype=torch.int64), *rest],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    version, numbers, gauss = state["random"]
    random.setstate((version, tuple(numbers.tolist()), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
