"""The weights that a run starts from: those of another run, or of a safetensors file."""

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from gdexp.config.refusal import Refusal
from gdexp.tracking.places import RUN_ID
from gdexp.tracking.reading import read
from gdexp.tracking.weights import load_weights

_FILE = "weights.safetensors"


class Source(NamedTuple):
    """Weights, and what tells them from others.

    Args:
        name: as it is shown.
        weights: by state_dict name, on the CPU.
        sha256: of all names, dtypes, shapes and numbers, in hexadecimal.
    """

    name: str
    weights: Mapping[str, Tensor]
    sha256: str


def source(wanted: str, uri: str | None = None) -> Source:
    """Read weights.

    Args:
        wanted: the id of a run, or the path of a file.
        uri: tracking URI of the store that has the run.

    Raises:
        Refusal: there are none, or they can't be read.
    """
    if RUN_ID.fullmatch(wanted):
        return _of_run(wanted, uri)
    path = Path(wanted)
    if path.suffix != ".safetensors":
        raise Refusal(f"`model.weights` must be the id of a run or a FILE.safetensors, got {wanted!r}")
    if not path.is_file():
        raise Refusal(f"`model.weights`: no file {wanted!r} here ({Path.cwd()})")
    about = path.stat()
    return _of_file(path.absolute(), wanted, about.st_mtime_ns, about.st_size)


@functools.lru_cache(maxsize=2)
def _of_run(run_id: str, uri: str | None) -> Source:
    try:
        run = read(run_id, uri, weights=_FILE)
    except (Refusal, ValueError) as error:
        raise Refusal(f"`model.weights`: {error}") from error
    if _FILE not in run.weights:
        raise Refusal(f"`model.weights`: run {run_id} has no {_FILE}; it is {run.status}")
    return Source(f"run {run_id}", run.weights[_FILE], _digest(run.weights[_FILE]))


@functools.lru_cache(maxsize=2)
def _of_file(path: Path, name: str, *version: int) -> Source:
    try:
        weights = load_weights(path)
    except ValueError as error:
        raise Refusal(f"`model.weights`: {error}") from error
    return Source(name, weights, _digest(weights))


def _digest(weights: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, t in sorted(weights.items()):
        digest.update(f"{name} {t.dtype} {tuple(t.shape)}".encode())
        digest.update(t.contiguous().flatten().view(torch.uint8).numpy().tobytes() if t.numel() else b"")
    return digest.hexdigest()
