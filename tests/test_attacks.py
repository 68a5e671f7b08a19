"""A record is whole or not there, wherever its command is killed, interrupted or refused by the system."""

import errno
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from gdexp.tracking.store import ensure

pytestmark = pytest.mark.slow

SCRIPT, SHIM = Path(__file__).with_name("attacked.py"), Path(__file__).with_name("attacked.c")
GROWS, CHANGES, READS, WAITS = 1, 2, 4, 8  # kinds of system calls, as attacked.c has them
WORDS = ["trainer.epochs=40", "data.val_fraction=0.3", "trainer.checkpoint_every=10"]


class Done(NamedTuple):
    code: int
    out: str
    err: str


class Host:
    """A process that has imported everything and does commands, each in a process of its own."""

    def __init__(self, shim: Path | None) -> None:
        ours = os.environ | {"PYTHONPATH": str(SCRIPT.parents[1]), "MLFLOW_DISABLE_TELEMETRY": "true"}
        ours |= {"LD_PRELOAD": str(shim)} if shim else {}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen([sys.executable, str(SCRIPT)], env=ours, text=True, **pipes)
        assert self.process.stdout.readline() == "ready\n"

    def do(self, folder: Path, words, module="gdexp.run", **attack) -> Done:
        job = {"folder": str(folder), "words": words, "module": module, "below": str(folder), **attack}
        print(json.dumps(job), file=self.process.stdin, flush=True)
        code = int(self.process.stdout.readline())
        done = Done(code, *((folder.parent / name).read_text() for name in ("stdout", "stderr")))
        assert "Traceback" not in done.err, done.err
        return done

    def places(self, folder: Path, words, kinds, most, module="gdexp.run") -> range:
        """Return some of the places of a command, evenly spread, for which it is done once, undisturbed."""
        assert self.do(folder, words, module, calls=kinds, place=0).code == 0
        count = int((folder.parent / "count").read_text())
        return range(1, count + 1, max(count // most, 1))


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    if (compiler := shutil.which("cc")) is None or not sys.platform.startswith("linux"):
        pytest.skip("needs a C compiler: apt-get install gcc libc6-dev")
    shim = tmp_path_factory.mktemp("shim") / "attacked.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(shim), str(SHIM), "-ldl"], check=True)
    host = Host(shim)
    yield host
    host.process.stdin.close()
    host.process.wait()


@pytest.fixture(scope="module")
def host_of_lines():
    host = Host(None)
    yield host
    host.process.stdin.close()
    host.process.wait()


@pytest.fixture
def fresh(here):
    """Make a folder with an empty store, or with what is in another one."""
    made = iter(range(10**6))

    def make(source: Path | None = None) -> Path:
        folder = here / f"{next(made)}" / "work"
        if source is None:
            folder.mkdir(parents=True)
            ensure(folder / "mlflow.db")
        else:
            shutil.copytree(source, folder)
        (folder.parent / "cache").mkdir()
        return folder

    return make


def rows(folder, sql="SELECT run_uuid, status FROM runs", *values):
    connection = sqlite3.connect(folder / "mlflow.db")
    try:
        return connection.execute(sql, values).fetchall()
    finally:
        connection.close()


def bits(folder, run_id):
    """Return all numbers of a run, and its weights."""
    numbers = rows(folder, "SELECT key, step, value FROM metrics WHERE run_uuid=? ORDER BY 1, 2, 3", run_id)
    weights = [path.read_bytes() for path in folder.glob(f"mlruns/*/{run_id}/artifacts/weights.safetensors")]
    return numbers, weights


def named(out):
    """Return the ids of the runs that a command says it has recorded."""
    return set(re.findall(r"Run: .*\((\w{32})\)", out))


def litter(folder):
    """Return what should never stay, or lies outside of the store."""
    halves = (".part", "-journal")
    inside = [p for p in folder.rglob("*") if p.name.endswith(halves) or p.name.startswith((".gdexp", "gdexp-kept"))]
    known = {"mlflow.db", "mlflow.db-wal", "mlflow.db-shm", "mlruns"}
    return [*inside, *(p for p in folder.iterdir() if p.name not in known)]


def healed(host, folder, done):
    """Let the next command look at the store, and check what is there then; return the runs with their statuses."""
    check = host.do(folder, ["check"], "gdexp.store")
    assert check.code == 0 and not litter(folder), (done, check)
    runs = dict(rows(folder))
    assert named(done.out) <= set(runs) and set(runs.values()) <= {"FINISHED", "KILLED", "FAILED"}, (done, runs)
    assert {path.name for path in folder.glob("mlruns/*/*")} == set(runs), (done, check)
    for run_id in runs:
        assert list(folder.glob(f"mlruns/*/{run_id}/artifacts/*")), (done, check)
    return runs


def goes_on(host, folder, runs, alone):
    """Resume what was cut off, and check that all is as in the undisturbed run."""
    for run_id, status in runs.items():
        if status != "FINISHED":
            done = host.do(folder, [run_id], "gdexp.resume")
            assert done.code == 0 and not done.err, done
        assert bits(folder, run_id) == alone
    assert {status for _, status in rows(folder)} <= {"FINISHED"}


@pytest.fixture
def alone(host, fresh):
    """The undisturbed run."""
    folder = fresh()
    assert host.do(folder, WORDS).code == 0
    [(run_id, _)] = rows(folder)
    return bits(folder, run_id)


@pytest.mark.parametrize("name", ["SIGKILL", "SIGINT", "SIGTERM", "SIGHUP"])
def test_signal_at_any_system_call(host, fresh, alone, name):
    number = getattr(signal, name)
    codes = {0: 0, (-number if name == "SIGKILL" else 128 + number): 0}
    for place in host.places(fresh(), WORDS, GROWS | CHANGES, 50 if name == "SIGKILL" else 25):
        folder = fresh()
        done = host.do(folder, WORDS, calls=GROWS | CHANGES, place=place, signal=number)
        codes[done.code] += 1  # it is one of the two
        if name != "SIGKILL":
            assert "RUNNING" not in dict(rows(folder)).values() and not litter(folder), (place, done)
            assert (done.code == 0) == ("Outcome: completed" in done.out), (place, done)
            assert done.code == 0 or done.err.startswith("interrupted"), (place, done)
        runs = healed(host, folder, done)
        assert len(runs) <= 1 and (done.code != 0 or [*runs.values()] == ["FINISHED"]), (place, done)
        goes_on(host, folder, runs, alone)
        shutil.rmtree(folder.parent)
    assert max(codes.values()) > 10 and codes[128 + number if name != "SIGKILL" else -number] > 10


FAILURES = {  # the error, the calls that meet it, how many of them are tried
    "ENOSPC": (GROWS, 30),
    "EROFS": (GROWS | CHANGES, 20),
    "EIO": (GROWS | CHANGES | READS, 20),
    "EINTR": (WAITS, 20),
}


@pytest.mark.parametrize(
    ("name", "for_good"), [("EINTR", False), *((e, g) for e in ("ENOSPC", "EROFS", "EIO") for g in (False, True))]
)
def test_failure_at_any_system_call(host, fresh, alone, name, for_good):
    """Nothing is recorded and a line says why, or the run is whole: here, or in the user's cache until next time."""
    kinds, most = FAILURES[name]
    outcomes = set()
    for place in host.places(fresh(), WORDS, kinds, most):
        folder = fresh()
        attack = {"calls": kinds, "place": place, "error": getattr(errno, name), "for_good": for_good}
        done = host.do(folder, WORDS, **attack)
        assert done.code in (0, 1) and (done.code == 0 or done.err.startswith("gdexp: ")), (place, done)
        runs = healed(host, folder, done)
        trained = "Outcome: completed" in done.out
        assert [*runs.values()] == (["FINISHED"] if trained else []), (place, done)
        assert done.code == 0 or not trained or "is kept in" in done.err.splitlines()[-1], (place, done)
        goes_on(host, folder, runs, alone)
        outcomes.add((done.code, trained))
        shutil.rmtree(folder.parent)
    assert (0, True) in outcomes


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_signal_at_any_line_leaves_no_run_open(host_of_lines, fresh, name, code):
    places, ended = [1, 30, *range(60, 1600, 90), 10**9], 0
    for place in places:
        folder = fresh()
        done = host_of_lines.do(folder, ["trainer.epochs=40"], line=place, signal=getattr(signal, name))
        assert done.code in (0, code) and (done.code == 0 or place < 10**9), (place, done)
        for run_id, status in rows(folder):
            assert status == ("FINISHED" if done.code == 0 else "KILLED"), (place, done)
            texts = {path.name for path in folder.glob(f"mlruns/*/{run_id}/artifacts/*")}
            assert {"config.yaml", "weights.safetensors"} <= texts
            ended += 1
        assert not litter(folder)
    assert ended > len(places) / 2


def test_kill_at_any_line_leaves_a_run_that_goes_on(host_of_lines, fresh):
    whole, codes = fresh(), set()
    assert host_of_lines.do(whole, ["trainer.epochs=40"]).code == 0
    alone = bits(whole, rows(whole)[0][0])
    for place in range(100, 1600, 250):
        folder = fresh()
        done = host_of_lines.do(folder, ["trainer.epochs=40"], line=place, signal=signal.SIGKILL)
        codes.add(done.code)
        goes_on(host_of_lines, folder, healed(host_of_lines, folder, done), alone)
    assert codes <= {0, -signal.SIGKILL} and -signal.SIGKILL in codes
