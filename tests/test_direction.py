"""Which way a metric is better, who says it, and that NaN is worse than any number."""

import json
import math
import re
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

import gdexp
from gdexp.config.direction import known
from gdexp.metrics import KNOWN

IRIS = ["data=iris", "data.standardize=inputs", "loss=cross_entropy", "model=mlp", "model.hidden=[8]"]
OWN = [*IRIS, "optimizer=adam", "optimizer.lr=0.01", "trainer.epochs=8", "sweep.stack=never"]
PARTS = '''
import torch
from torch import nn

LOSSES = nn.functional.cross_entropy

def share(output, target):
    return (output.argmax(1) == target).double().mean()

def said(output, target):
    return share(output, target)
said.greater_is_better = True

def wrong(output, target):
    return 1 - share(output, target)
wrong.higher_is_better = False

def gappy(output, target):
    """Rises with each call of the test, counted in a file, for each run gets the module as it was."""
    with open("calls", "a") as file:
        file.write(".")
        calls = file.tell()
    return torch.tensor(gap if calls in gaps else float(calls))

gaps, gap = (), float("nan")

class Own(nn.Module):
    def __init__(self, in_features):
        super().__init__()
        self.linear = nn.Linear(in_features, 1)

    def training_loss(self, batch):
        loss = (self.linear(batch[0]) - batch[1]).pow(2).mean()
        return loss, {"score": -loss.detach()}

class Telling(Own):
    greater_is_better = {"score": True}
'''


@pytest.fixture
def parts(stocked, monkeypatch):
    """The module of our own parts, fresh."""
    import importlib
    import sys

    (stocked / "parts_of_direction.py").write_text(PARTS)
    monkeypatch.syspath_prepend(str(stocked))
    sys.modules.pop("parts_of_direction", None)
    yield importlib.import_module("parts_of_direction")
    sys.modules.pop("parts_of_direction", None)


def client():
    return MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")


def tags(run_id):
    return client().get_run(run_id).data.tags


def history(run_id, name):
    return {m.step: m.value for m in client().get_metric_history(run_id, name)}


def metric(name):
    return f"metrics=[parts_of_direction.{name}]"


def compared(capsys, *words):
    """Return what `gdexp.compare` prints as JSON."""
    from gdexp.compare import main

    capsys.readouterr()
    main(["--json", "-", *words])
    return json.loads(capsys.readouterr().out)


def test_every_metric_of_ours_is_known_on_every_split():
    for split in ("train", "val", "test"):
        for end in ("", "_ema", "_best"):
            for name in ("loss", "top_3", *KNOWN):
                expected = "min" if name in ("loss", "mae", "rmse", "log_loss") else "max"
                assert known(f"{split}_{name}{end}") == expected
    assert not any(map(known, ("val_accuracy_gap", "f1_distance", "top_speed", "kl", "lr", "weight_norm")))


@pytest.mark.parametrize(
    "words",
    [
        [*OWN, metric("share"), "trainer.monitor=val_share"],
        [*OWN, metric("share"), "trainer.monitor=val_share", "trainer.patience=3"],
        [*OWN, metric("share"), "sweep.objective=val_share"],
        ["loss=none", "model=custom", "model._target_=parts_of_direction.Own", "trainer.monitor=score"],
        ["loss=none", "model=custom", "model._target_=parts_of_direction.Own", "sweep.objective=score"],
        [*OWN, "trainer.monitor=lr", "scheduler=cosine"],
    ],
)
@pytest.mark.parametrize("multirun", [False, True])
def test_a_metric_that_does_not_say_its_direction_is_refused(parts, words, multirun):
    key = next(word.split("=")[0] for word in words if word.startswith(("trainer.monitor", "sweep.objective")))
    name = next(word.split("=")[1] for word in words if word.startswith(key))
    with pytest.raises(ValueError, match=f"`{key}`.*'{name}'.*{key}_mode=min") as refused:
        gdexp.launch([*words, *(["seed=0,1"] if multirun else [])], multirun=multirun)
    assert len(str(refused.value).splitlines()) == (2 if multirun else 1)
    assert not client().search_runs(["1"])  # nor a summary of the sweep


