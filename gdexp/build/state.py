"""All that a run needs to go on, as plain containers and tensors."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from gdexp.build import Parts
from gdexp.config.refusal import Refusal
from gdexp.train import Loop


def can_be_kept(parts: Parts) -> bool:
    """Say whether a run's state can be told: of one run, by a learner that has state_dict and load_state_dict."""
    return len(parts.runs) == 1 and all(hasattr(parts.learner, name) for name in ("state_dict", "load_state_dict"))


def state_of(parts: Parts, loop: Loop) -> dict[str, Any]:
    """Return the state of a run between two steps."""
    [run] = parts.runs
    return {
        "loop": loop.state_dict(),
        "learner": parts.learner.state_dict(),  # type: ignore[attr-defined]
        "schedule": run.schedule and run.schedule.state_dict(),
        "watch": run.watch and run.watch.state_dict(),
        "average": parts.average and parts.average.state_dict(),
        "random": random_state(),
        "data": parts.identity.sha256,
        "config": {k: v for k, v in parts.config.items() if k not in ("tracking", "sweep")},
    }


def restore(parts: Parts, loop: Loop, state: Mapping[str, Any]) -> None:
    """Put a run where its state was taken.

    Raises:
        Refusal: the state isn't one of such a run.
    """
    [run] = parts.runs
    try:
        parts.learner.load_state_dict(state["learner"])  # type: ignore[attr-defined]
        loop.load_state_dict(state["loop"])
        for part, name in ((run.schedule, "schedule"), (run.watch, "watch"), (parts.average, "average")):
            if part is not None:
                part.load_state_dict(state[name])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise Refusal(f"the checkpoint doesn't fit this run: {str(error).splitlines()[0]}") from error
    set_random_state(state["random"])


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
