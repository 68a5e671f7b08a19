"""What a user adds without touching ours: files in the current directory."""

import pytest
import torch
from mlflow.tracking import MlflowClient

import gdexp
from gdexp.data.bundled import digits

NET = """
import torch
from torch import nn

class Tied(nn.Module):
    def __init__(self, in_features, out_features, width=4):
        super().__init__()
        self.inner = nn.Linear(in_features, width)
        self.same = self.inner
        self.outer = nn.Linear(width, out_features)
        self.turned = nn.Parameter(torch.arange(6.0).reshape(2, 3).T)
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("nothing", torch.zeros(0, 3))

    def forward(self, x):
        if self.training:
            self.seen += 1
        return self.outer(self.same(x)) + 0 * self.turned.sum()

class Buffers(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, x):
        self.mean.copy_(x.mean())
        return x

class Empty(nn.Module):
    def forward(self, x):
        return x

class Flat(nn.Linear):
    def forward(self, x):
        return super().forward(x).squeeze(-1)

class Broken(nn.Module):
    def __init__(self):
        super().__init__()
        raise RuntimeError("no luck")
"""


@pytest.fixture
def net(stocked):
    (stocked / "my_net.py").write_text(NET)
    return stocked


def only(table):
    [row] = table.to_dict("records")
    return row


def test_model_from_the_current_directory_comes_back_exactly(gdexp_run, net, monkeypatch):
    done = gdexp_run("model=custom", "model._target_=my_net.Tied", "+model.width=5", "trainer.epochs=7")
    assert done.returncode == 0, done.stderr
    run = only(gdexp.runs())
    assert (run["model.width"], run["model.in_features"], run["model._target_"]) == (5, 1, "my_net.Tied")
    model = gdexp.load(run["run_id"])
    assert model.same is model.inner and model.seen.item() == 7 and model.nothing.shape == (0, 3)
    assert not model.turned.is_contiguous() and torch.equal(model.turned, torch.arange(6.0).reshape(2, 3).T)
    assert not model.training


@pytest.mark.parametrize("name", ["Buffers", "Empty"])
def test_model_without_parameters_is_recorded(net, name):
    run = only(gdexp.launch(["model=custom", f"model._target_=my_net.{name}", "trainer.epochs=2"]))
    state = gdexp.load(run["run_id"]).state_dict()
    assert state == ({"mean": torch.tensor([2.5])} if name == "Buffers" else {})


def test_flat_output_meets_a_flat_target(net):
    flat = only(gdexp.launch(["model=custom", "model._target_=my_net.Flat", "trainer.epochs=9"]))
    plain = only(gdexp.launch(["trainer.epochs=9"]))
    assert flat["train_loss"] == plain["train_loss"]


def test_error_in_the_users_constructor_is_a_failed_run(gdexp_run, net):
    done = gdexp_run("model=custom", "model._target_=my_net.Broken")
    assert (
        done.returncode == 1 and "my_net.py" in done.stderr and done.stderr.rstrip().endswith("RuntimeError: no luck")
    )
    run = only(gdexp.runs())
    client = MlflowClient(f"sqlite:///{net}/mlflow.db")
    assert run["status"] == "FAILED"
    assert "traceback.txt" in [a.path for a in client.list_artifacts(run["run_id"])]


def test_training_loss_of_a_variational_autoencoder(stocked):
    run = only(gdexp.launch(["experiments=digits_vae", "trainer.epochs=8"]))
    client = MlflowClient(f"sqlite:///{stocked}/mlflow.db")
    first = client.get_metric_history(run["run_id"], "train_loss")[0].value
    assert run["train_loss"] < 0.75 * first
    assert run["kl"] + run["reconstruction"] == pytest.approx(run["train_loss"], rel=1e-5)
    assert "val_kl" in run and client.get_run(run["run_id"]).info.experiment_id != "0"
    assert client.get_experiment_by_name("digits_vae") is not None
    assert gdexp.load(run["run_id"]).encoder[0].in_features == 64


def test_own_loss_gets_the_target_untouched(stocked):
    (stocked / "my_loss.py").write_text(
        "def pinball(output, target, q=0.5):\n"
        "    assert target.shape == (4,), target.shape\n"
        "    d = target - output[:, 0]\n"
        "    return (d * q).maximum(d * (q - 1)).mean()\n"
    )
    (stocked / "my_data.py").write_text(
        "import torch\nfrom gdexp.data import TensorData\n"
        "def load(scale=1.0):\n"
        "    x = scale * torch.arange(4.)\n"
        "    return TensorData((x[:, None], 2 * x))\n"
    )
    words = [
        "data=custom",
        "data._target_=my_data.load",
        "+data.scale=2",
        "loss=custom",
        "loss._target_=my_loss.pinball",
    ]
    run = only(gdexp.launch([*words, "+loss.q=0.9", "trainer.epochs=3"]))
    assert run["status"] == "FINISHED" and run["data.scale"] == 2 and run["loss.q"] == 0.9
    with pytest.raises(ValueError, match="`loss.p`"):
        gdexp.launch([*words, "+loss.p=0.9"])


