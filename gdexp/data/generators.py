"""The generators that anything may draw from: those of torch, of `random` and of numpy."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def put_back(*further: torch.Generator | None) -> Iterator[None]:
    """Let something draw, and then give the generators back as they were.

    Args:
        further: generators beside the global ones.
    """
    own = [(g, g.get_state()) for g in further if g is not None]
    accelerator = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])
        if accelerator:
            torch.cuda.set_rng_state_all(accelerator)
        for generator, state in own:
            generator.set_state(state)
