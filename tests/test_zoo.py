"""Models and optimizers of all sorts: a sweep gives what the runs give alone, whichever way it trains them."""

import math
import shutil
import sqlite3
from pathlib import Path

import pytest
import zoo

import gdexp

BASE = ["data=custom", "data._target_=own_zoo.rows", "trainer.epochs=12"]
OFTEN = ("Plain", "Counter", "Mask", "ParameterHook", "Noise", "BatchNorm")  # the others are slow tests
TRAINS_ITSELF = ("Rescaled", "Twice")
OF_THE_PROCESS = ("CounterOfTheClass", "CounterOfTheFile")
KINDS = [kind for kind in zoo.MODELS if kind not in OF_THE_PROCESS]


def curves(run_id):
    connection = sqlite3.connect("mlflow.db")
    try:
        sql = "SELECT key, value FROM metrics WHERE run_uuid=? ORDER BY key, step"
        found: dict[str, list[float]] = {}
        for key, value in connection.execute(sql, (run_id,)):
            found.setdefault(key, []).append(value)
        return found
    finally:
        connection.close()


def tags_of(table, key):
    connection = sqlite3.connect("mlflow.db")
    try:
        sql = "SELECT value FROM tags WHERE run_uuid=? AND key=?"
        return [connection.execute(sql, (run_id, key)).fetchone()[0] for run_id in table.run_id]
    finally:
        connection.close()


def same_in_a_sweep_and_alone(words, rates, seeds, precision):
    sweep = [f"optimizer.lr={','.join(rates)}", f"seed={','.join(seeds)}", "sweep.chunk=64"]
    rows = tried(lambda: gdexp.launch([*words, *sweep], multirun=True))
    if rows is None:  # what fails, fails alike
        assert tried(lambda: gdexp.launch([*words, f"optimizer.lr={rates[0]}"])) is None
        return
    for rate, seed in [(rates[0], seeds[0]), (rates[-1], seeds[-1])]:
        [own] = rows[(rows["optimizer.lr"] == float(rate)) & (rows["seed"] == int(seed))].to_dict("records")
        alone = tried(lambda r=rate, s=seed: gdexp.launch([*words, f"optimizer.lr={r}", f"seed={s}"]))
        if alone is None:
            assert own["status"] == "FAILED"
            continue
        assert own["outcome"] == alone.outcome.iloc[0]
        mine, its = curves(own["run_id"]), curves(alone.run_id.iloc[0])
        assert mine.keys() == its.keys()
        for key in its:
            assert len(mine[key]) == len(its[key])
            for a, b in zip(mine[key][:5], its[key][:5], strict=True):
                assert math.isclose(a, b, rel_tol=precision), (key, mine[key][:5], its[key][:5])


def tried(call):
    try:
        return call()
    except Exception:
        return None


@pytest.fixture
def own(stocked):
    shutil.copy(Path(zoo.__file__), stocked / "own_zoo.py")
    return stocked


@pytest.mark.parametrize("kind", [pytest.param(m, marks=[] if m in OFTEN else pytest.mark.slow) for m in KINDS])
def test_model_in_a_sweep_trains_as_it_does_alone(own, kind):
    loss = "none" if kind in TRAINS_ITSELF else "cross_entropy"
    words = [*BASE, "model=custom", f"model._target_=own_zoo.{kind}", f"loss={loss}", "optimizer=adam"]
    words += ["trainer.batch_size=12"] if KINDS.index(kind) % 2 else []
    same_in_a_sweep_and_alone(words, ["0.003", "0.01", "0.03"], ["0", "1", "2"], 1e-6)


@pytest.mark.parametrize("kind", OF_THE_PROCESS)
def test_what_all_models_of_a_process_share_is_not_stacked(own, gdexp_run, kind):
    words = [*BASE, "model=custom", f"model._target_=own_zoo.{kind}", "loss=cross_entropy"]
    assert gdexp_run("-m", *words, "optimizer.lr=0.01,0.02", "sweep.chunk=64").returncode == 0
    table = gdexp.runs()
    assert set(tags_of(table, "gdexp.trained_as")) == {"plain"}
    for run in table.to_dict("records"):  # each begins with what the file said, as in a process of its own
        known = set(gdexp.runs().run_id)
        assert gdexp_run(*words, f"optimizer.lr={run['optimizer.lr']}").returncode == 0
        [alone] = set(gdexp.runs().run_id) - known
        assert curves(alone) == curves(run["run_id"])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
