"""What a target is, settled with the loss: against the same numbers written the plain way."""

import numpy as np
import pandas as pd
import pytest
import sklearn.linear_model
import sklearn.metrics
import torch

import gdexp

PARTS = """
import torch
from torch.nn import functional as F
from gdexp.data import TensorData


def labels(dtype="int64", column=False, names=(0, 1, 2), shift=0, classes=None):
    g = torch.Generator().manual_seed(1)
    x = torch.randn(90, 4, generator=g)
    y = torch.tensor(names)[(x @ torch.randn(4, len(names), generator=g)).argmax(1)] + shift
    y = y.to(getattr(torch, dtype))
    return TensorData((x, y[:, None] if column else y), classes=classes)


def one_hot(dtype="int64"):
    x, y = labels().train
    return TensorData((x, F.one_hot(y).to(getattr(torch, dtype))))


def ignored(code=255, loss_of=0):
    x, y = labels(names=(3, 4, 8)).train
    y[1::2] = code
    return TensorData((x, y))


def words():
    g = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 7, (40, 5), generator=g)
    return TensorData((torch.nn.functional.one_hot(ids, 7).float().movedim(2, 1), ids))


class Rows(torch.nn.Conv1d):
    def __init__(self, out_features):
        super().__init__(7, out_features, 1)


def pair():
    x, y = labels().train
    return TensorData((x, {"class": y, "weight": torch.rand(90)}))


def weighted(output, target):
    losses = F.cross_entropy(output, target["class"], reduction="none")
    return (losses * target["weight"]).mean()


def counts():
    g = torch.Generator().manual_seed(1)
    x = torch.randn(50, 2, generator=g)
    return TensorData((x, torch.poisson(x.exp().sum(1, keepdim=True), generator=g)))


def embedding(output, target):
    return (torch.cdist(output, output) * (target[:, None] == target)).mean()


def focal(output, target):
    return ((1 - output.softmax(1).gather(1, target[:, None])) * F.cross_entropy(output, target)).mean()


focal.output = "scores"


class Some(torch.utils.data.Dataset):
    classes = ["a", "b"]

    def __len__(self):
        return 40

    def __getitem__(self, i):
        return torch.ones(3), i // 19
"""
QUICK = ["tracking=none", "trainer.epochs=3", "data.val_fraction=0.3"]


@pytest.fixture
def parts(here):
    (here / "parts.py").write_text(PARTS)
    return here


def train(*words):
    [run] = gdexp.launch([*QUICK, *words]).to_dict("records")
    return run


def of(name, **keys):
    return ["data=custom", f"data._target_=parts.{name}", *(f"+data.{k}={v}" for k, v in keys.items())]


def same(run, other, *names):
    return all(run[name] == other[name] for name in ("train_loss", "val_loss", *names))


@pytest.mark.parametrize("loss", ["cross_entropy", "hinge"])
@pytest.mark.parametrize(
    "keys",
    [
        *({"dtype": dtype} for dtype in ("int32", "int16", "uint8", "float32", "float64", "float16")),
        {"column": "true"},
        {"column": "true", "dtype": "float64"},
        {"shift": 3},
        {"shift": -1},
        {"names": "[3,5,8]"},
        {"names": "[3,5,8]", "dtype": "float32"},
        {"names": "[10115,80331,99084]"},
    ],
)
def test_labels_are_classes_in_order_whatever_their_dtype_shape_and_names(parts, loss, keys):
    plain = train(*of("labels"), f"loss={loss}")
    run = train(*of("labels", **keys), f"loss={loss}")
    assert run["model.out_features"] == 3 and same(run, plain, "val_accuracy")


@pytest.mark.parametrize("keys", [{"dtype": "bool"}, {"shift": -1}, {"names": "[3,8]"}, {"dtype": "float32"}])
@pytest.mark.parametrize("loss", ["bce_with_logits", "soft_margin", "cross_entropy"])
def test_two_labels_are_two_values_in_order(parts, loss, keys):
    plain = train(*of("labels", names="[0,1]"), f"loss={loss}")
    assert same(train(*of("labels", **{"names": "[0,1]"} | keys), f"loss={loss}"), plain, "val_accuracy")


