"""A record is whole or not there: attacked at its places, by errors, by signals."""

import gc
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

import gdexp
from gdexp.compare import main as compare
from gdexp.config.refusal import Refusal
from gdexp.rerun import rerun
from gdexp.resume import resume
from gdexp.store import main as store
from gdexp.store import sync
from gdexp.tracking.sqlite import Tables

SCRIPT = Path(__file__).with_name("attacked.py")


def rows(folder, sql="SELECT run_uuid, status FROM runs"):
    connection = sqlite3.connect(folder / "mlflow.db")
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def test_record_that_cannot_be_begun_leaves_nothing(stocked, monkeypatch):
    gdexp.launch(["trainer.epochs=1"])
    before = rows(stocked, "SELECT * FROM runs")
    opened = []
    make, add_params = Tables.__init__, Tables.add_params
    monkeypatch.setattr(Tables, "__init__", lambda self, *a: (opened.append(self), make(self, *a))[1])

    def full(self, *arguments):
        add_params(self, *arguments)
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(Tables, "add_params", full)
    with pytest.raises(ValueError, match="can't be written: database or disk is full"):
        gdexp.launch(["trainer.epochs=1"])
    assert rows(stocked, "SELECT * FROM runs") == before and len(list(stocked.glob("mlruns/gdexp/*"))) == 1
    for tables in opened:
        with pytest.raises(sqlite3.ProgrammingError):  # it is closed
            tables.select("SELECT 1")


def test_numbers_that_could_not_be_written_are_written_later(stocked, monkeypatch):
    """Whatever it was that kept a flush from being written."""
    add_metrics, errors = Tables.add_metrics, iter([OverflowError("too large"), sqlite3.OperationalError("locked")])

    def moody(self, run_id, numbers):
        add_metrics(self, run_id, numbers)
        for error in errors:
            raise error

    monkeypatch.setattr(Tables, "add_metrics", moody)
    (stocked / "slow.py").write_text("import time\ndef hook(epoch, model):\n    time.sleep(0.02)\n")
    gdexp.launch(["trainer.epochs=150", "trainer.on_epoch=[slow.hook]"])
    assert rows(stocked, "SELECT count(DISTINCT step) FROM metrics WHERE key='train_loss'") == [(150,)]
    assert next(errors, None) is None


def test_no_checkpoint_without_the_numbers_before_it(stocked, monkeypatch, capsys):
    add_metrics = Tables.add_metrics

    def full(self, run_id, numbers):
        add_metrics(self, run_id, numbers)
        if self.path.name == "mlflow.db":
            raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(Tables, "add_metrics", full)
    with pytest.raises(ValueError, match="kept in"):
        gdexp.launch(["trainer.epochs=5", "trainer.checkpoint_every=1"])
    assert not list(stocked.rglob("step-*.pt")) and "no checkpoint can be written" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["trainer.max_steps=7"], ["trainer.patience=2", "data=iris", "model=logistic"]])
def test_run_that_was_cut_off_at_its_end_is_finished_not_trained(stocked, gdexp_run, words):
    words = ["trainer.epochs=10", "trainer.checkpoint_every=1", "optimizer.lr=0.05", *words]
    [run_id] = gdexp.launch(words).run_id
    before = rows(stocked, "SELECT key, step, value FROM metrics ORDER BY key, step")
    [weights] = stocked.glob(f"mlruns/*/{run_id}/artifacts/weights.safetensors")
    bits, outcome = weights.read_bytes(), rows(stocked, "SELECT value FROM tags WHERE key='gdexp.outcome'")
    weights.unlink()
    tables = Tables(stocked / "mlflow.db")
    tables.execute("UPDATE runs SET status='KILLED'")
    tables.execute("DELETE FROM tags WHERE key='gdexp.outcome'")
    tables.close()
    done = gdexp_run(run_id, module="gdexp.resume")
    assert done.returncode == 0, done.stderr
    assert rows(stocked) == [(run_id, "FINISHED")] and weights.read_bytes() == bits
    assert rows(stocked, "SELECT key, step, value FROM metrics ORDER BY key, step") == before
    assert rows(stocked, "SELECT value FROM tags WHERE key='gdexp.outcome'") == outcome


