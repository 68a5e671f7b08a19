"""The command line and `launch`, by what they leave behind."""

import random
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient

import gdexp

REFUSED = {
    "+optimizer.lrr=1": "`optimizer.lrr`",
    "optimizer.lrr=1": "did you mean `optimizer.lr`?",
    "optimizer=sdg": "did you mean `sgd`?",
    "optimizer=": "`optimizer=`",
    "optimizer=null": "`optimizer=null`: choose from adadelta, adafactor",
    "optimizer.lr=abc": "`optimizer.lr` must be a number",
    "optimizer.lr=null": "`optimizer.lr` must be a number",
    "optimizer.lr=true": "`optimizer.lr` must be a number",
    "optimizer.lr=nan": "`optimizer.lr` must be finite",
    "optimizer.lr=inf": "`optimizer.lr` must be finite",
    "optimizer.lr=-0.1": "`optimizer.lr` must not be negative",
    "optimizer.lr=???": "`optimizer.lr` is missing",
    "optimizer.lr=0.1,0.2": "add -m",
    "optimizer.momentum=1.5": "`optimizer.momentum` must be in [0, 1), got 1.5",
    "optimizer.nesterov=true": "Nesterov",
    "optimizer=adam optimizer.betas=[0.9,1.5]": "Invalid beta",
    "optimizer=adam optimizer.betas=[0.9]": "`optimizer.betas` must be a list of 2",
    "seed=x": "`seed` must be a whole number",
    "seed=-1": "`seed`",
    "trainer.epochs=1.5": "`trainer.epochs`",
    "trainer.epochs=0": "`trainer.epochs`",
    "trainer.batch_size=0": "`trainer.batch_size`",
    "trainer.device=tpu9": "`trainer.device`",
    "trainer.dtype=float8": "`trainer.dtype` must be one of",
    "trainer.on_epoch=[nope.hook]": "`trainer.on_epoch[0]`",
    "+trainer.epoch=3": "did you mean `epochs`?",
    "data.val_fraction=1.5": "`data.val_fraction`",
    "data.val_fraction=4": "`data.val_fraction=4`",
    "data.standardize=yes": "`data.standardize`",
    "data=table data.path=none.csv data.target=y": "no file 'none.csv'",
    "data=diabetes data.features=[bmii]": "no 'bmii'",
    "data=diabetes loss=cross_entropy": "continuous",
    "data=iris": "`loss=mse` needs a continuous target",
    "data=digits loss=cross_entropy model.out_features=3": "3 outputs",
    "model.in_features=3": "`model.in_features` is 3",
    "model=mlp model.activation=rel": "`model.activation`",
    "model=mlp model.hidden=[0]": "`model.hidden`",
    "model=custom": "`model._target_` is missing",
    "model=custom model._target_=nope.Net": "no module 'nope'",
    "model=custom model._target_=torch.nn.Linea": "did you mean `Linear`?",
    "loss=none": "training_loss",
    "foo=1": "`foo` is not a key",
    "experiments=nope": "`experiments=nope`",
    "tracking.uri=sqlite:////proc/x/mlflow.db": "`tracking.uri`",
}


@pytest.mark.parametrize("words", REFUSED)
def test_launch_refuses_in_one_line_and_records_nothing(here, words, capsys):
    with pytest.raises(ValueError) as refusal:
        gdexp.launch(words.split())
    assert REFUSED[words] in str(refusal.value) and "\n" not in str(refusal.value)
    assert list(here.iterdir()) == [] and capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "words", ["optimizer=sdg", "optimizer.lr=nan", "optimizer.lr=0.1,0.2", "optimizer.lrr=1", "bare"]
)
def test_command_refuses_in_one_line_with_exit_code_1(gdexp_run, here, words):
    done = gdexp_run(*words.split())
    assert done.returncode == 1 and done.stdout == "" and list(here.iterdir()) == []
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("gdexp: ")


def test_read_only_directory_is_refused(here, gdexp_run):
    (here / "file").write_text("not a folder")
    done = gdexp_run(f"tracking.uri=sqlite:///{here}/file/mlflow.db")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interruption_finishes_the_record(start_run, stocked, number, code):
    run = start_run("trainer.epochs=100000000", "trainer.log_every=100")
    assert run.stdout is not None and run.stdout.readline().startswith("Epoch [100/")
    run.send_signal(number)
    run.stdout.read()
    assert run.wait(60) == code
    [found] = gdexp.runs().to_dict("records")
    assert found["status"] == "KILLED" and found["train_loss"] >= 0
    assert gdexp.load(found["run_id"]).linear.weight.isfinite().all()


