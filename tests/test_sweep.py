"""Sweeps: what they expand to, that all is checked first, and that each job is the run it would be alone."""

import csv
import math
import signal
import sqlite3
import time
from pathlib import Path

import pytest
import torch

import gdexp
from gdexp.config.compose import compose
from gdexp.config.grid import linspace, logspace


def names(*words):
    return [job.name for job in compose(list(words), multirun=True)]


def test_logspace_is_exact_at_its_ends_and_at_powers_of_ten():
    assert logspace(1e-4, 1, 5).list == [0.0001, 0.001, 0.01, 0.1, 1.0]
    assert logspace(1000, 0.001, 7).list == [1000, 100, 10, 1, 0.1, 0.01, 0.001]
    found = logspace(0.003, 0.7, 50).list
    assert (found[0], found[-1], len(found)) == (0.003, 0.7, 50)
    ratios = [b / a for a, b in zip(found, found[1:], strict=False)]
    assert ratios == pytest.approx([(0.7 / 0.003) ** (1 / 49)] * 49)
    assert linspace(0, 1, 5).list == [0, 0.25, 0.5, 0.75, 1] and linspace(2, 3, 1).list == [2.0]


def test_axes_of_every_kind_make_a_grid_in_order():
    assert names("optimizer.lr=0.1,0.2", "seed=range(0,2)") == [
        f"lr={lr} seed={s}" for lr in (0.1, 0.2) for s in (0, 1)
    ]
    assert names("optimizer.lr=choice(0.1,0.2)", "seed=3") == ["lr=0.1", "lr=0.2"]
    assert names("optimizer=glob(ada*)") == [
        f"optimizer={n}" for n in ("adadelta", "adafactor", "adagrad", "adam", "adamax", "adamw")
    ]
    assert sorted(names("seed=shuffle(1,2,3)")) == ["seed=1", "seed=2", "seed=3"]
    assert names("optimizer.lr=logspace(0.01,1,3)") == ["lr=0.01", "lr=0.1", "lr=1.0"]
    assert names("model=mlp", "model.hidden=[16],[64,32]") == ["hidden=[16]", "hidden=[64,32]"]
    assert names("seed=1,1") == ["seed=1", "seed=1"] and names("seed=5") == [None]


def test_job_has_the_config_that_it_would_have_alone():
    words = ["optimizer=sgd,adam", "optimizer.lr=0.1,0.2", "scheduler=one_cycle", "model=mlp", "model.hidden=[8],[]"]
    jobs = compose(words, multirun=True)
    points = [(o, r, h) for o in ("sgd", "adam") for r in (0.1, 0.2) for h in ("[8]", "[]")]
    assert len(jobs) == len(points)
    for job, (optimizer, lr, hidden) in zip(jobs, points, strict=True):
        own = [f"optimizer={optimizer}", f"optimizer.lr={lr}", f"model.hidden={hidden}"]
        [alone] = compose([*own, "scheduler=one_cycle", "model=mlp"])
        assert job.config == alone.config and job.options == alone.options
        assert job.config["scheduler"]["max_lr"] == lr


def test_each_run_of_a_sweep_is_the_run_alone(stocked):
    words = ["data=iris", "model=mlp", "loss=cross_entropy", "trainer.batch_size=32", "trainer.epochs=5"]
    table = gdexp.launch([*words, "optimizer.lr=0.01,0.1", "seed=0,1"], multirun=True)
    for run in table.to_dict("records"):
        [alone] = gdexp.launch([*words, f"optimizer.lr={run['optimizer.lr']}", f"seed={run['seed']}"]).to_dict(
            "records"
        )
        assert alone["train_loss"] == run["train_loss"] and alone["val_accuracy"] == run["val_accuracy"]


