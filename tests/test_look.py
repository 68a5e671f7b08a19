"""One look before the start: what can't train is refused in one line, and nothing of the look is seen in training."""

import pytest
import torch
from mlflow.tracking import MlflowClient
from torch import nn

import gdexp

PARTS = '''
import random
import threading
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from gdexp.data import TensorData

def points(rows=21, flat=False, columns=3):
    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(1))
    y = x.sum(1) + 1
    return TensorData((x, y if flat else y[:, None]))

def tokens(rows=20):
    x = torch.randint(0, 10, (rows, 2), generator=torch.Generator().manual_seed(1))
    return TensorData((x, x.double().sum(1, keepdim=True)))

def loader_with_a_lone_row():
    return DataLoader(TensorDataset(*points(9).train), batch_size=4)

def loader_of_lone_rows():
    return DataLoader(TensorDataset(*points(9).train), batch_size=1)

def named(rows=21):
    x, y = points(rows).train
    return TensorData(({"second": x[:, :1], "first": x[:, 1:]}, y))

def in_order(rows=21):
    x, y = points(rows).train
    return TensorData(((x[:, 1:], x[:, :1]), y))

class Linear(nn.Module):
    def __init__(self, in_features, out_features=1):
        super().__init__()
        self.inner = nn.Linear(in_features, out_features)
    def forward(self, x):
        return self.inner(x)

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(2, 1), nn.Linear(1, 1)
    def forward(self, first, second):
        return self.a(first) + 2 * self.b(second)

class OneNest(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(2, 1), nn.Linear(1, 1)
    def forward(self, both, scale=2):
        return self.a(both[0]) + scale * self.b(both[1])

class Normed(Linear):
    def forward(self, x):
        return F.batch_norm(super().forward(x), None, None, training=self.training or None)

class Norm(nn.Sequential):
    def __init__(self, in_features):
        super().__init__(nn.Linear(in_features, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))

class Embedded(nn.Module):
    def __init__(self, sparse=True):
        super().__init__()
        self.table = nn.Embedding(10, 4, sparse=sparse)
    def forward(self, x):
        return self.table(x).sum((1, 2), keepdim=False)[:, None]

class Pair(Linear):
    def forward(self, x):
        return super().forward(x), x

class Scalar(Linear):
    def forward(self, x):
        return super().forward(x).mean()

class Pooled(Linear):
    def forward(self, x):
        return super().forward(x).mean(0, keepdim=True)

class Cut(Linear):
    def forward(self, x):
        return super().forward(x).detach()

class Constant(Linear):
    def forward(self, x):
        return torch.zeros(len(x), 1, requires_grad=True)

class Frozen(Linear):
    def __init__(self, in_features):
        super().__init__(in_features)
        self.requires_grad_(False)

class Double(Linear):
    def forward(self, x):
        return F.linear(super().forward(x), torch.ones(1, 1))

class Own(Linear):
    kind = "row"
    def training_loss(self, batch):
        x, y = batch
        losses = (self(x) - y.reshape(-1, 1)) ** 2
        return {
            "row": losses, "float": losses.mean().item(), "text": (losses.mean(), {"kl": "much"}),
            "rows": (losses.mean(), {"kl": losses}),
        }[self.kind]

class OwnFloat(Own):
    kind = "float"

class OwnText(Own):
    kind = "text"

class OwnRows(Own):
    kind = "rows"

class OwnCrossed(Linear):
    def training_loss(self, batch):
        x, y = batch
        return ((self(x) - y) ** 2).mean()

def times(rows=21):
    t = torch.linspace(0, 1, rows)
    return TensorData((t, t.sin()))

class Wide(nn.Module):
    """as many hidden numbers as there are rows, by chance"""
    def __init__(self):
        super().__init__()
        self.rate, self.out = nn.Parameter(torch.ones(21, 1)), nn.Linear(21, 1)
    def training_loss(self, batch):
        t, y = batch
        hidden = (self.rate.exp() * t).sin()
        return ((self.out(hidden.T)[:, 0] - y) ** 2).mean()

class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
    def forward(self, output, target):
        return ((self.scale * output - target) ** 2).mean()

class Named(Linear):
    def forward(self, x):
        return {"out": super().forward(x)}

class Learner:
    def __init__(self, model):
        self.model = model
    def train_step(self, batch):
        return {"train_loss": self.model(batch[0])["out"].mean().detach()}
    def evaluate(self, batch):
        return {"loss": self.model(batch[0])["out"].mean().detach()}
    def weights(self):
        return self.model.state_dict(keep_vars=True)

class Made(Linear):
    def __init__(self, in_features):
        super().__init__(in_features)
        self.late = None
    def forward(self, x):
        if self.late is None:
            self.late = nn.Linear(3, 1)
        return super().forward(x) + self.late(x)

class OwnPair(Own):
    def training_loss(self, batch):
        loss = ((self(batch[0]) - batch[1]) ** 2).mean()
        return loss, loss

class Scripted(nn.Module):
    def __new__(cls, in_features):
        return torch.jit.script(nn.Linear(in_features, 1))

class Ragged(TensorDataset):
    def __init__(self):
        super().__init__(*points().train)
    def __getitem__(self, i):
        return torch.ones(2 + i), torch.ones(1)

def empty():
    return DataLoader(TensorDataset(torch.zeros(0, 3), torch.zeros(0, 1)), batch_size=4)

class Unreached(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.other = nn.LazyLinear(1), nn.LazyLinear(2)
    def forward(self, x):
        return self.used(x)

class Lazy(nn.Module):
    def __init__(self, norm=False, early=0.0):
        super().__init__()
        self.drop = nn.Dropout(early)
        self.a = nn.LazyLinear(6)
        self.norm = nn.LazyBatchNorm1d() if norm else nn.Identity()
        self.b = nn.LazyLinear(1)
        self.late = nn.Dropout(0.3)
        self.calls = 0
    def forward(self, x):
        self.calls += self.training
        return self.late(self.b(self.norm(self.a(self.drop(x))).relu()))

class Force(nn.Module):
    """The gradient of an energy, as in models of molecules."""
    def __init__(self, in_features):
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(in_features, 8), nn.Tanh(), nn.Linear(8, 1))
    def forward(self, x):
        x = x.clone().requires_grad_(True)
        return torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)[0].sum(1, keepdim=True)

CALLS = 0
SEEN = []

class Counting(Linear):
    """State in all the places that a forward pass may change."""
    def __init__(self, in_features):
        super().__init__(in_features)
        self.calls, self.seen, self.lock = 0, [], None
        self.norm = nn.BatchNorm1d(in_features)
        self.inner.register_forward_hook(lambda *_: self.seen.append(1))
    def forward(self, x):
        global CALLS
        CALLS, self.calls = CALLS + 1, self.calls + 1
        SEEN.append(1)
        self.cache = x
        noise = random.random() + torch.rand(()).item()
        scale = 1 + 0.01 * self.calls + 0.1 * CALLS + len(self.seen) + len(SEEN) + noise
        return super().forward(self.norm(x)) * scale

class Locked(Counting):
    """deepcopy can't copy it"""
    def __init__(self, in_features):
        super().__init__(in_features)
        self.lock = threading.Lock()

class Writes(Linear):
    def forward(self, x):
        x *= 2
        return super().forward(x)

LOSSES = 0

def counted(output, target):
    global LOSSES
    LOSSES += 1
    counted.calls = getattr(counted, "calls", 0) + 1
    return ((output - target) ** 2).mean() * (LOSSES + counted.calls)

def crossed(output, target):
    return (output.double() - target.double()).abs().mean()

def crossed_by_torch(output, target):
    return F.mse_loss(output, target)

def pairs(output, target):
    return (torch.cdist(output, output) * (target[:, None] - target[None, :]).abs()).mean()

def as_it_should(output, target):
    return ((output[:, 0] - target) ** 2).mean()

def a_row(output, target):
    return (output - target.reshape(output.shape)) ** 2

def a_float(output, target):
    return float(a_row(output, target).mean())

def without_gradient(output, target):
    return (output.argmax(1) - target.reshape(-1)).abs().mean()

def broken(output, target):
    raise KeyError("mine")
'''