MISHAPS = {
    "removed": "db.unlink()",
    "removed with its artifacts": "db.unlink(); shutil.rmtree('mlruns')",
    "artifacts alone": "shutil.rmtree('mlruns')",
    "moved": "db.rename('elsewhere.db')",
    "emptied": "db.write_bytes(b'')",
    "damaged": "db.write_bytes(db.read_bytes()[:4096] + bytes(len(db.read_bytes()) - 4096))",
    "replaced": "db.unlink(); shutil.copy('empty.db', db)",
    "rows removed": "query('DELETE FROM runs')",
    "rows and numbers removed": "query('DELETE FROM runs; DELETE FROM metrics; DELETE FROM tags')",
    "table dropped": "query('DROP TABLE metrics')",
}


@pytest.mark.parametrize(
    "mishap", [m if m in ("removed", "rows removed") else pytest.param(m, marks=pytest.mark.slow) for m in MISHAPS]
)
def test_run_whose_store_is_lost_is_kept_and_taken_in(stocked, cache, gdexp_run, mishap):
    shutil.copy("mlflow.db", "empty.db")
    (stocked / "mishap.py").write_text(
        "import shutil, sqlite3, time\n"
        "from pathlib import Path\n"
        "db = Path('mlflow.db')\n"
        "def query(sql):\n"
        "    connection = sqlite3.connect(db, timeout=60)\n"
        "    connection.executescript(sql)\n"
        "    connection.close()\n"
        "def count():\n"
        "    connection = sqlite3.connect(db)\n"
        "    [(count,)] = connection.execute('SELECT count(*) FROM metrics')\n"
        "    return count\n"
        "def hook(epoch, model):\n"
        "    if epoch.epoch == 20:\n"
        "        while not count(): time.sleep(0.05)\n"
        f"        {MISHAPS[mishap]}\n"
    )
    words = ["trainer.epochs=50", "trainer.log_every=1000", "trainer.on_epoch=[mishap.hook]"]
    done = gdexp_run(*words)
    assert "Outcome: completed, final loss 0.1" in done.stdout and "Traceback" not in done.stderr
    kept = list(stocked.glob("gdexp-kept-*.db"))
    assert (done.returncode, len(kept)) == ((0, 0) if mishap == "artifacts alone" else (1, 1)), done.stderr
    if kept:
        assert str(kept[0]) in done.stderr.splitlines()[-1]
    if mishap in ("damaged", "table dropped"):
        shutil.copy("empty.db", "mlflow.db")
        for left in ("mlflow.db-wal", "mlflow.db-shm"):
            (stocked / left).unlink(missing_ok=True)
    if not (stocked / "mlflow.db").exists():
        gdexp.launch(["trainer.epochs=1"])
    done = gdexp_run("check", module="gdexp.store")
    assert done.returncode == 0, done.stderr
    assert not list(stocked.glob("gdexp-kept-*")) and not list(stocked.glob(".gdexp-*"))
    [run] = [run for run in gdexp.runs(curves=False).to_dict("records") if run["trainer.epochs"] == 50]
    assert (run["status"], run["outcome"], run["optimizer.lr"]) == ("FINISHED", "completed", 0.01)
    found = rows(stocked, f"SELECT step FROM metrics WHERE run_uuid='{run['run_id']}' AND key='train_loss' ORDER BY 1")
    assert [step for (step,) in found] == list(range(1, 51))
    [alone] = gdexp.launch([words[0]]).run_id
    mine, other = gdexp.load(run["run_id"]), gdexp.load(alone)
    assert mine.linear.weight == other.linear.weight and mine.linear.bias == other.linear.bias


