"""A model may start from the weights of another run or of a file."""

import re

import pytest
import torch
from safetensors.torch import load_file, save_file

import gdexp

WORDS = ["data=iris", "loss=cross_entropy", "model=mlp", "model.hidden=[8]", "optimizer.lr=0.01"]


def launched(*words, multirun=False):
    return gdexp.launch([*WORDS, *words], multirun=multirun).to_dict("records")


def file_of(folder, run):
    [path] = folder.glob(f"mlruns/*/{run['run_id']}/artifacts/weights.safetensors")
    return path


def test_run_goes_on_from_the_weights_of_another(stocked, capsys):
    [whole] = launched("trainer.epochs=6")
    [first] = launched("trainer.epochs=3")
    capsys.readouterr()
    [second] = launched("trainer.epochs=3", f"model.weights={first['run_id']}", "seed=5")
    assert "4 of 4 tensors of the model start from run" in capsys.readouterr().out
    assert second["train_loss"] == whole["train_loss"]  # plain gradient descent remembers nothing
    save_file(load_file(file_of(stocked, first)), "w.safetensors")
    [third] = launched("trainer.epochs=3", "model.weights=w.safetensors", "trainer.dtype=float32")
    assert third["train_loss"] == whole["train_loss"]


def test_only_what_is_there_is_taken(stocked, capsys):
    [first] = launched("trainer.epochs=3")
    start = load_file(file_of(stocked, first))
    more = ["trainer.epochs=1", "optimizer.lr=0", f"model.weights={first['run_id']}"]
    with pytest.raises(ValueError, match=re.escape("0.weight is float32 [8, 4] in run")):
        launched(*more, "data=digits")
    [second] = launched(*more, "data=wine", "model.weights_partial=true")
    line = re.search(r"3 of 4 tensors of the model start from run .*; (\S+) keeps its own", capsys.readouterr().out)
    weights = load_file(file_of(stocked, second))
    same = {n for n, t in weights.items() if t.shape == start[n].shape and torch.equal(t, start[n])}
    assert line and weights.keys() - same == {line[1]}


@pytest.mark.parametrize(
    ("weights", "line"),
    [
        ("none.safetensors", "no file 'none.safetensors'"),
        ("w.pt", "must be the id of a run or a FILE.safetensors"),
        ("0" * 31 + "a", "no run 000"),
        ("bad.safetensors", "bad.safetensors is damaged"),
        ("other.safetensors", "no tensor of the model is in other.safetensors, which has x, y"),
    ],
)
def test_other_weights_are_refused(stocked, weights, line):
    (stocked / "bad.safetensors").write_bytes(b"no")
    save_file({"x": torch.zeros(1), "y": torch.zeros(1)}, "other.safetensors")
    with pytest.raises(ValueError, match=re.escape(line)):
        launched(f"model.weights={weights}")
    assert not len(gdexp.runs())


def test_sweep_over_starts_is_the_runs_alone(stocked):
    starts = [launched("trainer.epochs=3", f"seed={seed}")[0]["run_id"] for seed in (1, 2)]
    more = ["trainer.epochs=3", "optimizer.lr=logspace(0.001,0.1,8)"]
    swept = launched(*more, f"model.weights={','.join(starts)}", multirun=True)
    assert len(swept) == 16
    for run in swept[3], swept[12]:
        rate = run["optimizer.lr"]
        [alone] = launched("trainer.epochs=3", f"optimizer.lr={rate}", f"model.weights={run['model.weights']}")
        assert run["train_loss"] == pytest.approx(alone["train_loss"], rel=1e-6)


def test_changed_file_is_seen(gdexp_run, stocked):
    [first] = launched("trainer.epochs=3")
    start = load_file(file_of(stocked, first))
    save_file(start, "w.safetensors")
    more = ["trainer.epochs=2", "model.weights=w.safetensors", "optimizer.lr=0.001,0.002"]
    before = launched(*more, multirun=True)
    assert launched(*more, multirun=True)[0]["run_id"] == before[0]["run_id"]  # done already
    save_file({name: t + 1 for name, t in start.items()}, "w.safetensors")
    for command in (["trainer.epochs=4"], "gdexp.resume"), ([], "gdexp.rerun"):
        done = gdexp_run(before[0]["run_id"], *command[0], module=command[1])
        assert done.returncode == 1 and "`model.weights` isn't what it was" in done.stderr, done.stderr
    after = launched(*more, multirun=True)
    assert {r["run_id"] for r in after}.isdisjoint(r["run_id"] for r in before)
