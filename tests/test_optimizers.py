"""Optimizers of other people's: with a closure, with modes; against the loops that their authors write."""

import re
import sys

import pytest
import torch
from mlflow.tracking import MlflowClient
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import cross_entropy

import gdexp
from gdexp.data import bundled

EPOCHS = 6
PARTS = '''
import torch
from torch.optim import Optimizer

seen = []
def take(epoch, model):
    seen.append((epoch, {k: t.detach().clone() for k, t in model.state_dict().items()}))

class Polyak(Optimizer):
    """A step of loss / |gradient|^2, as long as the closure says."""
    def __init__(self, params, lr=0.5):
        super().__init__(params, {"lr": lr})
    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        size = sum((p.grad ** 2).sum() for g in self.param_groups for p in g["params"])
        for g in self.param_groups:
            for p in g["params"]:
                p.sub_(g["lr"] * (1.0 if loss is None else loss.detach()) / (size + 1e-8) * p.grad)
        return loss

class Clearing(Polyak):
    """Clears the gradients before it calls the closure."""
    def step(self, closure=None):
        self.zero_grad()
        return super().step(closure)

class Twice(Polyak):
    """Calls the closure again where it has stepped, and steps on."""
    def step(self, closure=None):
        super().step(closure)
        return super().step(closure)

class Sharpness(Optimizer):
    """Climbs by the gradients that there are, then steps down by those of the closure (Foret et al. 2021)."""
    def __init__(self, params, lr=0.1, rho=0.05):
        super().__init__(params, {"lr": lr, "rho": rho})
    @torch.no_grad()
    def step(self, closure=None):
        assert closure is not None
        params = [p for g in self.param_groups for p in g["params"]]
        norm = torch.stack([p.grad.norm() for p in params]).norm()
        old = [p.clone() for p in params]
        for p in params:
            p.add_(self.param_groups[0]["rho"] * p.grad / (norm + 1e-12))
        self.zero_grad()
        with torch.enable_grad():
            closure()
        for p, o in zip(params, old):
            p.copy_(o).sub_(self.param_groups[0]["lr"] * p.grad)

class Unused(Optimizer):
    """Has a closure in its signature only."""
    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr})
    @torch.no_grad()
    def step(self, closure=None):
        for g in self.param_groups:
            for p in g["params"]:
                p.sub_(g["lr"] * p.grad)

class Named(torch.optim.SGD):
    """torch's own step by another name."""

class ScheduleFree(Optimizer):
    """SGD with the weights at y while it trains, at x when they are used (Defazio et al. 2024)."""
    def __init__(self, params, lr=0.5, beta=0.9):
        super().__init__(params, {"lr": lr, "beta": beta, "train_mode": False, "k": 0})
    @torch.no_grad()
    def eval(self):
        for g in self.param_groups:
            assert g["train_mode"]
            g["train_mode"] = False
            for p in g["params"]:
                if "z" in self.state[p]:
                    p.lerp_(self.state[p]["z"], 1 - 1 / g["beta"])
    @torch.no_grad()
    def train(self):
        for g in self.param_groups:
            assert not g["train_mode"]
            g["train_mode"] = True
            for p in g["params"]:
                if "z" in self.state[p]:
                    p.lerp_(self.state[p]["z"], 1 - g["beta"])
    @torch.no_grad()
    def step(self):
        for g in self.param_groups:
            assert g["train_mode"]
            g["k"] += 1
            c = 1 / g["k"]
            for p in g["params"]:
                z = self.state[p].setdefault("z", p.clone())
                p.lerp_(z, c)
                p.add_(p.grad, alpha=g["lr"] * (g["beta"] * (1 - c) - 1))
                z.sub_(p.grad, alpha=g["lr"])
'''
WORDS = ["data=iris", "model=mlp", "model.hidden=[16]", "model.dropout=0.2", "loss=cross_entropy", "seed=3"]
WORDS += ["trainer.batch_size=32", f"trainer.epochs={EPOCHS}", "trainer.divergence_factor=null", "optimizer=custom"]


@pytest.fixture
def parts(stocked, monkeypatch):
    """The module of other people's optimizers, fresh."""
    import importlib

    (stocked / "parts_of_optimizers.py").write_text(PARTS)
    monkeypatch.syspath_prepend(str(stocked))
    sys.modules.pop("parts_of_optimizers", None)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield importlib.import_module("parts_of_optimizers")
    torch.set_num_threads(threads)
    sys.modules.pop("parts_of_optimizers", None)


def launch(parts, name, *words):
    """Return the epochs of a run with an optimizer of the module, and the weights after each."""
    own = [f"optimizer._target_=parts_of_optimizers.{name}", "trainer.on_epoch=[parts_of_optimizers.take]"]
    [run] = gdexp.launch([*WORDS, *own, *words]).to_dict("records")
    seen, parts.seen = parts.seen[:], []
    return [epoch.metrics for epoch, _ in seen], seen[-1][1], run