def test_all_jobs_are_checked_before_the_first_trains(gdexp_run, here):
    done = gdexp_run("-m", "optimizer.lr=0.1,-1,abc", "seed=0,x")
    lines = done.stderr.splitlines()
    assert done.returncode == 1 and list(here.iterdir()) == [] and done.stdout == ""
    assert (
        lines[0].startswith("gdexp: job 2 (lr=0.1 seed=x): `seed`")
        and "job 3 (lr=-1 seed=0): `optimizer.lr`" in lines[1]
    )
    assert len(lines) == 5
    with pytest.raises(ValueError, match="and 30 more"):
        gdexp.launch([f"optimizer.lr={','.join(['-1'] * 50)}"], multirun=True)


def test_end_of_a_sweep_shows_counts_and_the_best(gdexp_run, stocked):
    done = gdexp_run("-m", "optimizer.lr=logspace(1e-4,1,9)")
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and "9 runs in" in done.stdout and "7 completed, 2 diverged" in done.stdout
    table = gdexp.runs()
    best = table[table.outcome == "completed"].sort_values("train_loss").iloc[0]
    first = next(i for i, line in enumerate(lines) if " runs in " in line) + 1
    assert lines[first].startswith(best["name"]) and lines[first].endswith(best["run_id"])
    assert f"Best: {best['name']}, train_loss" in done.stdout
    assert len(set(table["optimizer.lr"])) == 9 and table["optimizer.lr"].min() == 1e-4


def test_a_slip_of_a_million_jobs_is_refused_with_the_count(gdexp_run, here):
    done = gdexp_run("-m", "seed=range(1000)", "optimizer.lr=linspace(0,1,1000)")
    assert done.returncode == 1 and "a sweep of 1000000 jobs (1000 of seed × 1000 of optimizer.lr)" in done.stderr


@pytest.mark.slow
def test_a_launcher_of_hydras_gets_our_functions_spelt_out(gdexp_run, stocked):
    done = gdexp_run("-m", "optimizer.lr=logspace(0.001,0.1,3)", "hydra/launcher=basic", "trainer.epochs=2")
    assert done.returncode == 0, done.stderr
    assert sorted(gdexp.runs()["optimizer.lr"]) == [0.001, 0.01, 0.1]


@pytest.mark.parametrize("word", ["optimizer.lr=interval(0,1)", "optimizer.lr=logspace(-1,1,3)", "optimizer=glob(x*)"])
def test_axis_without_a_grid_is_refused(here, word):
    with pytest.raises(ValueError) as refusal:
        gdexp.launch([word], multirun=True)
    assert "\n" not in str(refusal.value) and list(here.iterdir()) == []


def test_a_thousand_jobs_are_composed_in_order():
    jobs = compose(["optimizer.lr=logspace(1e-4,1,1000)"], multirun=True)
    rates = [job.config["optimizer"]["lr"] for job in jobs]
    assert len(jobs) == 1000 and rates == sorted(rates) and math.isclose(rates[500] / rates[499], 10 ** (4 / 999))


@pytest.mark.slow
def test_study_that_sets_a_callback_goes_through_hydras_main(gdexp_run, stocked):
    (stocked / "marks.py").write_text(
        "from pathlib import Path\nfrom hydra.experimental.callback import Callback\n"
        "class Mark(Callback):\n"
        "    def on_job_end(self, config, job_return, **kwargs):\n"
        "        Path('marks.txt').open('a').write(config.optimizer.lr.__repr__() + '\\n')\n"
    )
    (stocked / "experiments").mkdir()
    (stocked / "experiments/marked.yaml").write_text(
        "# @package _global_\nhydra:\n  callbacks:\n    mark:\n      _target_: marks.Mark\ntrainer:\n  epochs: 2\n"
    )
    done = gdexp_run("-m", "experiments=marked", "optimizer.lr=0.01,0.02")
    assert done.returncode == 0, done.stderr
    assert (stocked / "marks.txt").read_text().split() == ["0.01"] and len(gdexp.runs()) == 2


def test_typed_value_wins_over_a_studys_axis():
    [job] = compose(["experiments=lr_sweep", "optimizer.lr=0.02"])
    assert job.config["optimizer"]["lr"] == 0.02
    assert names("experiments=lr_sweep", "optimizer.lr=0.02,0.03") == ["lr=0.02", "lr=0.03"]


