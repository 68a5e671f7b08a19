"""What is recorded of an epoch: the means of its steps, and on request more; norms of each step are `gdexp.step`'s."""

import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

_OVER = "/over"


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


def means(steps: Sequence[tuple[int, Mapping[str, Tensor]]], count: int) -> list[dict[str, float]]:
    """Average each run's measures over its batches; the host waits here, once an epoch.

    A batch counts as much as its rows, or as what it was divided by, where the measure `over(name)` says so.
    """
    names = dict.fromkeys(name for _, measures in steps for name in measures if not name.endswith(_OVER))
    columns = {}
    for name in names:
        there = [(n, measures) for n, measures in steps if name in measures]
        if len(there) == 1:
            columns[name] = _numbers(_on_host(there[0][1][name]), count)
            continue
        values = _of_steps(name, there, count)
        own = over(name) in there[0][1]
        sizes = _of_steps(over(name), there, count) if own else [[n] * count for n, _ in there]
        columns[name] = list(map(_mean, zip(*values, strict=True), zip(*sizes, strict=True)))
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def over(name: str) -> str:
    """Return the name under which a learner says what the batch's measure was divided by.

    It is 0 for a sum, whose batches are added up, and for a batch of which nothing counts.
    """
    return name + _OVER


def parts_of(loss: Any, batches: Sequence[Any], sizes: Sequence[int]) -> list[Any]:
    """Return for each batch of a step by what its loss is divided, so that their sum is the loss of all rows.

    Args:
        loss: with a method `over`, or any other.
        batches: of one step.
        sizes: how many rows each counts for.
    """
    if len(batches) == 1:
        return [1]
    if not hasattr(loss, "over"):
        return [sum(sizes) / size for size in sizes]  # as many as there are batches, if they are alike
    if loss.sums:
        return [1] * len(batches)
    own = [loss.over(*batch[1:]) for batch in batches]
    whole = torch.stack(own).sum(0)
    return [torch.where(part > 0, whole / part, torch.inf) for part in own]  # the loss of nothing is 0


def _of_steps(name: str, there: Sequence[tuple[int, Mapping[str, Tensor]]], count: int) -> list[list[float]]:
    return [_numbers(value, count) for value in _together([measures[name] for _, measures in there])]


def _mean(values: Sequence[float], sizes: Sequence[float]) -> float:
    total = whole = 0.0
    for value, size in zip(values, sizes, strict=True):
        total += size * value if size else value
        whole += size
    return total / (whole or 1.0)


def _together(values: Sequence[Tensor]) -> list[Any]:
    """Bring the values of all steps to the host at once."""
    return torch.stack([torch.as_tensor(value).detach() for value in values]).tolist()


def _on_host(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else value


def _numbers(value: Any, count: int) -> list[float]:
    """Return one number a run."""
    return value if isinstance(value, list) else [value] * count
