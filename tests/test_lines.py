"""What becomes of the terminal decides nothing about training."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

import gdexp

ROOT = Path(__file__).resolve().parents[1]
SINKS = {
    "full": ">/dev/full",
    "closed": ">&-",
    "nobody reads": "| true",
    "both full": ">/dev/full 2>/dev/full",
    "both closed": ">&- 2>&-",
}


@pytest.mark.parametrize("sink", [s if s == "full" else pytest.param(s, marks=pytest.mark.slow) for s in SINKS])
def test_run_whose_lines_go_nowhere(stocked, sink):
    ours = os.environ | {"PYTHONPATH": str(ROOT)}
    line = f"set -o pipefail; {sys.executable} -m gdexp.run trainer.epochs=20 {SINKS[sink]}"
    done = subprocess.run(["bash", "-c", line], env=ours, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(gdexp.runs().status) == ["FINISHED"]


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_terminal_without_our_letters(stocked, encoding):
    (stocked / "greek.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Linear):\n"
        "    def __init__(self):\n        super().__init__(1, 1)\n"
        "    def training_loss(self, batch):\n"
        "        x, y = batch\n        return ((self(x) - y) ** 2).mean(), {'größe η': 1.5}\n",
        encoding="utf-8",
    )
    ours = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "gdexp.run", "model=custom", "model._target_=greek.Net", "loss=none"]
    done = subprocess.run(command, env=ours, capture_output=True)
    assert done.returncode == 0 and b"Outcome: completed" in done.stdout and not done.stderr, done.stderr
    assert list(gdexp.runs().status) == ["FINISHED"]


class Bare:
    """A host's own output, which takes text and knows nothing else."""

    def write(self, text):
        pass


class Broken(Bare):
    def write(self, text):
        raise OSError(28, "No space left on device")


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("stream", [lambda: None, Bare, Broken, closed])
def test_host_without_a_terminal(stocked, monkeypatch, stream):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream())
        patch.setattr(sys, "stderr", stream())
        alone = gdexp.launch(["trainer.epochs=20"])
        sweep = gdexp.launch(["trainer.epochs=20", "optimizer.lr=0.01,0.02"], multirun=True)
    assert list(alone.status) + list(sweep.status) == ["FINISHED"] * 3


def test_link_that_cannot_be_made_takes_nothing_from_the_run(stocked, monkeypatch, capsys):
    from gdexp.tracking import view

    monkeypatch.setattr(view, "address", lambda *_: 1 / 0)
    assert list(gdexp.launch(["trainer.epochs=20"]).status) == ["FINISHED"]
    table = gdexp.launch(["trainer.epochs=20", "optimizer.lr=0.01,0.02"], multirun=True)
    shown = capsys.readouterr().out
    assert "Outcome: completed" in shown and "Best: " in shown and set(table.status) == {"FINISHED"}