def test_hook_sees_every_epoch_and_the_model(stocked):
    (stocked / "my_hooks.py").write_text(
        "seen = []\ndef sample(epoch, model):\n    seen.append((epoch.epoch, epoch.train_loss, type(model).__name__))\n"
    )
    gdexp.launch(["trainer.on_epoch=[my_hooks.sample]", "trainer.epochs=4"])
    import sys

    seen = sys.modules["my_hooks"].seen
    assert [s[0] for s in seen] == [1, 2, 3, 4] and seen[0][2] == "LinearRegression" and seen[0][1] > seen[3][1]


def test_users_conf_adds_options_and_never_replaces_ours(gdexp_run, stocked):
    for path, text in {
        "conf/optimizer/quick.yaml": "_target_: torch.optim.Rprop\nlr: 0.02\netas: [0.5, 1.2]\n",
        "conf/optimizer/sgd.yaml": "_target_: torch.optim.SGD\nlr: 99\n",
        "conf/config.yaml": "seed: 5\n",
        "conf/data/mine.yaml": "_target_: gdexp.data.synthetic.line\n",
        "experiments/mine.yaml": "# @package _global_\nseed: 7\n",
    }.items():
        (stocked / path).parent.mkdir(parents=True, exist_ok=True)
        (stocked / path).write_text(text)
    done = gdexp_run("optimizer=quick", "experiments=mine", "data=mine", "trainer.epochs=2")
    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in done.stderr.splitlines()] == ["conf/config.yaml", "conf/optimizer/sgd.yaml"]
    run = only(gdexp.runs())
    assert (run["optimizer"], run["optimizer.etas"], run["seed"], run["data"]) == ("quick", "[0.5, 1.2]", 7, "mine")
    assert only(gdexp.launch(["trainer.epochs=1"]))["optimizer.lr"] == 0.01
    assert "quick" in gdexp_run("--help").stdout


def test_lbfgs_by_target(stocked):
    words = ["optimizer=custom", "optimizer._target_=torch.optim.LBFGS", "trainer.epochs=5"]
    assert only(gdexp.launch(words))["train_loss"] < 1e-5


@pytest.mark.parametrize(
    "target", ["os.system", "builtins.eval", "torch.os.system", "torch.hub.load", "functools.partial"]
)
def test_record_that_names_something_else_is_refused(stocked, target):
    run = only(gdexp.launch(["trainer.epochs=1"]))
    client = MlflowClient(f"sqlite:///{stocked}/mlflow.db")
    client.log_text(run["run_id"], f"model:\n  _target_: {target}\n  command: touch x\ntrainer: {{}}\n", "config.yaml")
    with pytest.raises(ValueError, match="GDEXP_ALLOW"):
        gdexp.load(run["run_id"])
    assert not (stocked / "x").exists()


def test_unknown_run_is_one_line(stocked):
    with pytest.raises(ValueError, match="can't be loaded"):
        gdexp.load("0" * 32)


def test_mini_batches_of_the_digits_mlp_have_every_bit_of_a_plain_loop(stocked):
    words = "data=digits data.val_fraction=0 model=mlp model.hidden=[32] loss=cross_entropy optimizer=adam"
    run = only(
        gdexp.launch([*words.split(), "trainer.batch_size=64", "trainer.epochs=4", "seed=3", "trainer.threads=1"])
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters())
    x, y = digits().train
    x, total = x.float(), 0.0
    for epoch in range(1, 5):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1_000_003 * 3 + epoch))
        total = 0.0
        for index in order.split(64):
            loss = torch.nn.functional.cross_entropy(model(x[index]), y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(index)
    torch.set_num_threads(threads)
    assert run["train_loss"] == total / len(x)
    loaded = gdexp.load(run["run_id"]).state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in model.state_dict().items())


def test_module_that_cannot_be_imported_is_a_failed_run(stocked):
    (stocked / "torn.py").write_text("import torch\n1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        gdexp.launch(["model=custom", "model._target_=torn.Net"])
    assert only(gdexp.runs())["status"] == "FAILED"


def test_secrets_are_not_recorded(stocked, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "hunter2")
    (stocked / "keyed.py").write_text(
        "from gdexp.data.synthetic import line\n"
        "def load(key, url, password):\n"
        "    assert (key, url, password) == ('hunter2', 'https://hunter2@x', 'p')\n"
        "    return line()\n"
    )
    words = ["+data.key=${oc.env:MY_TOKEN}", "+data.url='https://${data.key}@x'", "+data.password=p"]
    run = only(gdexp.launch(["data=custom", "data._target_=keyed.load", *words, "trainer.epochs=1"]))
    assert (run["data.url"], run["data.password"]) == ("***", "***") and "password=***" in run["name"]
    stored = (stocked / "mlflow.db").read_bytes() + b"".join(p.read_bytes() for p in stocked.glob("mlruns/**/*.yaml"))
    assert b"hunter2" not in stored and b"oc.env:MY_TOKEN" in stored


def test_experiment_name_comes_from_the_environment(stocked, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    gdexp.launch(["trainer.epochs=1"])
    assert len(gdexp.runs("mine")) == 1


def test_bfloat16_comes_back_as_bfloat16(stocked):
    run = only(gdexp.launch(["trainer.dtype=bfloat16", "trainer.epochs=3"]))
    assert gdexp.load(run["run_id"]).linear.weight.dtype is torch.bfloat16
