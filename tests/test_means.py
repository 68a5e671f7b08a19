"""Means of what the loss divided by: batches, steps and stacks against one whole batch of torch's own."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gdexp
from gdexp.data.order import batch_order

PARTS = """
import torch
from torch.utils.data import DataLoader, Dataset
from gdexp.data import TensorData, Weighted


def make(kind="classes", ignored=0, weighted=False):
    g = torch.Generator().manual_seed(3)
    x = torch.randn(50, 4, generator=g)
    score = x @ torch.randn(4, 3, generator=g)
    y = {"classes": score.argmax(1), "numbers": score, "labels": (score > 0).double(), "counts": score.exp().round(),
         "shares": score.softmax(1), "signs": score.sign()}[kind]
    if ignored:
        y[:ignored] = -100
    return Weighted(x, y, torch.rand(50, generator=g)) if weighted else (x, y)


def rows(**keys):
    batch = make(**keys)
    return TensorData(type(batch)(*(t[:40] for t in batch)) if keys.get("weighted") else tuple(t[:40] for t in batch),
                      type(batch)(*(t[40:] for t in batch)) if keys.get("weighted") else tuple(t[40:] for t in batch),
                      classes=3 if keys.get("kind", "classes") == "classes" else None)


class Rows(Dataset):
    classes = ["a", "b", "c"]
    def __init__(self, part, **keys):
        self.x, self.y = (t[part] for t in make(**keys))
    def __len__(self):
        return len(self.x)
    def __getitem__(self, i):
        return self.x[i].float(), self.y[i]


def dataset(**keys):
    return Rows(slice(40), **keys), Rows(slice(40, None), **keys)


def own(output, target, weights):
    return (weights * (output - target).abs().sum(1)).sum() / weights.sum()


class Mine(torch.nn.CrossEntropyLoss):
    def __init__(self):
        super().__init__(torch.tensor([1.0, 10.0, 3.0]))


def negative():
    x, y, w = make(weighted=True)
    return TensorData(Weighted(x, y, w - 2 * w.mean()))


def no_weights(output, target):
    return (output - target).abs().mean()
