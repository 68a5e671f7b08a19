"""Locks that say that a process lives: taken whole or not at all, by any of its threads."""

import os
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import gdexp
from gdexp import store
from gdexp.tracking import locks
from gdexp.tracking.sqlite import Tables

ROOT = Path(__file__).parents[1]


def test_a_lock_that_cannot_be_written_leaves_nothing(stocked, monkeypatch):
    """As on a full disk; the next run of the same process takes the same lock."""
    write = os.write

    def full(number, content):
        if content.startswith(locks.system().encode()):
            raise OSError(28, "No space left on device")
        return write(number, content)

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(ValueError, match="No space left"):
            gdexp.launch(["trainer.epochs=1"])
    assert not list(stocked.glob(".gdexp-*"))
    assert list(gdexp.launch(["trainer.epochs=1"]).status) == ["FINISHED"]


def test_threads_share_the_lock_of_their_process(tmp_path):
    store, threads = tmp_path / "mlflow.db", 8
    begin, taken = threading.Barrier(threads), threading.Barrier(threads)

    def work():
        begin.wait()
        locks.take(store, "x")
        taken.wait()
        locks.release(store, "x")

    every = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
    for one in every:
        one.start()
    for one in every:
        one.join(60)
    assert not any(one.is_alive() for one in every) and not any(tmp_path.iterdir())


def test_a_lock_that_was_removed_before_it_was_held_is_made_again(tmp_path, monkeypatch):
    """By one who took it for that of a process that is gone."""
    file, flock, removed = tmp_path / ".gdexp-x", locks.fcntl.flock, []

    def late(number, how):
        if not removed:
            removed.append(file.unlink())
        flock(number, how)

    monkeypatch.setattr(locks.fcntl, "flock", late)
    locks.take(tmp_path / "mlflow.db", "x")
    assert locks.is_held(file)
    locks.release(tmp_path / "mlflow.db", "x")


def test_a_claim_that_cannot_be_made_holds_no_lock(stocked, monkeypatch):
    execute = Tables.execute

    def full(self, sql, *values):
        if "INTO gdexp_claims" in sql:
            raise sqlite3.OperationalError("database or disk is full")
        execute(self, sql, *values)

    with monkeypatch.context() as patched:
        patched.setattr(Tables, "execute", full)
        with pytest.raises(sqlite3.OperationalError):
            gdexp.launch(["trainer.epochs=1", "optimizer.lr=0.1,0.2"], multirun=True)
    assert not list(stocked.glob(".gdexp-*"))


KILLED = (
    "import os, gdexp; from gdexp.tracking import begins;"
    "begins.note = lambda *arguments: os.kill(os.getpid(), 9); gdexp.launch(['trainer.epochs=1'])"
)


def test_the_next_command_removes_the_lock_of_one_that_was_killed_before_its_row(stocked):
    """And leaves that of another store, which says that a run of it is dead, and that of a process that lives."""
    ours = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", KILLED], env=ours).returncode == -9
    [left] = stocked.glob(".gdexp-*")
    other = left.with_name(f".gdexp-{'a' * 32}")
    other.write_text(left.read_text().replace("mlflow.db", "other.db"))
    draft = left.with_name(f"{left.name}-half")
    draft.mkdir()
    locks.take(stocked / "mlflow.db", "b" * 32)
    alive = left.with_name(f".gdexp-{'b' * 32}")
    (making := alive.with_name(f"{alive.name}-half")).mkdir()
    gdexp.launch(["trainer.epochs=1"])
    assert not left.exists() and not draft.exists() and other.exists() and alive.exists() and making.is_dir()
    locks.release(stocked / "mlflow.db", "b" * 32)


@pytest.mark.parametrize("age", [0, -(10**6), 10**6])
def test_drafts_are_judged_by_their_process_never_by_a_clock(stocked, capsys, age):
    now = time.time()
    dead, alive = (stocked / f".gdexp-{letter * 32}-half" for letter in "ab")
    for draft in (dead, alive):
        draft.mkdir()
        os.utime(draft, (now + age, now + age))
    locks.take(stocked / "mlflow.db", "b" * 32)
    store.check(stocked / "mlflow.db")
    assert not dead.exists() and alive.is_dir()
    locks.release(stocked / "mlflow.db", "b" * 32)
