"""Where a model starts: from weights of another run or of a file, as far as their names are its own."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gdexp.config.check import takes_weights
from gdexp.config.refusal import Refusal

_SHOWN = 6  # names in a line


class Start(NamedTuple):
    """What a model started from.

    Args:
        about: which of its tensors did, in one line.
        sha256: of the weights.
    """

    about: str
    sha256: str


@torch.no_grad()
def start_from(model: nn.Module | None, config: Mapping[str, Any]) -> Start | None:
    """Copy the weights that `model.weights` names into a model; None where it names none.

    Raises:
        Refusal: there are none, none fits, or one has another shape.
    """
    node = config["model"]
    wanted, partial = node["weights"], node["weights_partial"]
    if wanted is None or takes_weights(node):
        return None
    if model is None:
        raise Refusal("`model.weights` needs a model: a learner of your own has its own")
    from gdexp.tracking.source import source

    found, own = source(wanted, config["tracking"]["uri"]), model.state_dict(keep_vars=True)
    common = [name for name in own if name in found.weights]
    unlike = [name for name in common if not _fits(found.weights[name], own[name])]
    if unlike and not partial:
        name = unlike[0]
        raise Refusal(
            f"`model.weights`: {name} is {_described(found.weights[name])} in {found.name}, but "
            f"{_described(own[name])} in this model; model.weights_partial=true leaves such tensors as they are"
        )
    taken = [name for name in common if name not in unlike]
    if not taken:
        there = ", ".join(list(found.weights)[:_SHOWN]) or "nothing"
        raise Refusal(f"`model.weights`: no tensor of the model is in {found.name}, which has {there}")
    for name in taken:
        own[name].copy_(found.weights[name])
    return Start(_line(found.name, taken, [name for name in own if name not in taken]), found.sha256)


def _fits(given: Tensor, own: Tensor) -> bool:
    """Say whether numbers can stand for others; a dtype may differ in its precision only."""
    kinds = [(t.is_floating_point(), t.is_complex()) for t in (given, own)]
    return given.shape == own.shape and kinds[0] == kinds[1]


def _described(t: Tensor) -> str:
    return f"{str(t.dtype).removeprefix('torch.')} {list(t.shape)}"


def _line(name: str, taken: list[str], left: list[str]) -> str:
    line = f"{len(taken)} of {len(taken) + len(left)} tensors of the model start from {name}"
    if not left:
        return line
    more = f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
    keep = "keeps its own" if len(left) == 1 else "keep their own"
    return f"{line}; {', '.join(left[:_SHOWN])}{more} {keep}"
