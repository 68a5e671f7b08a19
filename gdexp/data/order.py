"""In which order an epoch takes its rows."""

import torch


def batch_order(total: int, seed: int, epoch: int) -> torch.Tensor:
    """Return the order in which an epoch of mini-batches takes its rows, on the CPU.

    It is `torch.randperm(total)` of a generator seeded with (1000003·seed + epoch) mod 2³² (torch's
    CPU generator uses 32 bits of a seed), so it depends on nothing else.
    """
    generator = torch.Generator().manual_seed((1_000_003 * seed + epoch) % 2**32)
    return torch.randperm(total, generator=generator)
