"""Locks that say that a process lives: taken whole or not at all, by any of its threads."""

import os
import sqlite3
import threading

import pytest

import gdexp
from gdexp.tracking import locks
from gdexp.tracking.sqlite import Tables


def test_a_lock_that_cannot_be_written_leaves_nothing(stocked, monkeypatch):
    """As on a full disk; the next run of the same process takes the same lock."""
    write = os.write

    def full(number, content):
        if content == locks.system().encode():
            raise OSError(28, "No space left on device")
        return write(number, content)

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(ValueError, match="No space left"):
            gdexp.launch(["trainer.epochs=1"])
    assert not list(stocked.glob(".gdexp-*"))
    assert list(gdexp.launch(["trainer.epochs=1"]).status) == ["FINISHED"]


def test_threads_share_the_lock_of_their_process(tmp_path):
    file, threads = tmp_path / ".gdexp-x", 8
    begin, taken = threading.Barrier(threads), threading.Barrier(threads)

    def work():
        begin.wait()
        locks.take(file)
        taken.wait()
        locks.release(file)

    every = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
    for one in every:
        one.start()
    for one in every:
        one.join(60)
    assert not any(one.is_alive() for one in every) and not file.exists()


def test_a_lock_that_was_removed_before_it_was_held_is_made_again(tmp_path, monkeypatch):
    """By one who took it for that of a process that is gone."""
    file, flock, removed = tmp_path / ".gdexp-x", locks.fcntl.flock, []

    def late(number, how):
        if not removed:
            removed.append(file.unlink())
        flock(number, how)

    monkeypatch.setattr(locks.fcntl, "flock", late)
    locks.take(file)
    assert locks.is_held(file)
    locks.release(file)


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
