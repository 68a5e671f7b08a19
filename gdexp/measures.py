"""What is recorded of training on request at an epoch's end; norms of each step are `gdexp.step`'s."""

import sys
from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm


def after_epoch(
    wanted: Collection[str], weights: Sequence[Tensor], rows: int, trained: float, whole: float
) -> dict[str, float]:
    """Measure at an epoch's end.

    Args:
        wanted: of the names below; others are left out.
        weights: the live tensors; parameters count, without any the floating tensors do.
        rows: that were trained on.
        trained: seconds for these.
        whole: seconds of the epoch with its validation.

    Returns:
        weight_norm: 2-norm; rows_per_second; epoch_seconds; peak_memory: in MiB, of the
        accelerator, on the CPU of the process.
    """
    found: dict[str, float] = {}
    if "weight_norm" in wanted:
        parameters: Sequence[Tensor] = [t for t in weights if isinstance(t, nn.Parameter)]
        counted = parameters or [t for t in weights if t.is_floating_point()]
        found["weight_norm"] = get_total_norm([t.detach() for t in counted]).item()
    if "rows_per_second" in wanted:
        found["rows_per_second"] = rows / trained
    if "epoch_seconds" in wanted:
        found["epoch_seconds"] = whole
    if "peak_memory" in wanted:
        found["peak_memory"] = _peak_bytes(weights[0].device) / 2**20
    return found


def _peak_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # bytes there, KiB on Linux
