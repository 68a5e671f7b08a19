"""Of a record that anybody may have written nothing foreign is built, and nothing is imported to find that out."""

import json
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import gdexp
from gdexp.rerun import rerun
from gdexp.resume import resume

EVIL = "import pathlib\npathlib.Path('harmed').touch()\ndef f(**_): pathlib.Path('harmed').touch()\n"
NET = "import os, torch\nfrom torch import nn\nclass Net(nn.Linear):\n    def __init__(self): super().__init__(1, 1)\n"


@pytest.fixture
def record(stocked):
    """Train a run, and return what writes a name into its record."""
    [run_id] = gdexp.launch(["trainer.epochs=1"]).run_id
    [config] = stocked.glob(f"mlruns/*/{run_id}/artifacts/config.yaml")
    text = config.read_text()

    def write(name, place="model"):
        lines = text.splitlines()
        at = lines.index(f"{place}:") + 1
        lines[at] = f"  _target_: {name}"
        config.write_text("\n".join(lines))
        return run_id

    write.folder = config.parent
    return write


def refused(record, name):
    before = set(sys.modules)
    run_id = record(name)
    for use in (gdexp.load, lambda run_id: rerun([run_id])):
        with pytest.raises(ValueError, match="not built from a record unless you allow it"):
            use(run_id)
    assert not Path("harmed").exists()
    return {m.partition(".")[0] for m in set(sys.modules) - before}


@pytest.mark.parametrize("name", ["antigravity.x", "this.s", "turtle.done", "lib2to3.main.main", "subprocess.Popen"])
def test_no_other_module_is_imported(record, name):
    assert name.partition(".")[0] not in refused(record, name)


THROUGH = [
    *("my_net.os.system", "my_net.torch.hub.load", "my_net.Net.__init__.__globals__.get", "my_net.nn.Linear"),
    *("torch.nn.functional.torch.os.system", "torch.os.system", "torch.nn.functional.importlib.import_module"),
    *("torch.utils.data.datapipes.iter.FileOpener", "torch.utils.data.DataLoader", "torch.nn.utils.clip_grad_norm_"),
    *("gdexp.data.bundled.np.load", "gdexp.data.bundled._read", "gdexp.tracking.attach.attach", "gdexp.launch"),
]


@pytest.mark.parametrize("name", THROUGH)
def test_no_name_leads_through_another_module(record, name):
    Path("my_net.py").write_text(NET)
    refused(record, name)


def test_code_among_artifacts_is_nobodys(record, stocked):
    code = record.folder / "code"
    code.mkdir()
    (code / "evil.py").write_text(EVIL)
    Path("linked.py").symlink_to(code / "evil.py")
    Path("linked").symlink_to(code)
    other = Path("stuff") / ("a" * 32) / "artifacts"
    other.mkdir(parents=True)
    (other / "evil.py").write_text(EVIL)
    Path("mlruns/evil.py").write_text(EVIL)
    for name in ("linked.f", "linked.evil.f", f"stuff.{'a' * 32}.artifacts.evil.f", "mlruns.evil.f"):
        refused(record, name)


def test_code_that_is_installed_or_hidden_is_foreign(record, monkeypatch):
    for folder in ("env/mine", ".hidden", "python", "site-packages/installed"):
        Path(folder).mkdir(parents=True)
        (Path(folder) / "evil.py").write_text(EVIL)
    Path("env/pyvenv.cfg").touch()
    Path("linked").symlink_to(".hidden")
    monkeypatch.setattr(sys, "base_prefix", str(Path("python").absolute()))
    monkeypatch.syspath_prepend(str(Path("site-packages").absolute()))
    for name in ("env.mine.evil.f", "linked.evil.f", "python.evil.f", "installed.evil.f"):
        refused(record, name)


@pytest.mark.parametrize("place", ["my_net.py", "experiments/my_net.py", "my_net/__init__.py", "my_net/inner.py"])
def test_the_users_own_file_is_built(record, place):
    Path(place).parent.mkdir(exist_ok=True)
    Path(place).write_text(NET)
    name = "my_net.inner.Net" if "inner" in place else "my_net.Net"
    [run_id] = gdexp.launch(["model=custom", f"model._target_={name}", "trainer.epochs=1"]).run_id
    assert type(gdexp.load(run_id)).__name__ == "Net"


