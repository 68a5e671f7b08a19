"""Tensors stay what they are, and whatever gets a gradient is trained and kept, or refused by name."""

import re

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

import gdexp
from gdexp.data import TensorData

IRIS = ["data=iris", "data.standardize=inputs", "data.val_fraction=0.2", "loss=cross_entropy", "model=custom"]


class Complex(nn.Module):
    def __init__(self, in_features, out_features):
        super().__init__()
        self.w = nn.Parameter(torch.randn(in_features, 8, dtype=torch.complex64))
        self.layer = nn.Linear(8, out_features)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("phase", torch.full((8,), 1 + 2j, dtype=torch.complex64))

    def forward(self, x):
        if self.training:
            self.seen += len(x)
        return self.layer((x.to(self.w.dtype) @ self.w * self.phase).abs())


class Writes(nn.Module):
    """Works in its input's memory."""

    def __init__(self, in_features, out_features):
        super().__init__()
        self.layer = nn.Linear(in_features, out_features)

    def forward(self, x):
        return self.layer(x.mul_(1.5).add_(1))


class Copies(Writes):
    def forward(self, x):
        return super().forward(x.clone())


class WritesLater(Copies):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return Writes.forward(self, x) if self.calls > 9 else super().forward(x)


class LossWrites(nn.Module):
    def forward(self, output, target):
        return F.cross_entropy(output, target.add_(1).remainder_(3))


class LossCopies(LossWrites):
    def forward(self, output, target):
        return super().forward(output, target.clone())


def rows():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(60, 4, generator=g)  # of the dtype that it trains in
    return TensorData((x[:40], x[:40].sum(1).sign().long() + 1), (x[40:], x[40:].sum(1).sign().long() + 1), classes=3)


def here(name):
    return f"{__name__}.{name}"


@pytest.mark.parametrize(("dtype", "partner"), [("float32", torch.complex64), ("float64", torch.complex128)])
def test_complex_weights_train_as_in_torch(stocked, monkeypatch, dtype, partner):
    monkeypatch.setenv("GDEXP_ALLOW", here("Complex"))
    words = [*IRIS[:-1], "data.val_fraction=0", "model=custom", f"model._target_={here('Complex')}"]
    words += ["optimizer.lr=0.1", "trainer.epochs=5", f"trainer.dtype={dtype}"]
    [run] = gdexp.launch(words).to_dict("records")
    torch.manual_seed(0)
    dtypes = {torch.float32: getattr(torch, dtype), torch.complex64: partner}
    net = Complex(4, 3)._apply(lambda t: t.to(dtypes.get(t.dtype, t.dtype)))
    data = gdexp.data.bundled.iris().train
    x = ((data[0] - data[0].mean(0)) / data[0].std(0, correction=0)).to(getattr(torch, dtype))
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for _ in range(5):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), data[1])
        loss.backward()
        optimizer.step()
    assert run["train_loss"] == pytest.approx(loss.item(), rel=1e-6)
    model = gdexp.load(run["run_id"])
    assert model.w.dtype == model.phase.dtype == partner and model.seen.dtype == torch.int64 and model.seen == 750
    torch.testing.assert_close(model.w, net.w)
    assert model.w.imag.abs().min() > 0 and (model.phase.imag == 2).all()


@pytest.mark.parametrize("more", [[], ["trainer.batch_size=16"], ["trainer.ema=0.9"], ["optimizer=lbfgs"]])
@pytest.mark.parametrize("part", ["model", "loss"])
def test_rows_outlast_a_part_that_writes_into_them(stocked, part, more):
    found = []
    for way in ("Writes", "Copies"):
        model, loss = (way, None) if part == "model" else ("Copies", f"Loss{way}")
        words = ["data=custom", f"data._target_={here('rows')}", "model=custom", f"model._target_={here(model)}"]
        words += ["+model.out_features=3", "loss=cross_entropy" if loss is None else "loss=custom"]
        words += [f"loss._target_={here(loss)}"] if loss else []
        found.append(gdexp.launch([*words, *more, "trainer.epochs=4"]).to_dict("records")[0])
    names = [name for name in found[0] if name.endswith(("_loss", "_accuracy", "_ema"))]
    assert len(names) >= 2 and [found[0][n] for n in names] == [found[1][n] for n in names]


def test_rows_that_are_written_into_later_are_refused(stocked):
    words = [*IRIS, f"model._target_={here('WritesLater')}", "trainer.epochs=9"]
    with pytest.raises(ValueError, match=re.escape("the model wrote into its rows")):
        gdexp.launch(words)


class Plain(nn.Module):
    def __init__(self, in_features, out_features):
        super().__init__()
        self.layer = nn.Linear(in_features, out_features)

    def forward(self, x):
        return self.layer(x)


class Learned(nn.Module):
    """A loss with a temperature and centres that are drawn."""

    def __init__(self, classes=3):
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(1.5))
        self.centers = nn.Embedding(classes, classes)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, output, target):
        if self.training:
            self.seen += 1
        near = (output - self.centers(target)).pow(2).mean()
        return F.cross_entropy(output * self.temperature, target) + 0.1 * near


class Listed(Plain):
    def __init__(self, in_features, out_features):
        super().__init__(in_features, out_features)
        self.more = [nn.Linear(out_features, out_features)]

    def forward(self, x):
        return self.more[0](self.layer(x))


class Loose(Plain):
    def __init__(self, in_features, out_features):
        super().__init__(in_features, out_features)
        self.scale = {"of": torch.ones(1, requires_grad=True)}

    def forward(self, x):
        return self.layer(x) * self.scale["of"]


