"""Stopping, best weights, limits and what is recorded on request."""

import json

import pytest
import torch
from mlflow.tracking import MlflowClient
from safetensors.torch import load_file

import gdexp

IRIS = ["data=iris", "model=logistic", "optimizer.lr=0.05"]


def only(table):
    [run] = table.to_dict("records")
    return run


def client(folder):
    return MlflowClient(f"sqlite:///{folder}/mlflow.db")


def history(folder, run_id, name):
    return [(m.step, m.value) for m in client(folder).get_metric_history(run_id, name)]


def artifact(folder, run_id, name):
    return load_file(client(folder).download_artifacts(run_id, name))


def test_patience_stops_when_nothing_gets_better(stocked, capsys):
    words = ["data=sine", "data.rows=40", "data.noise=0.5", "model=mlp", "model.hidden=[64]", "optimizer=adam"]
    run = only(gdexp.launch([*words, "optimizer.lr=0.02", "trainer.epochs=2000", "trainer.patience=20"]))
    values = [v for _, v in history(stocked, run["run_id"], "val_loss")]
    best = min(range(len(values)), key=values.__getitem__)
    assert run["outcome"] == "stopped" and run["status"] == "FINISHED" and len(values) == best + 1 + 20
    tags = client(stocked).get_run(run["run_id"]).data.tags
    assert (
        int(tags["gdexp.best_epoch"]) == best + 1 and "has not improved for 20 epochs" in tags["gdexp.stopped_because"]
    )
    assert f"Stopped at epoch {len(values)}" in capsys.readouterr().out


def test_best_weights_give_the_best_value(stocked):
    words = ["data=wine", "data.standardize=inputs", "data.val_fraction=0.4", "model=mlp", "loss=cross_entropy"]
    run = only(
        gdexp.launch([*words, "optimizer=adam", "optimizer.lr=0.05", "trainer.epochs=60", "trainer.monitor=val_loss"])
    )
    from gdexp.data import bundled
    from gdexp.data.split import split, standardize

    fractions = {"val_fraction": 0.4, "test_fraction": 0, "split_seed": 0}
    x, y = standardize(split(bundled.wine(), **fractions), "inputs").val
    values = dict(history(stocked, run["run_id"], "val_loss"))
    for which, expected in (("best", min(values.values())), ("final", values[60])):
        output = gdexp.load(run["run_id"], weights=which)(x.float())
        assert torch.nn.functional.cross_entropy(output, y).item() == pytest.approx(expected, rel=1e-6)
    assert min(values.values()) < values[60]


@pytest.mark.parametrize("ema", [None, 0.9])
def test_test_rows_are_measured_with_the_best_weights_too(stocked, ema):
    words = ["data=wine", "data.standardize=inputs", "data.val_fraction=0.3", "data.test_fraction=0.3", "model=mlp"]
    words += ["loss=cross_entropy", "optimizer=adam", "optimizer.lr=0.05", "trainer.epochs=40", "metrics=[f1]"]
    monitor = "val_loss" if ema is None else "val_loss_ema"
    words += [f"trainer.monitor={monitor}", f"trainer.ema={ema or 'null'}"]
    from gdexp.data import bundled
    from gdexp.data.split import split, standardize

    fractions = {"val_fraction": 0.3, "test_fraction": 0.3, "split_seed": 0}
    x, y = standardize(split(bundled.wine(), **fractions), "inputs").test
    alone = only(gdexp.launch(words))
    assert alone["test_loss_best"] != alone["test_loss"]
    words += ["sweep.objective=test_f1_best"]
    stacked = gdexp.launch([*words, "seed=0,1,2", "sweep.chunk=8"], multirun=True).to_dict("records")
    for run in (alone, *stacked):
        for weights, end in (("best", "_best"), ("final", "")):
            output = gdexp.load(run["run_id"], weights=weights)(x.float())
            loss = torch.nn.functional.cross_entropy(output, y).item()
            assert run[f"test_loss{end}"] == pytest.approx(loss, rel=1e-5)
            right = (output.argmax(1) == y).double().mean().item()
            assert run[f"test_accuracy{end}"] == pytest.approx(right)
        assert dict(history(stocked, run["run_id"], "test_f1_best")).keys() == {40}


def test_monitor_of_which_more_is_better(stocked):
    run = only(gdexp.launch([*IRIS, "trainer.monitor=val_accuracy", "trainer.target=0.8", "trainer.epochs=500"]))
    values = [v for _, v in history(stocked, run["run_id"], "val_accuracy")]
    assert run["outcome"] == "stopped" and values[-1] >= 0.8 and max(values[:-1]) < 0.8


def test_best_train_loss_of_full_batches_is_that_of_its_weights(stocked):
    words = ["model=rosenbrock", "optimizer=momentum", "optimizer.lr=1e-3", "trainer.dtype=float64"]
    run = only(gdexp.launch([*words, "trainer.epochs=300", "trainer.monitor=train_loss"]))
    best = min(v for _, v in history(stocked, run["run_id"], "train_loss"))
    model = gdexp.load(run["run_id"], weights="best")
    assert model(model.x).item() == best


