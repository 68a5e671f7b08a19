"""What was cut off goes on: killed sweeps and killed runs end as if nothing had happened."""

import hashlib
import io
import os
import pickle
import random
import signal
import sqlite3
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import gdexp
from gdexp.config import modules
from gdexp.resume import resume


def query(sql, *values, folder="."):
    connection = sqlite3.connect(f"{folder}/mlflow.db", timeout=30)
    try:
        return connection.execute(sql, values).fetchall()
    finally:
        connection.close()


def weights(run_id, folder="."):
    [path] = Path(folder).glob(f"mlruns/*/{run_id}/artifacts/weights.safetensors")
    return load_file(path)


@pytest.mark.slow
def test_sweep_again_trains_only_what_is_missing(gdexp_run, stocked):
    words = ["-m", "optimizer.lr=0.001,0.01,0.1,0.2,9", "trainer.epochs=30"]
    gdexp_run(*words)
    first = gdexp.runs()
    query_ids = set(first.run_id)
    again = gdexp_run(*words, "trainer.log_every=7")
    assert "5 of 5 already done; sweep.again=true trains them again" in again.stdout and again.returncode == 0
    assert "5 runs in" in again.stdout and "diverged" in again.stdout and set(gdexp.runs().run_id) == query_ids
    more = gdexp_run("-m", "optimizer.lr=0.001,0.01,0.1,0.2,9,0.05", "trainer.epochs=30")
    assert "5 of 6 already done" in more.stdout and "6 runs in" in more.stdout
    table = gdexp.runs()
    assert len(table) == 6 and set(table[table["optimizer.lr"] == 0.05].name) == {"lr=0.05"}
    sweep = query("SELECT DISTINCT value FROM tags WHERE key='gdexp.sweep'")
    assert len(sweep) == 1 and len(gdexp.runs(sweep[0][0])) == 6
    gdexp_run(*words, "sweep.again=true")
    assert len(gdexp.runs()) == 11
    other = gdexp_run("-m", "optimizer.lr=0.001,0.01", "trainer.epochs=31")
    assert "already done" not in other.stdout and len(gdexp.runs()) == 13


@pytest.mark.slow
def test_duplicates_of_a_job_are_each_done(gdexp_run, stocked):
    words = ["-m", "seed=1,1,2", "trainer.epochs=2"]
    gdexp_run(*words)
    assert "3 of 3 already done" in gdexp_run(*words).stdout and len(gdexp.runs()) == 3


@pytest.mark.slow
def test_edited_code_and_changed_data_are_new_jobs(gdexp_run, stocked):
    net = "from torch import nn\nclass Net(nn.Linear):\n    def __init__(self):\n        super().__init__(2, 1)\n"
    (stocked / "net.py").write_text(net)
    (stocked / "a.csv").write_text("a,b,y\n" + "".join(f"{i},{i * i % 7},{i}.5\n" for i in range(20)))
    words = ["-m", "model=custom", "model._target_=net.Net", "data=table", "data.path=a.csv", "data.target=y"]
    words += ["data.standardize=both", "optimizer.lr=0.01,0.1", "trainer.epochs=2"]
    assert gdexp_run(*words).returncode == 0
    assert "2 of 2 already done" in gdexp_run(*words).stdout
    (stocked / "net.py").write_text(net + "    # edited\n")
    assert "already done" not in gdexp_run(*words).stdout and len(gdexp.runs()) == 4
    text = (stocked / "a.csv").read_text()
    (stocked / "a.csv").write_text(text.replace("19.5", "19.25"))
    assert "already done" not in gdexp_run(*words).stdout and len(gdexp.runs()) == 6
    (stocked / "a.csv").write_text(text)
    assert "2 of 2 already done" in gdexp_run(*words).stdout


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_sweep_repeated_until_done_is_the_undisturbed_one(start_run, stocked, workers):
    words = ["-m", "optimizer.lr=logspace(1e-4,0.1,16)", "optimizer=sgd,adam,rmsprop,adagrad", "trainer.epochs=400"]
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"] if workers == 2 else []
    chance, killed = random.Random(workers), 0
    for _ in range(20):
        process = start_run(*words, *launcher, group=True)
        try:
            process.communicate(timeout=chance.uniform(2.5, 5) + killed)
            break
        except Exception:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            killed += 1
    assert process.returncode == 0 and killed > 0
    table = gdexp.runs()
    done = table[table.status == "FINISHED"]
    assert len(done) == 64 and set(table.status) <= {"FINISHED", "KILLED"}
    assert len(done[["optimizer", "optimizer.lr"]].drop_duplicates()) == 64
    calm = gdexp.launch([*words[1:], f"tracking.uri=sqlite:///{stocked}/calm.db"], multirun=True)
    both = done.merge(calm, on=["optimizer", "optimizer.lr"])
    assert len(both) == 64 and (both.train_loss_x == both.train_loss_y).all()
    for run in both.iloc[::9].to_dict("records"):
        mine, its = weights(run["run_id_x"]), weights(run["run_id_y"])
        assert all(torch.equal(mine[k], its[k]) for k in its)