class Late(Plain):
    def forward(self, x):
        if not hasattr(self, "bias"):
            self.bias = nn.Parameter(torch.zeros(3))
        return self.layer(x) + self.bias


class Hides(Plain):
    def state_dict(self, *args, **options):
        found = super().state_dict(*args, **options)
        found.pop("layer.bias")
        return found


class Frozen(Listed):
    def __init__(self, in_features, out_features):
        super().__init__(in_features, out_features)
        self.more[0].requires_grad_(False)


SCALE = nn.Parameter(torch.tensor(1.5))


def scaled(output, target):
    return F.cross_entropy(output * SCALE, target)


def test_loss_with_parameters_is_trained_and_kept(stocked, monkeypatch):
    monkeypatch.setenv("GDEXP_ALLOW", here("Plain"))
    words = [
        *IRIS[:2],
        "data.val_fraction=0",
        "model=custom",
        f"model._target_={here('Plain')}",
        "optimizer=adam",
        "optimizer.lr=0.05",
    ]
    words += ["loss=custom", f"loss._target_={here('Learned')}", "trainer.epochs=20"]
    [run] = gdexp.launch(words).to_dict("records")
    torch.manual_seed(0)
    net, loss = Plain(4, 3), Learned()
    data = gdexp.data.bundled.iris().train
    x, y = ((data[0] - data[0].mean(0)) / data[0].std(0, correction=0)).float(), data[1]
    optimizer = torch.optim.Adam([*net.parameters(), *loss.parameters()], 0.05)
    for _ in range(20):
        optimizer.zero_grad()
        value = loss(net(x), y)
        value.backward()
        optimizer.step()
    assert run["train_loss"] == pytest.approx(value.item(), rel=1e-6)
    [path] = stocked.glob(f"mlruns/*/{run['run_id']}/artifacts/weights.safetensors")
    weights = load_file(path)
    assert weights["loss.seen"] == 20 and weights.keys() == {
        *net.state_dict(),
        *(f"loss.{name}" for name in loss.state_dict()),
    }
    torch.testing.assert_close(weights["loss.temperature"], loss.temperature.detach())
    torch.testing.assert_close(weights["loss.centers.weight"], loss.centers.weight.detach())
    torch.testing.assert_close(gdexp.load(run["run_id"]).layer.weight, net.layer.weight)
    swept = gdexp.launch([*words, "optimizer.lr=logspace(0.001,0.05,9)"], multirun=True)
    assert swept.train_loss.iloc[-1] == run["train_loss"]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("Listed", "`model.more[0].weight` gets a gradient, but nothing trains it"),
        ("Loose", "`model.scale['of']` gets a gradient, but nothing trains it"),
        ("Late", "make it in __init__"),
        ("Hides", "`model.layer.bias` is trained, but it isn't in the state dict"),
    ],
)
@pytest.mark.parametrize("sweep", [[], ["optimizer.lr=logspace(0.001,0.1,9)"]])
def test_what_nothing_trains_or_keeps_is_refused(stocked, name, line, sweep):
    words = [*IRIS, f"model._target_={here(name)}", "trainer.epochs=2", *sweep]
    for more in ([], ["tracking=none"]):
        with pytest.raises(ValueError, match=re.escape(line)):
            gdexp.launch([*words, *more], multirun=bool(sweep))
    assert not len(gdexp.runs())


def test_a_parameter_of_the_losss_module_is_refused(stocked):
    words = [*IRIS[:3], "model=custom", f"model._target_={here('Plain')}", "trainer.epochs=2"]
    try:
        with pytest.raises(ValueError, match=re.escape(f"`{here('SCALE')}` gets a gradient")):
            gdexp.launch([*words, "loss=custom", f"loss._target_={here('scaled')}"])
    finally:
        SCALE.grad = None


def test_frozen_parts_of_a_list_train_along(stocked):
    [run] = gdexp.launch([*IRIS, f"model._target_={here('Frozen')}", "trainer.epochs=2"]).to_dict("records")
    assert run["status"] == "FINISHED"


class Assigns(Plain):
    """Keeps what it saw in buffers that are other tensors after each step, one of which grows."""

    def __init__(self, in_features, out_features):
        super().__init__(in_features, out_features)
        self.register_buffer("mean", torch.zeros(out_features))
        self.register_buffer("past", torch.zeros(0))

    def forward(self, x):
        output = self.layer(x)
        if self.training:
            self.mean = 0.5 * self.mean + output.detach().mean(0)
            self.past = torch.cat([self.past, self.mean.sum()[None]])
        return output + self.mean


def test_assigned_buffers_are_those_of_their_epoch(stocked):
    words = [*IRIS, f"model._target_={here('Assigns')}", "trainer.monitor=val_loss", "trainer.ema=0.5"]
    [run] = gdexp.launch([*words, "optimizer.lr=0.5", "trainer.epochs=7"]).to_dict("records")
    [folder] = stocked.glob(f"mlruns/*/{run['run_id']}/artifacts")
    files = {name: load_file(folder / f"{name}.safetensors") for name in ("weights", "weights_best", "weights_ema")}
    best = gdexp.runs(curves=True).query("key == 'val_loss'").sort_values("value").step.iloc[0]
    assert len(files["weights"]["past"]) == len(files["weights_ema"]["past"]) == 7
    assert len(files["weights_best"]["past"]) == best
    assert torch.equal(files["weights_best"]["past"], files["weights"]["past"][:best])
    assert torch.equal(files["weights_ema"]["mean"], files["weights"]["mean"])