@pytest.mark.parametrize("kind", ["Plain", "BatchNorm", "Attention", "Convolution", "ComplexWeights", "Dropout"])
def test_model_of_another_dtype(own, kind, dtype):
    words = [*BASE, "model=custom", f"model._target_=own_zoo.{kind}", "loss=cross_entropy"]
    words += ["optimizer=adam", f"trainer.dtype={dtype}"]
    same_in_a_sweep_and_alone(words, ["0.003", "0.03"], ["0", "1", "2"], 1e-12 if dtype == "float64" else 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", zoo.OPTIMIZERS)
def test_optimizer_of_ones_own_in_a_sweep(own, kind):
    words = [*BASE, "model=custom", "model._target_=own_zoo.Plain", "loss=cross_entropy"]
    words += ["optimizer=custom", f"optimizer._target_=own_zoo.{kind}", "trainer.batch_size=12"]
    same_in_a_sweep_and_alone(words, ["0.01", "0.1", "0.3"], ["0", "1"], 1e-6)


SWEPT = {
    "initial_accumulator_value": ["optimizer=adagrad", "optimizer.initial_accumulator_value=0.1,0.5,2"],
    "betas": ["optimizer=adam", "optimizer.betas=[0.9,0.999],[0.5,0.9]"],
    "nesterov": ["optimizer=momentum", "optimizer.nesterov=true,false"],
    "lambd": ["optimizer=asgd", "optimizer.lambd=1e-4,1e-2"],
    "gamma": ["scheduler=step", "scheduler.gamma=0.1,0.5", "scheduler.step_size=3"],
    "warm-up": ["scheduler=cosine", "scheduler.warmup=0,2,4", "trainer.batch_size=12"],
    "patience": ["trainer.patience=1,2,5", "trainer.batch_size=12"],
    "target": ["trainer.target=0.9,0.8,0.5", "trainer.batch_size=12"],
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) for n in SWEPT])
def test_option_that_a_sweep_varies(own, name):
    *words, axis = sorted(SWEPT[name], key=lambda word: "," in word and "=[" not in word or "],[" in word)
    words = [*BASE, "model=custom", "model._target_=own_zoo.Plain", "loss=cross_entropy", *words]
    rates = ["optimizer.lr=0.01,0.05", "seed=0,1", "sweep.chunk=64"]
    table = gdexp.launch([*words, axis, *rates], multirun=True)
    key, _, values = axis.partition("=")
    for value in values.replace("],[", "] [").split() if "[" in values else values.split(","):
        [alone] = gdexp.launch([*words, f"{key}={value}", "optimizer.lr=0.05", "seed=1"]).to_dict("records")
        wanted = curves(alone["run_id"])
        found = [curves(run) for run in table[(table["optimizer.lr"] == 0.05) & (table["seed"] == 1)].run_id]
        assert any(all(_near(one.get(k, []), v) for k, v in wanted.items()) for one in found), value


def _near(a, b):
    return len(a) == len(b) and all(math.isclose(x, y, rel_tol=1e-6) for x, y in zip(a[:5], b[:5], strict=True))


def test_rates_between_the_first_and_the_last_are_tried_too(stocked):
    words = ["data=diabetes", "model=linear", "loss=poisson_nll", "trainer.clip_norm=1", "trainer.epochs=12"]
    table = gdexp.launch([*words, "optimizer.lr=1e-3,10,1e5", "seed=0,1,2"], multirun=True)
    for run in table[table["optimizer.lr"] == 10].to_dict("records"):
        alone = gdexp.launch([*words, "optimizer.lr=10", f"seed={run['seed']}"])
        wanted = curves(alone.run_id[0])["train_loss"]
        assert curves(run["run_id"])["train_loss"] == pytest.approx(wanted, rel=1e-6)
