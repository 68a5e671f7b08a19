"""Comparing runs: against scipy, closed forms and MLflow's own client, through the command line."""

import csv
import io
import json
import math
import os
import re
import shlex
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import matplotlib.image
import numpy as np
import pytest
from mlflow.tracking import MlflowClient
from scipy import stats

import gdexp
from gdexp.compare import settings, statistics, verdict
from gdexp.compare.settings import Setting

CHANCE = np.random.default_rng(0)


def compare(gdexp_run, *words):
    done = gdexp_run(*words, module="gdexp.compare")
    assert done.returncode == 0, done.stderr
    return done.stdout


def as_json(gdexp_run, *words):
    return json.loads(compare(gdexp_run, *words, "--json", "-"))


@pytest.mark.parametrize("n", [2, 3, 6, 25])
def test_interval_is_students(n):
    x = CHANCE.normal(3, 2, n)
    found = statistics.summary(x.tolist())
    low, high = stats.t.interval(0.95, n - 1, x.mean(), stats.sem(x))
    assert found == pytest.approx((n, x.mean(), x.std(ddof=1), low, high), rel=1e-9)


@pytest.mark.parametrize("n", [3, 6, 12])
def test_paired_tests_are_scipys(n):
    a, b = CHANCE.normal(0, 1, n), CHANCE.normal(0.5, 1, n)
    found = statistics.difference(a.tolist(), b.tolist(), ranks=True)
    assert found.p == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-9)
    if n >= 6:
        assert found.wilcoxon == stats.wilcoxon(a, b).pvalue
    else:
        assert math.isnan(found.wilcoxon)


def test_holm_against_its_definition():
    p = [0.001, 0.2, 0.012, 0.03, 0.9]
    by_hand = [0.005, 0.4, 0.048, 0.09, 0.9]  # 5, 2, 4, 3, 1 times, and never falling
    assert statistics.holm(p) == pytest.approx(by_hand)


def test_needed_seeds_have_the_power_they_promise():
    d = statistics.summary([0.5 + x for x in (-1.0, -0.5, 0.0, 0.5, 1.0)])
    n = statistics.seeds_needed(d)
    effect = d.mean / d.deviation
    x = CHANCE.normal(effect, 1, (4000, n))
    power = np.mean(stats.ttest_1samp(x, 0, axis=1).pvalue < 0.05)
    assert power == pytest.approx(0.8, abs=0.04)


def made_up(table):
    """Return settings whose runs have these values, the best first, as if they were trained."""
    found = []
    for i, values in enumerate(table):
        row = SimpleNamespace(params={"optimizer.lr": str(i)}, run_id=str(i))
        own = {str(seed): v for seed, v in enumerate(values)}
        found.append(Setting({"optimizer.lr": str(i)}, [row], own, 0, statistics.summary(values), min(values), 0.0))
    return sorted(found, key=lambda s: s.summary.mean)


@pytest.mark.parametrize(("count", "seeds", "low", "high"), [(2, 5, 0.02, 0.08), (2, 8, 0.02, 0.08), (25, 5, 0, 0.08)])
def test_same_setting_against_itself_rarely_wins(count, seeds, low, high):
    loss = SimpleNamespace(least=True, objective="train_loss")
    own = np.random.default_rng(1)  # 5 % ± 3 % of 200 is a wide gate, yet a gate
    wins = [verdict.verdict(loss, made_up(own.normal(1, 0.1, (count, seeds)).tolist())).winner for _ in range(200)]
    assert low <= np.mean(wins) <= high


def test_what_is_really_better_wins_and_what_isnt_clear_says_how_many_seeds():
    loss = SimpleNamespace(least=True, objective="val_loss")
    noise = CHANCE.normal(0, 0.01, (3, 6))
    clear = verdict.verdict(loss, made_up((noise + [[1.0], [2.0], [3.0]]).tolist()))
    assert clear.winner and clear.provisional and "Holm" in clear.text and "Wilcoxon" in clear.text
    unclear = verdict.verdict(loss, made_up([[1.0, 2.0, 3.0, 4.0], [1.5, 1.9, 3.4, 4.1]]))
    assert not unclear.winner and re.search(r"about \d+ more seeds are needed", unclear.text)
    one = verdict.verdict(loss, made_up([[1.0], [2.0]]))
    assert not one.winner and one.text.startswith("Can't tell") and "at least 2 more seeds" in one.text