@pytest.mark.parametrize("dtype", ["int64", "bool", "float32"])
def test_one_hot_rows_are_classes(parts, dtype):
    plain = train(*of("labels"), "loss=cross_entropy")
    run = train(*of("one_hot", dtype=dtype), "loss=cross_entropy")
    assert run["train_loss"] == pytest.approx(plain["train_loss"], rel=1e-6)
    assert run["val_accuracy"] == plain["val_accuracy"]


def test_labels_that_the_model_has_outputs_for_keep_their_numbers(parts):
    run = train(*of("labels", names="[0,2,5]"), "loss=cross_entropy", "model.out_features=7")
    assert run["model.out_features"] == 7
    run = train(*of("labels", names="[0,2,5]"), "loss=cross_entropy", "loss.weight=[1,1,1,1,1,1]")
    assert run["model.out_features"] == 6
    assert train(*of("labels", names="[0,2,5]", classes=6), "loss=cross_entropy")["model.out_features"] == 6


@pytest.mark.parametrize("code", [255, -100, 0, 1])
def test_an_ignored_label_is_no_class(parts, code):
    """Also where its number is the one that a class gets."""
    plain = train(*of("ignored", code=-100), "loss=cross_entropy")
    run = train(*of("ignored", code=code), "loss=cross_entropy", f"loss.ignore_index={code}")
    assert run["model.out_features"] == 3 and same(run, plain, "val_accuracy")


def test_what_the_classes_are_is_said(parts, capsys):
    train(*of("labels", shift=3), "loss=cross_entropy")
    assert "Data: the classes 0 to 2 are 3, 4, 5\n" in capsys.readouterr().out
    train(*of("labels", names="[3,8]"), "loss=bce_with_logits")
    assert "Data: the target's 3 is read as 0, 8 as 1\n" in capsys.readouterr().out
    train(*of("labels"), "loss=cross_entropy")
    assert "Data:" not in capsys.readouterr().out


def test_words_keep_their_numbers(parts):
    run = train(*of("words"), "loss=cross_entropy", "model=custom", "model._target_=parts.Rows")
    assert run["model.out_features"] == 7 and 0 <= run["val_accuracy"] <= 1


def test_both_scales_whole_numbers_as_it_does_others(here):
    draw = np.random.default_rng(0)
    area, age = draw.uniform(50, 300, 200), draw.uniform(0, 60, 200)
    price = (2000 * area - 800 * age + draw.normal(0, 1e4, 200)).round()
    for name, y in (("whole", price.astype(int)), ("floats", price), ("halves", price + 0.5)):
        pd.DataFrame({"area": area, "age": age, "price": y}).to_csv(here / f"{name}.csv", index=False)
    words = ["data=table", "data.target=price", "data.standardize=both", "optimizer.lr=0.1", "trainer.epochs=100"]
    whole, floats, halves = (
        train(f"data.path={name}.csv", *words, "metrics=[r2]")["val_r2"] for name in ("whole", "floats", "halves")
    )
    assert whole == floats == pytest.approx(halves, abs=1e-5)
    x = np.stack([area, age], 1)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0)).numpy()
    there, apart = order[:140], order[140:]
    exact = sklearn.linear_model.LinearRegression().fit(x[there], price[there]).predict(x[apart])
    assert whole == pytest.approx(sklearn.metrics.r2_score(price[apart], exact), abs=1e-4)


def test_both_leaves_classes_labels_and_shares_as_they_are(parts):
    for data, loss in ((of("labels"), "cross_entropy"), (of("labels", names="[0,1]"), "bce_with_logits")):
        for dtype in ("int64", "float32"):
            one = train(*data, f"+data.dtype={dtype}", f"loss={loss}", "data.standardize=both")
            other = train(*data, f"+data.dtype={dtype}", f"loss={loss}", "data.standardize=inputs")
            assert same(one, other)
    shares = of("one_hot", dtype="float32"), "loss=cross_entropy"
    assert same(*(train(*shares[0], shares[1], f"data.standardize={which}") for which in ("both", "inputs")))