def best_epoch(*words):
    [run] = gdexp.launch([*OWN, *words]).to_dict("records")
    return int(tags(run["run_id"])["gdexp.best_epoch"]), run["run_id"]


@pytest.mark.parametrize(
    ("name", "words", "best"),
    [
        ("said", [], max),
        ("wrong", [], min),
        ("share", ["trainer.monitor_mode=max"], max),
        ("share", ["trainer.monitor_mode=min"], min),
        ("said", ["trainer.monitor_mode=min"], min),
    ],
)
def test_function_or_key_says_which_way_is_better(parts, name, words, best):
    found, run_id = best_epoch(metric(name), f"trainer.monitor=val_{name}", *words)
    values = history(run_id, f"val_{name}")
    assert len(set(values.values())) > 1
    assert found == min(step for step, v in values.items() if v == best(values.values()))


def test_model_says_it_of_its_own_numbers(parts):
    words = ["loss=none", "model=custom", "model._target_=parts_of_direction.Telling", "optimizer.lr=0.05"]
    [run] = gdexp.launch([*words, "trainer.epochs=5", "trainer.monitor=score"]).to_dict("records")
    assert tags(run["run_id"])["gdexp.best_epoch"] == "5"  # the loss falls, its negative rises


def test_sweep_and_comparison_announce_the_largest_test_accuracy(stocked, capsys):
    words = [*IRIS, "optimizer=adam", "data.test_fraction=0.3", "sweep.objective=test_accuracy", "trainer.epochs=20"]
    table = gdexp.launch([*words, "optimizer.lr=0.00001,0.03"], multirun=True)
    values = table.set_index("name")["test_accuracy"]
    assert values["lr=0.03"] > values["lr=1e-05"]
    assert "Best: lr=0.03" in capsys.readouterr().out
    assert compared(capsys)["settings"][0]["optimizer.lr"] == "0.03"


def test_comparison_needs_no_guess(parts, capsys):
    words = [*OWN, "metrics=[parts_of_direction.said,parts_of_direction.share]", "sweep.objective=val_share"]
    gdexp.launch([*words, "sweep.objective_mode=min", "optimizer.lr=0.00001,0.1"], multirun=True)
    assert "Best: lr=1e-05, val_share" in capsys.readouterr().out
    assert compared(capsys)["settings"][0]["optimizer.lr"] == "1e-05"
    assert compared(capsys, "--objective", "val_said")["settings"][0]["optimizer.lr"] == "0.1"
    assert compared(capsys, "--objective", "val_share", "--mode", "max")["settings"][0]["optimizer.lr"] == "0.1"


def test_comparison_refuses_to_guess(parts, capsys):
    from gdexp.compare import main

    gdexp.launch([*OWN, metric("share"), "seed=0,1"], multirun=True)
    with pytest.raises(SystemExit):
        main(["--objective", "val_share"])
    assert "'val_share' is better: add --mode min or --mode max" in capsys.readouterr().err
    table = gdexp.runs()
    assert "best_val_loss" in table and "best_val_share" not in table


@pytest.mark.parametrize("mode", ["min", "max"])
def test_runs_that_were_done_before_are_judged_by_their_best(parts, capsys, mode):
    own = [*OWN, metric("share"), "sweep.objective=val_share", f"sweep.objective_mode={mode}"]
    words = [*own, "sweep.objective_at=best", "optimizer.lr=0.001,0.05,0.5"]

    def announced():
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        return {line[0]: float(line[2]) for line in lines if line and line[0].startswith("lr=")}

    gdexp.launch(words, multirun=True)
    first = announced()
    gdexp.launch(words, multirun=True)
    again = announced()
    assert list(again.items()) == list(first.items()) and len(gdexp.runs()) == 3  # in the same order
    best = {r.name: (min if mode == "min" else max)(history(r.run_id, "val_share").values()) for r in rows()}
    last = {r.name: history(r.run_id, "val_share")[8] for r in rows()}
    assert first == pytest.approx(best, rel=1e-5)
    assert best != last