@pytest.mark.parametrize(
    ("location", "writer"),
    [
        ("mlflow-artifacts:/7", "auto"),
        pytest.param("mlflow-artifacts:/7", "client", marks=pytest.mark.slow),
        pytest.param("nosuch://bucket/7", "auto", marks=pytest.mark.slow),
        ("file:///proc/nowhere", "auto"),
    ],
)
def test_place_of_artifacts_is_tried_before_training(stocked, location, writer):
    tables = Tables(stocked / "mlflow.db")
    with tables.transaction():
        tables.experiment("theirs", location)
    tables.close()
    with pytest.raises(ValueError, match="can't be written|nothing can be written") as refusal:
        gdexp.launch(["tracking.experiment=theirs", f"tracking.writer={writer}", "trainer.epochs=2"])
    assert "\n" not in str(refusal.value) and "tracking." in str(refusal.value)
    assert rows(stocked, "SELECT 1 FROM runs WHERE lifecycle_stage='active'") == []
    assert len(gdexp.launch(["tracking.experiment=ours", "trainer.epochs=2"])) == 1


@pytest.mark.slow
def test_server_whose_artifacts_cannot_be_written(stocked, server, gdexp_run):
    artifacts = Path(server._command[-1])
    artifacts.write_text("where a folder should be")
    done = gdexp_run(f"tracking.uri={server.uri}", "trainer.epochs=2")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and "nothing can be written" in done.stderr
    artifacts.unlink()
    (stocked / "mishap.py").write_text(
        "import shutil\nfrom pathlib import Path\n"
        "def hook(epoch, model):\n"
        f"    place = Path({str(artifacts)!r})\n"
        "    if epoch.epoch == 2:\n"
        "        shutil.rmtree(place)\n"
        "        place.write_text('no folder any more')\n"
    )
    done = gdexp_run(f"tracking.uri={server.uri}", "trainer.on_epoch=[mishap.hook]", "trainer.epochs=4")
    assert done.returncode == 0 and "doesn't take all of the run" in done.stderr and "is gone" not in done.stderr
    [run] = gdexp.runs().to_dict("records")
    assert run["status"] == "FINISHED" and gdexp.load(run["run_id"])
    artifacts.unlink()
    assert gdexp_run("sync", "--to", server.uri, module="gdexp.store").stdout.startswith("1 runs")
    assert gdexp.load(run["run_id"], uri=server.uri)


COMMANDS = {
    "check": lambda run_id: store(["check", "mlflow.db"]),
    "sync": lambda run_id: store(["merge", "mlflow.db", "other.db"]),
    "compare": lambda run_id: compare([run_id]),
    "runs": lambda run_id: gdexp.runs(),
    "load": lambda run_id: gdexp.load(run_id),
    "resume": lambda run_id: resume([run_id]),
    "rerun": lambda run_id: rerun([run_id]),
}


@pytest.mark.parametrize(
    ("command", "lost"),
    [*((command, "store") for command in COMMANDS), ("check", "all"), ("check", "renamed"), ("runs", "renamed")],
)
def test_every_command_takes_in_what_was_kept_for_a_store_that_is_gone(stocked, cache, capsys, command, lost):
    """They once said that there is no store, and the run that they could have had stayed where it was."""
    folder = stocked / "study"
    folder.mkdir()
    shutil.copy("mlflow.db", folder)
    harm = {
        "store": "[p.unlink() for p in Path.cwd().glob('mlflow.db*')]",
        "all": "[p.unlink() for p in Path.cwd().glob('mlflow.db*')]; shutil.rmtree('mlruns')",
        "renamed": "Path.cwd().rename(Path.cwd().with_name('away'))",
    }
    (folder / "mishap.py").write_text(
        f"import shutil\nfrom pathlib import Path\nmark = Path({str(stocked / 'mark')!r})\n"
        f"def hook(epoch, model):\n    if mark.exists(): mark.unlink(); {harm[lost]}\n"
    )
    (stocked / "mark").touch()
    os.chdir(folder)
    with pytest.raises(Refusal, match="is kept in") as said:
        gdexp.launch(["trainer.epochs=4", "trainer.on_epoch=[mishap.hook]"])
    run_id = re.search("gdexp-kept-([0-9a-f]+)", str(said.value))[1]
    os.chdir(stocked)
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    if lost == "renamed":
        shutil.copy("../away/mishap.py", ".")
    refused = ""
    try:
        COMMANDS[command](run_id)
    except (SystemExit, Refusal) as end:
        refused = str(end)
    shown = capsys.readouterr()
    assert "no store" not in refused + shown.err and "no run" not in refused + shown.err
    assert f"gdexp-kept-{run_id}" in shown.out + shown.err
    found = dict(zip(gdexp.runs().run_id, gdexp.runs().status, strict=True))
    assert found[run_id] == "FINISHED" and gdexp.load(run_id)


