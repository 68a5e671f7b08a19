"""The process that calls us: what it had set of Python's, numpy's and torch's, put aside for a run and put back.

A run means the same wherever it is started: it inherits no default of the host's that would change its numbers.
"""

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any


@contextmanager
def as_it_was() -> Iterator[None]:
    """Train as in a process of its own, and leave the host's random states and torch's switches as they were."""
    import numpy as np
    import torch

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    with torchs_own_defaults():
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_rng_state(states[2])
            if cuda is not None:
                torch.cuda.set_rng_state_all(cuda)


@contextmanager
def torchs_own_defaults() -> Iterator[None]:
    """Have torch's switches as it is imported with; a mode costs calls, so one is entered only to leave another."""
    import torch

    cudnn: Any = torch.backends.cudnn
    before = torch.get_default_dtype(), torch.get_float32_matmul_precision(), torch.get_deterministic_debug_mode()
    flags = {name: getattr(cudnn, name) for name in ("benchmark", "deterministic", "allow_tf32")}
    with ExitStack() as modes:
        if torch.is_inference_mode_enabled():
            modes.enter_context(torch.inference_mode(False))
        if not torch.is_grad_enabled():
            modes.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                modes.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            modes.enter_context(torch.device("cpu"))
        try:
            torch.set_default_dtype(torch.float32)
            torch.set_float32_matmul_precision("highest")
            torch.set_deterministic_debug_mode("default")
            cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32 = False, False, True
            yield
        finally:
            torch.set_default_dtype(before[0])
            torch.set_float32_matmul_precision(before[1])
            torch.set_deterministic_debug_mode(before[2])
            for name, value in flags.items():
                setattr(cudnn, name, value)
