"""Every command of the README does what it says, in a folder that has the README's own files."""

import re
import shlex
from pathlib import Path

import pytest

import gdexp

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()
TESTED = [
    line for block in re.findall(r"<!-- tested -->\n```sh\n(.*?)```", README, re.DOTALL) for line in block.splitlines()
]


@pytest.fixture
def files(stocked):
    for name, text in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", README, re.DOTALL):
        (stocked / name).write_text(text)
    (stocked / "houses.csv").write_text(
        "area,rooms,price\n" + "".join(f"{50 + i},{i % 5},{1e3 * i}\n" for i in range(20))
    )
    return stocked


def test_readme_has_commands():
    assert len(TESTED) >= 10


OFTEN = 5  # of these are tested every day, the others by .ci/run


@pytest.mark.parametrize(
    "line", [pytest.param(line, marks=[] if i < OFTEN else pytest.mark.slow) for i, line in enumerate(TESTED)]
)
def test_command_of_the_readme(files, gdexp_run, line):
    words = shlex.split(line)
    assert words[:2] == ["python", "-m"] and words[2] in ("gdexp.run", "gdexp.compare")
    if words[2] == "gdexp.compare":
        gdexp.launch(["optimizer.lr=0.001,0.01", "trainer.epochs=5"], multirun=True)
    done = gdexp_run(*words[3:], module=words[2])
    assert done.returncode == 0, done.stderr
    assert set(gdexp.runs().status) == {"FINISHED"}
    if words[2] == "gdexp.run":
        assert ": python -m gdexp.ui, then http://127.0.0.1:5000/#/experiments/1/runs" in done.stdout


def test_python_of_the_readme(stocked):
    [block] = re.findall(r"```python\n(import gdexp\n.*?)```", README, re.DOTALL)
    names: dict[str, object] = {}
    exec(block, names)
    assert len(names["everything"]) == 10 and names["model"].linear.weight.shape == (1, 1)


def test_keys_of_the_readme_exist():
    from gdexp.config.compose import compose, keys
    from gdexp.config.sources import options

    config = compose([])[0].config
    known = [*keys(config), *config]
    table = README[README.index("| key |") :]
    for row in re.findall(r"^\| (`[^|]+) \| ([^|]+) \|", table, re.MULTILINE):
        for key in re.findall(r"`([^`]+)`", row[0]):
            assert key in known or key == "experiments", key
            if key in ("data", "model", "loss", "optimizer", "scheduler", "learner", "tracking", "experiments"):
                assert set(options(key)) == set(re.findall(r"`(\w+)`", row[1])), key
