"""What was cut off goes on: killed sweeps and killed runs end as if nothing had happened."""

import os
import random
import signal
import sqlite3

import pytest
import torch
from safetensors.torch import load_file

import gdexp


def query(sql, *values, folder="."):
    connection = sqlite3.connect(f"{folder}/mlflow.db", timeout=30)
    try:
        return connection.execute(sql, values).fetchall()
    finally:
        connection.close()


def weights(run_id, folder="."):
    import pathlib

    [path] = pathlib.Path(folder).glob(f"mlruns/*/{run_id}/artifacts/weights.safetensors")
    return load_file(path)


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


def test_duplicates_of_a_job_are_each_done(gdexp_run, stocked):
    words = ["-m", "seed=1,1,2", "trainer.epochs=2"]
    gdexp_run(*words)
    assert "3 of 3 already done" in gdexp_run(*words).stdout and len(gdexp.runs()) == 3


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
            process.communicate(timeout=chance.uniform(2.5, 5 if workers == 1 else 9) + killed)
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