@pytest.mark.slow
def test_client_whose_store_is_lost_keeps_the_run(stocked, gdexp_run, cache):
    (stocked / "mishap.py").write_text(
        "from pathlib import Path\n"
        "def hook(epoch, model):\n"
        "    if epoch.epoch == 2: Path('mlflow.db').write_text('no store any more ' * 1000)\n"
    )
    done = gdexp_run("tracking.writer=client", "trainer.on_epoch=[mishap.hook]", "trainer.epochs=4")
    [kept] = stocked.glob("gdexp-kept-*.db")
    assert done.returncode == 1 and str(kept) in done.stderr and "Traceback" not in done.stderr
    (stocked / "mlflow.db").unlink()
    gdexp.launch(["trainer.epochs=1"])
    table = gdexp.runs()
    assert sorted(table["trainer.epochs"]) == [1, 4] and set(table.status) == {"FINISHED"} and not kept.exists()


def test_files_of_a_run_may_be_read_as_all_the_users_files(stocked):
    before = os.umask(0o027)
    try:
        [run_id] = gdexp.launch(["trainer.epochs=2", "trainer.checkpoint_every=1"]).run_id
    finally:
        os.umask(before)
    modes = {p.name: p.stat().st_mode & 0o777 for p in stocked.glob(f"mlruns/*/{run_id}/artifacts/**/*") if p.is_file()}
    assert set(modes.values()) == {0o640} and "weights.safetensors" in modes


def test_run_that_was_cut_off_keeps_a_trace_and_its_own_seconds(stocked, gdexp_run):
    [run_id] = gdexp.launch(["trainer.epochs=3", "trainer.checkpoint_every=1"]).run_id
    hours = 3_600_000 * 5
    tables = Tables(stocked / "mlflow.db")
    tables.execute("UPDATE runs SET status='KILLED', start_time=start_time-?, end_time=end_time-?", hours, hours)
    tables.close()
    assert gdexp_run(run_id, "trainer.epochs=5", module="gdexp.resume").returncode == 0
    from gdexp.tracking.reader import Which, reading

    with reading() as reader:
        [row] = reader.rows(Which(run_ids=[run_id]))
    assert row.tags["gdexp.cut_off"] == "KILLED after epoch 3" and row.status == "FINISHED"
    assert 0 < row.seconds < 3600 < 4 * 3600 < (row.end_time - row.start_time) / 1000


def test_drafts_of_a_process_that_is_gone_are_removed(stocked, gdexp_run):
    [run_id] = gdexp.launch(["trainer.epochs=2", "trainer.checkpoint_every=1"]).run_id
    [folder] = stocked.glob(f"mlruns/*/{run_id}/artifacts")
    drafts = [folder / ".weights.safetensors.part", folder / "checkpoints/.1.pt.part"]
    [(owner,)] = rows(stocked, "SELECT value FROM tags WHERE key='gdexp.process'")
    drafts.append(stocked / f".gdexp-{owner}")  # as its process held it
    never, made = folder.parent.with_name("0" * 32) / ".artifacts.part", stocked / ".gdexp-kept-x.part"
    never.mkdir(parents=True)
    for path in (*drafts, never / "config.yaml", made):
        path.write_text("half")
    for path in (never, made):
        os.utime(path, (1, 1))
    tables = Tables(stocked / "mlflow.db")
    tables.execute("UPDATE runs SET status='RUNNING'")
    tables.close()
    done = gdexp_run("check", module="gdexp.store")
    assert done.returncode == 0 and "closed as KILLED" in done.stdout and "never begun" in done.stdout
    assert not any(path.exists() for path in (*drafts, never, made)) and (folder / "weights.safetensors").exists()


