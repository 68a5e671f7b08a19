"""A job is known by the code that was trained, wherever that came from."""

import builtins
import importlib
import io
import linecache
import os
import subprocess
import sys

import pytest
from recorded import query

import gdexp
from gdexp.tracking.code import _began

NET = """
import torch
{head}
class Net(torch.nn.Linear):
    def __init__(self):
        super().__init__(1, 1)
    def forward(self, x):
        {body}
        return SCALE * super().forward(x)
"""
WORDS = ["model=custom", "model._target_=net.Net", "trainer.epochs=2", "optimizer.lr=0.01,0.02,0.03"]


def net(folder, head="SCALE = 1.0", body="pass"):
    (folder / "net.py").write_text(NET.format(head=head, body=body))


def jobs():
    return len(query("SELECT 1 FROM tags WHERE key='gdexp.job'"))


def code(folder, name="net.py"):
    return {path.read_text() for path in folder.glob(f"mlruns/*/*/artifacts/code/{name}")}


def test_text_that_trained_is_recorded_though_the_file_was_edited_within_the_second(stocked):
    losses = []
    for scale in ("1.0", "2.0"):  # of one size, so that a compiled file of the first looks like the second's
        net(stocked, f"SCALE = {scale}")
        losses.append(gdexp.launch(WORDS[:3]).train_loss[0])
    assert losses[0] != losses[1] and len(code(stocked)) == 2
    assert not list(stocked.rglob("__pycache__"))


@pytest.mark.parametrize(("head", "body"), [("from consts import SCALE", "pass"), ("", "from consts import SCALE")])
def test_edited_constant_is_another_job(stocked, head, body):
    net(stocked, head, body)
    (stocked / "consts.py").write_text("SCALE = 1.0\n")
    gdexp.launch(WORDS, multirun=True)
    gdexp.launch(WORDS, multirun=True)
    assert jobs() == 3  # already done
    (stocked / "consts.py").write_text("SCALE = 2.0\n")
    table = gdexp.launch(WORDS, multirun=True)
    assert jobs() == 6 and len(gdexp.runs()) == 6
    assert code(stocked, "consts.py") == {"SCALE = 1.0\n", "SCALE = 2.0\n"}
    assert len(set(table.run_id) & set(gdexp.runs().run_id)) == 3


def test_file_read_on_import_is_part_of_the_job(stocked):
    net(stocked, "import json, pathlib\nSCALE = json.loads(pathlib.Path('scale.json').read_text())")
    (stocked / "scale.json").write_text("1.0")
    first = gdexp.launch(WORDS, multirun=True)
    (stocked / "scale.json").write_text("2.0")
    second = gdexp.launch(WORDS, multirun=True)
    assert jobs() == 6 and set(first.train_loss) != set(second.train_loss)
    assert "#   scale.json: SHA-256 " in next(iter(code(stocked)))


@pytest.mark.parametrize("fails", [False, True])
def test_file_is_read_once_more_however_deep_the_import_that_opens_it(stocked, monkeypatch, fails):
    calls, opened = [], builtins.open

    def counting(file, *more, **options):
        calls.append(str(file))
        return opened(file, *more, **options)

    net(stocked, "from m0 import SCALE")
    for i in range(11):
        (stocked / f"m{i}.py").write_text(f"from m{i + 1} import SCALE\n")
    last = "import threading\nSCALE = float(open('scale.txt').read())\n"
    last += "other = threading.Thread(target=lambda: open('other.txt').close())\nother.start()\nother.join()\n"
    (stocked / "m11.py").write_text(last + ("1 / 0\n" if fails else ""))
    for name in ("scale.txt", "other.txt"):
        (stocked / name).write_text("1.0")
    monkeypatch.setattr("builtins.open", counting)
    before = io.open
    try:
        gdexp.launch(WORDS[:3])
    except (ValueError, ZeroDivisionError):
        assert fails
    count = len([name for name in calls if name.endswith("scale.txt")])
    assert count == 2 or (fails and count <= 4)  # the module's own, and ours; a module that fails may be tried twice
    assert builtins.open is counting and io.open is before
    if not fails:
        [text] = code(stocked, "m11.py")
        assert "#   scale.txt: SHA-256 " in text and "#   other.txt" not in text


