"""The data of a run: loaded, identified, split."""

import random
from collections.abc import Mapping, Sized
from typing import Any

import numpy as np
import torch

from gdexp.build.finite import gap
from gdexp.config import targets
from gdexp.config.check import own
from gdexp.config.refusal import Refusal
from gdexp.data import TensorData
from gdexp.data.identity import Identity, identify
from gdexp.data.loading import Loader, from_torch, split_dataset
from gdexp.data.partition import Plan
from gdexp.data.split import few_classes, rows, split

_WHOLE = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)


def load(node: dict[str, Any], options: Mapping[str, str | None]) -> tuple[TensorData, Identity]:
    """Return the data of a config's `data` node, split, and their identity before that."""
    seed_everything(0)  # a data function that draws gives every run of a sweep the same rows
    found = targets.build("data", own("data", node))
    data = found if isinstance(found, TensorData) else from_torch(found)
    if data is None:
        raise Refusal(
            "`data._target_` must return gdexp.data.TensorData, a torch Dataset or DataLoader, or two or three of "
            f"these, got {type(found).__name__}"
        )
    for part in data[:3]:
        if part is not None and (part.rows if isinstance(part, Loader) else rows(part)) == 0:
            raise Refusal("`data` has no training rows" if part is data.train else "`data` has a split without rows")
    if not (data.groups is None or (isinstance(data.groups, torch.Tensor) and data.groups.dtype in _WHOLE)):
        raise Refusal("`data`: TensorData.groups must be a tensor of whole numbers, one for each training row")
    identity = identify(data, str(options.get("data")), node)
    plan = {k: node[k] for k in Plan._fields}
    if not isinstance(data.train, Loader):
        if data.after_split is None:
            data = split(data._replace(gap=gap(data)), **plan)
        else:
            data = data.after_split(split(data, **plan))  # it may fill in what lacks
            data = data._replace(gap=gap(data))
        return data._replace(about="; ".join(filter(None, [data.about, *few_classes(data, data.classes)]))), identity
    if node["standardize"] != "none":
        raise Refusal(f"`data.standardize={node['standardize']}` needs data in memory, not a Dataset")
    return split_dataset(data, **plan), identity


def seed_everything(seed: int) -> None:
    """Seed every generator that a model may draw from."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def count(data: TensorData) -> int | None:
    """Return the number of training rows, None for a stream."""
    return data.train.rows if isinstance(data.train, Loader) else rows(data.train)


def prepare_loaders(data: TensorData, trainer: Mapping[str, Any], seed: int) -> None:
    """Make the DataLoaders of Datasets; one that the data brings keeps its own batch size."""
    for part in data[:3]:
        if isinstance(part, Loader):
            if part.given is not None and trainer["batch_size"] is not None:
                raise Refusal("`trainer.batch_size` must be null: the data brings a DataLoader with its own batch size")
            if part.given is not None and trainer["drop_last"]:
                raise Refusal("`trainer.drop_last` must be false: the data brings a DataLoader, which has its own")
            whole = trainer["drop_last"] and part is data.train
            part.prepare(trainer["batch_size"], trainer["workers"], seed, whole)


def pin(data: TensorData, device: torch.device) -> None:
    """Let loaders put batches where the device fetches them from."""
    for part in data[:3] if device.type == "cuda" else ():
        if isinstance(part, Loader):
            part.pin()


def _batches(total: int, trainer: Mapping[str, Any]) -> int:
    """Return how many batches an epoch has."""
    size = trainer["batch_size"] or total
    if trainer["drop_last"] and size > total:
        raise Refusal(f"`trainer.drop_last`: {total} rows are less than one batch (trainer.batch_size={size})")
    return total // size if trainer["drop_last"] else -(-total // size)


def last_batch(data: TensorData, trainer: Mapping[str, Any]) -> int | None:
    """Return how many rows the last batch of an epoch has; None if that isn't known."""
    total, given = count(data), data.train.given if isinstance(data.train, Loader) else None
    size, whole = trainer["batch_size"] or total, trainer["drop_last"]
    if given is not None:
        size, whole = given.batch_size, given.drop_last
        total = len(given.sampler) if isinstance(given.sampler, Sized) else None
    if not total or not size:
        return None
    size = min(size, total)
    return size if whole or total % size == 0 else total % size


def lone_row(data: TensorData, trainer: Mapping[str, Any]) -> str:
    """Return where the batch of one row comes from, and what leaves it out."""
    if isinstance(data.train, Loader) and data.train.given is not None:
        return "`data`: a batch of its DataLoader has one row (drop_last=True leaves a last one out)"
    if trainer["batch_size"] in (1, None):
        return "`trainer.batch_size`: its batches have one row (take a larger one)"
    size = trainer["batch_size"]
    return f"`trainer.batch_size={size}`: the last batch has one row (trainer.drop_last=true leaves it out)"


def length(data: TensorData, trainer: Mapping[str, Any], interval: str) -> int | None:
    """Return the epochs or steps of a run; None if its steps can't be told."""
    epochs, most = trainer["epochs"], trainer["max_steps"]
    total = count(data)
    if isinstance(data.train, Loader) and data.train.given is not None:
        batches = None if total is None else len(data.train.given)
    else:
        batches = None if total is None else _batches(total, trainer)
    if batches is None:
        return epochs if interval == "epoch" else most
    steps = -(-batches // trainer["accumulate"])
    whole = min(epochs * steps, most or epochs * steps)
    return whole if interval == "step" else -(-whole // steps)