def test_a_loss_of_ones_own_takes_a_nest_as_target(parts):
    run = train(*of("pair"), "loss=custom", "loss._target_=parts.weighted", "model.out_features=3")
    assert run["outcome"] == "completed" and "val_accuracy" not in run


def test_accuracy_needs_a_loss_whose_outputs_mean_something(parts):
    own = [*of("labels"), "loss=custom"]
    assert "val_accuracy" not in train(*own, "loss._target_=parts.embedding")
    assert "val_accuracy" in train(*own, "loss._target_=parts.focal")


@pytest.mark.parametrize("name", ["cross_entropy", "multi_margin_loss"])
def test_functions_of_torch_are_known_as_their_modules_are(parts, name):
    option = {"cross_entropy": "cross_entropy", "multi_margin_loss": "hinge"}[name]
    words = [*of("labels", shift=2), "metrics=[f1]"]
    weight = "loss.weight=[1,2,3]"
    one = train(*words, "loss=custom", f"loss._target_=torch.nn.functional.{name}", f"+{weight}")
    assert same(one, train(*words, f"loss={option}", weight), "val_accuracy", "val_f1")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([*of("counts"), "loss=poisson_nll", "data.standardize=both"], "`data.standardize=both`"),
        ([*of("labels", shift=0.5, dtype="float32"), "loss=cross_entropy"], "continuous"),
        (["data=diabetes", "loss=cross_entropy"], "continuous"),
        ([*of("labels", classes=2), "loss=cross_entropy"], "2 classes, but its target holds 2"),
        ([*of("labels", shift=-1, classes=3), "loss=cross_entropy"], "its target holds -1"),
        ([*of("labels", names="[4]"), "loss=cross_entropy"], "at least two classes"),
        ([*of("labels"), "loss=bce_with_logits"], "has more"),
        ([*of("pair"), "loss=mse"], "one tensor as the target"),
        ([*of("labels"), "loss=cross_entropy", "loss.weight=balance"], "balanced or null"),
        (
            [
                *of("ignored"),
                "loss=cross_entropy",
                "loss.ignore_index=255",
                "data.split_seed=null",
                "data.val_fraction=1",
            ],
            "ignores all validation rows",
        ),
        ([*of("Some"), "loss=cross_entropy"], "2 classes, but its target holds 2"),
    ],
)
def test_targets_that_a_loss_cannot_take_are_refused(parts, words, line):
    with pytest.raises(ValueError, match=line) as refusal:
        gdexp.launch([*QUICK, *words])
    assert "\n" not in str(refusal.value)


GAPS = """
import torch
from torch import nn
from torch.utils.data import Dataset
from gdexp.data import TensorData


def gap(value="nan", of=0, row=7, column=2):
    x = torch.randn(50, 4)
    data = x, x.sum(1, keepdim=True)
    data[of][row, column] = float(value)
    return TensorData(data)


class Rows(Dataset):
    def __len__(self):
        return 50

    def __getitem__(self, i):
        return torch.full((4,), 1.0 if i != 30 else torch.inf), torch.ones(1)


def masked(output, target):
    there = ~target.isnan()
    return ((output[there] - target[there]) ** 2).mean()


def plain(output, target):
    return ((output - target) ** 2).mean()


class Passes(nn.Linear):
    def __init__(self):
        super().__init__(4, 1)

    def training_loss(self, batch):
        return self(batch[0].nan_to_num()).pow(2).mean()


class Fails(Passes):
    def training_loss(self, batch):
        return self(batch[0]).pow(2).mean()
"""


