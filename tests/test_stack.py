"""A stack is its runs: every run of a stacked sweep against the same run alone.

Through the command line's own functions; the runs alone go the way of one run, the stack that of a sweep.
"""

import math

import pytest
import torch
from recorded import query
from safetensors.torch import load_file

import gdexp
from gdexp.config.sources import options

DIGITS = ["data=digits", "data.val_fraction=100", "data.test_fraction=1400", "loss=cross_entropy"]  # 297 to learn from
PROBLEMS = {
    "tutorial": [],
    "mlp": [*DIGITS, "model=mlp", "model.hidden=[16]", "model.dropout=0.2"],
    "cnn": [*DIGITS, "model=cnn", "model.channels=[4]"],
    "transformer": [
        *(*DIGITS, "model=transformer", "model.width=8", "model.heads=2", "model.feedforward=8"),
        *("model.layers=1", "model.dropout=0.1"),
    ],
}
RATES = {"adadelta": "0.5,1.0", "adafactor": "0.01,0.02", "lbfgs": "0.1,0.2", "rprop": "0.001,0.01"}
RATES["rmsprop"] = "0.0001,0.001"  # its first step is ten rates long; at 0.01 rounding grows, see float64 below
OPTIMIZERS = [o for o in options("optimizer") if o not in ("custom", "none", "sparse_adam")]
BITWISE = {"tutorial": 0.0, "mlp": 0.0}  # of the weights; the others' first losses to 1e-6


def sweep(*words):
    """Return the runs of a stacked sweep, and how they were trained, by name."""
    table = gdexp.launch(["sweep.chunk=64", "sweep.again=true", *words], multirun=True)
    return {row["name"]: row for row in table.to_dict("records")}


def trained_as(run_id):
    return query("SELECT value FROM tags WHERE run_uuid=? AND key='gdexp.trained_as'", run_id)[0][0]


def curve(run_id, key="train_loss"):
    return [v for (v,) in query("SELECT value FROM metrics WHERE run_uuid=? AND key=? ORDER BY step", run_id, key)]


def weights(here, run_id, name="weights"):
    [path] = here.glob(f"mlruns/*/{run_id}/artifacts/{name}.safetensors")
    return load_file(path)


def same_as_alone(here, found, words, sampled, *, rel, bits=False):
    """Compare sampled runs of a sweep with the same runs alone."""
    for name in sampled:
        own = found[name]
        [alone] = gdexp.launch([*words, *name_words(name)]).to_dict("records")
        assert (own["status"], own["outcome"]) == (alone["status"], alone["outcome"])
        keys = {k for k in alone if k.startswith(("train_", "val_", "test_", "lr", "grad_", "update_", "weight_norm"))}
        for key in keys:
            mine, its = curve(own["run_id"], key), curve(alone["run_id"], key)
            assert len(mine) == len(its)
            assert mine[:5] == pytest.approx(its[:5], rel=rel, abs=rel), (name, key)
        if bits:
            mine, its = weights(here, own["run_id"]), weights(here, alone["run_id"])
            assert mine.keys() == its.keys() and all(torch.equal(mine[k], its[k]) for k in its), name


SHORT = {"lr": "optimizer.lr", "momentum": "optimizer.momentum", "weight_decay": "optimizer.weight_decay"}


def name_words(name):
    return [f"{SHORT.get(k, k)}={v}" for k, v in (word.split("=", 1) for word in name.split(" "))]


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "batch"), [("0", 100), ("0,1", None), ("0,1", 100)])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_every_optimizer_stacks_as_it_trains_alone(stocked, problem, optimizer, seeds, batch):
    size = 3 if batch and problem == "tutorial" else batch
    words = [*PROBLEMS[problem], f"optimizer={optimizer}", "trainer.epochs=5"]
    words += [f"trainer.batch_size={size}"] if size else []
    rates = RATES.get(optimizer, "0.001,0.01")
    found = sweep(*words, f"optimizer.lr={rates}", f"seed={seeds}")
    ways = {trained_as(run["run_id"]).split()[0] for run in found.values()}
    assert ways == ({"plain"} if optimizer in ("lbfgs", "muon") else {"stack"})
    last = f"lr={rates.split(',')[-1]}"
    sampled = f"{last} seed=1" if "," in seeds else last
    same_as_alone(
        stocked,
        found,
        [*words, "seed=0"] if sampled == last else words,
        [sampled],
        rel=1e-6,
        bits=problem == "tutorial",
    )