def test_launch_leaves_the_hosts_hydra_config_alone(stocked):
    from hydra.core.hydra_config import HydraConfig

    before = HydraConfig.instance().cfg
    gdexp.launch(["trainer.epochs=1"])
    assert HydraConfig.instance().cfg is before


def test_each_option_has_axes_of_its_own():
    each = "sweep.each={adam: {optimizer.lr: 'logspace(1e-4,1e-2,3)'}, sgd: {optimizer: {lr: '0.1,0.2'}}}"
    found = names(each, "seed=0,1")
    adam = [f"optimizer=adam seed={s} lr={lr}" for s in (0, 1) for lr in (0.0001, 0.001, 0.01)]
    assert found == adam + [f"optimizer=sgd seed={s} lr={lr}" for s in (0, 1) for lr in (0.1, 0.2)]
    assert names("optimizer=sgd,adam,rmsprop", each.replace("0.1,0.2", "0.5"))[:1] == ["optimizer=sgd lr=0.5"]
    for wrong in ("{adam: {}, sdg: {}}", "{adam: 3}", "{linear: {}}", "{adam: {optimizer.lrr: '1,2'}}"):
        with pytest.raises(ValueError, match="sweep.each|optimizer.lr"):
            compose([f"sweep.each={wrong}"], multirun=True)


def test_samples_fill_the_box_and_repeat(here):
    words = ["optimizer.lr=loguniform(1e-4,1)", "optimizer.momentum=uniform(0,0.9)", "sweep.samples=256"]
    jobs = compose(words, multirun=True)
    points = [(math.log10(j.config["optimizer"]["lr"]) / -4, j.config["optimizer"]["momentum"] / 0.9) for j in jobs]
    assert all(0 <= x <= 1 and 0 <= y <= 1 for x, y in points)
    for a in range(8):  # of 256 scrambled Sobol points 4 are in each of 8 × 8 boxes
        for b in range(8):
            inside = [1 for x, y in points if a <= 8 * x < a + 1 and b <= 8 * y < b + 1]
            assert abs(len(inside) - 4) <= 1  # values are rounded to six digits
    assert [j.name for j in jobs] == [j.name for j in compose(words, multirun=True)]
    assert [j.name for j in jobs] != [j.name for j in compose([*words, "sweep.seed=1"], multirun=True)]
    assert len(names(*words[:2], "sweep.samples=4", "seed=0,1,2")) == 12
    hidden = compose(["model=mlp", "trainer.batch_size=int(interval(1,4))", "sweep.samples=64"], multirun=True)
    assert {j.config["trainer"]["batch_size"] for j in hidden} == {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["sweep.samples=8", "seed=0,1"], "needs an axis to draw from"),
        (["optimizer.lr=loguniform(1e-4,1)"], "is drawn: say how often"),
        (["optimizer.lr=loguniform(1,0.1)", "sweep.samples=4"], "0 < low < high"),
        (["seed=range(0,1000000000)"], "a sweep of 1000000000 jobs"),
        (["optimizer.lr=logspace(1e-4,1,1000000)"], "logspace gives 1 to 100000"),
        (["sweep.chunk=1", "seed=0,1"], "`sweep.chunk` must be auto or a whole number from 2"),
        (["sweep.stack=auto,never"], "can't be swept"),
        (["sweep.objective=vall_loss", "data=iris", "loss=cross_entropy", "seed=0,1"], "did you mean `val_loss`"),
        (["sweep.each=3", "seed=0,1"], "`sweep.each` must be a mapping"),
        (["sweep.bla=3", "seed=0,1"], "`sweep.bla` is not a key"),
    ],
)
def test_wrong_sweep_gets_one_line(stocked, words, line):
    with pytest.raises(ValueError, match=line) as refusal:
        gdexp.launch(words, multirun=True)
    assert "\n" not in str(refusal.value) and len(gdexp.runs()) == 0


