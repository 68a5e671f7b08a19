"""Signals: seen whatever the user's code does, answered with a state that goes on."""

import re
import signal
import time

import pytest

import gdexp

DEAF = (
    "import time\n"
    "from pathlib import Path\n"
    "from gdexp import stop\n"
    "def hook(epoch, model):\n"
    "    while epoch.epoch == 3 and not Path('go').exists():\n"
    "        Path('in').touch()\n"
    "        if stop.requested is not None:\n"
    "            Path('noted').touch()\n"
    "        try:\n"
    "            time.sleep(0.01)\n"
    "        except:\n"
    "            Path('swallowed').touch()\n"
)
WORDS = ["trainer.on_epoch=[deaf.hook]", "trainer.epochs=30", "trainer.log_every=1000"]


def wait_for(path):
    for _ in range(6000):
        if path.exists():
            return
        time.sleep(0.01)
    raise TimeoutError(path)


@pytest.fixture
def deaf(start_run, stocked):
    """A run within code that swallows every interruption until there is a file `go`."""
    (stocked / "deaf.py").write_text(DEAF)
    process = start_run(*WORDS)
    wait_for(stocked / "in")
    return process


def test_interruption_is_answered_at_the_next_step(deaf, stocked, gdexp_run):
    deaf.send_signal(signal.SIGINT)
    wait_for(stocked / "noted")
    (stocked / "go").touch()
    errors = deaf.communicate(timeout=60)[1]
    assert deaf.returncode == 130 and not (stocked / "swallowed").exists()
    [line] = errors.splitlines()
    epoch, run_id = re.fullmatch(
        r"interrupted after epoch (\d+); to go on: python -m gdexp.resume (\w+)", line
    ).groups()
    assert list(gdexp.runs().status) == ["KILLED"] and epoch in ("3", "4")
    done = gdexp_run(run_id, module="gdexp.resume")
    assert done.returncode == 0 and f"goes on after epoch {epoch}" in done.stdout
    [alone] = gdexp.launch(WORDS).train_loss
    table = gdexp.runs()
    assert table.set_index("run_id").train_loss[run_id] == alone and set(table.status) == {"FINISHED"}


@pytest.mark.slow
def test_second_interruption_is_raised_and_the_third_ends_the_process(deaf, stocked):
    deaf.send_signal(signal.SIGINT)
    wait_for(stocked / "noted")
    deaf.send_signal(signal.SIGINT)
    wait_for(stocked / "swallowed")
    deaf.send_signal(signal.SIGINT)
    assert deaf.wait(60) == -signal.SIGINT


@pytest.mark.slow
def test_terminal_that_is_closed_ends_a_run_but_not_under_nohup(start_run, stocked):
    (stocked / "deaf.py").write_text(DEAF)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = start_run(*WORDS)  # a process inherits what is ignored
    finally:
        signal.signal(signal.SIGHUP, before)
    wait_for(stocked / "in")
    process.send_signal(signal.SIGHUP)
    (stocked / "go").touch()
    assert process.wait(60) == 0
    for name in ("in", "go", "noted"):
        (stocked / name).unlink(missing_ok=True)
    process = start_run(*WORDS)
    wait_for(stocked / "in")
    process.send_signal(signal.SIGHUP)
    wait_for(stocked / "noted")
    (stocked / "go").touch()
    assert process.wait(60) == 129 and sorted(gdexp.runs().status) == ["FINISHED", "KILLED"]


def test_host_is_interrupted_between_two_steps(stocked):
    (stocked / "ctrl_c.py").write_text(
        "import signal\n"
        "def hook(epoch, model):\n"
        "    if epoch.epoch == 3:\n"
        "        try:\n"
        "            signal.raise_signal(signal.SIGINT)\n"
        "        except BaseException:\n"
        "            print('swallowed')\n"
    )
    before = signal.getsignal(signal.SIGINT)
    words = ["trainer.on_epoch=[ctrl_c.hook]", "trainer.epochs=30"]
    with pytest.raises(KeyboardInterrupt) as interruption:
        gdexp.launch(words)
    assert "after epoch" in interruption.value.__notes__[0] and list(gdexp.runs().status) == ["KILLED"]
    with pytest.raises(KeyboardInterrupt):
        gdexp.launch([*words, "optimizer.lr=0.01,0.02"], multirun=True)
    assert signal.getsignal(signal.SIGINT) is before and set(gdexp.runs().status) == {"KILLED"}
    assert list(gdexp.launch(["trainer.epochs=2"]).status) == ["FINISHED"]


def test_run_that_has_come_to_its_end_is_not_called_interrupted(stocked, gdexp_run):
    (stocked / "late.py").write_text(
        "import os, signal\ndef hook(epoch, model):\n    if epoch.epoch == 5: os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    done = gdexp_run("trainer.on_epoch=[late.hook]", "trainer.epochs=5")
    assert done.returncode == 0 and "Outcome: completed" in done.stdout and done.stderr == ""
    assert list(gdexp.runs().status) == ["FINISHED"]
