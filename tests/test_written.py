"""What stands in a record is what one types, and only what is known."""

import random
import subprocess

import pytest
from mlflow.tracking import MlflowClient
from omegaconf import OmegaConf

import gdexp
from gdexp.config import grid, written


def test_typed_is_the_inverse_of_hydras_parser():
    letters = "aZ0 \\'\"/$%*@?|+:~-.,=[]{}()#üé\tß日\u202e_e1"
    draw = random.Random(0)
    texts = ["".join(draw.choices(letters, k=draw.randint(0, 8))) for _ in range(3000)]
    values = [*texts, "null", "~", "1e3", "true", "a\\", "\\'", [["a\\", None], True, 1e22], -0.0, 1e-7, 10**20]
    for value in values:
        again = grid.parser().parse_override(f"key={written.typed(value)}").value()
        assert again == value and type(again) is type(value), (value, written.typed(value))


def test_typed_mappings_are_read_back():
    draw = random.Random(1)

    def text(letters):
        return "k" + "".join(draw.choices(letters, k=draw.randint(0, 6)))

    def value(depth):
        inner = [value(depth - 1) for _ in range(draw.randint(0, 3))] if depth else []
        if draw.random() < 0.5:
            return {text("aZ0 /$%*@?|+-_.\\()[]{}:=,"): own for own in inner}
        return inner or draw.choice([text("aü\\'\"{}: "), None, True, 1, -0.5, 1e22, "null", "1"])

    for _ in range(1000):
        given = {"node": value(3), 3: "three"}
        assert grid.parser().parse_override(f"key={written.typed(given)}").value() == given


@pytest.mark.parametrize(
    "words", [["+tracking.uri=a,b"], ["sweep.each={sgd: {tracking.uri: 'a,b'}}", "optimizer=sgd,adam"]]
)
def test_no_other_way_makes_an_axis_of_the_record(stocked, words):
    with pytest.raises(ValueError, match=r"tracking\.uri` is one for the whole sweep"):
        gdexp.launch(words, multirun=True)


NET = """
import torch
class Net(torch.nn.Linear):
    def __init__(self):
        super().__init__(1, 1)
    def training_loss(self, batch):
        return ((self(batch[0]) - batch[1]) ** 2).mean(), {NUMBERS}
"""
NUMBERS = ["{'train_loss': 1.0}", "{'loss': 1.0}", "{'lr': 1.0}", "{'val_loss': 1.0}", "{'a': 1.0, 'val_a': 2.0}"]
NUMBERS += ["{'err<1': 1.0, 'err>1': 2.0}", "{'a' * 300: 1.0}", "{3: 1.0}", "{'test_a_ema': 1.0, 'a': 2.0}"]


def test_numbers_of_a_stack_are_read_back(stocked):
    """OmegaConf, which others read config.yaml with, gives each run's own number, of its own type."""
    rates = [1e-5, 1, 1e-300, 5e-324, 0.1 + 0.2, 1e16, 1e22, 10**9, 0.1, 123456.0]
    runs = gdexp.launch(["trainer.epochs=1", f"optimizer.lr={','.join(map(repr, rates))}"], multirun=True)
    client = MlflowClient(f"sqlite:///{stocked}/mlflow.db")
    assert all("stack" in client.get_run(run_id).data.tags["gdexp.trained_as"] for run_id in runs.run_id)
    texts = [next(stocked.glob(f"mlruns/*/{run_id}/artifacts/config.yaml")) for run_id in runs.run_id]
    found = [OmegaConf.load(text).optimizer.lr for text in texts]
    assert list(map(repr, found)) == list(map(repr, rates))


@pytest.mark.parametrize("numbers", NUMBERS)
def test_own_numbers_never_meet_others(stocked, numbers):
    (stocked / "net.py").write_text(NET.replace("NUMBERS", numbers).replace("{{", "{").replace("}}", "}"))
    words = ["model=custom", "model._target_=net.Net", "loss=none", "trainer.epochs=2", "data.val_fraction=0.2"]
    with pytest.raises(ValueError, match=r"^training_loss: .*"):
        gdexp.launch(words)
    assert len(gdexp.runs()) == 0


@pytest.mark.parametrize("names", [["mine.loss"], ["mine.accuracy"], ["mine.f", "yours.f"], ["mine.f1", "f1"]])
def test_own_metrics_never_meet_others(stocked, names):
    for module in ("mine", "yours"):
        (stocked / f"{module}.py").write_text("def f(o, t):\n    return o.mean()\nf1 = loss = accuracy = f\n")
    words = ["data=digits", "model=mlp", "loss=cross_entropy", "trainer.epochs=1", f"metrics=[{','.join(names)}]"]
    with pytest.raises(ValueError, match=r"^`metrics`: .* rename it"):
        gdexp.launch(words)


def test_where_runs_are_recorded_is_no_axis(stocked):
    with pytest.raises(ValueError, match=r"`tracking\.experiment` is one for the whole sweep"):
        gdexp.launch(["tracking.experiment=a,b"], multirun=True)


def test_placeholders_of_git_are_no_tags(stocked):
    subprocess.run(["git", "init", "-qb", "trunk"], check=True)
    [run_id] = gdexp.launch(["trainer.epochs=1"]).run_id
    tags = MlflowClient(f"sqlite:///{stocked}/mlflow.db").get_run(run_id).data.tags
    assert "mlflow.source.git.commit" not in tags and tags["mlflow.source.git.branch"] == "trunk"
