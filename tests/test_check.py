"""What `store check` finds, mends and can't mend."""

import os
import shutil
import sqlite3

import pytest

import gdexp
from gdexp import store

WORDS = ["trainer.epochs=3"]


def checked(folder, capsys):
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        store.main(["check", str(folder / "mlflow.db")])
    return ended.value.code, capsys.readouterr().out


def execute(folder, sql):
    connection = sqlite3.connect(folder / "mlflow.db", isolation_level=None)
    connection.execute(sql)
    connection.close()


def test_sweeps_diverged_and_killed_runs_are_all_well(stocked, capsys):
    gdexp.launch([*WORDS, "optimizer.lr=0.01,0.02"], multirun=True)
    gdexp.launch([*WORDS, "optimizer.lr=1e30"])
    gdexp.launch(["model=rosenbrock", "model.start=[-1.2,1]", *WORDS])
    code, said = checked(stocked, capsys)
    assert code == 0 and said.endswith("5 runs, 0 of them running; all well\n") and said.count("\n") == 1


FAULTS = {
    "weights": (lambda folder: (folder / "weights.safetensors").unlink(), "weights.safetensors is missing"),
    "damaged": (lambda folder: os.truncate(folder / "weights.safetensors", 90), "weights.safetensors is damaged"),
    "config": (lambda folder: (folder / "config.yaml").unlink(), "config.yaml is missing"),
    "folder": (lambda folder: shutil.rmtree(folder), "all of its artifacts are missing"),
    "epochs": (
        lambda folder: execute(folder.parents[3], "DELETE FROM metrics WHERE step=2"),
        "the rows of 1 of its 3 epochs",
    ),
    "params": (lambda folder: execute(folder.parents[3], "DELETE FROM params"), "the rows of its params are missing"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_missing_is_named_and_told_by_the_exit_code(stocked, capsys, fault):
    [run_id] = gdexp.launch(WORDS).run_id
    break_it, words = FAULTS[fault]
    [folder] = stocked.glob(f"mlruns/*/{run_id}/artifacts")
    break_it(folder)
    for _ in range(2):  # nothing was mended
        code, said = checked(stocked, capsys)
        assert code == 1 and words in said and run_id in said
        assert ("gdexp.rerun" in said) == (fault not in ("config", "folder"))
    assert said.count("\n") == 2


def test_a_kept_file_that_cannot_be_taken_in_is_named(stocked, capsys):
    gdexp.launch(WORDS)
    (stocked / "gdexp-kept-odd.db").write_text("no database at all, whoever left it")
    code, said = checked(stocked, capsys)
    assert code == 1 and "gdexp-kept-odd.db can't be taken in" in said
    (stocked / "gdexp-kept-odd.db").unlink()
    assert checked(stocked, capsys)[0] == 0


def test_artifacts_that_lie_where_the_experiment_has_them_are_found_again(stocked, capsys):
    [run_id] = gdexp.launch(WORDS).run_id
    execute(stocked, "UPDATE runs SET artifact_uri='file:///nowhere/' || run_uuid || '/artifacts'")
    code, said = checked(stocked, capsys)
    assert code == 0 and "are found again" in said and gdexp.load(run_id)
