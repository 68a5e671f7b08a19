"""Weights as a safetensors file: nothing in it can run."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

_WIDE = "gdexp.complex128"  # names of tensors that stand as pairs of real and imaginary part


def as_bytes(weights: Mapping[str, Tensor]) -> bytes:
    """Return a state dict as the bytes of a safetensors file.

    Args:
        weights: by state_dict name, of any device and layout; tied ones are written under each name.
    """
    apart = {
        name: t.detach().to("cpu", copy=True, memory_format=torch.contiguous_format) for name, t in weights.items()
    }
    wide = [name for name, t in apart.items() if t.dtype == torch.complex128]  # which the format doesn't know
    apart |= {name: torch.view_as_real(apart[name]) for name in wide}
    return save(apart, {_WIDE: json.dumps(wide)} if wide else None)


def save_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write a state dict as a file that others may read as they may read any other of the user's."""
    path.write_bytes(as_bytes(weights))


def of_model(weights: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return weights without those of a loss that was trained, too, which stand beside the model's."""
    own = model.state_dict().keys()
    return {name: t for name, t in weights.items() if name in own or not name.startswith("loss.")}


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict, on the CPU.

    Raises:
        ValueError: the file isn't a whole safetensors file.
    """
    try:
        with safe_open(path, "pt") as file:
            wide = json.loads((file.metadata() or {}).get(_WIDE, "[]"))
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return found | {name: torch.view_as_complex(found[name]) for name in wide}
    except Exception as error:  # safetensors' own error type is not part of its public names
        raise ValueError(f"{path.name} is damaged: {error}") from error