def test_store_that_cannot_be_written_gets_one_line(gdexp_run, here):
    (here / "file").write_text("")
    done = gdexp_run("-m", "seed=range(20)", f"tracking.uri=sqlite:///{here}/file/mlflow.db")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and "`tracking.uri`" in done.stderr


def test_plan_shows_jobs_and_packs_and_trains_nothing(gdexp_run, here):
    done = gdexp_run("-m", "optimizer.lr=logspace(1e-4,1,5)", "optimizer=sgd,lbfgs", "sweep.plan=true")
    lines = done.stdout.splitlines()
    assert lines[:3] == [
        "10 jobs in 2 packs; nothing is trained",
        "5 runs as one program",
        "  1  lr=0.0001 optimizer=sgd",
    ]
    assert "5 runs one by one: LBFGS takes a closure that evaluates the loss" in lines and list(here.iterdir()) == []


@pytest.mark.slow
def test_mixed_sweep_is_complete_and_each_run_is_itself(stocked):
    words = ["data=iris", "model=mlp", "loss=cross_entropy", "trainer.epochs=3", "trainer.batch_size=40"]
    axes = ["optimizer=sgd,adam,rmsprop,lbfgs", "optimizer.lr=0.01,0.1", "seed=0,1", "model.hidden=[16],[8]"]
    table = gdexp.launch([*words, *axes], multirun=True)
    assert len(table) == 32 and set(table.status) == {"FINISHED"}
    for run in table.iloc[[0, 13, 22, 31]].to_dict("records"):
        own = [f"{k}={run[k]}" for k in ("optimizer", "optimizer.lr", "seed", "model.hidden")]
        [alone] = gdexp.launch([*words, *own]).to_dict("records")
        assert run["train_loss"] == pytest.approx(alone["train_loss"], rel=1e-5)
        assert all(
            run[k] == v for k, v in alone.items() if k.startswith(("data.", "model.", "trainer.")) and v is not None
        )


def test_record_of_a_stacked_run_is_that_of_the_run_alone(stocked):
    from mlflow.tracking import MlflowClient

    words = [
        "data=iris",
        "model=mlp",
        "loss=cross_entropy",
        "optimizer=adam",
        "trainer.epochs=2",
        "data.test_fraction=0.2",
    ]
    table = gdexp.launch(
        [*words, "optimizer.lr=0.01,0.1", "optimizer.betas=[0.9,0.99],[0.8,0.9]", "seed=0,1"], multirun=True
    )
    [alone] = gdexp.launch([*words, "optimizer.lr=0.1", "optimizer.betas=[0.8,0.9]", "seed=1"]).run_id
    stacked = table.iloc[-1].run_id
    client = MlflowClient(f"sqlite:///{stocked}/mlflow.db")
    one, other = client.get_run(stacked), client.get_run(alone)
    assert one.data.params == other.data.params and one.data.metrics.keys() == other.data.metrics.keys()
    own = {"gdexp.sweep", "gdexp.job", "gdexp.stack", "gdexp.trained_as", "mlflow.runName"}
    assert {k: v for k, v in one.data.tags.items() if k not in own} == {
        k: v for k, v in other.data.tags.items() if k not in own
    }
    assert one.data.tags["gdexp.trained_as"] == "stack chunk=8 threads=1"
    files = [{p.name: p for p in stocked.glob(f"mlruns/*/{i}/artifacts/*")} for i in (stacked, alone)]
    assert files[0].keys() == files[1].keys()
    assert files[0]["config.yaml"].read_text() == files[1]["config.yaml"].read_text()
    assert one.inputs.dataset_inputs[0].dataset.digest == other.inputs.dataset_inputs[0].dataset.digest
    assert gdexp.load(stacked)(torch.zeros(1, 4)).shape == (1, 3)


