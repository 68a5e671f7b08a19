"""The dtype that each tensor gets where a run has one for its floating numbers."""

import torch
from torch import Tensor, nn


def move(module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Move a module to a device and its floating tensors to a dtype, complex ones to the partner of that.

    `Module.to` with a dtype takes the imaginary part from complex tensors.
    """
    tensors = [*module.parameters(), *module.buffers()]
    if not any(t.is_complex() for t in tensors):
        module.to(device, dtype)
        return
    module.to(device)
    module._apply(lambda t: t.to(partner(t, dtype)))


def partner(tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that a tensor gets where floating ones get `dtype`: complex numbers stay complex.

    >>> partner(torch.zeros(1, dtype=torch.complex64), torch.float64), partner(torch.zeros(1).long(), torch.float64)
    (torch.complex128, torch.int64)
    """
    if tensor.is_complex():
        return dtype.to_complex() if dtype in (torch.float32, torch.float64) else torch.complex64
    return dtype if tensor.is_floating_point() else tensor.dtype
