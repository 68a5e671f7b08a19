"""Runs and experiments that MLflow's environment names."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.entities import ViewType
from mlflow.tracking import MlflowClient

import gdexp

ROOT = Path(__file__).parents[1]
STEPS = [1, 2, 3]


@pytest.fixture
def store(stocked):
    return MlflowClient(f"sqlite:///{stocked}/mlflow.db")


def made(client, folder, **about):
    """Return a run as `mlflow run` makes it."""
    known = client.get_experiment_by_name("theirs")
    number = known.experiment_id if known else client.create_experiment("theirs", f"file://{folder}/mlruns/theirs")
    run = client.create_run(
        number, tags={"mlflow.source.type": "PROJECT", "mlflow.user": "ann"}, run_name="mine", **about
    )
    client.log_param(run.info.run_id, "seed", "from the project")
    return run.info.run_id


def is_whole(client, run_id):
    run = client.get_run(run_id)
    assert (run.info.status, run.info.run_name, run.data.tags["mlflow.user"]) == ("FINISHED", "mine", "ann")
    assert run.info.end_time and run.data.tags["gdexp.outcome"] == "completed"
    assert (run.data.params["seed"], run.data.params["optimizer.lr"]) == ("from the project", "0.01")
    assert [m.step for m in client.get_metric_history(run_id, "train_loss")] == STEPS
    names = {file.path for file in client.list_artifacts(run_id)}
    assert {"config.yaml", "weights.safetensors", "environment.json"} <= names
    assert run.inputs.dataset_inputs


@pytest.mark.parametrize("writer", ["auto", "client"])
def test_a_single_run_goes_into_the_run_that_is_named_once(store, stocked, monkeypatch, writer):
    run_id = made(store, stocked)
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    words = ["trainer.epochs=3", f"tracking.writer={writer}"]
    assert list(gdexp.launch(words).run_id) == [run_id] and "MLFLOW_RUN_ID" not in os.environ
    is_whole(store, run_id)
    assert gdexp.load(run_id) and list(gdexp.launch(words).run_id) != [run_id]


@pytest.mark.slow
def test_a_run_of_a_server_is_adopted(server, stocked, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    client = MlflowClient(server.uri)
    run = client.create_run("0", tags={"mlflow.user": "ann"}, run_name="mine")
    client.log_param(run.info.run_id, "seed", "from the project")
    monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
    assert list(gdexp.launch(["trainer.epochs=3"]).run_id) == [run.info.run_id]
    is_whole(client, run.info.run_id)
    assert len(client.search_runs(["0"])) == 1
    monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
    with pytest.raises(ValueError, match="is FINISHED"):
        gdexp.launch(["trainer.epochs=3"])
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    with pytest.raises(ValueError, match="there is no run 0000"):
        gdexp.launch(["trainer.epochs=3"])
    assert len(client.search_runs([e.experiment_id for e in client.search_experiments()])) == 1


def test_sweeps_adopt_nothing(store, stocked, monkeypatch):
    run_id = made(store, stocked)
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    table = gdexp.launch(["trainer.epochs=3", "optimizer.lr=0.01,0.02"], multirun=True)
    assert run_id not in list(table.run_id) and store.get_run(run_id).info.status == "RUNNING"
    assert os.environ["MLFLOW_RUN_ID"] == run_id


def test_a_run_that_no_record_can_go_into_is_refused_by_name(store, stocked, monkeypatch):
    ended, gone, other = (made(store, stocked) for _ in range(3))
    store.set_terminated(ended, "FAILED")
    store.delete_run(gone)
    cases = {
        ended: "is FAILED",
        gone: "was deleted",
        "f" * 32: "there is no run",
        "x": "32 hexadecimal",
        other: "theirs",
    }
    for run_id, said in cases.items():
        monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
        with pytest.raises(ValueError, match="MLFLOW_RUN_ID.*" + said):
            gdexp.launch(["trainer.epochs=3", *(["tracking.experiment=mine"] if run_id == other else [])])
    every = [experiment.experiment_id for experiment in store.search_experiments()]
    assert len(store.search_runs(every, run_view_type=ViewType.ALL)) == 3
    assert store.get_run(other).info.status == "RUNNING"


def test_an_error_of_the_users_own_code_ends_the_adopted_run(store, stocked, monkeypatch):
    (stocked / "hooks.py").write_text("def fails(epoch, model):\n    raise RuntimeError('no')\n")
    run_id = made(store, stocked)
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    with pytest.raises(RuntimeError):
        gdexp.launch(["trainer.epochs=3", "trainer.on_epoch=[hooks.fails]"])
    assert store.get_run(run_id).info.status == "FAILED"


ODD_NET = """
import torch
class Net(torch.nn.Linear):
    def __init__(self):
        super().__init__(1, 1)
        self.calls = iter(range(10**9))
    def forward(self, x):
        next(self.calls)
        return super().forward(x)
