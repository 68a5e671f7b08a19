"""Weights as a safetensors file: nothing in it can run."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor


def as_bytes(weights: Mapping[str, Tensor]) -> bytes:
    """Return a state dict as the bytes of a safetensors file.

    Args:
        weights: by state_dict name, of any device and layout; tied ones are written under each name.
    """
    apart = {
        name: t.detach().to("cpu", copy=True, memory_format=torch.contiguous_format) for name, t in weights.items()
    }
    return save(apart)


def save_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write a state dict as a file that others may read as they may read any other of the user's."""
    path.write_bytes(as_bytes(weights))


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict, on the CPU.

    Raises:
        ValueError: the file isn't a whole safetensors file.
    """
    try:
        return load_file(path)
    except Exception as error:  # safetensors' own error type is not part of its public names
        raise ValueError(f"{path.name} is damaged: {error}") from error