def test_table_of_a_sweep_is_what_the_runs_say(stocked, gdexp_run):
    words = ["optimizer.lr=0.001,0.01,0.5", "seed=0,1,2", "trainer.epochs=20"]
    table = gdexp.launch(words, multirun=True)
    found = as_json(gdexp_run)
    rows = {float(row["optimizer.lr"]): row for row in found["settings"]}
    assert [float(row["optimizer.lr"]) for row in found["settings"]] == [0.01, 0.001, 0.5]
    for lr in (0.001, 0.01):
        losses = table[table["optimizer.lr"] == lr].train_loss
        expected = losses.mean(), losses.std(), losses.min()
        assert (rows[lr]["mean"], rows[lr]["sd"], rows[lr]["best"]) == pytest.approx(expected)
        assert rows[lr]["n"] == 3 and rows[lr]["diverged"] == 0
    assert rows[0.5]["diverged"] == 3 and rows[0.5]["n"] == 0
    first, second = (table[table["optimizer.lr"] == lr].sort_values("seed").train_loss for lr in (0.01, 0.001))
    assert found["verdict"]["p_uncorrected"] == pytest.approx(stats.ttest_rel(first, second).pvalue, rel=1e-6)
    [best] = table[table.train_loss == table[table.outcome == "completed"].train_loss.min()].run_id
    assert found["best_run"] == best
    lines = list(csv.DictReader(io.StringIO(compare(gdexp_run, "--csv", "-"))))
    assert [float(line["optimizer.lr"]) for line in lines] == [0.01, 0.001, 0.5]


def test_sensitivity_is_wortsmans(stocked, gdexp_run):
    table = gdexp.launch(["optimizer.lr=0.001,0.01,0.1,1.0", "trainer.epochs=30"], multirun=True)
    curves = gdexp.runs(curves=True)
    start = curves[(curves.name == "lr=0.001") & (curves.step == 1)].value.iloc[0]  # before any step: full batch
    losses = [start if row.outcome == "diverged" else min(row.train_loss, start) for row in table.itertuples()]
    expected = np.mean(losses) - np.min(losses)
    assert as_json(gdexp_run)["lr_sensitivity"]["sgd"] == pytest.approx(expected)


@pytest.mark.slow
def test_seeds_are_gathered_for_each_optimizer_and_option(stocked, gdexp_run):
    gdexp.launch(["optimizer=sgd,adam", "optimizer.lr=0.001,0.01", "seed=0,1", "trainer.epochs=5"], multirun=True)
    found = as_json(gdexp_run)
    keys = set(found["settings"][0]) - {"n", "mean", "sd", "low", "high", "best", "diverged", "nan", "seconds", "runs"}
    assert keys == {"optimizer", "optimizer.lr"} and len(found["settings"]) == 4
    assert set(found["lr_sensitivity"]) == {"sgd", "adam"}


@pytest.mark.slow
def test_line_that_confirms_trains_the_two_settings_on_fresh_seeds(stocked, gdexp_run):
    words = ["data=iris", "model=mlp", "model.hidden=[4]", "loss=cross_entropy", "trainer.epochs=3"]
    each = "sweep.each={adam: {optimizer.lr: '0.01,0.02'}, sgd: {optimizer.lr: '0.15,0.2'}}"
    for axes in (["optimizer.lr=0.001,0.01,0.1"], [each]):
        gdexp.launch([*words, *axes, "seed=0,1,2"], multirun=True)
        line = as_json(gdexp_run)["confirm"]
        assert "+" not in line  # nothing stands there that nobody set
        before = gdexp.runs()
        done = subprocess.run(line, shell=True, capture_output=True, text=True, env=env())
        assert done.returncode == 0, done.stderr
        new = gdexp.runs()
        new = new[~new.run_id.isin(before.run_id)]
        seeds = [int(seed) for seed in re.findall(r"seed=([\d,]+)", line)[0].split(",")]
        assert seeds == list(range(3, 3 + len(seeds))) and len(seeds) >= 5
        assert sorted(new.seed) == sorted(2 * seeds)
        assert new.groupby(["optimizer", "optimizer.lr"]).ngroups == 2
        assert set(new["trainer.epochs"]) == {3} and set(new["model.hidden"]) == {"[4]"}


