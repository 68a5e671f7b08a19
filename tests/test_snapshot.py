"""Reading needs no right to write."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

import gdexp

ROOT = Path(__file__).parents[1]
WITHOUT = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search,-fowner"]  # root that obeys the permissions
READ = """
import sys, gdexp
for run_id, *own in gdexp.runs()[["run_id", "status", "train_loss"]].itertuples(index=False):
    print(run_id, *own, gdexp.load(run_id).linear.weight.item() if own[0] == "FINISHED" else "")
"""
BY_MLFLOW = """
import mlflow, sys
client = mlflow.MlflowClient("sqlite:///" + sys.argv[1])
print([run.info.run_id for run in client.search_runs(["1"])])
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, empty_store):
    """A store of two runs, one of them RUNNING, of a process that is gone."""
    folder = tmp_path_factory.mktemp("recorded")
    shutil.copy(empty_store, folder)
    uri = f"tracking.uri=sqlite:///{folder}/mlflow.db"
    gdexp.launch(["trainer.epochs=3", uri])
    gdexp.launch(["trainer.epochs=4", uri, "optimizer=adam"])
    connection = sqlite3.connect(folder / "mlflow.db")
    connection.execute("UPDATE tags SET value=? WHERE key='gdexp.process'", ("0" * 32,))
    (folder / f".gdexp-{'0' * 32}").touch()  # its lock, free
    connection.execute("UPDATE runs SET status='RUNNING', end_time=NULL, start_time=0 WHERE name LIKE '%adam%'")
    connection.execute("UPDATE latest_metrics SET timestamp=1000")
    connection.commit()
    connection.close()
    return folder


@pytest.fixture
def unprivileged():
    if os.getuid() != 0 or subprocess.run([*WITHOUT, "true"], capture_output=True).returncode:
        pytest.skip("only root can give up its rights to be tested")


def python(folder, *words, rights=False, **environment):
    command = [*([] if rights else WITHOUT), sys.executable, *words]
    ours = os.environ | {"PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, cwd=folder, env=ours, capture_output=True, text=True)


def finished(folder):
    """Return the id of the run that isn't RUNNING."""
    connection = sqlite3.connect(f"file:{folder}/mlflow.db?immutable=1", uri=True)
    [(run_id,)] = connection.execute("SELECT run_uuid FROM runs WHERE status='FINISHED'")
    connection.close()
    return run_id


def lock_up(folder):
    for path in sorted(folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    folder.chmod(0o555)


def as_it_is(folder):
    return {str(p): (p.stat().st_mtime_ns, p.is_file() and p.read_bytes()) for p in [folder, *folder.rglob("*")]}


def wal_pending(folder, shm):
    """Leave the log of a process that was killed beside the store, with a param in it."""
    live = sqlite3.connect(folder / "mlflow.db")
    live.execute("PRAGMA journal_mode=WAL")
    live.execute("UPDATE latest_metrics SET value=0.125 WHERE key='train_loss'")
    live.commit()
    for end in ["", "-wal", *(["-shm"] if shm else [])]:
        shutil.copy(folder / f"mlflow.db{end}", folder / f"left{end}")
    live.close()
    for end in ["", "-wal", "-shm"]:
        if (folder / f"left{end}").exists():
            (folder / f"left{end}").replace(folder / f"mlflow.db{end}")


LEFT = {
    "at_rest": lambda folder: None,
    "in_wal_mode": lambda folder: sqlite3.connect(folder / "mlflow.db").execute("PRAGMA journal_mode=WAL"),
    "log_pending": lambda folder: wal_pending(folder, shm=False),
    "killed": lambda folder: wal_pending(folder, shm=True),
}


@pytest.mark.parametrize("plain", ["0", "1"])
@pytest.mark.parametrize("left", LEFT)
def test_what_cannot_be_written_reads_as_what_can(recorded, tmp_path, unprivileged, left, plain):
    """Moved, too, and with a run whose process is gone."""
    truth, folder = tmp_path / "truth", tmp_path / "locked"
    shutil.copytree(recorded, folder)
    LEFT[left](folder)
    shutil.copytree(folder, truth)
    lock_up(folder)
    before = as_it_is(folder)
    wanted = python(truth, "-c", READ, rights=True)
    assert wanted.returncode == 0 and "KILLED" in wanted.stdout and wanted.stdout.count("\n") == 2, wanted.stderr
    done = python(folder, "-c", READ, GDEXP_PLAIN=plain)
    assert done.stdout == wanted.stdout and done.stderr == "" and as_it_is(folder) == before
    if left == "at_rest":
        done = python(folder, "-c", BY_MLFLOW, str(folder / "mlflow.db"))
        assert done.returncode == 0 and len(done.stdout.split()) == 2, done.stderr


def test_rerun_of_what_cannot_be_written_is_recorded_here(recorded, tmp_path, unprivileged, empty_store):
    folder, mine = tmp_path / "locked", tmp_path / "mine"
    shutil.copytree(recorded, folder)
    mine.mkdir()
    shutil.copy(empty_store, mine)
    lock_up(folder)
    words = [finished(folder), f"tracking.uri=sqlite:///{folder}/mlflow.db"]
    done = python(mine, "-m", "gdexp.rerun", *words, "--verify")
    assert done.returncode == 0 and "0 bits differ" in done.stdout, done.stderr
    assert f"is recorded in {mine}/mlflow.db" in done.stdout and len(gdexp.runs(uri=f"sqlite:///{mine}/mlflow.db")) == 1
    for module, cwd in (("gdexp.rerun", folder), ("gdexp.resume", mine)):
        done = python(cwd, "-m", module, *words, *(["trainer.epochs=9"] if module == "gdexp.resume" else []))
        assert done.returncode == 1 and done.stderr.count("\n") == 1 and "can't be" in done.stderr, done.stderr
        assert "Outcome" not in done.stdout


@pytest.mark.slow
def test_ui_shows_a_copy_of_what_cannot_be_written(recorded, tmp_path, unprivileged):
    folder = tmp_path / "locked"
    shutil.copytree(recorded, folder)
    lock_up(folder)
    command = [*WITHOUT, sys.executable, "-u", "-m", "gdexp.ui", "gdexp", "--no-open", "--port", "0"]
    ours = os.environ | {"PYTHONPATH": str(ROOT)}
    before = as_it_is(folder)
    shown = subprocess.Popen(command, cwd=folder, env=ours, stdout=subprocess.PIPE, text=True)
    try:
        assert "a copy of it is shown" in shown.stdout.readline()
        address = shown.stdout.readline().partition("Charts: ")[2].partition("/#/")[0]
        run_id = finished(folder)
        with urllib.request.urlopen(f"{address}/get-artifact?path=config.yaml&run_uuid={run_id}") as answer:
            assert b"_target_: torch.nn.MSELoss" in answer.read()
    finally:
        shown.send_signal(signal.SIGINT)
        shown.wait()
    assert as_it_is(folder) == before
