"""Images from files in the formats that they are published in; nothing is downloaded."""

import gzip
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from gdexp.data import TensorData

_IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_CIFAR = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")
_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


def mnist(path: str) -> TensorData:
    """Read the four IDX files of MNIST; the 10,000 images are the test rows.

    Returns:
        inputs (rows, 1, 28, 28), float32 in [0, 1], and target (rows,), int64.
    """
    return _idx(path, "MNIST", "https://storage.googleapis.com/cvdf-datasets/mnist")


def fashion_mnist(path: str) -> TensorData:
    """Read the four IDX files of Fashion-MNIST, likewise."""
    return _idx(path, "Fashion-MNIST", "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com")


def cifar10(path: str) -> TensorData:
    """Read the six files of CIFAR-10's binary version; the last is the test rows.

    Returns:
        inputs (rows, 3, 32, 32), float32 in [0, 1], and target (rows,), int64.
    """
    folder = Path(path)
    if missing := [name for name in _CIFAR if not (folder / name).is_file()]:
        raise ValueError(
            f"`data.path`: {folder} lacks {missing[0]}: unpack "
            "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz and give the folder of its .bin files"
        )
    parts = [np.fromfile(folder / name, dtype=np.uint8) for name in _CIFAR]
    for name, part in zip(_CIFAR, parts, strict=True):
        if part.size == 0 or part.size % 3073:
            raise ValueError(f"`data.path`: {name} isn't of CIFAR-10: its size is no multiple of 3073 bytes")
    train, test = np.concatenate(parts[:-1]).reshape(-1, 3073), parts[-1].reshape(-1, 3073)
    return TensorData(_cifar_rows(train), test=_cifar_rows(test), classes=10)


def folder(path: str, size: tuple[int, int] | None = None, mode: Literal["RGB", "L"] = "RGB") -> TensorData:
    """Read images sorted into one folder a class, alone or below `train/`, `val/` and `test/`.

    Args:
        path: of the folder.
        size: height and width to resize to; None: all images have one size.
        mode: RGB: three channels; L: one.

    Returns:
        inputs (rows, channels, height, width), float32 in [0, 1], and target (rows,), int64: the
        classes in the order of their folders' names.
    """
    root = Path(path)
    if not root.is_dir():
        raise ValueError(f"`data.path`: no folder {path!r} here ({Path.cwd()})")
    train = root / "train" if (root / "train").is_dir() else root
    names = sorted(p.name for p in train.iterdir() if p.is_dir())
    if len(names) < 2:
        raise ValueError(f"`data.path`: {train} must hold one folder a class, at least two")
    held_apart: dict[str, Any] = {
        name: _sorted_images(root / name, names, size, mode)
        for name in ("val", "test")
        if train != root and (root / name).is_dir()
    }
    return TensorData(_sorted_images(train, names, size, mode), **held_apart, classes=len(names))


def _idx(path: str, name: str, source: str) -> TensorData:
    images, labels, test_images, test_labels = (_read_idx(Path(path), file, name, source) for file in _IDX)
    train, test = _idx_rows(images, labels), _idx_rows(test_images, test_labels)
    return TensorData(train, test=test, classes=10)


def _read_idx(folder: Path, file: str, name: str, source: str) -> np.ndarray:
    """Read an IDX file: two zero bytes, the type (8: bytes), the number of dimensions, their sizes, the bytes."""
    found = next((p for p in (folder / file, folder / f"{file}.gz") if p.is_file()), None)
    if found is None:
        raise ValueError(
            f"`data.path`: {folder} lacks {file}: download the four files of {name}, "
            f"{', '.join(f'{f}.gz' for f in _IDX)}, from {source}/ into it"
        )
    try:
        content = gzip.decompress(found.read_bytes()) if found.suffix == ".gz" else found.read_bytes()
    except (OSError, EOFError) as error:
        raise ValueError(f"`data.path`: {found} can't be read: {error}") from error
    dimensions = content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else 0
    sizes = np.frombuffer(content, ">u4", dimensions, 4) if len(content) >= 4 + 4 * dimensions else np.array([])
    body = np.frombuffer(content, np.uint8, offset=min(4 + 4 * dimensions, len(content)))
    if dimensions == 0 or body.size != sizes.prod(dtype=np.int64):
        raise ValueError(f"`data.path`: {found} is no whole IDX file of bytes")
    return body.reshape(sizes)


def _idx_rows(images: np.ndarray, labels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    if len(images) != len(labels) or images.ndim != 3 or labels.max(initial=0) > 9:
        raise ValueError(f"`data.path`: images {images.shape} and labels {labels.shape} don't belong together")
    return _scaled(images[:, None]), torch.from_numpy(labels.astype(np.int64))


def _cifar_rows(table: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Split records of a label, then 1024 bytes of each colour."""
    if table[:, 0].max() > 9:
        raise ValueError("`data.path`: a label isn't below 10: the files aren't of CIFAR-10's binary version")
    return _scaled(table[:, 1:].reshape(-1, 3, 32, 32)), torch.from_numpy(table[:, 0].astype(np.int64))


def _sorted_images(
    folder: Path, names: list[str], size: tuple[int, int] | None, mode: str
) -> tuple[torch.Tensor, torch.Tensor]:
    if odd := sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name not in names):
        raise ValueError(f"`data.path`: {folder} has the class {odd[0]!r}, which the training images lack")
    files = [
        (path, label)
        for label, name in enumerate(names)
        for path in sorted((folder / name).rglob("*"))
        if path.suffix.lower() in _SUFFIXES
    ]
    if not files:
        raise ValueError(f"`data.path`: {folder} has no images ({', '.join(_SUFFIXES)})")
    images = [_image(path, size, mode) for path, _ in files]
    for (path, _), image in zip(files, images, strict=True):
        if image.shape != images[0].shape:
            raise ValueError(
                f"`data.path`: {path} has {image.shape[0]}×{image.shape[1]} pixels, {files[0][0].name} "
                f"{images[0].shape[0]}×{images[0].shape[1]}: data.size=[height,width] makes them alike"
            )
    pixels = np.stack(images).reshape(len(files), *images[0].shape[:2], -1).transpose(0, 3, 1, 2)
    return _scaled(pixels), torch.tensor([label for _, label in files])


def _image(path: Path, size: tuple[int, int] | None, mode: str) -> np.ndarray:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise ValueError("`data`: images are read by Pillow; pip install pillow") from None
    try:
        with Image.open(path) as image:
            converted = image.convert(mode)
            return np.asarray(converted.resize((size[1], size[0])) if size else converted)
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise ValueError(f"`data.path`: {path} can't be read as an image: {error}") from error


def _scaled(pixels: np.ndarray) -> torch.Tensor:
    """Return bytes as numbers in [0, 1]."""
    scaled = pixels.astype(np.float32)
    scaled /= 255
    return torch.from_numpy(np.ascontiguousarray(scaled))