def plain_parts():
    """Return the rows and the model that the words above mean."""
    x, y = bundled.iris().train
    order = torch.randperm(150, generator=torch.Generator().manual_seed(0))
    x, y = x.float()[order], y[order]
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))
    return model, (x[:120], y[:120]), (x[120:], y[120:])


def batches(x, y, epoch):
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1_000_003 * 3 + epoch))
    return [(x[index], y[index]) for index in order.split(32)]


def same(weights, model):
    pairs = zip(sorted(weights.items()), sorted(model.state_dict().items()), strict=True)
    return all(torch.equal(mine, its) for (_, mine), (_, its) in pairs)


@pytest.mark.parametrize("name", ["Polyak", "Clearing", "Twice", "Unused"])
def test_closure_is_passed_as_in_torchs_own_loop(parts, name):
    metrics, weights, _ = launch(parts, name, "tracking=none")
    model, train, _ = plain_parts()
    optimizer = getattr(parts, name)(model.parameters())
    for epoch in range(1, EPOCHS + 1):
        total = 0.0
        for x, y in batches(*train, epoch):
            first = []

            def closure(x=x, y=y, first=first):
                optimizer.zero_grad()
                loss = cross_entropy(model(x), y)
                loss.backward()
                first.append(loss.item())
                return loss

            if name == "Unused":
                closure()
                optimizer.step()
            else:
                optimizer.step(closure)
            total += first[0] * len(x)
        assert metrics[epoch - 1]["train_loss"] == total / 120
    assert same(weights, model)


def test_gradients_are_there_for_an_optimizer_that_looks_before_it_calls(parts):
    metrics, weights, _ = launch(parts, "Sharpness", "tracking=none")
    model, train, _ = plain_parts()
    optimizer = parts.Sharpness(model.parameters())
    for epoch in range(1, EPOCHS + 1):
        total = 0.0
        for x, y in batches(*train, epoch):

            def closure(x=x, y=y):
                loss = cross_entropy(model(x), y)
                loss.backward()
                return loss

            optimizer.zero_grad()
            total += closure().item() * len(x)
            optimizer.step(closure)
        assert metrics[epoch - 1]["train_loss"] == total / 120
    assert same(weights, model)


def test_closure_is_clipped_at_each_call(parts):
    _, weights, _ = launch(parts, "Twice", "tracking=none", "trainer.clip_norm=0.1", "model.dropout=0")
    model, train, _ = plain_parts()
    model[2].p = 0.0
    optimizer = parts.Twice(model.parameters())
    for epoch in range(1, EPOCHS + 1):
        for x, y in batches(*train, epoch):

            def closure(x=x, y=y):
                optimizer.zero_grad()
                loss = cross_entropy(model(x), y)
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 0.1)
                return loss

            optimizer.step(closure)
    assert same(weights, model)


def schedule_free(parts, epochs=EPOCHS):
    """Return losses on training and validation rows, and the model, of the loop that the authors write."""
    model, train, (held_x, held_y) = plain_parts()
    optimizer = parts.ScheduleFree(model.parameters())
    losses = []
    for epoch in range(1, epochs + 1):
        model.train()
        optimizer.train()
        total = 0.0
        for x, y in batches(*train, epoch):
            optimizer.zero_grad()
            loss = cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(x)
        model.eval()
        optimizer.eval()
        with torch.no_grad():
            losses.append((total / 120, cross_entropy(model(held_x), held_y).item()))
    return losses, model


def saved(run_id, name="weights"):
    from pathlib import Path

    client = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")
    return load_file(client.download_artifacts(run_id, f"{name}.safetensors"))


def test_schedule_free_is_in_eval_mode_where_weights_are_used(parts):
    metrics, weights, run = launch(parts, "ScheduleFree", "trainer.monitor=val_loss")
    losses, model = schedule_free(parts)
    assert [(m["train_loss"], m["val_loss"]) for m in metrics] == losses
    assert same(weights, model) and same(saved(run["run_id"]), model)
    best = min(range(EPOCHS), key=lambda i: losses[i][1])
    assert same(saved(run["run_id"], "weights_best"), schedule_free(parts, best + 1)[1])


def test_schedule_free_within_an_epoch_and_diverged(parts):
    launch(parts, "ScheduleFree", "trainer.max_steps=6")  # each call of train and eval is asserted to be due
    _, _, run = launch(parts, "ScheduleFree", "+optimizer.lr=1e30")
    assert run["outcome"] == "diverged"
    model, *_ = plain_parts()
    assert same(saved(run["run_id"]), model)  # those that began


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ScheduleFree", "Polyak"])
def test_optimizer_of_ones_own_resumes_to_the_last_bit(parts, gdexp_run, name):
    words = [*WORDS, f"optimizer._target_=parts_of_optimizers.{name}", "trainer.checkpoint_every=1"]
    [run] = gdexp.launch([*words, "trainer.epochs=3"]).to_dict("records")
    done = gdexp_run(run["run_id"], f"trainer.epochs={EPOCHS}", module="gdexp.resume")
    assert done.returncode == 0, done.stderr
    [whole] = gdexp.launch(words).to_dict("records")
    mine, its = saved(run["run_id"]), saved(whole["run_id"])
    assert all(torch.equal(mine[k], its[k]) for k in its)