MLP = ["data=digits", "model=mlp", "model.hidden=[32]", "model.dropout=0.1", "loss=cross_entropy"]
MLP += ["optimizer=adam", "trainer.batch_size=64", "trainer.log_every=1000"]


def points(run_id, key):
    return query("SELECT step, value FROM metrics WHERE run_uuid=? AND key=? ORDER BY step, timestamp", run_id, key)


def same_run(one, other):
    """Compare curves and weights of two runs, bit by bit."""
    for key in ("train_loss", "val_loss", "val_accuracy", "lr", "val_loss_ema", "train_loss_step"):
        assert points(one, key) == points(other, key), key
    for name in ("weights", "weights_best", "weights_ema", "trajectory"):
        pair = [list(Path().glob(f"mlruns/*/{i}/artifacts/{name}.safetensors")) for i in (one, other)]
        assert len(pair[0]) == len(pair[1])
        for a, b in zip(*pair, strict=True):
            mine, its = load_file(a), load_file(b)
            assert mine.keys() == its.keys() and all(torch.equal(mine[k], its[k]) for k in its), name


def only_run():
    [(run_id, status)] = query("SELECT run_uuid, status FROM runs")
    return run_id, status


@pytest.mark.slow
def test_run_killed_at_twenty_moments_is_the_undisturbed_run(start_run, gdexp_run, stocked):
    words = [*MLP, "trainer.epochs=1500", "trainer.checkpoint_every=1"]
    chance, kills = random.Random(0), 0
    process = start_run(*words)
    while kills < 20:
        try:
            process.wait(timeout=chance.uniform(1.5, 4.0))
            break
        except Exception:
            process.kill()
            process.communicate()
            kills += 1
            found = query("SELECT run_uuid FROM runs")
            process = start_run(found[0][0], module="gdexp.resume") if found else start_run(*words)
    assert process.wait(timeout=120) == 0, process.communicate()
    run_id, status = only_run()
    assert kills >= 5 and status == "FINISHED" and len(points(run_id, "train_loss")) == 1500
    [undisturbed] = gdexp.launch([*MLP, "trainer.epochs=1500"]).run_id
    same_run(run_id, undisturbed)


