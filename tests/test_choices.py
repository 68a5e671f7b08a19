"""Every option that there is composes, is built and trains two epochs; options are found, not listed."""

import gzip
import math
import struct

import numpy as np
import pytest
import torch
from torch import nn

import gdexp
from gdexp.config.compose import compose
from gdexp.config.sources import conf_dir, options, studies_dir
from gdexp.config.targets import resolve

# what an option needs beside itself, where it doesn't train alone
BESIDE = {
    "data": {
        "none": ["model=rosenbrock"],
        "custom": ["data._target_=gdexp.data.synthetic.line"],
        "table": ["data.path=houses.csv", "data.target=price"],
        "mnist": ["data.path=idx", "loss=cross_entropy"],
        "fashion_mnist": ["data.path=idx", "loss=cross_entropy"],
        "cifar10": ["data.path=cifar", "loss=cross_entropy"],
        "image_folder": ["data.path=pictures", "loss=cross_entropy"],
    },
    "model": {
        "custom": ["model._target_=parts.Net"],
        "none": ["learner=custom", "learner._target_=parts.Learner"],
        "logistic": ["data=iris"],
        "lenet": ["data=mnist", "data.path=idx", "loss=cross_entropy"],
        "cnn": ["data=digits", "loss=cross_entropy", "trainer.batch_size=512"],
        "transformer": ["data=iris", "loss=cross_entropy"],
    },
    "loss": {
        "custom": ["loss._target_=parts.quartic"],
        "none": ["model=booth"],
        "kl_div": ["data=custom", "data._target_=parts.shares", "model.output_activation=log_softmax"],
        "multilabel_margin": ["data=custom", "data._target_=parts.lists"],
        "multilabel_soft_margin": ["data=moons"],
        "nll": ["model.output_activation=log_softmax"],
        "bce": ["data=moons", "model.output_activation=sigmoid"],
    },
    "optimizer": {
        "custom": ["optimizer._target_=torch.optim.Rprop"],
        "none": ["learner=custom", "learner._target_=parts.Learner"],
        "sparse_adam": ["data=custom", "data._target_=parts.words", "model=custom", "model._target_=parts.Bag"],
    },
    "scheduler": {"custom": ["scheduler._target_=torch.optim.lr_scheduler.ConstantLR"]},
    "learner": {"custom": ["learner._target_=parts.Learner"]},
}
CLASSES = ("classification", "digits", "breast_cancer", "iris", "wine", "moons", "circles", "spirals", "xor")
GROUPS = sorted(p.name for p in conf_dir().iterdir() if p.is_dir())
PARTS = """
import torch
from torch import nn
from gdexp.data import TensorData

def quartic(output, target):
    return ((output - target) ** 4).mean()

def shares():
    return TensorData((torch.randn(20, 4), torch.randn(20, 3).softmax(1)))

def lists():
    return TensorData((torch.randn(20, 4), torch.tensor([[2, 0, -1]] * 20)))

def words():
    return TensorData((torch.randint(0, 9, (20, 5)), torch.randn(20, 2)))

class Net(nn.Linear):
    pass

class Bag(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Embedding(9, 2, sparse=True))
    def forward(self, x):
        return super().forward(x).mean(1)

class Learner(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(1))
    def train_step(self, batch):
        with torch.no_grad():
            self.w *= 0.9
        return {"train_loss": self.w.sum() ** 2}
    def evaluate(self, batch):
        return {"loss": self.w.sum() ** 2}
    def weights(self):
        return self.state_dict()
"""