def test_what_is_allowed_is_built(record, monkeypatch):
    monkeypatch.setenv("GDEXP_ALLOW", "torch.nn.Identity, collections.OrderedDict")
    with pytest.raises(ValueError, match="no torch.nn.Module|OrderedDict"):
        gdexp.load(record("collections.OrderedDict"))


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a]\nc: [*b, *b, *b, *b, *b, *b]\n"
TEXTS = {
    "aliases": BOMB,
    "large": "model: " + "x" * (1 << 20),
    "deep": "model: " + "[" * 100_000,
    "tag": "model: !!python/object/apply:os.system ['touch harmed']",
    "twice": "model: {_target_: a.b}\nmodel: {_target_: c.d}",
    "number": "model: " + "9" * 5000,
    "bytes": "model: !!binary aGVsbG8=",
    "list": "- model",
    "nothing": "",
    "torn": "model: {_target_: torch.nn",
}


@pytest.mark.parametrize("kind", TEXTS)
def test_config_that_is_no_config_is_one_line(record, kind):
    run_id = record("torch.nn.Identity")
    (record.folder / "config.yaml").write_text(TEXTS[kind])
    for use in (gdexp.load, lambda run_id: rerun([run_id])):
        with pytest.raises(ValueError, match=r"config\.yaml is damaged|is damaged: it is larger"):
            use(run_id)
    assert not Path("harmed").exists()


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"model: \x00"])
def test_config_that_is_no_text_is_one_line(record, content):
    run_id = record("torch.nn.Identity")
    (record.folder / "config.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.yaml is damaged"):
        gdexp.load(run_id)


def test_resolvers_of_the_host_never_run(record, monkeypatch):
    """The usual `eval`, which many have, would run what a record says."""
    OmegaConf.register_new_resolver("eval", eval, replace=True)
    monkeypatch.setenv("WIDTH", "torch.nn.Identity")
    harm = "${eval:\"__import__('pathlib').Path('harmed').touch()\"}"
    run_id = record("torch.nn.Identity")
    config = record.folder / "config.yaml"
    text, line = config.read_text(), "  _target_: torch.nn.Identity"
    config.write_text(text.replace(line, f"{line}\n  x: {json.dumps(harm)}"))
    rerun([run_id])  # which takes any argument
    config.write_text(text.replace(line, "  _target_: ${oc.env:WIDTH}"))
    with pytest.raises(ValueError, match="must be a dotted name"):
        gdexp.load(run_id)
    OmegaConf.clear_resolver("eval")
    assert not Path("harmed").exists()


def test_value_from_the_environment_comes_back(stocked, monkeypatch):
    Path("my_net.py").write_text(
        "from torch import nn\nclass Net(nn.Linear):\n"
        "    def __init__(self, kind):\n        super().__init__(1, 1)\n        self.kind = kind\n"
    )
    monkeypatch.setenv("KIND", "a'b: ${x}")
    words = ["model=custom", "model._target_=my_net.Net", "+model.kind='<${oc.env:KIND}>'", "trainer.epochs=1"]
    [run_id] = gdexp.launch(words).run_id
    assert gdexp.load(run_id).kind == "<a'b: ${x}>"
    monkeypatch.delenv("KIND")
    with pytest.raises(ValueError, match=r"`model\.kind` comes from the environment variable KIND, which is not set"):
        gdexp.load(run_id)


OWN = "import torch\nclass Net(torch.nn.Linear):\n    def __init__(self, width=1): super().__init__(width, width)\n"


@pytest.mark.parametrize("model", ["torch.nn.Linear", "gdexp.models.MLP", "mine.Net"])
def test_model_that_is_larger_than_its_weights_takes_no_memory(record, stocked, model):
    (stocked / "mine.py").write_text(OWN)
    run_id = record(model)
    config = OmegaConf.load(record.folder / "config.yaml")
    sizes = {"mine.Net": {"width": 1_000_000}, "gdexp.models.MLP": {"in_features": 1, "out_features": 1}}
    sizes["gdexp.models.MLP"]["hidden"] = [1_000_000, 1_000_000]
    wide = {"in_features": 1_000_000, "out_features": 1_000_000}
    ours = {key: config.model[key] for key in ("inputs", "weights", "weights_partial")}
    config.model = {"_target_": model, **sizes.get(model, wide), **ours}
    OmegaConf.save(config, record.folder / "config.yaml")
    for use in (gdexp.load, lambda run_id: rerun([run_id]), lambda run_id: resume([run_id, "trainer.epochs=2"])):
        with pytest.raises(ValueError, match=r"its config makes a model of more than \d+ bytes"):
            use(run_id)
