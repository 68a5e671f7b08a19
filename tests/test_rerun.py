"""A run repeated from its record has the same bits, and what would make it another is named."""

import sqlite3

import pytest
import torch
from safetensors.torch import load_file, save_file

import gdexp
from gdexp.config.sources import options

IRIS = ["data=iris", "model=mlp", "model.hidden=[8]", "model.dropout=0.1", "loss=cross_entropy", "trainer.epochs=4"]
IRIS += ["trainer.batch_size=40"]
OPTIMIZERS = [o for o in options("optimizer") if o not in ("custom", "none", "sparse_adam")]
KINDS = {o: [f"optimizer={o}"] for o in OPTIMIZERS} | {
    "float64": ["trainer.dtype=float64", "optimizer=adam"],
    "bfloat16": ["trainer.dtype=bfloat16", "optimizer=adam"],
    "schedule": ["scheduler=one_cycle", "scheduler.interval=step"],
    "groups": ["optimizer.param_groups={bias: {weight_decay: 0.1}}"],
    "diverged": ["optimizer.lr=100000", "trainer.divergence_factor=10"],
    "clipped": ["trainer.clip_norm=0.1", "trainer.record=[grad_norm,epoch_seconds]", "trainer.ema=0.9"],
}


@pytest.mark.parametrize("kind", [pytest.param(k, marks=[] if k == "adam" else pytest.mark.slow) for k in KINDS])
def test_rerun_is_identical(gdexp_run, stocked, kind):
    [run] = gdexp.launch([*IRIS, *KINDS[kind]]).to_dict("records")
    done = gdexp_run(run["run_id"], "--verify", module="gdexp.rerun")
    assert done.returncode == 0 and "tensors, 0 bits differ" in done.stdout, done.stdout + done.stderr
    table = gdexp.runs()
    assert len(table) == 2 and table.train_loss.nunique() <= 1
    connection = sqlite3.connect("mlflow.db")
    [(origin,)] = connection.execute("SELECT value FROM tags WHERE key='gdexp.rerun_of'")
    connection.close()
    assert origin == run["run_id"]


@pytest.mark.parametrize(
    "words", [["optimizer.lr=logspace(1e-3,0.1,5)", "trainer.epochs=9"], [*IRIS, "optimizer=adam", "seed=range(8)"]]
)
def test_stacked_run_is_repeated_in_a_stack(gdexp_run, stocked, words):
    table = gdexp.launch(words, multirun=True)
    done = gdexp_run(table.run_id.iloc[-1], "--verify", module="gdexp.rerun")
    assert done.returncode == 0 and "0 bits differ" in done.stdout, done.stdout + done.stderr
    assert len(gdexp.runs()) == len(table) + 1


@pytest.mark.slow
@pytest.mark.parametrize("which", ["diverged", "survivor", "lone"])
def test_run_of_a_stack_is_repeated_with_its_neighbours(gdexp_run, stocked, which):
    words = ["optimizer.lr=0.001,0.01,0.02,0.03,0.04,0.05,0.06,9,8", "trainer.epochs=30"]
    table = gdexp.launch(words, multirun=True)
    assert {"completed", "diverged"} == set(table.outcome)
    run_id = table[table.outcome == ("diverged" if which == "diverged" else "completed")].run_id.iloc[-1]
    if which == "lone":  # without its neighbours its bits may be others
        change("DELETE FROM tags WHERE key='gdexp.stack' AND run_uuid<>?", run_id)
    done = gdexp_run(run_id, "--verify", module="gdexp.rerun")
    said = {0: "0 bits differ", 3: "may round differently"}
    assert done.returncode in ((0, 3) if which == "lone" else (0,)), done.stdout + done.stderr
    assert said[done.returncode] in done.stdout
    again = gdexp.runs().set_index("run_id").drop(table.run_id).iloc[0]
    assert again["optimizer.lr"] == gdexp.runs().set_index("run_id")["optimizer.lr"][run_id]