def test_sweep_goes_on_after_a_job_that_fails(gdexp_run, stocked):
    (stocked / "moody.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Linear):\n"
        "    def __init__(self, fail=0):\n"
        "        super().__init__(1, 1)\n"
        "        self.fail = fail\n"
        "    def forward(self, x):\n"
        "        if self.fail and self.training: raise KeyError('mood')\n"
        "        return super().forward(x)\n"
    )
    done = gdexp_run("-m", "model=custom", "model._target_=moody.Net", "+model.fail=0,1,0", "optimizer.lr=0.01,9")
    table = gdexp.runs()
    assert done.returncode == 1 and "KeyError: 'mood'" in done.stderr and "moody.py" in done.stderr
    assert sorted(table.status) == ["FAILED"] * 2 + ["FINISHED"] * 4
    assert "2 failed" in done.stdout and done.stderr.count("failed: KeyError: 'mood'") == 2
    assert list(table.outcome).count("diverged") == 2
    assert set(table.name) == {f"fail={f} lr={lr}" for f in (0, 1) for lr in (0.01, 9)}


def test_diverged_run_keeps_finite_numbers_only(stocked):
    [run] = gdexp.launch(["optimizer.lr=1e20"]).to_dict("records")
    assert run["outcome"] == "diverged" and run["status"] == "FINISHED"
    client = MlflowClient(f"sqlite:///{stocked}/mlflow.db")
    history = client.get_metric_history(run["run_id"], "train_loss")
    assert history and all(np.isfinite(m.value) and m.value < 1e300 for m in history)
    assert all(p.isfinite().all() for p in gdexp.load(run["run_id"]).parameters())


def test_rising_loss_is_said(stocked, capsys):
    gdexp.launch(["optimizer.lr=0.121", "trainer.epochs=300"])
    assert "rising" in capsys.readouterr().out


def test_import_is_light():
    code = "import sys, gdexp; print(sorted({'torch', 'mlflow', 'hydra', 'numpy', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize("flag", ["--help", "--cfg=job"])
def test_help_imports_neither_torch_nor_mlflow(here, flag):
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: print('loaded', {'torch', 'mlflow'} & set(sys.modules)))\n"
        f"sys.argv = ['gdexp', {flag!r}]\nimport gdexp.run\ngdexp.run.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.endswith("loaded set()\n") and ("adam" in done.stdout or "SGD" in done.stdout)


def test_launch_leaves_its_host_as_it_was(stocked):
    import gc

    def state():
        return (
            random.getstate(),
            np.random.get_state()[1].tolist(),
            torch.get_rng_state().tolist(),
            list(sys.path),
            torch.get_num_threads(),
            gc.isenabled(),
            signal.getsignal(signal.SIGINT),
            signal.getsignal(signal.SIGTERM),
        )

    before = state()
    first = gdexp.launch(["trainer.epochs=3"])
    thread = threading.Thread(target=lambda: gdexp.launch(["trainer.epochs=3", "seed=1"]))
    thread.start()
    thread.join()
    assert state() == before and len(gdexp.runs()) == 2 and list(first.status) == ["FINISHED"]


def test_launch_works_within_a_hydra_app(stocked):
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(stocked), version_base="1.2"):
        assert list(gdexp.launch(["trainer.epochs=1"]).status) == ["FINISHED"]
        assert compose(overrides=["+a=1"]).a == 1


def test_launch_of_a_sweep_has_a_row_for_the_run_that_fails(stocked):
    (stocked / "picky.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Linear):\n"
        "    def __init__(self, bad=0):\n"
        "        super().__init__(1, 1)\n"
        "        1 / (1 - bad)\n"
    )
    words = ["model=custom", "model._target_=picky.Net", "trainer.epochs=2"]
    table = gdexp.launch([*words, "+model.bad=0,1,2"], multirun=True)
    assert list(table.status) == ["FINISHED", "FAILED", "FINISHED"] and table.train_loss.notna().sum() == 2
    assert set(table.run_id) == set(gdexp.runs().run_id)
    with pytest.raises(ZeroDivisionError):
        gdexp.launch([*words, "+model.bad=1"])


def test_launch_sweeps(stocked):
    table = gdexp.launch(["optimizer.lr=0.001,0.01", "seed=0,1", "trainer.epochs=5"], multirun=True)
    assert list(table.name) == [f"lr={lr} seed={s}" for lr in (0.001, 0.01) for s in (0, 1)]
    assert set(gdexp.runs().run_id) == set(table.run_id)


@pytest.mark.slow
def test_many_commands_share_a_fresh_directory(start_run, here):
    running = [start_run("trainer.epochs=2", f"seed={i}") for i in range(6)]
    errors = [process.communicate(timeout=180)[1] for process in running]
    assert [process.returncode for process in running] == [0] * 6, errors
    assert len(gdexp.runs()) == 6


def test_dirty_flag_and_commit_are_recorded(stocked):
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["add", "mlflow.db"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *command], check=True)
    [run] = gdexp.launch(["trainer.epochs=1", f"tracking.uri=sqlite:///{stocked}/other.db"]).to_dict("records")
    tags = MlflowClient(f"sqlite:///{stocked}/other.db").get_run(run["run_id"]).data.tags
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    assert (tags["mlflow.source.git.commit"], tags["gdexp.git_dirty"]) == (head, "false")
