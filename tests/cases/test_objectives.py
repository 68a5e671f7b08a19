"""Objective functions: published values, minima and rates."""

import pytest
import torch
from mlflow.tracking import MlflowClient
from torch import optim

import gdexp
from gdexp import objectives
from gdexp.config.compose import compose
from gdexp.config.sources import conf_dir, options
from gdexp.config.targets import build

FUNCTIONS = [n for n in options("model") if "gdexp.objectives" in (conf_dir() / f"model/{n}.yaml").read_text()]


def objective(name, *words):
    from gdexp.config.check import check, own

    return build("model", own("model", check(compose([f"model={name}", *words])[0].config)["model"]))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_minimizers_are_stationary_and_lowest(name):
    model = objective(name).double()
    for point in model.minimizers:
        x = point.clone().requires_grad_()
        value = model(x)
        assert value.item() == pytest.approx(model.minimum.item(), abs=1e-9)
        if name != "ackley":  # whose minimum has a kink
            assert torch.autograd.grad(value, x)[0].abs().max() < 1e-5
    around = model.minimizers[:1] + 3 * torch.randn(
        20_000, len(model.x), generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    assert model(around).min() >= model.minimum - 1e-9


def test_rosenbrock_has_the_published_values(stocked):
    # Moré, Garbow and Hillstrom 1981: f(-1.2, 1) = 24.2, gradient (-215.6, -88), Hessian at (1, 1)
    [run] = gdexp.launch(["model=rosenbrock", "trainer.dtype=float64", "trainer.epochs=1", "optimizer.lr=1"]).to_dict(
        "records"
    )
    assert run["train_loss"] == pytest.approx(24.2, rel=1e-14)
    moved = gdexp.load(run["run_id"]).x.detach()
    assert (torch.tensor([-1.2, 1], dtype=torch.float64) - moved).tolist() == pytest.approx([-215.6, -88])
    hessian = torch.autograd.functional.hessian(objective("rosenbrock"), torch.ones(2, dtype=torch.float64))
    assert hessian.tolist() == [[802, -400], [-400, 200]]


def test_other_published_values():
    at = {
        "beale": ([3, 0.5], 0), "booth": ([1, 3], 0), "branin": ([-torch.pi, 12.275], 0.397887),
        "himmelblau": ([0, 0], 170), "goldstein_price": ([0, -1], 3), "styblinski_tang": ([-2.903534] * 2, -78.33233),
        "six_hump_camel": ([0.0898, -0.7126], -1.0316), "matyas": ([0, 0], 0), "rastrigin": ([0, 0], 0),
        "ackley": ([0, 0], 0),
    }  # fmt: skip
    for name, (point, value) in at.items():
        assert objective(name)(torch.tensor(point, dtype=torch.float64)).item() == pytest.approx(value, abs=5e-5)
    assert objective("styblinski_tang", "model.start=[0,0,0,0]").minimum.item() == pytest.approx(
        4 * -39.16617, abs=1e-4
    )


@pytest.mark.parametrize("spectrum", ["model.spectrum=[100,1]", "model.condition_number=100"])
def test_gradient_descent_contracts_a_quadratic_as_nesterov_says(stocked, spectrum):
    # rate 2/(L+μ): every step contracts by (κ-1)/(κ+1), Nesterov 2004
    words = ["model=quadratic", spectrum, "trainer.dtype=float64", f"optimizer.lr={2 / 101!r}", "trainer.epochs=200"]
    [run] = gdexp.launch(words).to_dict("records")
    client = MlflowClient(f"sqlite:///{stocked}/mlflow.db")
    distance = [m.value for m in client.get_metric_history(run["run_id"], "distance")]
    ratios = [b / a for a, b in zip(distance, distance[1:], strict=False)]
    assert ratios == pytest.approx([0.9801980198019802] * 199, rel=1e-12)


# the rates that optax's tests publish (alias_test.py), from (0, 0), 10,000 steps
OPTAX = {
    "adam": (optim.Adam, {"lr": 0.1}),
    "momentum": (optim.SGD, {"lr": 1e-3, "momentum": 0.9}),
    "adagrad": (optim.Adagrad, {"lr": 1.0}),
    "rmsprop": (optim.RMSprop, {"lr": 5e-3}),
    "nadam": (optim.NAdam, {"lr": 1e-2}),
    "radam": (optim.RAdam, {"lr": 5e-3}),
    "adamax": (optim.Adamax, {"lr": 0.1}),
    "adadelta": (optim.Adadelta, {"lr": 0.1}),
    "rprop": (optim.Rprop, {"lr": 0.1}),
    "amsgrad": (optim.Adam, {"lr": 0.1, "amsgrad": True}),
}
MISSES = {"adadelta": 0.0354}  # with torch's own rho and eps it goes to and fro across the valley


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTAX)
def test_rosenbrock_from_the_origin(stocked, name):
    kind, arguments = OPTAX[name]
    words = ["model=rosenbrock", "model.start=[0,0]", f"optimizer={name}", f"optimizer.lr={arguments['lr']}"]
    [run] = gdexp.launch([*words, "trainer.epochs=10000"]).to_dict("records")
    end = gdexp.load(run["run_id"]).x.detach()
    x = torch.nn.Parameter(torch.zeros(2))
    optimizer = kind([x], **arguments)
    for _ in range(10_000):
        optimizer.zero_grad()
        (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum().backward()
        optimizer.step()
    assert torch.equal(end, x)
    distance = (end - 1).norm().item()
    assert distance < 3e-2 or distance == pytest.approx(MISSES[name], abs=1e-3)


def test_start_and_shape_are_checked(here):
    for words, line in (
        ("model=beale model.start=[1]", "must hold 2 numbers"),
        ("model=rosenbrock model.start=[1]", "must hold"),
        ("model=quadratic model.spectrum=[-1,2]", "numbers from 0"),
        ("model=quadratic model.start=[1,2,3]", "must hold 2 numbers"),
        ("model=quadratic model.condition_number=0.5", "at least 1"),
        ("model=booth loss=mse", "loss=none takes any"),
    ):
        with pytest.raises(ValueError, match=line):
            gdexp.launch([*words.split(), "tracking=none"])
    assert issubclass(objectives.Quadratic, objectives.Objective)
