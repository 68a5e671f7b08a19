"""Sweeps: what they expand to, that all is checked first, and that each job is the run it would be alone."""

import math

import pytest

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
