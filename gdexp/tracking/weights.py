"""Weights as a safetensors file: nothing in it can run."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


def save_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write a state dict.

    Args:
        path: of the file.
        weights: by state_dict name, of any device and layout; tied ones are written under each name.
    """
    apart = {
        name: t.detach().to("cpu", copy=True, memory_format=torch.contiguous_format) for name, t in weights.items()
    }
    save_file(apart, path)


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict, on the CPU.

    Raises:
        ValueError: the file isn't a whole safetensors file.
    """
    try:
        return load_file(path)
    except Exception as error:  # safetensors' own error type is not part of its public names
        raise ValueError(f"{path.name} is damaged: {error}") from error
