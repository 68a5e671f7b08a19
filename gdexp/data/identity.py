"""Which data a run saw: a digest of all its numbers, and where they came from."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from gdexp.data import TensorData
from gdexp.data.loading import Loader


class Identity(NamedTuple):
    """What tells one data set from another.

    Args:
        name: the option of the group `data`.
        sha256: of all tensors, their dtypes and shapes, in hexadecimal.
        shapes: of the tensors of each split.
        source: the `data` node of the config.
        about: what became of the rows and columns of a file, in one line.
    """

    name: str
    sha256: str
    shapes: dict[str, list[list[int]]]
    source: Mapping[str, Any]
    about: str = ""

    def as_mlflow(self) -> tuple[str, str, str, str, None, str, str]:
        """Return name, digest, source type, source, schema, profile and context, as MLflow has them."""
        source = json.dumps({"tags": {k: str(v) for k, v in self.source.items()}})
        profile = json.dumps({"sha256": self.sha256, "shapes": self.shapes})
        return self.name, self.sha256[:32], "code", source, None, profile, "training"


def identify(data: TensorData, name: str, source: Mapping[str, Any]) -> Identity:
    """Return the identity of data as they were loaded, before any split.

    Of a Dataset or DataLoader, whose rows may be made on the fly, only a sample of the first rows counts.
    """
    digest = hashlib.sha256()
    shapes: dict[str, list[list[int]]] = {}
    for split, batch in zip(TensorData._fields[:3], data[:3], strict=True):
        if batch is None:
            continue
        if isinstance(batch, Loader):
            digest.update(f"{type(batch.dataset).__qualname__} {batch.rows} rows".encode())
            batch = _first_rows(batch)
        leaves, form = tree_flatten(batch)
        digest.update(f"{split} {form}".encode())
        for leaf in leaves:
            if isinstance(leaf, Tensor):
                digest.update(f"{leaf.dtype} {tuple(leaf.shape)}".encode())
            digest.update(_bytes(leaf))
        shapes[split] = [list(leaf.shape) for leaf in leaves if isinstance(leaf, Tensor)]
    if data.groups is not None:
        digest.update(b"groups")
        digest.update(_bytes(data.groups))
    return Identity(name, digest.hexdigest(), shapes, source, data.about)


def _first_rows(loader: Loader) -> Any:
    known = loader.given is None and loader.rows is not None
    return loader.sample() if known else ()  # a DataLoader may shuffle, and a stream be any


def _bytes(t: Any) -> Any:
    if not isinstance(t, Tensor):
        return str(t).encode()
    return t.detach().cpu().contiguous().flatten().view(torch.uint8).numpy() if t.numel() else b""