@pytest.fixture
def parts(stocked):
    (stocked / "pieces.py").write_text(PARTS)
    namespace = {"__name__": "pieces_of_the_test"}
    exec(PARTS, namespace)
    return namespace | {"folder": stocked}


def only(table):
    [run] = table.to_dict("records")
    return run


def words(data="points", model=None, loss=None, *more):
    found = ["data=custom", f"data._target_=pieces.{data}", "optimizer.lr=0.01", "trainer.epochs=3", *more]
    if model:
        found += ["model=custom", f"model._target_=pieces.{model}"]
    if loss:
        found += ["loss=none"] if loss == "none" else ["loss=custom", f"loss._target_=pieces.{loss}"]
    return found


REFUSED = {
    "a lone last row": (
        words("points", "Norm", None, "trainer.batch_size=4"),
        "`trainer.batch_size=4`.*drop_last=true",
    ),
    "lone rows": (words("points", "Norm", None, "trainer.batch_size=1"), "`trainer.batch_size`.*take a larger"),
    "a lone row of a loader": (words("loader_with_a_lone_row", "Norm"), "`data`.*DataLoader.*drop_last=True"),
    "lone rows of a loader": (words("loader_of_lone_rows", "Norm"), "`data`.*DataLoader.*one row"),
    "scores for nll": (
        ["data=iris", "loss=nll", "model=mlp"],
        "`loss=nll` needs log-probabilities.*output_activation=log_softmax",
    ),
    "scores for bce": (["data=moons", "loss=bce", "model=mlp"], "`loss=bce` needs probabilities.*sigmoid"),
    "negative rates": (
        ["data=line", "loss=poisson_nll", "loss.log_input=false", "seed=1"],
        "`loss=poisson_nll`.*needs rates.*softplus",
    ),
    "a sparse gradient clipped": (
        words("tokens", "Embedded", None, "trainer.clip_norm=1"),
        "`trainer.clip_norm` must be",
    ),
    "its values clipped": (
        words("tokens", "Embedded", None, "trainer.clip_value=1"),
        "`trainer.clip_value` must be null",
    ),
    "its norm": (words("tokens", "Embedded", None, "trainer.record=[grad_norm]"), "`trainer.record`: grad_norm"),
    "adam on it": (
        words("tokens", "Embedded", None, "optimizer=adam"),
        "`optimizer=adam` can't take the sparse gradient",
    ),
    "its decay": (
        words("tokens", "Embedded", None, "optimizer.weight_decay=0.1"),
        "`optimizer=sgd` can't take the sparse",
    ),
    "sparse_adam on a dense one": (words("points", None, None, "optimizer=sparse_adam"), "needs sparse gradients"),
    "two outputs for mse": (words("points", "Pair"), "`loss=mse` takes one tensor, but the model gives a tuple"),
    "one output for all rows": (words("points", "Scalar"), r"the model's output has the shape \[\]"),
    "pooled rows": (words("points", "Pooled"), r"the shape \[1, 1\], but there are"),
    "no gradient": (words("points", "Cut"), "no gradient gets from the loss to the model"),
    "no dependence": (words("points", "Constant"), "doesn't depend on them"),
    "all frozen": (words("points", "Frozen"), "none of its parameters can learn"),
    "no gradient in the loss": (words("points", "Linear", "without_gradient"), "no gradient gets from the loss"),
    "a loss a row": (words("points", "Linear", "a_row"), "must return one number, got the shape"),
    "a loss that is a float": (words("points", "Linear", "a_float"), "must return a tensor, got float"),
    "reduction none": (["loss.reduction=none"], "`loss.reduction` must be mean or sum"),
    "own loss a row": (words("points", "Own", "none"), "Own.training_loss must return one number"),
    "own loss a float": (words("points", "OwnFloat", "none"), "OwnFloat.training_loss must return a tensor"),
    "a text among its numbers": (words("points", "OwnText", "none"), "'kl' must be one number, got str"),
    "rows among its numbers": (words("points", "OwnRows", "none"), "'kl' must be one number, got the shape"),
    "all rows with all targets": (
        words("points", "Linear", "crossed", "+data.flat=true"),
        "pairs every row with every row",
    ),
    "by torch's loss": (
        words("points", "Linear", "crossed_by_torch", "+data.flat=true"),
        "pairs every row with every row",
    ),
    "in training_loss": (words("points", "OwnCrossed", "none", "+data.flat=true"), "pairs every row with every row"),
    "a lazy part that isn't reached": (words("points", "Unreached"), "`model`: other is lazy"),
    "float32 in a float64 model": (words("points", "Double", None, "trainer.dtype=float64"), "`trainer.dtype=float64`"),
    "gradients denied": (
        words("points", "Force", None, "data.val_fraction=5", "trainer.validate_with_gradients=false"),
        "`trainer.validate_with_gradients` must be true or auto",
    ),
    "one tensor spread": (words("points", "Linear", None, "model.inputs=spread"), "`model.inputs=spread` needs"),
    "a parameter that is made late": (words("points", "Made"), "late.*is made by its first forward pass.*LazyLinear"),
    "numbers that aren't a dict": (words("points", "OwnPair", "none"), "must return the loss, or"),
    "one row": (words("points", "Norm", None, "+data.rows=1"), "`data` has one training row, and the model needs more"),
    "rows of other lengths": (
        words("Ragged", "Linear", None, "trainer.batch_size=4"),
        "be put together.*collate_fn",
    ),
    "no rows": (words("empty", "Linear"), "`data` has no training rows"),
    "a wrong width": (words("points", "Norm", None, "+model.in_features=2"), "can't take this data"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_train_is_one_line(parts, name):
    line, expected = REFUSED[name]
    (parts["folder"] / "mlflow.db").unlink()
    with pytest.raises(ValueError, match=expected) as refusal:
        gdexp.launch(line)
    assert "\n" not in str(refusal.value)
    assert not (parts["folder"] / "mlflow.db").exists()


@pytest.mark.parametrize("loss", ["pairs", "as_it_should"])
def test_a_loss_that_means_its_pairs_trains(parts, loss):
    run = only(gdexp.launch(words("points", "Linear", loss, "+data.flat=true")))
    assert run["status"] == "FINISHED"


def test_an_error_of_the_users_own_code_keeps_its_traceback(parts):
    with pytest.raises(KeyError, match="mine"):
        gdexp.launch(words("points", "Linear", "broken"))
    assert only(gdexp.runs())["status"] == "FAILED"


@pytest.mark.parametrize(
    "line",
    [
        words("times", "Wide", "none"),
        words("points", "Frozen", "Head"),
        words("points", "Named", None, "learner=custom", "learner._target_=pieces.Learner"),
    ],
)
def test_what_only_looks_odd_trains(parts, line):
    line = [word for word in line if "learner=custom" not in line or not word.startswith("optimizer.lr")]
    assert only(gdexp.launch(line))["status"] == "FINISHED"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_script_trains(parts):
    run = only(gdexp.launch(words("points", "Scripted")))
    torch.manual_seed(0)
    assert curve_of(parts, run) == pytest.approx(plain(parts, nn.Linear(3, 1)), rel=1e-6)


def curve_of(parts, run):
    client = MlflowClient(f"sqlite:///{parts['folder']}/mlflow.db")
    return [m.value for m in client.get_metric_history(run["run_id"], "train_loss")]


def plain(parts, model, loss=nn.functional.mse_loss, forward=None, epochs=3, data="points"):
    optimizer, curve = None, []
    x, y = parts[data]().train
    for _ in range(epochs):
        value = loss((forward or model)(x), y)
        optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.01)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        curve.append(value.item())
    return curve


@pytest.mark.parametrize("name", ["Counting", "Locked"])
def test_nothing_of_the_look_is_seen_in_training(parts, name):
    import random

    run = only(gdexp.launch(words("points", name)))
    torch.manual_seed(0)
    random.seed(0)
    assert curve_of(parts, run) == plain(parts, parts[name](3))


def test_counters_of_a_loss_are_put_back(parts):
    run = only(gdexp.launch(words("points", "Linear", "counted")))
    torch.manual_seed(0)
    assert curve_of(parts, run) == plain(parts, parts["Linear"](3), parts["counted"])


def test_a_model_that_writes_into_its_input_does_not_reach_the_rows_by_the_look(parts):
    run = only(gdexp.launch(words("points", "Writes", None, "trainer.max_steps=1")))
    torch.manual_seed(0)
    assert curve_of(parts, run)[0] == plain(parts, parts["Writes"](3), epochs=1)[0]


@pytest.mark.parametrize("norm", [False, True])
def test_lazy_modules_are_those_of_a_plain_script(parts, norm):
    run = only(gdexp.launch(words("points", "Lazy", None, f"+model.norm={norm}")))
    torch.manual_seed(0)
    model = parts["Lazy"](norm)
    assert curve_of(parts, run) == plain(parts, model)
    torch.testing.assert_close(gdexp.load(run["run_id"]).state_dict(), model.state_dict())


def test_lazy_weights_are_those_of_a_plain_script_though_something_draws_before_them(parts):
    run = only(gdexp.launch(words("points", "Lazy", None, "+model.early=0.5", "optimizer.lr=0", "trainer.epochs=1")))
    torch.manual_seed(0)
    model = parts["Lazy"](early=0.5)
    model(parts["points"]().train[0])
    assert torch.equal(gdexp.load(run["run_id"]).b.weight, model.b.weight)


@pytest.mark.parametrize("more", [[], ["trainer.validate_with_gradients=true"]])
def test_validation_takes_gradients_where_the_model_does(parts, more):
    run = only(gdexp.launch(words("points", "Force", None, "data.val_fraction=5", "data.split_seed=null", *more)))
    model = gdexp.load(run["run_id"])
    x, y = parts["points"]().train
    expected = nn.functional.mse_loss(model(x[-5:]), y[-5:]).item()
    assert run["val_loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("data", "model", "more", "forward"),
    [
        ("named", "Two", [], lambda m: lambda x: m(**x)),
        ("in_order", "Two", [], lambda m: lambda x: m(*x)),
        ("in_order", "OneNest", [], None),
        ("in_order", "OneNest", ["model.inputs=one"], None),
    ],
)
def test_parts_of_the_inputs_are_given_as_forward_takes_them(parts, data, model, more, forward):
    run = only(gdexp.launch(words(data, model, None, *more)))
    torch.manual_seed(0)
    own = parts[model]()
    assert curve_of(parts, run) == plain(parts, own, forward=forward and forward(own), data=data)
    assert gdexp.load(run["run_id"]).a.weight.shape == (1, 2)