"""
TABLES = ("runs", "params", "tags", "metrics", "latest_metrics", "inputs")


def seen(folder, run_id):
    """Return all that the store has of a run, with its files."""
    connection = sqlite3.connect(folder / "mlflow.db")
    at = dict.fromkeys(TABLES, "run_uuid") | {"inputs": "destination_id"}
    rows = {t: sorted(connection.execute(f"SELECT * FROM {t} WHERE {at[t]}=?", [run_id])) for t in TABLES}
    connection.close()
    files = {path: path.read_bytes() for path in folder.glob(f"mlruns/*/{run_id}/**/*") if path.is_file()}
    return rows, files


@pytest.mark.parametrize("writer", ["auto", "client"])
def test_a_run_that_is_given_back_is_as_it_was_and_can_be_adopted_again(store, stocked, monkeypatch, writer):
    (stocked / "net.py").write_text(ODD_NET)
    run_id = made(store, stocked)
    store.log_text(run_id, "theirs", "code/net.py")
    store.log_metric(run_id, "train_loss_step", 1.0, step=0)
    before = seen(stocked, run_id)
    words = ["model=custom", "model._target_=net.Net", "trainer.epochs=3", f"tracking.writer={writer}"]
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    with pytest.raises(ValueError, match="or take null"):
        gdexp.launch([*words, "trainer.checkpoint_every=1", "trainer.log_steps=1", "optimizer.lr=0.5"])
    after = seen(stocked, run_id)
    assert after[0] == before[0]
    if writer == "auto":  # MLflow's client can't remove an artifact, and one is sent to try the place
        assert after[1] == before[1]
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    assert list(gdexp.launch(words).run_id) == [run_id]
    is_whole(store, run_id)


def test_the_experiments_id_is_heard_where_no_other_is_named(store, stocked, monkeypatch):
    number = store.create_experiment("theirs", f"file://{stocked}/mlruns/theirs")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", number)

    def of(*words, **how):
        table = gdexp.launch(["trainer.epochs=1", *words], **how)
        return {store.get_experiment(store.get_run(i).info.experiment_id).name for i in table.run_id}

    assert of() == {"theirs"} and of("tracking.experiment=mine") == {"mine"}
    assert of("optimizer.lr=0.1,0.2", multirun=True) == {"theirs"}
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "theirs")
    assert of() == {"theirs"}
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    with pytest.raises(ValueError, match=f"_ID={number} is 'theirs', but MLFLOW_EXPERIMENT_NAME is 'mine'"):
        of()
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "77")
    with pytest.raises(ValueError, match="MLFLOW_EXPERIMENT_ID: there is no experiment 77"):
        of()


@pytest.mark.slow
def test_mlflow_runs_a_project_into_one_run(store, stocked):
    (stocked / "mlruns").mkdir()
    gdexp.runs()  # so that the store, which is a copy, finds its artifacts here
    (stocked / "MLproject").write_text(
        "name: tutorial\nentry_points:\n  main:\n    parameters:\n      rate: {type: float, default: 0.02}\n"
        "    command: python -m gdexp.run optimizer.lr={rate} trainer.epochs=3\n"
    )
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    ours = os.environ | {"PYTHONPATH": str(ROOT), "PATH": path}
    command = [sys.executable, "-m", "mlflow", "run", ".", "--env-manager=local", "-P", "rate=0.03"]
    done = subprocess.run(command, cwd=stocked, env=ours, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [run] = store.search_runs(["0"])
    assert run.info.status == "FINISHED" and run.data.tags["mlflow.project.entryPoint"] == "main"
    assert (run.data.params["rate"], run.data.params["optimizer.lr"]) == ("0.03", "0.03")
    assert [m.step for m in store.get_metric_history(run.info.run_id, "train_loss")] == STEPS