def test_sweep_leaves_a_summary(gdexp_run, stocked):
    from mlflow.tracking import MlflowClient

    done = gdexp_run("-m", "optimizer.lr=0.01,0.1,5", "seed=0,1")
    assert done.returncode == 0, done.stderr
    client = MlflowClient(f"sqlite:///{stocked}/mlflow.db")
    ids = [e.experiment_id for e in client.search_experiments()]
    [summary] = client.search_runs(ids, "tags.\"gdexp.kind\" = 'sweep'")
    assert summary.info.status == "FINISHED" and summary.data.metrics["runs_diverged"] == 2
    folder = next(stocked.glob(f"mlruns/*/{summary.info.run_id}/artifacts"))
    rows = list(csv.DictReader((folder / "sweep.csv").open()))
    table = gdexp.runs()
    assert {r["run_id"] for r in rows} == set(table.run_id) and len(rows) == 6
    assert {r["optimizer.lr"] for r in rows} == {"0.01", "0.1", "5"}
    assert (folder / "overrides.txt").read_text().split() == ["optimizer.lr=0.01,0.1,5", "seed=0,1"]
    sweep = summary.data.tags["gdexp.sweep"]
    assert set(gdexp.runs(sweep).run_id) == set(table.run_id)


@pytest.mark.slow
def test_interrupted_sweep_keeps_what_there_is(start_run, stocked):
    process = start_run("-m", "optimizer.lr=logspace(1e-4,0.1,50)", "optimizer=sgd,adam", "trainer.epochs=100000")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        connection = sqlite3.connect(stocked / "mlflow.db")
        [(count,)] = connection.execute("SELECT count(*) FROM metrics")
        connection.close()
        if count:
            break
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    process.communicate(timeout=30)
    assert process.returncode == 130 and time.monotonic() - began < 3
    table = gdexp.runs()
    assert len(table) == 50 and set(table.status) == {"KILLED"} and table.train_loss.notna().all()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [["joblib", "hydra.launcher.n_jobs=2"], ["submitit_local"]])
def test_launcher_trains_the_packs_in_its_processes(gdexp_run, stocked, launcher):
    name, *settings = launcher
    axes = ["optimizer.lr=logspace(1e-4,1,8)", "optimizer=sgd,adam", "trainer.epochs=20"]
    done = gdexp_run("-m", f"hydra/launcher={name}", *settings, *axes)
    assert done.returncode == 0, done.stderr
    assert "16 runs in" in done.stdout and "16 of them as one program with others" in done.stdout
    table = gdexp.runs()
    assert len(table) == 16 and set(table.status) == {"FINISHED"}
    here = gdexp.launch(axes, multirun=True)
    merged = here.merge(table, on=["optimizer", "optimizer.lr"])
    assert len(merged) == 16 and (merged.train_loss_x == merged.train_loss_y).all()
    assert {p.name for p in stocked.iterdir()} == {"mlflow.db", "mlruns"}


def test_shares_are_even_and_whole():
    from gdexp.sweep import Pack, packed
    from gdexp.workers import deal

    jobs = compose(["optimizer=sgd,adam,lbfgs", "optimizer.lr=logspace(1e-4,1,33)"], multirun=True)
    for workers in (1, 2, 3, 5, 64, 1000):
        shares = deal(packed(jobs), workers)
        assert sorted(j.number for share in shares for pack in share for j in pack.jobs) == list(range(1, 100))
        assert all(pack.runs == 33 and len(pack.jobs) >= 2 for share in shares for pack in share)
        sizes = [sum(len(pack.jobs) for pack in share) for share in shares]
        assert len(shares) == min(workers, sum(map(len, shares))) and max(sizes) <= 2 * min(sizes) + 1
    assert isinstance(packed(jobs)[0], Pack)