def gaps(*words):
    return gdexp.launch(["data=custom", "data._target_=gaps.gap", "tracking=none", "trainer.epochs=2", *words])


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "NaN in row 7, column 2 of the inputs of the training rows"),
        (["data.val_fraction=0.9"], "row 7, column 2 of the inputs"),
        (["+data.value='inf'", "+data.row=0"], "inf in row 0, column 2 of the inputs"),
        (["+data.of=1", "+data.column=0"], "NaN in row 7, column 0 of the target"),
        (["+data.of=1", "+data.column=0", "loss=custom", "loss._target_=gaps.plain"], "row 7, column 0 of the target"),
        (["loss=none", "model=custom", "model._target_=gaps.Fails"], "row 7, column 2 of the inputs"),
        (["data._target_=gaps.Rows", "trainer.batch_size=20"], r"inf in row \d+, column 0 of the inputs of a batch"),
    ],
)
def test_values_that_are_not_finite_are_refused_by_their_place(here, capsys, words, line):
    (here / "gaps.py").write_text(GAPS)
    with pytest.raises(ValueError, match=line) as refusal:
        gaps(*words)
    assert "\n" not in str(refusal.value) and "smaller" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["+data.of=1", "+data.column=0", "loss=custom", "loss._target_=gaps.masked"],
        ["loss=none", "model=custom", "model._target_=gaps.Passes"],
    ],
)
def test_a_loss_of_ones_own_may_pass_over_gaps(here, words):
    (here / "gaps.py").write_text(GAPS)
    assert gaps(*words).outcome[0] == "completed"


def test_soft_targets_are_probabilities(stocked):
    rows = "".join(f"{i},{i - 30},{i % 5}\n" for i in range(60))
    (stocked / "c.csv").write_text("x,a,b\n" + rows)
    words = ["data=table", "data.path=c.csv", "data.target=[a,b]", "loss=cross_entropy", "trainer.epochs=1"]
    with pytest.raises(ValueError, match="rows of probabilities that sum to 1"):
        gdexp.launch(words)


def test_number_too_large_for_the_dtype_is_named(stocked):
    (stocked / "c.csv").write_text("x,y\n" + "".join(f"{i},{'1e39' if i == 7 else i}\n" for i in range(60)))
    words = ["data=table", "data.path=c.csv", "data.target=y", "trainer.epochs=1", "data.split_seed=null"]
    with pytest.raises(ValueError, match="`trainer.dtype=float32`.*row 7, column 0 of the target"):
        gdexp.launch(words)
    gdexp.launch([*words, "trainer.dtype=float64", "optimizer.lr=1e-80"])


def test_numbers_that_are_nearly_all_different_are_no_classes(stocked):
    frame = pd.DataFrame({"a": range(30), "price": [1000 + 37 * i for i in range(30)]})
    frame.to_csv("t.csv", index=False)
    words = ["data=table", "data.path=t.csv", "data.target=price", "loss=cross_entropy", "trainer.epochs=1"]
    with pytest.raises(ValueError, match="has 30 different numbers in 30 rows: take a loss for numbers"):
        gdexp.launch(words)
    run = gdexp.launch([*words, "data.categories=[price]"]).iloc[0]
    assert gdexp.load(run.run_id).linear.out_features == 30


@pytest.mark.parametrize("loss", ["cross_entropy", "bce_with_logits", "soft_margin"])
def test_a_split_that_lacks_a_class_is_told_once_the_loss_makes_classes(stocked, capsys, loss):
    pd.DataFrame({"a": range(20), "y": [0, 1] * 7 + [1] * 6}).to_csv("t.csv", index=False)
    words = ["data=table", "data.path=t.csv", "data.target=y", "data.split_seed=null", "data.val_fraction=5"]
    gdexp.launch([*words, f"loss={loss}", "trainer.epochs=1"])
    assert "Data: 20 rows; 1 column; the validation rows hold 1 of 2 classes\n" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["training", "validation"])
def test_weights_that_leave_no_row_of_a_split_are_refused_by_its_name(stocked, name):
    weights = [0.0] * 15 + [1] * 5 if name == "training" else [1.0] * 15 + [0] * 5
    pd.DataFrame({"a": range(20), "w": weights, "y": range(20)}).to_csv("t.csv", index=False)
    words = ["data=table", "data.path=t.csv", "data.target=y", "data.weights=w", "data.split_seed=null"]
    with pytest.raises(ValueError, match=f"weights of the {name} rows must be numbers from 0 on.* not all 0"):
        gdexp.launch([*words, "data.val_fraction=5"])