def test_unknown_monitor_is_refused_and_an_own_number_is_a_monitor(stocked):
    with pytest.raises(ValueError, match="no 'val_los'; did you mean `val_loss`"):
        gdexp.launch([*IRIS, "trainer.monitor=val_los"])
    run = only(gdexp.launch(["model=booth", "trainer.monitor=distance", "trainer.target=0.5", "trainer.epochs=500"]))
    assert run["outcome"] == "stopped" and run["distance"] <= 0.5


def test_max_steps_end_within_an_epoch(stocked):
    words = [*IRIS, "data.val_fraction=0", "trainer.batch_size=50", "trainer.max_steps=7", "trainer.log_steps=2"]
    run = only(gdexp.launch(words))
    assert run["outcome"] == "completed" and [s for s, _ in history(stocked, run["run_id"], "train_loss")] == [1, 2, 3]
    assert [s for s, _ in history(stocked, run["run_id"], "train_loss_step")] == [2, 4, 6]


def test_max_seconds_stop_within_an_epoch(stocked):
    run = only(gdexp.launch([*IRIS, "trainer.epochs=100000000", "trainer.max_seconds=0.5", "trainer.log_every=100000"]))
    assert run["outcome"] == "stopped"
    assert "max_seconds=0.5" in client(stocked).get_run(run["run_id"]).data.tags["gdexp.stopped_because"]


def test_norms_are_those_of_the_formula(stocked):
    run = only(gdexp.launch(["trainer.epochs=3", "trainer.record=[grad_norm,update_norm,weight_norm]"]))
    values = {
        n: [v for _, v in history(stocked, run["run_id"], n)] for n in ("grad_norm", "update_norm", "weight_norm")
    }
    assert values["update_norm"] == pytest.approx([0.01 * g for g in values["grad_norm"]], rel=1e-4)
    weights = torch.cat([t.flatten() for t in gdexp.load(run["run_id"]).state_dict().values()])
    assert values["weight_norm"][-1] == pytest.approx(weights.norm().item(), rel=1e-6)
    torch.manual_seed(0)
    model = torch.nn.Linear(1, 1)
    x = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    ((model(x) - 2 * x) ** 2).mean().backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert values["grad_norm"][0] == pytest.approx(gradient.norm().item(), rel=1e-6)


def test_speed_and_memory_are_recorded_on_request(stocked):
    run = only(gdexp.launch([*IRIS, "trainer.epochs=3", "trainer.record=[rows_per_second,epoch_seconds,peak_memory]"]))
    assert run["rows_per_second"] > 120 / run["epoch_seconds"] and 50 < run["peak_memory"] < 20_000