"""
KINDS = {
    "mse": ("numbers", nn.MSELoss, {}),
    "l1": ("numbers", nn.L1Loss, {}),
    "huber": ("numbers", nn.HuberLoss, {"delta": 0.5}),
    "poisson_nll": ("counts", nn.PoissonNLLLoss, {}),
    "cross_entropy": ("classes", nn.CrossEntropyLoss, {}),
    "hinge": ("classes", nn.MultiMarginLoss, {"weight": [1.0, 5.0, 2.0]}),
    "bce_with_logits": ("labels", nn.BCEWithLogitsLoss, {"pos_weight": [1.0, 4.0, 2.0]}),
    "multilabel_soft_margin": ("labels", nn.MultiLabelSoftMarginLoss, {}),
    "soft_margin": ("signs", nn.SoftMarginLoss, {}),
}
OPTIONS = {
    "weight": ("classes", {"weight": [1.0, 10.0, 3.0]}, 0),
    "ignored": ("classes", {}, 25),
    "all": ("classes", {"weight": [1.0, 10.0, 3.0], "label_smoothing": 0.1}, 25),
    "sum": ("classes", {"reduction": "sum"}, 0),
    "sum of weighted": ("classes", {"reduction": "sum", "weight": [1.0, 10.0, 3.0]}, 10),
    "shares": ("shares", {"weight": [1.0, 10.0, 3.0], "label_smoothing": 0.1}, 0),
}


@pytest.fixture
def parts(here):
    (here / "parts.py").write_text(PARTS)
    return here


def made(here, **keys):
    space: dict = {}
    exec((here / "parts.py").read_text(), space)
    return [t.float() if t.is_floating_point() else t for t in space["make"](**keys)]


def words(keys, options, loss="cross_entropy", data="rows"):
    said = [f"+data.{k}={v}" for k, v in keys.items()] + [f"loss.{k}={v}" for k, v in options.items()]
    return ["data=custom", f"data._target_=parts.{data}", f"loss={loss}", *said, "optimizer.lr=0.05", "tracking=none"]


def start():
    torch.manual_seed(0)
    return nn.Linear(4, 3)


def truth(batch, loss, epochs=1):
    """Train by torch on whole batches; return the losses before each step, after the last, and the weights."""
    (x, y), model = [t[:40] for t in batch[:2]], start()
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=0.05), []
    for _ in range(epochs):
        optimizer.zero_grad()
        value = loss(model(x), y)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    with torch.no_grad():
        return losses[-1], loss(model(batch[0][40:]), batch[1][40:]).item()


def as_torch(kind, options):
    return kind(**{k: torch.tensor(v) if isinstance(v, list) else v for k, v in options.items()})


@pytest.mark.parametrize("data", ["rows", "dataset"])
@pytest.mark.parametrize("name", OPTIONS)
def test_accumulated_steps_and_validation_are_the_whole_batchs(parts, name, data):
    """Ten batches make a step; the ignored rows leave some of them without any that counts."""
    kind, options, ignored = OPTIONS[name]
    keys = {"kind": kind, "ignored": ignored}
    loss = as_torch(nn.CrossEntropyLoss, options)
    wanted = truth(made(parts, **keys), loss, epochs=3)
    for more in ([], ["trainer.batch_size=4", "trainer.accumulate=10"]):
        [run] = gdexp.launch([*words(keys, options, data=data), "trainer.epochs=3", *more]).to_dict("records")
        assert (run["train_loss"], run["val_loss"]) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("name", OPTIONS)
def test_an_epochs_loss_is_that_of_its_batches_rows_together(parts, name):
    """With a rate of nothing every batch is measured with the first weights."""
    kind, options, ignored = OPTIONS[name]
    keys = {"kind": kind, "ignored": ignored}
    x, y = made(parts, **keys)
    loss, model = as_torch(nn.CrossEntropyLoss, options), start()
    more = ["optimizer.lr=0", "trainer.batch_size=7", "trainer.epochs=2"]
    [run] = gdexp.launch([*words(keys, options), *more]).to_dict("records")
    wanted = [loss(model(x[part]), y[part]).item() for part in (slice(40), slice(40, None))]
    assert [run["train_loss"], run["val_loss"]] == pytest.approx(wanted, rel=1e-6)


def weighted_mean(kind, options, output, target, weights):
    each = as_torch(kind, options | {"reduction": "none"})(output, target)
    return (each.reshape(len(each), -1).mean(1) * weights).sum() / weights.sum()


@pytest.mark.parametrize("name", KINDS)
def test_rows_with_weights(parts, name):
    kind, module, options = KINDS[name]
    keys = {"kind": kind, "weighted": "true"}
    x, y, w = made(parts, kind=kind, weighted=True)
    model = start()
    wanted = [weighted_mean(module, options, model(x[p]), y[p], w[p]).item() for p in (slice(40), slice(40, None))]
    found = {}
    for more in (["trainer.batch_size=7", "optimizer.lr=0"], ["trainer.batch_size=4", "trainer.accumulate=10"]):
        [run] = gdexp.launch([*words(keys, options, loss=name), "trainer.epochs=1", *more]).to_dict("records")
        found[more[0]] = run["val_loss"]
        assert run["train_loss"] == pytest.approx(wanted[0], rel=1e-5)
    assert found["trainer.batch_size=7"] == pytest.approx(wanted[1], rel=1e-5)
    [whole] = gdexp.launch([*words(keys, options, loss=name), "trainer.epochs=1"]).to_dict("records")
    assert found["trainer.batch_size=4"] == pytest.approx(whole["val_loss"], rel=1e-5)


def test_a_class_derived_from_torchs_has_its_means(parts):
    x, y = made(parts)
    wanted = F.cross_entropy(start()(x[:40]), y[:40], weight=torch.tensor([1.0, 10.0, 3.0]))
    base = words({}, {}, loss="custom") + ["loss._target_=parts.Mine"]
    [run] = gdexp.launch([*base, "optimizer.lr=0", "trainer.batch_size=7", "trainer.epochs=1"]).to_dict("records")
    assert run["train_loss"] == pytest.approx(wanted.item(), rel=1e-6)


def test_negative_weights_are_refused(parts):
    with pytest.raises(ValueError, match="from 0 on"):
        gdexp.launch(words({}, {}, data="negative"))


def test_weights_of_rows_and_of_classes(parts):
    x, y, w = made(parts, weighted=True)
    c = torch.tensor([1.0, 10.0, 3.0])
    each = F.cross_entropy(start()(x[:40]), y[:40], weight=c, reduction="none")
    keys, options = {"weighted": "true"}, {"weight": [1, 10, 3]}
    more = ["optimizer.lr=0", "trainer.batch_size=7", "trainer.epochs=1"]
    [run] = gdexp.launch([*words(keys, options), *more]).to_dict("records")
    wanted = (w[:40] * each).sum() / (w[:40] * c[y[:40]]).sum()
    assert run["train_loss"] == pytest.approx(wanted.item(), rel=1e-6)


def test_a_loss_of_ones_own_takes_the_weights_or_is_refused(parts):
    x, y, w = made(parts, kind="numbers", weighted=True)
    base = ["data=custom", "data._target_=parts.rows", "+data.kind=numbers", "+data.weighted=true", "loss=custom"]
    more = ["optimizer.lr=0", "trainer.batch_size=7", "trainer.epochs=1", "tracking=none"]
    [run] = gdexp.launch([*base, *more, "loss._target_=parts.own"]).to_dict("records")
    wanted = (w[:40] * (start()(x[:40]) - y[:40]).abs().sum(1)).sum() / w[:40].sum()
    assert run["train_loss"] == pytest.approx(wanted.item(), rel=1e-6)
    with pytest.raises(ValueError, match="a third argument"):
        gdexp.launch([*base, *more, "loss._target_=parts.no_weights"])


@pytest.mark.parametrize("name", [*OPTIONS, "rows"])
def test_stacks_take_the_same_means(parts, capsys, name):
    kind, options, ignored = OPTIONS.get(name, ("classes", {"weight": [1.0, 10.0, 3.0]}, 0))
    keys = {"kind": kind, "ignored": ignored} | ({"weighted": "true"} if name == "rows" else {})
    base = [*words(keys, options), "trainer.epochs=3", "trainer.batch_size=7", "trainer.accumulate=3"]
    axes = ["optimizer.lr=0.01,0.03,0.05,0.1", "seed=0,1"]
    alone = gdexp.launch([*base, *axes, "sweep.stack=never", "metrics=[f1]"], multirun=True)
    table = gdexp.launch([*base, *axes, "metrics=[f1]"], multirun=True)
    assert "8 of them as one program" in capsys.readouterr().out
    both = [t.sort_values(["optimizer.lr", "seed"]) for t in (table, alone)]
    for column in ("train_loss", "val_loss", "val_accuracy", "val_f1"):
        assert both[0][column].tolist() == pytest.approx(both[1][column].tolist(), rel=1e-5)


def test_balanced_weights_are_scikit_learns(parts):
    from sklearn.utils.class_weight import compute_class_weight

    y = made(parts)[1][:40].numpy()
    weight = [float(w) for w in compute_class_weight("balanced", classes=np.arange(3), y=y)]
    runs = [gdexp.launch([*words({}, {"weight": w}), "trainer.epochs=3"]) for w in ("balanced", weight)]
    assert runs[0].val_loss[0] == pytest.approx(runs[1].val_loss[0], rel=1e-6)
    labels = made(parts, kind="labels")[1][:40]
    positive = ((40 - labels.sum(0)) / labels.sum(0)).tolist()
    runs = [
        gdexp.launch([*words({"kind": "labels"}, {"pos_weight": w}, loss="bce_with_logits"), "trainer.epochs=3"])
        for w in ("balanced", positive)
    ]
    assert runs[0].val_loss[0] == pytest.approx(runs[1].val_loss[0], rel=1e-6)


def test_balanced_weights_need_classes_in_memory(parts):
    for base in (words({}, {"weight": "balanced"}, data="dataset"), words({"kind": "shares"}, {"weight": "balanced"})):
        with pytest.raises(ValueError, match="`loss.weight=balanced`"):
            gdexp.launch(base)


def test_order_is_not_what_makes_them_equal():
    assert not torch.equal(batch_order(40, 0, 1), torch.arange(40))


def test_batch_of_classes_without_weight_counts_nothing(stocked):
    words = ["data=iris", "data.val_fraction=0", "loss=cross_entropy", "loss.weight=[0,1,1]", "trainer.epochs=1"]
    values = [
        gdexp.launch([*words, "optimizer.lr=1e-12", *batches]).train_loss.iloc[0]
        for batches in ([], ["trainer.batch_size=2"])
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-6)