@pytest.mark.slow
def test_another_sweeper_gets_the_objective(gdexp_run, stocked):
    (stocked / "hydra_plugins").mkdir()
    (stocked / "hydra_plugins/greedy.py").write_text(
        "from hydra.core.config_store import ConfigStore\n"
        "from hydra.core.plugins import Plugins\n"
        "from hydra.plugins.sweeper import Sweeper\n"
        "class Greedy(Sweeper):\n"
        "    def setup(self, **settings):\n"
        "        self.settings = settings\n"
        "    def sweep(self, arguments):\n"
        "        launcher = Plugins.instance().instantiate_launcher(**self.settings)\n"
        "        jobs = launcher.launch([[*arguments, f'optimizer.lr={lr}'] for lr in (0.01, 0.1, 9)], 0)\n"
        "        print('objectives', [job.return_value for job in jobs])\n"
        "ConfigStore.instance().store('greedy', {'_target_': 'hydra_plugins.greedy.Greedy'}, 'hydra/sweeper')\n"
    )
    done = gdexp_run("-m", "hydra/sweeper=greedy", "seed=1")
    assert done.returncode == 0, done.stderr
    assert "objectives [" in done.stdout and ", inf]" in done.stdout and len(gdexp.runs()) == 3


@pytest.mark.parametrize("stacked", ["auto", pytest.param("never", marks=pytest.mark.slow)])
def test_two_sweeps_at_once_train_each_job_once(stocked, stacked):
    """The second one begins and ends while the first trains its first job."""
    (stocked / "twin.py").write_text(
        "import os, subprocess, sys\n"
        "from pathlib import Path\n"
        "def hook(epoch, model):\n"
        "    if 'TWIN' not in os.environ and not Path('twin').exists():\n"
        "        Path('twin').touch()\n"
        "        command = [sys.executable, '-m', 'gdexp.run', '-m', *Path('words').read_text().split()]\n"
        "        done = subprocess.run(command, env=os.environ | {'TWIN': '1'}, capture_output=True, text=True)\n"
        "        Path('twin').write_text(done.stdout + done.stderr)\n"
    )
    words = ["optimizer.lr=0.001,0.01,0.1", "seed=0,1", "trainer.epochs=3", f"sweep.stack={stacked}"]
    words += ["trainer.on_epoch=[twin.hook]"]
    (stocked / "words").write_text(" ".join(words))
    table = gdexp.launch(words, multirun=True)
    said = (stocked / "twin").read_text()
    assert "Jobs that are trained by another command now: " in said, said
    every = gdexp.runs()
    assert len(every) == 6 and set(every.status) == {"FINISHED"} and set(table.run_id) == set(every.run_id)
    assert gdexp.launch(words, multirun=True).run_id.isin(every.run_id).all() and len(gdexp.runs()) == 6


@pytest.mark.slow
def test_four_sweeps_at_once_train_each_job_once(start_run, stocked):
    words = ["-m", "optimizer.lr=logspace(1e-4,0.1,8)", "optimizer=sgd,adam", "trainer.epochs=200", "sweep.chunk=4"]
    running = [start_run(*words) for _ in range(4)]
    outputs = [process.communicate(timeout=300) for process in running]
    assert [process.returncode for process in running] == [0] * 4, outputs
    every = gdexp.runs()
    assert len(every) == 16 and set(every.status) == {"FINISHED"}
    assert len(every[["optimizer", "optimizer.lr"]].drop_duplicates()) == 16


@pytest.mark.slow
def test_workers_end_with_their_command(start_run, gdexp_run, stocked):
    (stocked / "slow.py").write_text(
        "import time\n"
        "from pathlib import Path\n"
        "def hook(epoch, model):\n"
        "    while not Path('go').exists(): time.sleep(0.01)\n"
    )
    words = ["-m", "seed=range(12)", "trainer.epochs=2", "sweep.stack=never", "trainer.on_epoch=[slow.hook]"]
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    process = start_run(*words, *launcher)

    def count(status):
        connection = sqlite3.connect("mlflow.db", timeout=60)
        try:
            return connection.execute("SELECT count(*) FROM runs WHERE status=?", (status,)).fetchone()[0]
        finally:
            connection.close()

    while count("RUNNING") < 2 and process.poll() is None:
        time.sleep(0.05)
    process.kill()
    process.wait()
    (stocked / "go").touch()
    while count("FINISHED") < 2:
        time.sleep(0.05)
    assert gdexp_run(*words).returncode == 0
    every = gdexp.runs()
    assert len(every) == 12 and set(every.status) == {"FINISHED"} and len(set(every.seed)) == 12


