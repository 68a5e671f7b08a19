"""Life and death of runs: a lock tells them, never a clock, a host's name or a process number."""

import signal
import sqlite3
import time
from contextlib import closing

import pytest

import gdexp

FOREIGN = """
import os, socket, time
from pathlib import Path
now = time.time
time.time = lambda: now() - 600
socket.gethostname = lambda: "elsewhere"
os.getpid = lambda: 7
def hook(epoch, model):
    Path("in").touch()
    while not Path("go").exists():
        time.sleep(0.01)
"""
WAITING = ["trainer.epochs=3", "trainer.on_epoch=[foreign.hook]", "trainer.log_every=1000"]


def query(sql, *values):
    with closing(sqlite3.connect("mlflow.db", timeout=60)) as connection, connection:
        return connection.execute(sql, values).fetchall()


def statuses():
    return dict(query("SELECT run_uuid, status FROM runs"))


def waits(folder, process, name="in"):
    while not (folder / name).exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def litter(folder):
    return [*folder.rglob(".gdexp*"), *folder.rglob("*.part")]


@pytest.mark.slow
def test_run_lives_as_long_as_its_process(start_run, gdexp_run, stocked, capsys):
    """On another machine, by all that it says of itself, with a clock that is ten minutes behind."""
    (stocked / "foreign.py").write_text(FOREIGN)
    process = start_run(*WAITING)
    waits(stocked, process)
    [(run_id, _)] = statuses().items()
    query("UPDATE tags SET value='1' WHERE key='gdexp.heartbeat'")
    process.send_signal(signal.SIGSTOP)
    gdexp.launch(["trainer.epochs=1"])
    assert statuses()[run_id] == "RUNNING"
    process.send_signal(signal.SIGCONT)
    refused = gdexp_run(run_id, module="gdexp.resume")
    assert refused.returncode == 1 and "is still running" in refused.stderr.splitlines()[-1]
    query("UPDATE runs SET status='KILLED', end_time=1 WHERE run_uuid=?", run_id)  # as one did that knew no locks
    refused = gdexp_run(run_id, module="gdexp.resume")
    assert refused.returncode == 1 and "is still running" in refused.stderr.splitlines()[-1]
    query("UPDATE runs SET status='RUNNING', end_time=NULL WHERE run_uuid=?", run_id)
    process.kill()
    process.wait()
    capsys.readouterr()
    gdexp.launch(["trainer.epochs=1"])
    assert statuses()[run_id] == "KILLED" and f"({run_id}) is closed as KILLED" in capsys.readouterr().err
    assert not litter(stocked)
    (stocked / "go").touch()
    assert gdexp_run(run_id, module="gdexp.resume").returncode == 0
    assert statuses()[run_id] == "FINISHED" and not litter(stocked)


TAKEN = {
    "closed": ["UPDATE runs SET status='KILLED'"],
    "trained by another": ["UPDATE tags SET value='another' WHERE key='gdexp.process'"],
    "deleted for good": ["UPDATE runs SET lifecycle_stage='deleted'", "DELETE FROM runs"],
}


@pytest.mark.parametrize("how", TAKEN)
def test_writer_whose_run_was_taken_over_stops(stocked, how, capsys):
    (stocked / "taken.py").write_text(
        "import sqlite3, time\n"
        "from pathlib import Path\n"
        "def query(sql):\n"
        "    connection = sqlite3.connect('mlflow.db', timeout=60)\n"
        "    found = connection.execute(sql).fetchall()\n"
        "    connection.commit()\n"
        "    connection.close()\n"
        "    return found\n"
        "def count():\n"
        "    return query('SELECT count(*) FROM metrics')[0][0]\n"
        f"steps = {TAKEN[how]!r}\n"
        "def hook(epoch, model):\n"
        "    time.sleep(0.01)\n"
        "    if epoch.epoch > 10 and steps and count() > Path('seen').stat().st_size:\n"
        "        query(steps.pop(0))\n"
        "        Path('seen').write_text('x' * count())\n"
    )
    (stocked / "seen").touch()
    with pytest.raises(ValueError, match=f"{how}.*stops here") as refusal:
        gdexp.launch(["trainer.epochs=100000", "trainer.on_epoch=[taken.hook]", "trainer.checkpoint_every=1"])
    assert "\n" not in str(refusal.value) and capsys.readouterr().err == ""
    assert query("SELECT count(*) FROM metrics") == [((stocked / "seen").stat().st_size,)]
    assert not list(stocked.rglob("weights.safetensors")) and not list(stocked.glob("gdexp-kept*"))
    assert statuses() == {} if "deleted" in how else set(statuses().values()) < {"KILLED", "RUNNING"}
    assert not litter(stocked)