@pytest.mark.parametrize("optimizer", ["adam", pytest.param("rmsprop", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "problem", [*list(PROBLEMS)[:2], *(pytest.param(p, marks=pytest.mark.slow) for p in list(PROBLEMS)[2:])]
)
def test_stack_in_float64_to_the_last_digits(stocked, problem, optimizer):
    words = [
        *PROBLEMS[problem],
        f"optimizer={optimizer}",
        "trainer.dtype=float64",
        "trainer.epochs=5",
        "trainer.batch_size=300",
    ]
    found = sweep(*words, "optimizer.lr=0.001,0.01", "seed=0,1")
    assert {trained_as(run["run_id"]).split()[0] for run in found.values()} == {"stack"}
    same_as_alone(stocked, found, words, ["lr=0.01 seed=1"], rel=1e-12)


@pytest.mark.parametrize(
    "optimizer", ["adam", *(pytest.param(o, marks=pytest.mark.slow) for o in ("sgd", "adamw", "rmsprop"))]
)
def test_weights_of_the_digits_mlp_have_the_bits_of_the_runs_alone(stocked, optimizer):
    words = ["data=digits", "model=mlp", "model.hidden=[32]", "model.dropout=0.2", "loss=cross_entropy"]
    words += [f"optimizer={optimizer}", "trainer.epochs=10", "trainer.batch_size=64"]
    found = sweep(*words, "optimizer.lr=0.001,0.003", "seed=0,1,2")
    same_as_alone(stocked, found, words, ["lr=0.001 seed=0", "lr=0.003 seed=2"], rel=1e-6, bits=True)


FEATURES = {
    "schedule": ["scheduler=cosine", "scheduler.warmup=2", "optimizer=momentum"],
    "one cycle by step": ["scheduler=one_cycle", "scheduler.interval=step", "optimizer=adam"],
    "plateau": ["scheduler=reduce_on_plateau", "scheduler.patience=0", "optimizer=momentum"],
    "clipped norm": ["trainer.clip_norm=0.1", "trainer.record=[grad_norm,update_norm,weight_norm]"],
    "clipped value": ["trainer.clip_value=0.01", "trainer.record=[grad_norm]"],
    "accumulated": ["trainer.accumulate=3"],
    "averaged": ["trainer.ema=0.9", "optimizer=adam"],
    "early stop": ["trainer.patience=2", "trainer.monitor=val_accuracy", "optimizer.lr=0.5"],
    "target": ["trainer.target=1.2", "optimizer=adam"],
    "metrics": ["metrics=[f1,auroc,top_3]", "data.test_fraction=0.2"],
    "steps": ["trainer.max_steps=17", "trainer.log_steps=5"],
    "batch norm": ["model.norm=batch", "optimizer=momentum"],
    "layer norm": ["model.norm=layer", "optimizer=adam"],
    "groups": ["optimizer=adamw", "optimizer.param_groups={bias: {weight_decay: 0, lr: 0.002}}"],
}


OFTEN = ("schedule", "clipped norm", "early stop", "metrics")  # the others are slow tests


@pytest.mark.parametrize("feature", [pytest.param(f, marks=[] if f in OFTEN else pytest.mark.slow) for f in FEATURES])
def test_feature_of_training_in_a_stack(stocked, feature):
    words = ["data=iris", "model=mlp", "model.hidden=[8]", "loss=cross_entropy", "trainer.epochs=8"]
    words += ["trainer.batch_size=32", *FEATURES[feature]]
    rates = [] if "optimizer.lr=0.5" in words else ["optimizer.lr=0.01,0.05"]
    found = sweep(*words, *rates, "seed=0,1,2,3")
    ways = {trained_as(run["run_id"]).split()[0] for run in found.values()}
    assert ways == {"stack"} or (feature == "batch norm" and ways == {"plain"})  # its rounding is at the limit
    sampled = [name for name in found if name.endswith(("seed=0", "seed=3"))][-2:]
    same_as_alone(stocked, found, words, sampled, rel=1e-5)


@pytest.mark.slow
def test_best_and_averaged_weights_are_each_runs_own(stocked):
    words = ["data=iris", "model=mlp", "loss=cross_entropy", "trainer.ema=0.9", "trainer.monitor=val_loss"]
    words += ["trainer.epochs=15", "optimizer=adam"]
    found = sweep(*words, "optimizer.lr=0.01,0.5", "seed=0,1")
    [alone] = gdexp.launch([*words, "optimizer.lr=0.5", "seed=1"]).to_dict("records")
    for name in ("weights", "weights_best", "weights_ema"):
        mine = weights(stocked, found["lr=0.5 seed=1"]["run_id"], name)
        for key, t in weights(stocked, alone["run_id"], name).items():
            assert torch.allclose(mine[key], t, rtol=1e-3, atol=1e-4), (name, key)


OWN = """
import torch
from torch import nn
from torch.nn import functional as F

class Tied(nn.Module):
    def __init__(self, in_features, out_features):
        super().__init__()
        self.a = nn.Linear(in_features, in_features)
        self.b = nn.Linear(in_features, in_features)
        self.b.weight = self.a.weight
        self.head = nn.Linear(in_features, out_features)
    def forward(self, x):
        return self.head(self.b(self.a(x).tanh()).tanh())

class Frozen(Tied):
    def __init__(self, in_features, out_features):
        super().__init__(in_features, out_features)
        self.a.requires_grad_(False)

class Unused(Tied):
    def __init__(self, in_features, out_features):
        super().__init__(in_features, out_features)
        self.spare = nn.Linear(3, 3)

class Recurrent(nn.Module):
    def __init__(self, in_features, out_features):
        super().__init__()
        self.rnn = nn.LSTM(1, 6, batch_first=True)
        self.head = nn.Linear(6, out_features)
    def forward(self, x):
        return self.head(self.rnn(x[:, :, None])[0][:, -1])

class Noisy(Tied):
    def forward(self, x):
        return super().forward(x + 0.1 * torch.randn_like(x) if self.training else x)

class Choosy(Tied):
    def forward(self, x):
        return super().forward(x) if x.mean() > -100 and self.head.weight.sum() < 1e9 else x

class Loose(Tied):
    def __init__(self, in_features, out_features):
        super().__init__(in_features, out_features)
        self.shift = torch.randn(in_features)
    def forward(self, x):
        return super().forward(x + self.shift)
"""
STACKED = {
    "Tied": True,
    "Frozen": True,
    "Unused": True,
    "Recurrent": False,
    "Noisy": True,
    "Choosy": False,
    "Loose": False,
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", STACKED)
def test_model_of_ones_own(stocked, kind):
    (stocked / "own.py").write_text(OWN)
    words = ["data=iris", "model=custom", f"model._target_=own.{kind}", "loss=cross_entropy", "trainer.epochs=6"]
    words += ["optimizer=adamw", "trainer.batch_size=40"]
    found = sweep(*words, "optimizer.lr=0.01,0.05", "seed=0,1")
    ways = {trained_as(run["run_id"]).split()[0] for run in found.values()}
    assert ways == {"stack" if STACKED[kind] else "plain"}
    same_as_alone(stocked, found, words, ["lr=0.05 seed=0", "lr=0.05 seed=1"], rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("problem", ["tutorial", "mlp"])
def test_same_sweep_again_and_in_other_chunks_has_the_same_bits(stocked, problem):
    words = [*PROBLEMS[problem], "optimizer.lr=0.001,0.01,0.02", "seed=0,1,2", "trainer.epochs=6"]
    words += ["trainer.batch_size=100"] if problem == "mlp" else []
    first = sweep(*words)
    for chunk in ("64", "2", "5"):
        again = sweep(*words, f"sweep.chunk={chunk}")
        for name, run in first.items():
            assert curve(run["run_id"]) == curve(again[name]["run_id"])
            mine, its = weights(stocked, run["run_id"]), weights(stocked, again[name]["run_id"])
            assert all(torch.equal(mine[k], its[k]) for k in mine)


def test_diverging_neighbours_change_no_bit_of_the_others(stocked):
    sound = sweep("optimizer.lr=0.001,0.003,0.01,0.02", "trainer.epochs=200")
    mixed = sweep("optimizer.lr=0.001,5,0.003,7,0.01,9,0.02,11,12,13", "trainer.epochs=200")
    for name, run in sound.items():
        assert curve(run["run_id"]) == curve(mixed[name]["run_id"])
    for name in ("lr=5", "lr=13"):
        [alone] = gdexp.launch([*name_words(name), "trainer.epochs=200"]).to_dict("records")
        assert mixed[name]["outcome"] == "diverged" and curve(mixed[name]["run_id"]) == curve(alone["run_id"])
        mine, its = weights(stocked, mixed[name]["run_id"]), weights(stocked, alone["run_id"])
        assert all(torch.equal(mine[k], its[k]) for k in its)


@pytest.mark.slow
def test_a_thousand_runs_of_which_many_diverge(stocked):
    table = gdexp.launch(["optimizer.lr=logspace(1e-4,1,1000)"], multirun=True)
    bound = 2 / ((17 + math.sqrt(269)) / 2)
    assert len(table) == 1000 and set(table.status) == {"FINISHED"}
    assert not any(table[table["optimizer.lr"] < bound].outcome == "diverged")
    assert sum(table.outcome == "diverged") > 200
    for row in table.iloc[[0, 333, 749, 999]].to_dict("records"):
        [alone] = gdexp.launch([f"optimizer.lr={row['optimizer.lr']}"]).to_dict("records")
        assert curve(row["run_id"]) == curve(alone["run_id"])