KINDS = {
    "sgd, full batch": ["trainer.batch_size=null", "optimizer=sgd"],
    "momentum and cosine": ["optimizer=momentum", "scheduler=cosine", "scheduler.warmup=3"],
    "one cycle by step": ["optimizer=sgd", "scheduler=one_cycle", "scheduler.interval=step"],
    "plateau": ["optimizer=momentum", "scheduler=reduce_on_plateau", "scheduler.patience=1"],
    "multistep": ["optimizer=sgd", "scheduler=multistep", "scheduler.milestones=[2,30]"],
    "average and best": ["trainer.ema=0.9", "trainer.monitor=val_loss", "trainer.log_steps=7"],
    "muon": ["optimizer=muon", "scheduler=one_cycle", "model.norm=batch"],
    "lbfgs": ["optimizer=lbfgs", "optimizer.max_iter=3", "trainer.batch_size=700"],
    "float64, accumulated": ["trainer.dtype=float64", "trainer.accumulate=3"],
    "batch norm": ["model.norm=batch", "optimizer=rmsprop"],
    "objective": ["data=none", "model=rosenbrock", "loss=none", "trainer.batch_size=null"],
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_terminated_run_goes_on_to_the_same_end(start_run, gdexp_run, stocked, kind):
    own = ["model=rosenbrock", "optimizer=adam"] if kind == "objective" else [*MLP, *KINDS[kind]]
    epochs = 40_000 if kind == "objective" else 400 if kind != "lbfgs" else 60
    words = [*own, f"trainer.epochs={epochs}", "trainer.log_every=100000"]
    process = start_run(*words)
    while not query("SELECT 1 FROM metrics LIMIT 1") and process.poll() is None:
        pass
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 143
    run_id, status = only_run()
    assert status == "KILLED" and len(points(run_id, "train_loss")) < epochs
    done = gdexp_run(run_id, module="gdexp.resume")
    assert done.returncode == 0 and "goes on after epoch" in done.stdout, done.stderr
    assert only_run() == (run_id, "FINISHED") and len(points(run_id, "train_loss")) == epochs
    [undisturbed] = gdexp.launch(words).run_id
    same_run(run_id, undisturbed)


@pytest.mark.slow
def test_end_of_a_run_is_raised(gdexp_run, stocked):
    words = [*MLP, "trainer.checkpoint_every=5"]
    gdexp_run(*words, "trainer.epochs=10")
    run_id, _ = only_run()
    refused = gdexp_run(run_id, module="gdexp.resume")
    assert refused.returncode == 1 and "is finished after 10 epochs" in refused.stderr
    assert gdexp_run(run_id, "trainer.epochs=14", module="gdexp.resume").returncode == 0
    assert len(points(run_id, "train_loss")) == 14
    [whole] = gdexp.launch([*words, "trainer.epochs=14"]).run_id
    same_run(run_id, whole)
    again = gdexp_run(run_id, "--verify", module="gdexp.rerun")
    assert again.returncode == 0 and "identical: 14 losses" in again.stdout, again.stdout


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["optimizer.lr=0.5"], "`optimizer.lr` can't be changed"),
        pytest.param(["seed=1"], "`seed` can't be changed", marks=pytest.mark.slow),
        pytest.param(["trainer.epochs=3"], "`trainer.epochs` must be at least 10", marks=pytest.mark.slow),
        pytest.param(["trainer.epochz=3"], "`trainer.epochz`", marks=pytest.mark.slow),
    ],
)
def test_resume_refuses_other_numbers(gdexp_run, stocked, words, line):
    [run_id] = gdexp.launch(["trainer.epochs=10"]).run_id
    done = gdexp_run(run_id, *words, module="gdexp.resume")
    assert done.returncode == 1 and line in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_resume_names_what_has_changed(gdexp_run, stocked):
    net = "from torch import nn\nclass Net(nn.Linear):\n    def __init__(self):\n        super().__init__(1, 1)\n"
    (stocked / "net.py").write_text(net)
    (stocked / "a.csv").write_text("a,y\n" + "".join(f"{i},{i}.5\n" for i in range(20)))
    words = ["model=custom", "model._target_=net.Net", "data=table", "data.path=a.csv", "data.target=y"]
    assert gdexp_run(*words, "optimizer.lr=0.001", "trainer.epochs=4").returncode == 0
    run_id, _ = only_run()
    again = [run_id, "trainer.epochs=6"]
    (stocked / "net.py").write_text(net + "# edited\n")
    assert "the code: net.py differs" in gdexp_run(*again, module="gdexp.resume").stderr
    (stocked / "net.py").write_text(net)
    (stocked / "a.csv").write_text((stocked / "a.csv").read_text().replace("19.5", "19.4"))
    assert "the data: SHA-256" in gdexp_run(*again, module="gdexp.resume").stderr
    (stocked / "a.csv").write_text((stocked / "a.csv").read_text().replace("19.4", "19.5"))
    assert gdexp_run(*again, module="gdexp.resume").returncode == 0 and len(points(run_id, "train_loss")) == 6
    for wrong in ("0" * 32, "abc", ""):
        done = gdexp_run(wrong, module="gdexp.resume")
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "flipped", "swapped", "malicious"])
def test_damaged_checkpoint_is_passed_over(gdexp_run, stocked, damage):
    words = [*MLP, "trainer.checkpoint_every=2"]
    gdexp_run(*words, "trainer.epochs=4")
    run_id, _ = only_run()
    gdexp_run(run_id, "trainer.epochs=6", module="gdexp.resume")
    [last] = sorted(stocked.glob("mlruns/*/*/artifacts/checkpoints/step-*.pt"))[-1:]
    content = last.read_bytes()
    if damage == "cut":
        last.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        last.write_bytes(content[:900] + bytes([content[900] ^ 1]) + content[901:])
    elif damage == "swapped":
        gdexp_run(*words, "trainer.epochs=6", "seed=1", f"tracking.uri=sqlite:///{stocked}/other/mlflow.db")
        last.unlink()
        [other] = sorted(stocked.glob("other/mlruns/*/*/artifacts/checkpoints/step-*.pt"))[-1:]
        (last.parent / other.name).write_bytes(other.read_bytes())
    else:

        class Harm:
            def __reduce__(self):
                return os.system, (f"touch {stocked}/harmed",)

        evil = pickle.dumps(Harm())
        last.unlink()
        name = f"step-{10**9:012d}-{hashlib.sha256(evil).hexdigest()[:32]}.pt"
        (last.parent / name).write_bytes(evil)
    done = gdexp_run(run_id, "trainer.epochs=8", module="gdexp.resume")
    assert done.returncode == 0 and "is not used" in done.stderr and "goes on after epoch 4" in done.stdout
    assert not (stocked / "harmed").exists()
    [whole] = gdexp.launch([*MLP, "trainer.epochs=8"]).run_id
    same_run(run_id, whole)