def idx(array):
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def files(here):
    """Small files in the true formats of images and tables."""
    from PIL import Image

    draw = np.random.default_rng(0)
    (here / "parts.py").write_text(PARTS)
    (here / "houses.csv").write_text("area,price\n" + "".join(f"{i},{2 * i}\n" for i in range(20)))
    (here / "idx").mkdir()
    for part, rows in (("train", 30), ("t10k", 10)):
        pictures, labels = draw.integers(0, 256, (rows, 28, 28), np.uint8), np.arange(rows, dtype=np.uint8) % 10
        (here / f"idx/{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pictures)))
        (here / f"idx/{part}-labels-idx1-ubyte").write_bytes(idx(labels))
    (here / "cifar").mkdir()
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        records = draw.integers(0, 256, (10, 3073), np.uint8)
        records[:, 0] = np.arange(10)
        (here / f"cifar/{name}.bin").write_bytes(records.tobytes())
    for name in ("cats", "dogs"):
        (here / f"pictures/{name}").mkdir(parents=True)
        for i in range(6):
            Image.fromarray(draw.integers(0, 256, (6, 5, 3), np.uint8)).save(here / f"pictures/{name}/{i}.png")
    return here


def _data_for(words: list[str]) -> str:
    kind = resolve("loss", compose(words)[0].config["loss"]["_target_"])
    if not isinstance(kind, type):
        return "line"
    if kind in (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss):
        return "iris"
    return "moons" if kind.__name__.startswith(("BCE", "SoftMargin", "Hinge", "MultiLabelSoft")) else "line"


@pytest.mark.parametrize(("group", "option"), [(g, o) for g in GROUPS for o in options(g) if g != "tracking"])
def test_option_trains_two_epochs(files, group, option):
    words = [f"{group}={option}", *BESIDE.get(group, {}).get(option, [])]
    if group == "data" and option in CLASSES:
        words.append("loss=cross_entropy")
    if group == "loss" and not any(w.startswith(("data=", "model=")) for w in words):
        words.append(f"data={_data_for(words)}")
    [run] = gdexp.launch([*words, "trainer.epochs=2", "tracking=none"]).to_dict("records")
    assert run["outcome"] in ("completed", "diverged") and math.isfinite(run["train_loss"])


@pytest.mark.parametrize("study", sorted(p.stem for p in studies_dir().glob("*.yaml")))
def test_study_trains_two_epochs(here, study):
    table = gdexp.launch([f"experiments={study}", "trainer.epochs=2", "tracking=none"])
    assert len(table) and set(table.status) == {"FINISHED"}


def test_help_lists_every_option(gdexp_run):
    shown = gdexp_run("--help").stdout
    for group in (*GROUPS, "experiments"):
        [line] = [line for line in shown.splitlines() if line.startswith(f"{group}: ")]
        assert line == f"{group}: {', '.join(options(group))}"
    assert max(map(len, shown.splitlines())) < 330


def test_images_are_read_as_they_were_written(files):
    from gdexp.data import images

    mnist, cifar = images.mnist("idx"), images.cifar10("cifar")
    raw = np.frombuffer(gzip.decompress((files / "idx/train-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    x, y = mnist.train
    assert x.shape == (30, 1, 28, 28) and y.tolist() == [i % 10 for i in range(30)] and len(mnist.test[0]) == 10
    assert torch.equal((x * 255).round().to(torch.uint8).flatten(), torch.from_numpy(raw.copy()))
    record = np.fromfile(files / "cifar/data_batch_2.bin", np.uint8)[:3073]
    red = (cifar.train[0][10, 0] * 255).round().to(torch.uint8)
    assert cifar.train[0].shape == (50, 3, 32, 32) and torch.equal(
        red.flatten(), torch.from_numpy(record[1:1025].copy())
    )
    folder = images.folder("pictures")
    assert folder.train[0].shape == (12, 3, 6, 5) and folder.train[1].tolist() == [0] * 6 + [1] * 6
    assert images.folder("pictures", (4, 4), "L").train[0].shape == (12, 1, 4, 4)


@pytest.mark.parametrize(
    ("break_it", "line"),
    [
        (lambda d: (d / "idx/t10k-labels-idx1-ubyte").unlink(), "lacks t10k-labels-idx1-ubyte: download"),
        (lambda d: (d / "idx/train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x09ab"), "no whole IDX file"),
        (lambda d: (d / "idx/train-images-idx3-ubyte.gz").write_bytes(b"\x1f\x8bxx"), "can't be read"),
    ],
)
def test_broken_idx_files_are_refused(files, break_it, line):
    break_it(files)
    with pytest.raises(ValueError, match=line):
        gdexp.launch(["data=mnist", "data.path=idx", "loss=cross_entropy", "tracking=none"])


def test_broken_cifar_and_folders_are_refused(files):
    (files / "cifar/data_batch_1.bin").write_bytes(b"x" * 3000)
    (files / "pictures/dogs/9.png").write_bytes(b"no picture")
    for words, line in (
        (["data=cifar10", "data.path=cifar"], "multiple of 3073"),
        (["data=cifar10", "data.path=nowhere"], "cifar-10-binary.tar.gz"),
        (["data=image_folder", "data.path=pictures"], "9.png can't be read as an image"),
        (["data=image_folder", "data.path=pictures/dogs"], "at least two"),
    ):
        with pytest.raises(ValueError, match=line):
            gdexp.launch([*words, "loss=cross_entropy", "tracking=none"])