OWN_STEP = """
import torch

class Plain(torch.optim.Optimizer):
    def __init__(self, params, lr=0.01):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(p.grad * group["lr"])

class Derived(Plain):
    pass
"""


@pytest.mark.parametrize("name", ["Plain", "Derived"])
def test_class_whose_step_torch_wraps_at_the_first_optimizer_stacks(stocked, gdexp_run, name):
    (stocked / "own_step.py").write_text(OWN_STEP)
    done = gdexp_run(
        *["-m", "data=diabetes", "optimizer=custom", f"optimizer._target_=own_step.{name}"],
        *["+optimizer.lr=0.1,0.2,0.3,0.4", "trainer.epochs=3", "seed=0,1"],
    )
    assert done.returncode == 0 and "as one program" in done.stdout, done.stdout + done.stderr


def test_step_of_torchs_own_gets_no_closure_and_stacks(parts, capsys):
    words = [*WORDS, "optimizer._target_=parts_of_optimizers.Named", "sweep.chunk=8", "model.dropout=0"]
    gdexp.launch([*words, "+optimizer.lr=0.1,0.2"], multirun=True)
    assert "as one program" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["optimizer=custom", "optimizer._target_=parts_of_optimizers.ScheduleFree"], "has train() and eval()"),
        (
            ["optimizer=custom", "optimizer._target_=parts_of_optimizers.Polyak"],
            "takes a closure that evaluates the loss",
        ),
        (["optimizer=muon"], "rounds to bfloat16"),
    ],
)
def test_sweep_of_an_optimizer_that_cannot_be_stacked_is_its_runs(parts, capsys, words, reason):
    words = [*WORDS, *words, "sweep.chunk=8", "model.dropout=0"]
    table = gdexp.launch([*words, "seed=0,1"], multirun=True).set_index("seed")
    assert reason in capsys.readouterr().out
    [alone] = gdexp.launch([*words, "seed=1"]).to_dict("records")
    mine, its = saved(table.run_id[1]), saved(alone["run_id"])
    assert all(torch.equal(mine[k], its[k]) for k in its)


STEPS = """
import torch
from torch import nn

class Complex(nn.Module):
    def __init__(self, in_features):
        super().__init__()
        self.w = nn.Parameter(torch.randn(in_features, 1, dtype=torch.complex64))
    def forward(self, x):
        return (x.to(self.w.dtype) @ self.w).abs()

class Sparse(nn.Module):
    def __init__(self, in_features):
        super().__init__()
        self.table = nn.Embedding(5, 1, sparse=True)
    def forward(self, x):
        return self.table((x[:, 0] > 2).long())
"""
COMPLEX = ["model=custom", "model._target_=steps_tried.Complex"]
SPARSE = ["model=custom", "model._target_=steps_tried.Sparse"]


@pytest.mark.parametrize(
    ("words", "key"),
    [
        ([*COMPLEX, "trainer.clip_value=1"], "`trainer.clip_value` must be null; trainer.clip_norm may be set"),
        ([*COMPLEX, "optimizer=adafactor"], "`optimizer=adafactor` can't take the complex w"),
        ([*COMPLEX, "optimizer=nesterov", "+optimizer.fused=true"], "`optimizer.fused` can't be true here; null, the"),
        ([*SPARSE, "optimizer=muon"], "`optimizer=muon` can't take the sparse gradient of table.weight"),
        (
            ["optimizer=adam", "+optimizer.capturable=true", "trainer.device=cpu"],
            "`optimizer.capturable` can't be true",
        ),
        (["optimizer=muon", "optimizer.ns_steps=200", "model=linear"], "`optimizer.ns_steps` can't be 200 here; 5,"),
        (["optimizer=lbfgs", "optimizer.line_search_fn=wolfe"], "`optimizer.line_search_fn` can't be wolfe here; null"),
        (["optimizer=lbfgs", "optimizer.history_size=0"], "`optimizer.history_size` can't be 0 here; 100, the default"),
        (
            ["optimizer=adam", "optimizer.param_groups={w: {capturable: true}}", "trainer.device=cpu"],
            "param_groups` can",
        ),
    ],
)
def test_a_step_that_torch_cannot_make_is_refused_by_its_key(stocked, words, key):
    (stocked / "steps_tried.py").write_text(STEPS)
    with pytest.raises(ValueError, match=re.escape(key)):
        gdexp.launch(words)
    assert gdexp.runs().empty


@pytest.mark.parametrize("words", [[*COMPLEX, "trainer.clip_norm=1"], [*COMPLEX, "optimizer=lbfgs"], [*SPARSE]])
def test_a_step_that_torch_can_make_is_made(stocked, words):
    (stocked / "steps_tried.py").write_text(STEPS)
    assert gdexp.launch([*words, "optimizer.lr=0.001", "trainer.epochs=2"]).outcome[0] == "completed"
