"""Whether a model takes its inputs as one nest, or the parts of the nest one by one."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from gdexp.build.fit import sample
from gdexp.config.refusal import Refusal
from gdexp.data import TensorData


def spreads(model: nn.Module, wanted: str, data: TensorData, loss: Any) -> bool:
    """Say whether a forward pass gets the parts of its inputs one by one: a mapping by its names, a list in order.

    Args:
        model: whose `forward` may have several parameters.
        wanted: `one`, `spread`, or `auto`: where the signature leaves no other way, and where the
            names of a mapping are those of parameters.
        data: with the inputs.
        loss: None: the model gets whole batches.
    """
    if loss is None:
        if wanted == "spread":
            raise Refusal("`model.inputs=spread` needs a loss: with loss=none the model gets the batch as it is")
        return False
    inputs = sample(data)[0]
    is_nest = isinstance(inputs, (Mapping, tuple, list))
    if wanted == "spread" and not is_nest:
        kind = "one tensor" if isinstance(inputs, Tensor) else f"a {type(inputs).__name__}"
        raise Refusal(f"`model.inputs=spread` needs inputs that are a tuple, a list or a mapping, got {kind}")
    if wanted != "auto" or not is_nest:
        return wanted == "spread"
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):  # of a scripted module
        return False
    as_one = _binds(signature, inputs)
    if isinstance(inputs, Mapping):
        named = inputs.keys() <= signature.parameters.keys()
        return (named or not as_one) and _binds(signature, **{str(k): v for k, v in inputs.items()})
    return not as_one and _binds(signature, *inputs)


def _binds(signature: inspect.Signature, *arguments: Any, **named: Any) -> bool:
    try:
        signature.bind(*arguments, **named)
    except TypeError:
        return False
    return True