@pytest.mark.parametrize(
    ("epoch", "metric", "weight", "expected"),
    [(8, 1e-5, 1e-5, 3), (1, 1e-8, 0, 3), (1, 1e-5, 0, 1), (8, 0.01, 0, 1), (8, 0, 0.01, 1)],
)
def test_same_to_rounding_are_all_epochs_and_the_weights(stocked, capsys, epoch, metric, weight, expected):
    """A record that is changed by so large a share stands for a run that was trained among others."""
    from gdexp.rerun import rerun

    run_id = gdexp.launch(["optimizer.lr=0.01,0.02,0.03,0.04", "trainer.epochs=9"], multirun=True).run_id.iloc[-1]
    change(
        "UPDATE metrics SET value=value*(1+?) WHERE key='train_loss' AND step=? AND run_uuid=?", metric, epoch, run_id
    )
    [path] = stocked.glob(f"mlruns/*/{run_id}/artifacts/weights.safetensors")
    weights = load_file(path)
    save_file({name: t * (1 + weight) for name, t in weights.items()}, path)
    with pytest.raises(SystemExit) as end:
        rerun([run_id, "--verify"])
    shown = capsys.readouterr().out
    assert end.value.code == expected, shown
    said = "the first 5 epochs to 1e-06, those of all epochs and 2 tensors to 0.001"
    assert (said in shown) == (expected == 3) and ("a stack with other neighbours" in shown)


def test_own_later_metrics_are_no_difference_and_lost_ones_are(stocked, capsys):
    from gdexp.rerun import rerun

    [run_id] = gdexp.launch(["trainer.epochs=3"]).run_id
    change("INSERT INTO metrics SELECT 'mine', 7, timestamp, run_uuid, 0, 0 FROM metrics LIMIT 1")
    with pytest.raises(SystemExit) as end:
        rerun([run_id, "--verify"])
    assert not end.value.code
    change("DELETE FROM metrics WHERE key='train_loss' AND step=2 AND run_uuid=?", run_id)
    with pytest.raises(SystemExit) as end:
        rerun([run_id, "--verify"])
    assert end.value.code == 1 and "train_loss at epoch 2: None then" in capsys.readouterr().out


@pytest.mark.slow
def test_part_without_gradients_stays_as_it_was_in_a_repeated_stack(gdexp_run, stocked):
    net = "from torch import nn\nclass Net(nn.Linear):\n    def __init__(self):\n        super().__init__(1, 1)\n"
    (stocked / "net.py").write_text(net + "        self.spare = nn.Linear(2, 2)\n")
    words = ["model=custom", "model._target_=net.Net", "optimizer=adamw", "optimizer.weight_decay=0.5"]
    table = gdexp.launch([*words, "optimizer.lr=0.01,0.02,0.05,0.1", "trainer.epochs=9"], multirun=True)
    done = gdexp_run(table.run_id.iloc[-1], "--verify", module="gdexp.rerun")
    assert done.returncode == 0 and "0 bits differ" in done.stdout, done.stdout + done.stderr


def change(sql, *values):
    connection = sqlite3.connect("mlflow.db")
    with connection:
        connection.execute(sql, values)
    connection.close()


@pytest.mark.slow
def test_what_is_not_as_it_was_is_named(gdexp_run, stocked):
    net = "from torch import nn\nclass Net(nn.Linear):\n    def __init__(self):\n        super().__init__(1, 1)\n"
    (stocked / "net.py").write_text(net)
    (stocked / "a.csv").write_text("a,y\n" + "".join(f"{i},{i}.5\n" for i in range(20)))
    words = ["model=custom", "model._target_=net.Net", "data=table", "data.path=a.csv", "data.target=y"]
    assert gdexp_run(*words, "optimizer.lr=0.001", "trainer.epochs=4").returncode == 0
    [run_id] = gdexp.runs().run_id

    def verify():
        done = gdexp_run(run_id, "--verify", module="gdexp.rerun")
        return done.returncode, done.stdout

    assert verify()[0] == 0
    (stocked / "a.csv").write_text((stocked / "a.csv").read_text().replace("19.5", "18.5"))
    code, shown = verify()
    assert code == 1 and "differs: train_loss at epoch 1" in shown and "likely cause: the data: SHA-256" in shown
    (stocked / "a.csv").write_text((stocked / "a.csv").read_text().replace("19,18.5", "19,19.5"))
    (stocked / "net.py").write_text(net + "        self.weight.data *= 2\n")
    code, shown = verify()
    assert code == 1 and "likely cause: the code: net.py differs" in shown and "[0] in weights.safetensors: " in shown
    (stocked / "net.py").write_text(net)
    change("UPDATE tags SET value='1.0.0' WHERE key='gdexp.torch' AND run_uuid=?", run_id)
    code, shown = verify()
    assert code == 1 and "Not as it was: torch: 1.0.0 then" in shown
    assert "0 bits differ, though not all is as it was: torch: 1.0.0 then" in shown
    change("UPDATE tags SET value=? WHERE key='gdexp.torch' AND run_uuid=?", str(torch.__version__), run_id)
    [environment] = stocked.glob(f"mlruns/*/{run_id}/artifacts/environment.json")
    text = environment.read_text()
    assert '"threads": ' in text
    environment.write_text(text.replace('"threads": ', '"threads": 7'))
    assert "Not as it was: torch's threads: 7" in verify()[1]
    environment.write_text("{[")
    code, shown = verify()
    assert code == 0 and "Not as it was: environment.json: it is damaged" in shown


