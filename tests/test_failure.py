"""What a person typed or a file held is told in one line, by every command; errors of one's own code keep theirs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import gdexp
from gdexp.rerun import rerun
from gdexp.resume import resume

TYPED = {
    "experiment": ([f"tracking.experiment={'x' * 300}"], "`tracking.experiment` must be text of at most 250"),
    "open": (["+model.x='${a'"], "a"),
    "dollar": (["+model.x=${"], r"is not an override"),
    "variable": (["+model.x=${oc.env:NOT_THERE}"], "NOT_THERE"),
    "memory": (["data=sine", "data.rows=1000000000000000"], "memory|too large"),
    "yaml": (["data=torn"], r"conf/data/torn\.yaml, line 2 isn't YAML"),
    "bytes": (["data=bytes"], r"conf/data/bytes\.yaml isn't UTF-8"),
}


@pytest.mark.parametrize("kind", TYPED)
def test_what_was_typed_is_refused_in_a_line(stocked, kind):
    words, said = TYPED[kind]
    Path("conf/data").mkdir(parents=True)
    Path("conf/data/torn.yaml").write_text("a: [\n")
    Path("conf/data/bytes.yaml").write_bytes(b"a: \xff\n")
    with pytest.raises(ValueError, match=said) as refused:
        gdexp.launch([*words, "trainer.epochs=1"])
    assert "\n" not in str(refused.value) and len(gdexp.runs()) == 0


def test_longest_names_have_a_folder(stocked):
    run = gdexp.launch(["trainer.epochs=1", f"tracking.experiment='{'ü' * 250}'"])
    assert run.status[0] == "FINISHED" and list(Path("mlruns").glob(f"ü*/{run.run_id[0]}/artifacts/config.yaml"))


@pytest.mark.parametrize("use", [rerun, resume])
def test_words_after_an_id(stocked, use):
    [run_id] = gdexp.launch(["trainer.epochs=1"]).run_id
    for word, said in (("trainer.epochs=[5", "is not an override"), ("--what", "`--what` is no option")):
        with pytest.raises(ValueError, match=said):
            use([run_id, word])


def test_error_of_ones_own_code_stays_what_it_is(stocked):
    Path("my_data.py").write_text("def load():\n    open('not/there')\n")
    with pytest.raises(FileNotFoundError):
        gdexp.launch(["data=custom", "data._target_=my_data.load"])


COMMANDS = {
    "gdexp.run": ["trainer.epochs=1"],
    "gdexp.resume": ["a" * 32],
    "gdexp.rerun": ["a" * 32],
    "gdexp.compare": [],
    "gdexp.ui": ["--no-open"],
    "gdexp.store": ["check"],
}


@pytest.mark.slow
@pytest.mark.parametrize("module", COMMANDS)
def test_every_command_without_a_folder_or_with_a_damaged_store(gdexp_run, here, module):
    Path("mlflow.db").write_bytes(b"SQLite format 3\0" + os.urandom(4000))
    damaged = gdexp_run(*COMMANDS[module], module=module)
    assert damaged.returncode == 1 and len(damaged.stderr.splitlines()) == 1, damaged.stderr
    (here / "gone").mkdir()
    line = f"cd gone && rmdir ../gone && exec {sys.executable} -m {module} {' '.join(COMMANDS[module])}"
    environment = os.environ | {"PYTHONPATH": str(Path(gdexp.__file__).parents[1])}
    done = subprocess.run(["sh", "-c", line], env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr == "gdexp: the current directory is gone: cd to one that is there\n"


@pytest.mark.slow
def test_flags_that_exclude_each_other_and_help(gdexp_run, stocked):
    done = gdexp_run("-m", "--cfg", "job")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and "can't go together" in done.stderr
    for module in ("gdexp.rerun", "gdexp.resume"):
        done = gdexp_run("a" * 32, "--help", module=module)
        assert done.returncode == 0 and done.stdout.startswith("usage: python -m")