@pytest.mark.filterwarnings("error")
def test_git_that_hangs_is_left(stocked, monkeypatch):
    """Its process is waited for all the same, also where nobody asked what it said."""
    (stocked / "bin").mkdir()
    (stocked / "bin/git").write_text(f"#!/bin/sh\nwhile [ ! -e {stocked}/over ]; do sleep 0.1; done\n")
    (stocked / "bin/git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{stocked}/bin:{os.environ['PATH']}")
    assert list(gdexp.launch(["trainer.epochs=2"]).status) == ["FINISHED"]
    words, sweep = ["trainer.epochs=2", "optimizer.lr=0.1,0.2"], {"multirun": True}
    gdexp.launch(words, **sweep)
    gdexp.launch(words, **sweep)  # all is already done
    gc.collect()
    (stocked / "over").touch()


LATE_NET = """
import importlib
from pathlib import Path
import torch
class Net(torch.nn.Linear):
    def forward(self, x):
        is_begun = any(Path("mlruns").glob("*/*/artifacts"))  # else it is tried only
        return super().forward(x) * (importlib.import_module("la" + "te").SCALE if is_begun else 1.0)
"""
STANDS_IN_THE_WAY = """
from pathlib import Path
import shutil
def begins():
    [folder] = Path("mlruns").glob("*/*/artifacts")
    shutil.rmtree(folder / "code")
    (folder / "code").symlink_to("nowhere")
def hook(epoch, model):
    if epoch.epoch == {end}:
        [folder] = Path("mlruns").glob("*/*/artifacts")
        (folder / "code").unlink()
"""


@pytest.mark.parametrize("end", [3, 99])
def test_code_of_the_first_step_that_cannot_be_written_is_written_later(stocked, gdexp_run, monkeypatch, end):
    """The run trains on; where nothing can be written to its end, it is kept elsewhere, whole."""
    monkeypatch.syspath_prepend(stocked)
    (stocked / "net.py").write_text(LATE_NET)
    (stocked / "late.py").write_text("import way\nway.begins()\nSCALE = 1.0\n")
    (stocked / "way.py").write_text(STANDS_IN_THE_WAY.replace("{end}", str(end)))
    words = ["model=custom", "model._target_=net.Net", "+model.in_features=1", "+model.out_features=1"]
    done = gdexp_run(*words, "trainer.epochs=5", "trainer.on_epoch=[way.hook]")
    assert done.returncode == (0 if end == 3 else 1) and "Outcome: completed" in done.stdout, done.stderr
    if end == 99:
        assert "is kept in" in done.stderr
        (next(stocked.glob("mlruns/*/*/artifacts")) / "code").unlink()
        assert gdexp_run("check", module="gdexp.store").returncode == 0
    [(run_id, status)] = rows(stocked)
    [folder] = stocked.glob(f"mlruns/*/{run_id}/artifacts")
    assert status == "FINISHED" and (folder / "code/late.py").exists() and (folder / "code/net.py").exists()
    assert rows(stocked, "SELECT count(*) FROM metrics WHERE key='train_loss'") == [(5,)]


@pytest.mark.parametrize("runs", [1, 9])
def test_artifacts_are_on_the_disk_before_their_run_says_that_it_has_ended(stocked, monkeypatch, runs):
    """Each file, also one that comes while it trains, and each folder as it is then."""
    monkeypatch.syspath_prepend(stocked)
    (stocked / "net.py").write_text(LATE_NET)
    (stocked / "late.py").write_text("SCALE = 1.0\n")
    settled, lacking, ended = {}, [], []
    fsync, end = os.fsync, Tables.end

    def settle(number):
        found = os.fstat(number)
        settled[found.st_ino] = found.st_mtime_ns
        fsync(number)

    def look(self, run_id, *arguments):
        [folder] = stocked.glob(f"mlruns/*/{run_id}")
        paths = [folder.parent, folder, *folder.rglob("*")]
        lacking.extend(path for path in paths if settled.get(path.stat().st_ino) != path.stat().st_mtime_ns)
        ended.append({path.name for path in paths})
        end(self, run_id, *arguments)

    monkeypatch.setattr(os, "fsync", settle)
    monkeypatch.setattr(Tables, "end", look)
    rates = ",".join(f"0.{number + 1}" for number in range(runs))
    words = ["model=custom", "model._target_=net.Net", "+model.in_features=1", "+model.out_features=1"]
    gdexp.launch([*words, "trainer.epochs=2", f"optimizer.lr={rates}"], multirun=runs > 1)
    assert len(ended) >= runs and not lacking
    assert sum({"late.py", "weights.safetensors", "config.yaml"} <= names for names in ended) == runs