PLACES = ("loss", "data", "optimizer", "scheduler", "on_epoch", "inner")
FOREIGN = ("builtins.eval", "torch.os.system", "torch.hub.load", "torch.utils.cpp_extension.load", "functools.partial")
CASES = [*(("model", target) for target in FOREIGN), *((place, "os.system") for place in PLACES)]


@pytest.mark.parametrize(
    ("place", "target"), [("model", "os.system"), *(pytest.param(*case, marks=pytest.mark.slow) for case in CASES)]
)
def test_record_builds_nothing_foreign(gdexp_run, stocked, target, place):
    [run_id] = gdexp.launch(["trainer.epochs=1"]).run_id
    [path] = stocked.glob(f"mlruns/*/{run_id}/artifacts/config.yaml")
    text = path.read_text()
    if place == "on_epoch":
        text = text.replace("on_epoch: []", f"on_epoch:\n  - {target}")
    elif place == "inner":
        text = text.replace("model:\n", f"model:\n  layer:\n    _target_: {target}\n    command: touch harmed\n")
    else:
        lines = text.splitlines()
        i = lines.index(f"{place}:") + 1
        lines[i] = f"  _target_: {target}\n  command: touch harmed"
        text = "\n".join(lines)
    path.write_text(text)
    for module in ("gdexp.rerun", "gdexp.resume"):
        done = gdexp_run(run_id, module=module)
        assert done.returncode == 1 and target in done.stderr and "GDEXP_ALLOW" in done.stderr, done.stderr
        assert len(done.stderr.splitlines()) == 1
    if place == "model":
        with pytest.raises(ValueError, match="GDEXP_ALLOW"):
            gdexp.load(run_id)
    assert not (stocked / "harmed").exists() and len(gdexp.runs()) == 1


@pytest.mark.slow
def test_record_of_an_older_gdexp_and_a_damaged_one(gdexp_run, stocked):
    [run_id] = gdexp.launch(["trainer.epochs=2"]).run_id
    [path] = stocked.glob(f"mlruns/*/{run_id}/artifacts/config.yaml")
    text = path.read_text()
    older = "\n".join(line for line in text.splitlines() if "checkpoint_" not in line)
    path.write_text(older)
    assert gdexp_run(run_id, "--verify", module="gdexp.rerun").returncode == 0
    path.write_text("\n".join(line for line in older.splitlines() if "accumulate" not in line))
    refused = gdexp_run(run_id, module="gdexp.rerun")
    assert refused.returncode == 1 and "`trainer.accumulate` is missing" in refused.stderr
    path.write_text("model: 3\n")
    assert "config.yaml is damaged" in gdexp_run(run_id, module="gdexp.rerun").stderr
    path.write_text(text)
    [weights] = stocked.glob(f"mlruns/*/{run_id}/artifacts/weights.safetensors")
    weights.write_bytes(weights.read_bytes()[:-3])
    done = gdexp_run(run_id, "--verify", module="gdexp.rerun")
    assert done.returncode == 1 and "weights.safetensors is damaged" in done.stderr


@pytest.mark.slow
def test_artifacts_that_leave_their_folder_are_refused(gdexp_run, stocked):
    [run_id] = gdexp.launch(["trainer.epochs=2"]).run_id
    [folder] = stocked.glob(f"mlruns/*/{run_id}/artifacts")
    (stocked / "elsewhere.yaml").write_text((folder / "config.yaml").read_text())
    (folder / "config.yaml").unlink()
    (folder / "config.yaml").symlink_to(stocked / "elsewhere.yaml")
    done = gdexp_run(run_id, module="gdexp.rerun")
    assert done.returncode == 1 and "leads out of its folder" in done.stderr
    change("UPDATE runs SET artifact_uri=? WHERE run_uuid=?", f"{stocked.as_uri()}/elsewhere", run_id)
    done = gdexp_run(run_id, module="gdexp.resume")
    assert done.returncode == 1 and "outside of its store's folder" in done.stderr
