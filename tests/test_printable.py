"""Names and values that a stranger wrote are shown as they are, and do nothing to where they are shown."""

import csv
import io
import re
import sqlite3
import subprocess
from pathlib import Path

import pytest

import gdexp
from gdexp.compare import main as compare
from gdexp.rerun import rerun
from gdexp.resume import resume
from gdexp.store import main as store

EVIL = "=cmd|'/c calc'!A1 \x1b]0;owned\x07\x1b[2J $\\frac{$ \u202egnp.exe <script>alert(1)</script> `touch harmed`"
FORBIDDEN = ("\x1b", "\x07", "\u202e")


@pytest.fixture
def runs(stocked):
    """Train two settings of two seeds, and give names, a param and a metric of theirs a stranger's text."""
    table = gdexp.launch(["optimizer.lr=0.01,0.02", "seed=0,1", "trainer.epochs=2"], multirun=True)
    connection = sqlite3.connect("mlflow.db")
    connection.create_function("evil", 0, lambda: EVIL)
    with connection:
        connection.execute("UPDATE runs SET name=evil()")
        connection.execute("UPDATE experiments SET name=evil() WHERE experiment_id=1")
        connection.execute("UPDATE params SET value=evil() WHERE key='optimizer.lr' AND value='0.02'")
    connection.close()
    return list(table.run_id)


def test_terminal_gets_no_control_characters(runs, capsys):
    for words in ([], runs, ["nothing such \x1b[2J"]):
        try:
            compare(words)
        except SystemExit as end:
            assert end.code == 1
        shown = capsys.readouterr()
        assert not any(c in shown.out + shown.err for c in FORBIDDEN)
        assert "\\x1b[2J" in shown.out + shown.err


def test_pictures_and_report_take_any_text(runs, capsys):
    compare(["--html", "report.html", "--out", "pictures"])
    page = Path("report.html").read_text()
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page
    assert not any(c in page for c in FORBIDDEN) and len(list(Path("pictures").glob("*.png"))) >= 2


def test_spreadsheet_finds_no_formula(runs, capsys):
    compare(["--csv", "-"])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {row["optimizer.lr"][:5] for row in rows} == {"0.01", "'=cmd"}
    assert all(float(row["mean"]) > 0 for row in rows)


def test_command_line_is_one_word_a_param(runs, capsys):
    """A shell that runs the line that is shown sees the words that it stands for."""
    compare([])
    line = re.search("On fresh seeds: (.*)", capsys.readouterr().out)[1]
    done = subprocess.run(
        ["bash", "-c", f"python() {{ printf '%s\\0' \"$@\"; }}; {line}"],
        capture_output=True,
        check=True,
    )
    words = done.stdout.decode().split("\0")
    assert f"optimizer.lr={EVIL},0.01" in words
    assert not Path("harmed").exists()


@pytest.mark.parametrize("key", ["hydra.callbacks.x._target_", "model._target_", "x y.$(touch harmed)"])
def test_no_line_is_offered_that_would_run_something_else(runs, capsys, key):
    connection = sqlite3.connect("mlflow.db")
    with connection:
        connection.execute("INSERT OR REPLACE INTO params SELECT ?, 'os.system', run_uuid FROM runs", (key,))
    connection.close()
    compare([])
    assert "On fresh seeds" not in capsys.readouterr().out


COMMANDS = {
    "rerun": lambda run_id: rerun([run_id]),
    "resume": lambda run_id: resume([run_id, "trainer.epochs=4"]),
    "compare": lambda run_id: compare([run_id]),
    "check": lambda run_id: store(["check"]),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_no_foreign_name_begins_a_line_of_its_own(stocked, capsys, command):
    [run_id] = gdexp.launch(["trainer.epochs=2", "trainer.checkpoint_every=1"]).run_id
    connection = sqlite3.connect("mlflow.db")
    status = "RUNNING" if command == "check" else "FINISHED"
    with connection:
        connection.execute("UPDATE runs SET name='EVIL\ngdexp: fake\r\x1b[2Jline', status=?", (status,))
        if command == "rerun":
            connection.execute("UPDATE tags SET value='EVIL\ngdexp: fake' WHERE key='gdexp.torch'")
    connection.close()
    capsys.readouterr()
    refused = ""
    try:
        COMMANDS[command](run_id)
    except (SystemExit, ValueError) as end:
        refused = str(end)
    shown = capsys.readouterr()
    said = shown.out + shown.err + refused
    assert not any(c in said for c in (*FORBIDDEN, "\r")) and "EVIL" in said
    assert not [line for line in said.splitlines() if line.startswith("gdexp: fake")]