def changed(state, *path, to=None):
    """Return a state with another value in one place; without `to` the key is gone."""
    if not path:
        return to
    if isinstance(state, list):
        return [changed(v, *path[1:], to=to) if i == path[0] else v for i, v in enumerate(state)]
    if len(path) == 1 and to is None:
        return {k: v for k, v in state.items() if k != path[0]}
    return {**state, path[0]: changed(state[path[0]], *path[1:], to=to)}


def with_texts(node):
    """Return a state whose tensors are all texts."""
    if isinstance(node, dict):
        return {k: with_texts(v) for k, v in node.items()}
    if isinstance(node, (list, tuple)):
        return type(node)(with_texts(v) for v in node)
    return "text" if isinstance(node, torch.Tensor) else node


def doubled(node):
    if isinstance(node, dict):
        return {k: doubled(v) for k, v in node.items()}
    if isinstance(node, (list, tuple)):
        return type(node)(doubled(v) for v in node)
    return torch.cat([node.flatten()] * 2) if isinstance(node, torch.Tensor) else node


CONTENTS = {
    "another run's": lambda state: changed(state, "run_id", to="0" * 32),
    "other data": lambda state: changed(state, "data", to="0" * 64),
    "epoch ahead": lambda state: changed(state, "loop", "epoch", to=99),
    "epoch below": lambda state: changed(state, "loop", "epoch", to=-1),
    "text for epoch": lambda state: changed(state, "loop", "epoch", to="two"),
    "other step": lambda state: changed(state, "loop", "done", to=1),
    "text for seconds": lambda state: changed(state, "loop", "spent", to="long"),
    "texts for weights": lambda state: {**state, "loop": with_texts(state["loop"])},
    "texts for all": with_texts,
    "other shapes": lambda state: {**state, "objects": doubled(state["objects"])},
    "other random state": lambda state: {**state, "random": doubled(state["random"])},
    "text for objects": lambda state: changed(state, "objects", to="none"),
    "text for session": lambda state: changed(state, "session", to="none"),
    "texts for metrics": lambda state: changed(state, "session", "first", to={0: {"train_loss": "low"}}),
    "a list": lambda state: [state],
    **{f"no {key}": lambda state, key=key: changed(state, key) for key in ("loop", "objects", "random", "session")},
}