def env():
    root = Path(__file__).resolve().parents[1]
    return os.environ | {"PYTHONPATH": str(root), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def test_runs_of_an_earlier_sweep_belong_to_the_one_that_kept_them(stocked, gdexp_run):
    gdexp.launch(["optimizer.lr=0.001,0.01", "trainer.epochs=5"], multirun=True)
    gdexp.launch(["optimizer.lr=0.001,0.01,0.02,0.03", "trainer.epochs=5"], multirun=True)
    assert len(as_json(gdexp_run)["settings"]) == 4


@pytest.mark.slow
def test_two_runs_side_by_side(stocked, gdexp_run):
    ids = [gdexp.launch([f"optimizer.lr={lr}", "trainer.epochs=5"]).run_id[0] for lr in (0.01, 0.02)]
    shown = compare(gdexp_run, *ids, "--out", "pictures")
    assert all(run_id in shown for run_id in ids)
    assert re.search(r"optimizer\.lr +0\.02 +0\.01", shown) and "train_loss" in shown and "momentum" not in shown
    assert picture("pictures/curves_train_loss.png")


@pytest.mark.slow
def test_filter_in_mlflows_syntax(stocked, gdexp_run):
    gdexp.launch(["optimizer.lr=0.001,0.01,0.02", "trainer.epochs=5"], multirun=True)
    found = as_json(gdexp_run, "params.`optimizer.lr` != '0.01' and metrics.train_loss > 0")
    assert {row["optimizer.lr"] for row in found["settings"]} == {"0.001", "0.02"}


@pytest.mark.slow
def test_objective_can_be_chosen_and_more_may_be_better(stocked, gdexp_run):
    words = ["data=iris", "model=mlp", "loss=cross_entropy", "optimizer.lr=0.001,0.3", "trainer.epochs=30"]
    gdexp.launch(words, multirun=True)
    found = as_json(gdexp_run, "--objective", "val_accuracy")
    means = [row["mean"] for row in found["settings"]]
    assert means == sorted(means, reverse=True) and found["objective"] == "val_accuracy"


@pytest.mark.slow
def test_running_run_is_listed_with_its_epoch_and_time_left(stocked, start_run, gdexp_run):
    run = start_run("data=digits", "model=mlp", "loss=cross_entropy", "trainer.epochs=100000", "trainer.batch_size=64")
    try:
        run.stdout.readline()
        time.sleep(3)
        shown = compare(gdexp_run)
    finally:
        run.kill()
        run.communicate()
    assert re.search(r"running: .* epoch [1-9]\d*/100000, loss [\d.e-]+, about .* left", shown)


@pytest.mark.slow
def test_empty_store_foreign_runs_and_a_deleted_experiment_have_a_line_each(stocked, gdexp_run):
    client = MlflowClient(f"sqlite:///{stocked}/mlflow.db")

    def line(*words):
        done = gdexp_run(*words, module="gdexp.compare")
        assert done.returncode == 1 and done.stderr.startswith("gdexp: ") and done.stderr.count("\n") == 1, done.stderr
        return done.stderr

    assert "run something first" in line()
    foreign = client.create_experiment("foreign")
    run = client.create_run(foreign)
    client.log_metric(run.info.run_id, "train_loss", 1.0)
    assert "1 there are not gdexp's" in line("foreign") and "no runs of gdexp's" in line()
    client.delete_experiment(foreign)
    assert "it was deleted" in line("foreign")
    assert "no run or sweep" in line("0" * 32) and "did you mean" in line("Defaul")
    assert "`--objective`" in [gdexp.launch(["trainer.epochs=2"]), line("gdexp", "--objective", "val_los")][1]
    assert "no store at" in line("tracking.uri=sqlite:///nowhere.db")
    assert "name one" in line("a", "b") and "can't be searched" in line("metrics.x ~ 3 = 4")
    assert "nowhere" in line("--html", "nowhere/report.html")


def test_frame_is_what_mlflows_client_reads(stocked):
    gdexp.launch(["optimizer.lr=0.001,0.01,0.5", "trainer.epochs=7", "trainer.record=[grad_norm]"], multirun=True)
    client = MlflowClient(f"sqlite:///{stocked}/mlflow.db")
    table = gdexp.runs()
    long = gdexp.runs("gdexp", curves=True)
    assert len(table) == 3 and gdexp.runs("gdexp").equals(table)
    for row in table.to_dict("records"):
        run = client.get_run(row["run_id"])
        assert row["train_loss"] == run.data.metrics["train_loss"] and row["name"] == run.info.run_name
        assert all(str(row[k]) == v for k, v in run.data.params.items() if k in ("optimizer.lr", "seed", "optimizer"))
        for key in ("train_loss", "grad_norm"):
            own = long[(long.run_id == row["run_id"]) & (long.key == key)]
            history = sorted((m.step, m.value) for m in client.get_metric_history(row["run_id"], key))
            assert list(zip(own.step, own.value, strict=True)) == history
        assert row["best_train_loss"] == min(m.value for m in client.get_metric_history(row["run_id"], "train_loss"))
    with pytest.raises(ValueError, match="no experiment or sweep 'nothing'"):
        gdexp.runs("nothing")


@pytest.mark.slow
def test_frame_by_the_client_is_the_direct_one(stocked, monkeypatch):
    gdexp.launch(["optimizer.lr=0.001,0.01", "trainer.epochs=4"], multirun=True)
    direct = gdexp.runs(), gdexp.runs(curves=True)
    monkeypatch.setenv("GDEXP_PLAIN", "1")
    for ours, theirs in zip(direct, (gdexp.runs(), gdexp.runs(curves=True)), strict=True):
        theirs = theirs[ours.columns].set_index("run_id").loc[ours.run_id.drop_duplicates()].reset_index()
        assert (ours.astype(object).fillna("") == theirs.astype(object).fillna("")).all(axis=None)


def picture(path):
    """Return whether a PNG shows something: many pixels that aren't paper."""
    pixels = matplotlib.image.imread(path)[..., :3]
    return pixels.shape[0] > 300 and np.mean(np.any(np.abs(pixels - pixels[0, 0]) > 0.1, axis=-1)) > 0.01


NEGATIVE = "def below(output, target):\n    return ((output - target) ** 2).mean() - 5\n"
LONG = ",".join(["8"] * 30)
CASES = {
    "three": (["optimizer.lr=0.001,0.01,0.1"], {"curves_train_loss", "sensitivity", "fit"}),
    "all diverged": (["optimizer.lr=1,2,3"], {"curves_train_loss", "sensitivity"}),
    "negative": (
        ["loss=custom", "loss._target_=below.below", "optimizer.lr=0.001,0.01", "seed=0,1,2"],
        {"curves_train_loss", "sensitivity", "fit"},
    ),
    "long names": (["model=mlp", f"model.hidden=[{LONG}],[{LONG},8]"], {"curves_train_loss", "fit"}),
    "two numbers": (
        ["optimizer.lr=0.001,0.01,0.1", "optimizer.momentum=0,0.5,0.9"],
        {"curves_train_loss", "sensitivity", "map", "fit"},
    ),
    "classes": (
        ["data=iris", "model=mlp", "loss=cross_entropy", "optimizer=sgd,adam", "optimizer.lr=0.01,0.1", "seed=0,1"],
        {"curves_train_loss", "curves_val_loss", "sensitivity", "confusion"},
    ),
    "function": (
        ["data=none", "loss=none", "model=rosenbrock", "optimizer.lr=0.0001,0.001"],
        {"curves_train_loss", "sensitivity", "contour"},
    ),
    "300 runs": (["optimizer.lr=logspace(1e-4,1,100)", "seed=0,1,2"], {"curves_train_loss", "sensitivity", "fit"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_pictures_and_report(stocked, gdexp_run, case):
    words, expected = CASES[case]
    (stocked / "below.py").write_text(NEGATIVE)
    table = gdexp.launch([*words, "trainer.epochs=25"], multirun=True)
    compare(gdexp_run, "--out", "pictures", "--html", "report.html", "--log")
    assert {path.stem for path in (stocked / "pictures").iterdir()} == expected
    assert all(picture(path) for path in (stocked / "pictures").iterdir())
    page = (stocked / "report.html").read_text()
    assert page.count("<picture>") == len(expected) and "prefers-color-scheme: dark" in page
    assert not re.search(r"(src|href|srcset)=\"(?!data:)", page) and "<script" not in page
    diverged = set(table[table.outcome == "diverged"].name)
    assert all(name in page for name in diverged)
    client = MlflowClient(f"sqlite:///{stocked}/mlflow.db")
    [summary] = client.search_runs(["1"], "tags.\"gdexp.kind\" = 'sweep'")
    files = {f.path for f in client.list_artifacts(summary.info.run_id)}
    logged = {f.path for f in client.list_artifacts(summary.info.run_id, "pictures")}
    assert {"report.html", "sweep.csv"} <= files and logged == {f"pictures/{name}.png" for name in expected}


@pytest.mark.slow
def test_single_run_gets_its_curve(stocked, gdexp_run):
    run_id = gdexp.launch(["data=diabetes", "trainer.epochs=10"]).run_id[0]
    shown = compare(gdexp_run, run_id, "--out", "pictures")
    assert run_id in shown and "val_loss" in shown
    assert [path.name for path in (stocked / "pictures").iterdir()] == ["curve.png"] and picture("pictures/curve.png")


@pytest.mark.slow
def test_confusions_are_those_of_the_model(stocked, monkeypatch):
    from gdexp.compare.comparison import compared
    from gdexp.compare.pictures import best_run
    from gdexp.compare.selection import select
    from gdexp.data import bundled
    from gdexp.tracking.reader import reading

    assert bundled
    words = ["data=iris", "model=mlp", "loss=cross_entropy", "optimizer=adam", "optimizer.lr=0.05"]
    [run] = gdexp.launch([*words, "data.split_seed=null", "trainer.epochs=15"]).to_dict("records")
    with reading() as reader:
        found = compared(select(reader, [run["run_id"]]), reader)
        [(_, _, draw)] = best_run.of(found)
    split, table = draw.args[:2]
    from sklearn.datasets import load_iris
    from sklearn.metrics import confusion_matrix

    x, y = load_iris(return_X_y=True)
    import torch

    predicted = gdexp.load(run["run_id"])(torch.tensor(x[-30:], dtype=torch.float32)).argmax(1)
    assert split == "validation" and (table == confusion_matrix(y[-30:], predicted, labels=range(3))).all()


@pytest.mark.slow
def test_fit_at_the_last_epoch_is_the_models(stocked):
    import torch

    from gdexp.compare.comparison import compared
    from gdexp.compare.pictures import best_run
    from gdexp.compare.selection import select
    from gdexp.tracking.reader import reading

    run_id = gdexp.launch(["optimizer.lr=0.02", "trainer.epochs=40"]).run_id[0]
    with reading() as reader:
        [(name, _, draw)] = best_run.of(compared(select(reader, [run_id]), reader))
    _, grid, fits = draw.args[:3]
    last = gdexp.load(run_id)(torch.tensor(grid, dtype=torch.float32)[:, None])[:, 0].detach()
    assert name == "fit" and fits[0][0] == 0 and fits[-1][0] == 40
    assert fits[-1][1] == pytest.approx(last.numpy(), rel=1e-6)


@pytest.mark.slow
def test_a_repeated_run_counts_once(stocked, gdexp_run):
    for _ in range(2):
        gdexp.launch(["optimizer.lr=0.01", "trainer.epochs=3", "seed=1"])
    gdexp.launch(["optimizer.lr=0.01", "trainer.epochs=3", "seed=2"])
    [row] = as_json(gdexp_run, "gdexp")["settings"]
    assert row["n"] == 2


@pytest.mark.slow
def test_secrets_of_a_command_line_are_not_in_the_summary(stocked, gdexp_run):
    (stocked / "own.py").write_text(
        "import torch\nfrom gdexp.data import TensorData\n\n\ndef load(token):\n"
        "    return TensorData((torch.ones(4, 1), torch.ones(4, 1)))\n"
    )
    words = ["data=custom", "data._target_=own.load", "+data.token=hushhush", "optimizer.lr=0.01,0.02"]
    assert gdexp_run("-m", *words, "trainer.epochs=2").returncode == 0
    compare(gdexp_run, "--html", "report.html", "--log")
    connection = sqlite3.connect("mlflow.db")
    assert "hushhush" not in "\n".join(connection.iterdump())
    connection.close()
    kept = [p.read_bytes() for p in stocked.rglob("*") if p.is_file() and p.suffix not in (".py", ".db", ".pyc")]
    assert not any(b"hushhush" in text for text in kept)


def test_numbers_of_the_table_are_read_as_numbers():
    assert settings.number("0.01") == 0.01 and settings.number("null") is None and settings.number("nan") is None


def test_folds_are_repetitions_of_a_setting_as_seeds_are(stocked, capsys):
    words = ["data=iris", "loss=cross_entropy", "data.split=stratified", "data.folds=3", "trainer.epochs=3"]
    axes = ["data.fold=0,1,2", "seed=0,1", "optimizer.lr=0.01,0.1"]
    runs = gdexp.launch([*words, *axes], multirun=True)
    found = compared(capsys)
    means = runs.groupby("optimizer.lr").val_loss.mean()
    assert {row["optimizer.lr"]: row["n"] for row in found["settings"]} == {"0.01": 6, "0.1": 6}
    for row in found["settings"]:
        assert row["mean"] == pytest.approx(means[float(row["optimizer.lr"])], rel=1e-12)
    pairs = runs.pivot(index=["seed", "data.fold"], columns="optimizer.lr", values="val_loss")
    p, low, high = corrected(pairs[0.01] - pairs[0.1], k=3)
    v = found["verdict"]
    assert (v["p"], *sorted((abs(v["low"]), abs(v["high"])))) == pytest.approx(
        (p, *sorted((abs(low), abs(high)))), rel=1e-6
    )
    shown = "over 6 common repetitions, corrected for the training rows that folds share"
    assert shown in v["text"] and v["p_wilcoxon"] is None
    assert {"seed=2,3", "data.fold=0,1,2"} <= {*found["confirm"].split()}


def corrected(d, k):
    """Return p and interval of the mean of differences over k folds, by Nadeau and Bengio (2003)."""
    error = np.sqrt((1 / len(d) + 1 / (k - 1)) * np.var(d, ddof=1))
    t = stats.t(len(d) - 1)
    return 2 * t.sf(abs(np.mean(d)) / error), *(np.mean(d) + t.ppf([0.025, 0.975]) * error)


def test_seeds_that_have_all_folds_are_compared_by_their_means(stocked, capsys):
    words = ["data=iris", "loss=cross_entropy", "data.split=stratified", "data.folds=3", "trainer.epochs=2"]
    runs = gdexp.launch([*words, "data.fold=0,1,2", "seed=0,1,2,3", "optimizer.lr=0.01,0.012"], multirun=True)
    found = compared(capsys)
    means = runs.groupby(["seed", "optimizer.lr"]).val_loss.mean().unstack()
    assert found["verdict"]["p"] == pytest.approx(stats.ttest_rel(means[0.01], means[0.012]).pvalue, rel=1e-6)
    assert "over 4 common seeds, each the mean of 3 folds" in found["verdict"]["text"]
    [row] = [row for row in found["settings"] if row["optimizer.lr"] == "0.01"]
    low, high = stats.t.interval(0.95, 3, means[0.01].mean(), stats.sem(means[0.01]))
    assert (row["n"], row["low"], row["high"]) == pytest.approx((12, low, high), rel=1e-6)


def test_folds_of_one_seed_are_no_independent_runs():
    """Chance alone wins too often over folds if nothing is corrected: their training rows are mostly the same."""
    d = [0.3, 0.1, 0.25, 0.2, 0.05]
    found = statistics.difference(d, [0.0] * 5, overlap=1 / 4)
    assert (found.p, found.summary.low, found.summary.high) == pytest.approx(corrected(d, k=5), rel=1e-9)
    assert found.p > stats.ttest_rel(d, [0.0] * 5).pvalue


def test_a_fold_is_no_seed_in_what_is_said(stocked, capsys):
    words = ["data=iris", "loss=cross_entropy", "data.folds=3", "trainer.epochs=3"]
    gdexp.launch([*words, "data.fold=0,1,2", "optimizer.lr=0.01,0.1"], multirun=True)
    assert "paired t test over 3 common folds" in compared(capsys)["verdict"]["text"]


def test_the_line_that_confirms_keeps_the_objective(stocked, capsys):
    Path("mine.py").write_text("def spread(output, target):\n    return output.std()\n")
    words = ["data=iris", "loss=cross_entropy", "trainer.epochs=3", "optimizer.lr=0.01,0.1", "seed=0,1"]
    asked = ["sweep.objective=val_spread", "sweep.objective_mode=max", "sweep.objective_at=best"]
    gdexp.launch([*words, "metrics=[mine.spread]", *asked], multirun=True)
    assert {*asked, "metrics=[mine.spread]"} <= {*shlex.split(compared(capsys)["confirm"])}
    gdexp.launch(words, multirun=True)
    assert "sweep." not in compared(capsys)["confirm"]
    assert "sweep.objective=val_accuracy" in compared(capsys, "--objective", "val_accuracy")["confirm"].split()


def compared(capsys, *words):
    capsys.readouterr()
    gdexp.compare.main([*words, "--json", "-"])
    return json.loads(capsys.readouterr().out)