def rows():
    return list(gdexp.runs().itertuples())


@pytest.mark.parametrize("mode", ["min", "max"])
def test_nan_is_no_best_and_the_record_shows_it(parts, capsys, mode):
    parts.gaps = (1, 4, 8)
    found, run_id = best_epoch(metric("gappy"), "trainer.monitor=val_gappy", f"trainer.monitor_mode={mode}")
    assert found == (2 if mode == "min" else 7)
    assert set(history(run_id, "val_gappy")) == {2, 3, 5, 6, 7}
    assert json.loads(tags(run_id)["gdexp.nan"]) == {"val_gappy": {"first_epoch": 1, "at_end": True}}
    assert math.isnan(gdexp.runs().val_gappy[0])
    from gdexp.compare import main

    capsys.readouterr()
    main([run_id])
    assert re.search(r"val_gappy +NaN", capsys.readouterr().out)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_nan_does_not_count_as_an_improvement(parts, mode):
    parts.gaps = range(3, 100)
    words = [metric("gappy"), "trainer.monitor=val_gappy", f"trainer.monitor_mode={mode}", "trainer.patience=3"]
    [run] = gdexp.launch([*OWN, *words]).to_dict("records")
    last = {"min": 4, "max": 5}[mode]  # 1 is the best, or 2
    assert run["outcome"] == "stopped" and max(history(run["run_id"], "train_loss")) == last


def test_infinity_is_no_improvement_for_a_plateau(parts):
    parts.gaps, parts.gap = (3,), math.inf
    words = ["scheduler=reduce_on_plateau", "scheduler.patience=0", "trainer.monitor_mode=max"]
    [run] = gdexp.launch([*OWN, metric("gappy"), "trainer.monitor=val_gappy", *words]).to_dict("records")
    rates = list(history(run["run_id"], "lr").values())
    assert rates == pytest.approx([0.01] * 3 + [0.001] * 5)  # it goes on rising after the gap


def test_metric_that_is_never_a_number_has_no_best_epoch(parts):
    parts.gaps = range(100)
    words = [metric("gappy"), "trainer.monitor=val_gappy", "trainer.monitor_mode=max", "trainer.patience=3"]
    [run] = gdexp.launch([*OWN, *words]).to_dict("records")
    assert run["outcome"] == "stopped" and "gdexp.best_epoch" not in tags(run["run_id"])
    assert history(run["run_id"], "val_gappy") == {}


@pytest.mark.parametrize("at", ["last", "best"])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_nan_is_ranked_last(parts, capsys, mode, at):
    parts.gaps = range(9, 17) if at == "best" else (16,)  # of the second run all epochs, or the last
    words = [*OWN, metric("gappy"), "sweep.objective=val_gappy", f"sweep.objective_mode={mode}", "sweep.stack=never"]
    gdexp.launch([*words, f"sweep.objective_at={at}", "optimizer.lr=0.1,0.2,0.3"], multirun=True)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("lr=", "Best"))]
    order = ["lr=0.1", "lr=0.3"] if mode == "min" else ["lr=0.3", "lr=0.1"]
    assert [line.split()[0] for line in lines[:3]] == [*order, "lr=0.2"] and lines[3].startswith(f"Best: {order[0]}")
    found = compared(capsys)
    assert [s["optimizer.lr"] for s in found["settings"]] == [*(name[3:] for name in order), "0.2"]
    assert found["settings"][-1]["nan"] == 1


def test_setting_with_a_nan_among_its_seeds_is_not_the_winner(parts, capsys):
    parts.gaps = (8,)
    words = [*OWN, metric("gappy"), "sweep.objective=val_gappy", "sweep.objective_mode=min", "sweep.stack=never"]
    gdexp.launch([*words, "optimizer.lr=0.1,0.2", "seed=0,1,2,3"], multirun=True)  # rising, so 0.1 has the least
    found = compared(capsys)
    assert [s["optimizer.lr"] for s in found["settings"]] == ["0.2", "0.1"]
    assert [s["nan"] for s in found["settings"]] == [0, 1] and found["settings"][1]["n"] == 3