@pytest.fixture
def resumable(stocked):
    """A run of four epochs with a checkpoint after the second and the fourth."""
    from gdexp.checkpoint import Checkpoints

    words = ["optimizer=adam", "optimizer.lr=0.01", "trainer.batch_size=2", "trainer.checkpoint_every=2"]
    [run_id] = gdexp.launch([*words, "trainer.epochs=2"]).run_id
    resume([run_id, "trainer.epochs=4"])
    [folder] = stocked.glob(f"mlruns/*/{run_id}/artifacts/checkpoints")
    assert len(list(Checkpoints(folder, run_id).sound())) == 2
    [whole] = gdexp.launch([*words, "trainer.epochs=6"]).run_id
    return run_id, folder, whole


EVERYDAY = ("epoch ahead", "texts for weights", "no objects")


@pytest.mark.parametrize("kind", [pytest.param(k, marks=[] if k in EVERYDAY else pytest.mark.slow) for k in CONTENTS])
def test_whole_checkpoint_with_wrong_contents_is_passed_over(resumable, kind, capsys):
    run_id, folder, whole = resumable
    last = sorted(folder.glob("step-*.pt"))[-1]
    buffer = io.BytesIO()
    torch.save(CONTENTS[kind](torch.load(last, weights_only=True)), buffer)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()[:32]
    last.unlink()
    (folder / f"{last.name[:18]}{digest}.pt").write_bytes(buffer.getvalue())
    capsys.readouterr()
    resume([run_id, "trainer.epochs=6"])
    shown = capsys.readouterr()
    assert "goes on after epoch 2" in shown.out and "is not used" in shown.err
    assert len(shown.err.splitlines()) == 1, shown.err
    same_run(run_id, whole)


def test_flipped_bytes_of_a_record_never_end_in_a_traceback(resumable, stocked, capsys):
    """Whatever byte of whatever file is another: the run goes on, or one line says why not."""
    run_id, folder, _ = resumable
    chance = random.Random(0)
    files = [p for p in sorted(folder.parent.rglob("*")) if p.is_file()]
    for _ in range(25):
        path = chance.choice(files)
        content = path.read_bytes()
        place = chance.randrange(len(content))
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << chance.randrange(8)]) + content[place + 1 :])
        try:
            resume([run_id, "trainer.epochs=4"])
        except ValueError as refusal:
            assert len(str(refusal).splitlines()) == 1
        path.write_bytes(content)


COUNTING = """
import torch
CALLS = {"n": 0}
EPOCHS = []

class Net(torch.nn.Linear):
    def __init__(self):
        super().__init__(1, 1)
    def forward(self, x):
        CALLS["n"] += 1
        return super().forward(x) * (1 + CALLS["n"] / 9)

def after_epoch(epoch, model):
    EPOCHS.append(epoch.epoch)
    with torch.no_grad():
        model.weight.mul_(1 - len(EPOCHS) / 99)
"""


def test_globals_that_a_refused_checkpoint_set_are_put_back(stocked, capsys):
    (stocked / "counting.py").write_text(COUNTING)
    words = ["data=sine", "model=custom", "model._target_=counting.Net", "loss=mse", "trainer.checkpoint_every=2"]
    words += ["trainer.on_epoch=[counting.after_epoch]"]
    [run_id] = gdexp.launch([*words, "trainer.epochs=2"]).run_id
    [last] = stocked.glob(f"mlruns/*/{run_id}/artifacts/checkpoints/step-*.pt")
    buffer = io.BytesIO()
    torch.save(CONTENTS["text for session"](torch.load(last, weights_only=True)), buffer)
    last.unlink()
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()[:32]
    (last.parent / f"{last.name[:18]}{digest}.pt").write_bytes(buffer.getvalue())
    capsys.readouterr()
    modules.forget()  # as in a process of its own
    resume([run_id, "trainer.epochs=4"])
    shown = capsys.readouterr()
    assert "goes on from the beginning" in shown.out and "is not used" in shown.err
    modules.forget()
    [whole] = gdexp.launch([*words, "trainer.epochs=4"]).run_id
    assert torch.equal(weights(run_id)["weight"], weights(whole)["weight"])
