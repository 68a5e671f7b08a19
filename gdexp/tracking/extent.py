"""How much memory the model of a record would take, told before it takes any."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.parameter import is_lazy

from gdexp.config import targets
from gdexp.config.check import own
from gdexp.config.refusal import Refusal

_SLACK = 1 << 20  # bytes, of what isn't kept with the weights
_OWN_SLACK = 1 << 30  # of a class of the user's own, which may keep a small part of itself


class _TooLarge(Exception):
    pass


def check_extent(config: Mapping[str, Any], held: int, run_id: str) -> None:
    """Refuse a model that is far larger than the weights that its run has.

    It is made without its numbers, on torch's meta device; one that can't be made so isn't judged.

    Args:
        config: judged before, with its variables resolved.
        held: bytes of the run's weights and checkpoints; 0: it has none.
        run_id: for the message.
    """
    node = config.get("model")
    if not held or not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str):
        return
    known = node["_target_"].startswith(("torch.", "gdexp."))
    most = held + _SLACK if known else 1000 * held + _OWN_SLACK
    size = torch.finfo(getattr(torch, str(config.get("trainer", {}).get("dtype", "float32")))).bits // 8
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"), _bounded(most // size):
            model = targets.build("model", own("model", node))
        if isinstance(model, nn.Module):
            buffers = sum(t.numel() for t in model.buffers() if not is_lazy(t))
            if buffers > most // size:
                raise _TooLarge
    except _TooLarge:
        raise Refusal(
            f"run {run_id}: `model`: its config makes a model of more than {most} bytes, its weights have {held}"
        ) from None
    except Exception:  # it needs numbers, or can't be made at all, which is said when it is made
        return


@contextmanager
def _bounded(most: int) -> Iterator[None]:
    """Stop making a model once its parameters hold more numbers than that."""
    numbers = 0

    def count(module: nn.Module, name: str, parameter: Tensor | None) -> None:
        nonlocal numbers
        if parameter is not None and not is_lazy(parameter):
            numbers += parameter.numel()
        if numbers > most:
            raise _TooLarge

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()