AWAY = """
import os, subprocess, sys, cloudpickle
from hydra.core.config_store import ConfigStore
from hydra.core.singleton import Singleton
from hydra.plugins.launcher import Launcher
from omegaconf import open_dict
CODE = '''
import sys, cloudpickle
from hydra.core.singleton import Singleton
from hydra.core.utils import run_job, setup_globals
*task, state = cloudpickle.load(sys.stdin.buffer)
setup_globals()
Singleton.set_state(state)
keys = {"job_dir_key": "hydra.sweep.dir", "job_subdir_key": "hydra.sweep.subdir"}
job = run_job(**dict(zip(("hydra_context", "task_function", "config"), task)), **keys)
open(sys.argv[1], "wb").write(cloudpickle.dumps(job))
'''
class Away(Launcher):
    def __init__(self, away=False):
        self.away = away
    def setup(self, *, hydra_context, task_function, config):
        self.context, self.task, self.config = hydra_context, task_function, config
    def launch(self, job_overrides, initial_job_idx):
        return [self.one(number, words) for number, words in enumerate(job_overrides, initial_job_idx)]
    def one(self, number, words):
        config = self.context.config_loader.load_sweep_config(self.config, list(words))
        with open_dict(config):
            config.hydra.job.id, config.hydra.job.num = str(number), number
        todo = cloudpickle.dumps((self.context, self.task, config, Singleton.get_state()))
        here, answer = os.getcwd(), f"{os.getcwd()}.answer"
        theirs = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
        if self.away:
            os.rename(here, here + ".away")
        try:
            subprocess.run([sys.executable, "-c", CODE, answer], input=todo, cwd="/", env=theirs, check=True)
        finally:
            if self.away:
                os.rename(here + ".away", here)
        with open(answer, "rb") as file:
            return cloudpickle.load(file)
node = {"_target_": "hydra_plugins.away.Away", "away": False}
ConfigStore.instance().store("away", node, "hydra/launcher")
"""


@pytest.fixture
def away(stocked):
    """A launcher whose workers start in another folder, without the variables that say where the record is."""
    (stocked / "hydra_plugins").mkdir()
    (stocked / "hydra_plugins/away.py").write_text(AWAY)
    (stocked / "own.py").write_text("from gdexp.models import MLP\nclass Net(MLP):\n    pass\n")
    (stocked / "rows.csv").write_text("a,b,y\n" + "".join(f"{i},{i % 3},{i % 5}\n" for i in range(30)))
    (stocked / "conf/model").mkdir(parents=True)
    (stocked / "conf/model/mine.yaml").write_text("_target_: own.Net\nhidden: [4]\n")
    return stocked


WORDS = ["model=mine", "data=table", "data.path=rows.csv", "data.target=y", "trainer.epochs=2"]


@pytest.mark.slow
def test_workers_use_the_submitters_folder_store_and_files(away, gdexp_run):
    done = gdexp_run("-m", "hydra/launcher=away", "seed=0,1,2", "tracking.uri=sqlite:///other.db", *WORDS)
    assert done.returncode == 0, done.stderr
    assert len(gdexp.runs(uri="sqlite:///other.db")) == 3 and "3 completed" in done.stdout
    assert not Path("/mlflow.db").exists() and not Path("/mlruns").exists()


@pytest.mark.slow
def test_workers_that_have_not_got_the_folder_say_so_in_a_line(away, gdexp_run):
    done = gdexp_run("-m", "hydra/launcher=away", "hydra.launcher.away=true", "seed=0,1,2", *WORDS)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    line = done.stderr.splitlines()[-1]
    assert done.stderr.count("can't work in") == 1 and "can't work in" in line and "failed" not in done.stderr, (
        done.stderr
    )
    assert str(away) in line and len(gdexp.runs()) == 0