def test_module_found_while_training_is_recorded_and_its_job_not_taken_over(stocked, capsys):
    net(stocked, body="import importlib; SCALE = importlib.import_module('con' + 'sts').SCALE")
    (stocked / "consts.py").write_text("SCALE = 1.0\n")
    text = (stocked / "net.py").read_text()
    (stocked / "net.py").write_text(
        text.replace(
            "        import importlib",
            "        if torch.is_grad_enabled() and x.requires_grad: pass\n        import importlib",
        )
    )
    words = [*WORDS, "sweep.stack=never"]
    gdexp.launch(words, multirun=True)
    (stocked / "consts.py").write_text("SCALE = 2.0\n")
    gdexp.launch(words, multirun=True)
    assert len(gdexp.runs()) == 6 and code(stocked, "consts.py") == {"SCALE = 1.0\n", "SCALE = 2.0\n"}


def test_module_that_its_host_imported_and_that_was_edited_is_refused(stocked, monkeypatch):
    monkeypatch.syspath_prepend(str(stocked))
    sys.modules.pop("net", None)
    net(stocked)
    try:
        module = importlib.import_module("net")
        gdexp.launch(WORDS[:3])
        text = (stocked / "net.py").read_text()
        (stocked / "net.py").write_text(text.replace("SCALE *", "3 * SCALE *"))
        with pytest.raises(ValueError, match=r"net.py has changed since this process imported it"):
            gdexp.launch(WORDS[:3])
        importlib.invalidate_caches()
        importlib.reload(module)
        gdexp.launch(WORDS[:3])
        assert len(gdexp.runs()) == 2 and len(code(stocked)) == 2
    finally:
        sys.modules.pop("net", None)


SCRIPT = """
import sys, gdexp, torch
SCALE = float(sys.argv[1])
class Net(torch.nn.Linear):
    def __init__(self):
        super().__init__(1, 1)
    def forward(self, x):
        return SCALE * super().forward(x)
if __name__ == "__main__":
    words = ["model=custom", "model._target_=__main__.Net", "trainer.epochs=2", "optimizer.lr=0.01,0.02"]
    gdexp.launch(words, multirun=True)
"""


def script(*words, text=None):
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run([sys.executable, *words], env=environment, text=True, capture_output=True, input=text)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_class_of_a_script_is_known_by_its_text_and_values(stocked):
    (stocked / "script.py").write_text(SCRIPT)
    script("script.py", "1")
    assert "2 of 2 already done" in script("script.py", "1")
    assert "already done" not in script("script.py", "2") and jobs() == 4
    (stocked / "script.py").write_text(SCRIPT.replace("return SCALE", "return 2 * SCALE"))
    assert "already done" not in script("script.py", "1") and jobs() == 6
    assert any("#   SCALE = 2.0" in text for text in code(stocked, "__main__.py"))


@pytest.mark.slow
def test_class_without_a_text_is_never_already_done(stocked):
    text = SCRIPT.replace("sys.argv[1]", "'1'")
    script("-", text=text)
    shown = script("-", text=text)
    assert "No job counts as already done: the text of Net isn't known" in shown
    assert "2 of 2" not in shown and len(gdexp.runs()) == 4


def test_when_a_process_began_is_known():
    """So that files that are older than it are taken for what was imported."""
    assert 0 < _began() < os.stat(__file__).st_atime + 1e9


CELL = """
class Net(torch.nn.Linear):
    def __init__(self):
        super().__init__(1, 1)
    def forward(self, x):
        return {scale} * super().forward(x)
"""


def test_class_of_a_notebook_is_known_by_its_cell(stocked, monkeypatch):
    main = type(sys)("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    main.torch = importlib.import_module("torch")
    words = ["model=custom", "model._target_=__main__.Net", "trainer.epochs=2", "optimizer.lr=0.01,0.02"]
    for i, scale in enumerate((1, 1, 2)):
        name, text = f"<cell {i}>", CELL.format(scale=scale)
        linecache.cache[name] = len(text), None, text.splitlines(keepends=True), name  # as IPython does
        exec(compile(text, name, "exec"), vars(main))
        gdexp.launch(words, multirun=True)
    assert jobs() == 4 and code(stocked, "__main__.py") == {CELL.format(scale=1), CELL.format(scale=2)}
