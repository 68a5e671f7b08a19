"""What stands in a record is what one types, and only what is known."""

import random
import subprocess

import pytest
from mlflow.tracking import MlflowClient

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


def test_where_runs_are_recorded_is_no_axis(stocked):
    with pytest.raises(ValueError, match=r"`tracking\.experiment` is one for the whole sweep"):
        gdexp.launch(["tracking.experiment=a,b"], multirun=True)


def test_placeholders_of_git_are_no_tags(stocked):
    subprocess.run(["git", "init", "-qb", "trunk"], check=True)
    [run_id] = gdexp.launch(["trainer.epochs=1"]).run_id
    tags = MlflowClient(f"sqlite:///{stocked}/mlflow.db").get_run(run_id).data.tags
    assert "mlflow.source.git.commit" not in tags and tags["mlflow.source.git.branch"] == "trunk"