KILLED = (
    "import os, gdexp; from gdexp.tracking.sqlite import Tables;"
    "Tables.add_run = lambda *arguments: os.kill(os.getpid(), 9); gdexp.launch(['trainer.epochs=1'])"
)


def test_run_that_was_killed_before_its_row_leaves_no_folder(stocked):
    """Its folder is whole by then, so only what the store says tells it from another's."""
    ours = os.environ | {"PYTHONPATH": str(SCRIPT.parents[1])}
    assert subprocess.run([sys.executable, "-c", KILLED], env=ours).returncode == -9
    [folder] = stocked.glob("mlruns/gdexp/*")
    assert (folder / "artifacts/config.yaml").exists() and rows(stocked) == []
    others = stocked / "mlruns/gdexp" / ("a" * 32) / "artifacts"  # of another store beside this one
    others.mkdir(parents=True)
    gdexp.launch(["trainer.epochs=1"])
    assert not folder.exists() and others.is_dir() and [status for _, status in rows(stocked)] == ["FINISHED"]


def test_last_checkpoint_is_there_before_the_run_says_that_it_has_ended(stocked, monkeypatch):
    from gdexp.checkpoint import Checkpoints

    seen, write = [], Checkpoints._write
    monkeypatch.setattr(Checkpoints, "_write", lambda *a: (seen.extend(rows(stocked)), write(*a)))
    gdexp.launch(["trainer.epochs=4", "trainer.checkpoint_every=2"])
    assert {status for _, status in seen} == {"RUNNING"}


def test_sync_keeps_of_several_runs_the_one_that_holds_the_record(stocked, empty_store):
    """A lost answer leaves empty ones that were made at the same time; what others have written stays."""
    [run_id] = gdexp.launch(["trainer.epochs=3"]).run_id
    (stocked / "far").mkdir()
    shutil.copy(empty_store, stocked / "far/far.db")
    uri = f"sqlite:///{stocked}/far/far.db"
    far = MlflowClient(uri)

    def made(**tags):
        return far.create_run("0", 1000, {"gdexp.origin": run_id, "mlflow.user": "ann", **tags}).info.run_id

    empty, theirs = made(), made(note="a copy of mine")
    holds = made()
    far.log_metric(holds, "train_loss", 9.0, step=1)
    again = made()
    far.set_terminated(theirs, "FINISHED")
    for _ in range(2):
        sync(stocked / "mlflow.db", uri)
        stages = {i: far.get_run(i).info.lifecycle_stage for i in (empty, again, theirs, holds)}
        assert stages == {empty: "deleted", again: "deleted", theirs: "active", holds: "active"}
    assert sorted(m.step for m in far.get_metric_history(holds, "train_loss")) == [1, 1, 2, 3]
    assert far.get_run(holds).info.status == "FINISHED"


@pytest.mark.parametrize("writer", ["auto", "client"])
def test_store_at_rest_is_one_file_that_others_read(stocked, writer):
    gdexp.launch(["trainer.epochs=1", f"tracking.writer={writer}"])
    assert (stocked / "mlflow.db").read_bytes()[18:20] == b"\x01\x01"  # no write-ahead log
    assert not list(stocked.glob("mlflow.db-*")) and len(gdexp.runs()) == 1
    assert (stocked / "mlflow.db").read_bytes()[18:20] == b"\x01\x01"