def test_trajectory_is_the_path_whose_losses_are_recorded(stocked):
    run = only(gdexp.launch(["model=himmelblau", "trainer.epochs=40", "trainer.dtype=float64"]))
    path = artifact(stocked, run["run_id"], "trajectory.safetensors")["x"]
    assert path.shape == (40, 2) and path[0].tolist() == [0, 0]
    losses = [v for _, v in history(stocked, run["run_id"], "train_loss")]
    x, y = path.T
    torch.testing.assert_close((x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2, torch.tensor(losses, dtype=torch.float64))
    minima = torch.tensor([[3, 2], [-2.805118, 3.131313], [-3.779310, -3.283186], [3.584428, -1.848127]])
    nearest = (path[:, None] - minima).norm(dim=2).min(1).values
    assert [v for _, v in history(stocked, run["run_id"], "distance")] == pytest.approx(nearest.tolist(), abs=1e-5)
    line = only(gdexp.launch(["trainer.trajectory=true", "trainer.epochs=5"]))
    assert artifact(stocked, line["run_id"], "trajectory.safetensors")["linear.weight"].shape == (5, 1, 1)
    with pytest.raises(ValueError, match="at most 1000 numbers"):
        gdexp.launch(["data=digits", "loss=cross_entropy", "model=mlp", "trainer.trajectory=true"])


def test_autocast_runs_the_forward_pass_in_bfloat16(stocked):
    words = [
        "data=digits",
        "model=mlp",
        "loss=cross_entropy",
        "optimizer=adam",
        "trainer.epochs=3",
        "trainer.batch_size=64",
    ]
    run = only(gdexp.launch([*words, "trainer.autocast=bfloat16"]))
    exact = only(gdexp.launch(words))
    assert gdexp.load(run["run_id"])[0].weight.dtype is torch.float32
    assert run["train_loss"] != exact["train_loss"] and run["train_loss"] == pytest.approx(
        exact["train_loss"], rel=0.05
    )


@pytest.mark.slow
def test_compiled_run_is_the_run(stocked):
    words = ["data=digits", "model=mlp", "loss=cross_entropy", "trainer.epochs=3", "trainer.batch_size=64"]
    compiled, plain = only(gdexp.launch([*words, "trainer.compile=true"])), only(gdexp.launch(words))
    assert compiled["train_loss"] == pytest.approx(plain["train_loss"], rel=1e-4)


def test_determinism_is_on_while_a_run_trains_on_the_cpu_and_off_afterwards(stocked):
    (stocked / "look.py").write_text(
        "import torch\nseen = []\n"
        "def at(epoch, model):\n    seen.append(torch.are_deterministic_algorithms_enabled())\n"
    )
    for mode in ("auto", "false"):
        gdexp.launch(["trainer.epochs=1", "trainer.on_epoch=[look.at]", f"trainer.deterministic={mode}"])
    import sys

    assert sys.modules["look"].seen == [True, False] and not torch.are_deterministic_algorithms_enabled()


def test_data_are_recorded_by_their_numbers(stocked):
    runs = [only(gdexp.launch(["trainer.epochs=1", *w])) for w in (["data=iris", "model=logistic"], [], ["seed=4"])]
    inputs = [client(stocked).get_run(r["run_id"]).inputs.dataset_inputs for r in runs]
    iris, line, again = (i[0].dataset for i in inputs)
    assert (iris.name, line.name) == ("iris", "line") and line.digest == again.digest != iris.digest
    profile = json.loads(iris.profile)
    assert profile["shapes"] == {"train": [[150, 4], [150]]} and profile["sha256"].startswith(iris.digest)
    assert inputs[0][0].tags[0].value == "training"


def test_gan_of_the_experiments_learns_its_mixture(stocked):
    run = only(gdexp.launch(["experiments=gan", "trainer.epochs=120"]))
    distances = [v for _, v in history(stocked, run["run_id"], "val_distance")]
    assert distances[-1] < 0.5 < distances[0]
    gan = gdexp.load(run["run_id"])
    torch.manual_seed(0)
    made = gan.generator(torch.randn(4000, gan.latent)).detach()
    assert 0.3 < (made > 0).double().mean() < 0.7 and 1.5 < made.abs().mean() < 2.5


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("experiments=gan trainer.clip_norm=1", "`trainer.clip_norm` must be null"),
        ("experiments=gan scheduler=cosine", "`scheduler` must be constant"),
        ("experiments=gan metrics=[f1]", "`metrics`"),
        ("experiments=gan learner._target_=gan.mixture +learner.rows=3 ~learner.lr", "can't be taken away"),
        ("learner=custom learner._target_=torch.nn.Identity", "must have train_step"),
        ("scheduler=custom scheduler._target_=torch.optim.SGD +scheduler.lr=1", "`scheduler`"),
        ("model=none", "needs a learner of your own"),
        ("optimizer=none", "needs a learner of your own"),
    ],
)
def test_own_learner_gets_what_it_can_use(here, words, line):
    with pytest.raises(ValueError, match=line):
        gdexp.launch([*words.split(), "tracking=none"])


LOADERS = """
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from gdexp.data.bundled import iris

def rows():
    return TensorDataset(*iris().train)

def loaders(shuffle=False):
    return DataLoader(rows(), batch_size=30, shuffle=shuffle), DataLoader(rows(), batch_size=75)

class Stream(IterableDataset):
    def __iter__(self):
        return iter(rows())

def stream():
    return Stream(), rows()
"""


def test_loaders_of_the_users_own(stocked):
    (stocked / "loaders.py").write_text(LOADERS)
    own = ["data=custom", "data._target_=loaders.loaders", "loss=cross_entropy", "model=logistic"]
    with pytest.raises(ValueError, match="`model.out_features` must be given"):
        gdexp.launch(own)
    own.append("model.out_features=3")
    run = only(gdexp.launch([*own, "trainer.epochs=3"]))
    from gdexp.data.bundled import iris

    x, y = iris().train
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(3):
        for i in range(0, 150, 30):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[i : i + 30].float()), y[i : i + 30]).backward()
            optimizer.step()
    assert torch.equal(gdexp.load(run["run_id"]).linear.weight, model.weight)
    shuffled = [only(gdexp.launch([*own, "+data.shuffle=true", "trainer.epochs=2", f"seed={s}"])) for s in (1, 1, 2)]
    assert shuffled[0]["train_loss"] == shuffled[1]["train_loss"] != shuffled[2]["train_loss"]
    for words, line in (
        (["trainer.batch_size=10"], "`trainer.batch_size` must be null"),
        (["data.val_fraction=0.2"], "must be 0"),
        (["data.standardize=inputs"], "needs data in memory"),
    ):
        with pytest.raises(ValueError, match=line):
            gdexp.launch([*own, *words])


def test_stream_of_rows(stocked):
    (stocked / "loaders.py").write_text(LOADERS)
    own = [
        "data=custom",
        "data._target_=loaders.stream",
        "loss=cross_entropy",
        "model=logistic",
        "model.out_features=3",
    ]
    run = only(gdexp.launch([*own, "trainer.batch_size=50", "trainer.epochs=2", "trainer.max_steps=4"]))
    assert run["val_accuracy"] > 0 and len(history(stocked, run["run_id"], "train_loss")) == 2
    with pytest.raises(ValueError, match="`trainer.batch_size` must be a number"):
        gdexp.launch(own)
    with pytest.raises(ValueError, match="length of the run isn't known"):
        gdexp.launch([*own, "trainer.batch_size=50", "scheduler=cosine", "scheduler.interval=step"])
