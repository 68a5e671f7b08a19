"""A resumed run is the unbroken one, whatever training changes, or it is refused by name."""

import contextvars
import functools
import importlib
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from recorded import query
from safetensors.torch import load_file

import gdexp
from gdexp.build import caches, kinds, nodes
from gdexp.build.encoding import Unkept
from gdexp.build.objects import Objects

HEAD = """
import array, collections, contextvars, ctypes, datetime, decimal, enum, functools, hashlib, io, itertools
import multiprocessing, queue, random, threading, weakref
from dataclasses import dataclass, replace
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Sampler

COUNT = 0
BOX = {"n": 0}

class Thing:
    def __init__(self, v):
        self.v = v

class Net(nn.Module):
    def __init__(self, in_features):
        super().__init__()
        self.layer = nn.Linear(in_features, 3)
        self.prepare()
    def training_loss(self, batch):
        x, y = batch
        return self.factor() * F.cross_entropy(self.layer(x), y)
"""

KEPT = """
@dataclass
class Part:
    v: float = 0.0
    more: object = None

class Phase(enum.Enum):
    EARLY = 1
    LATE = 2

Pair = collections.namedtuple("Pair", "a b")

def stepper():
    n = 0
    def step():
        nonlocal n
        n += 1
        return n
    return step

class Numbers(Net):
    def prepare(self):
        self.calls, self.text, self.flag, self.none = 0, "", False, None
        self.array, self.single = np.zeros(3, dtype=np.float32), np.float32(0)
    def factor(self):
        self.calls += 1
        self.text += "x"
        self.flag, self.none = not self.flag, self.calls
        self.array += 0.1
        self.single = self.single + np.float32(0.1)
        return float(1 + self.calls / 9 + len(self.text) * self.flag / 7 + self.none + self.array.sum() + self.single)

class Containers(Net):
    def prepare(self):
        self.a, self.more, self.last = [0], None, collections.deque(maxlen=3)
        self.b, self.seen = self.a, set()
    def factor(self):
        self.a[0] += 1
        if self.more is None:
            self.more = {"a": self.a, "own": ([],)}
            self.own = self.more["own"][0]
        self.own.append(1.0)
        self.seen.add(len(self.own))
        self.last.append(self.layer.weight.detach().abs().mean())
        own = len(self.more["own"][0])
        return 1 + self.b[0] / 9 + self.more["a"][0] / 8 + own / 7 + sum(self.last) + len(self.seen)

class Tensors(Net):
    def prepare(self):
        self.mean, self.history, self.own = torch.zeros(3), None, None
        self.register_buffer("assigned", torch.zeros(2))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64), persistent=False)
    def factor(self):
        if self.own is None:
            self.own = self.layer.weight.detach()  # goes along with the weight
        self.mean = 0.9 * self.mean + 0.1 * self.layer.bias.detach()
        self.history = self.mean if self.history is None else torch.cat([self.history, self.mean])
        self.assigned = 0.9 * self.assigned + self.layer.bias.detach()[:2]
        self.count = self.count + 1
        self.layer.bias.requires_grad_(int(self.count) % 7 > 3)
        return 1 + self.history.abs().sum() + self.assigned.abs().sum() + self.count + self.own.abs().sum()

class Generators(Net):
    def prepare(self):
        self.g, self.n = torch.Generator().manual_seed(3), np.random.default_rng(1)
        self.r, self.s = random.Random(2), np.random.RandomState(4)
    def factor(self):
        return 1 + torch.rand((), generator=self.g).item() + self.n.random() + self.r.random() + self.s.rand()

class Parts(Net):
    def prepare(self):
        self.part, self.phase, self.pair, self.step = Part(), Phase.EARLY, Pair(1, 2.0), stepper()
        self.new = Part(1.0, [1])
        self.layer.register_forward_hook(lambda module, inputs, output: output * (1 + self.part.v))
    def factor(self):
        self.part.v += 0.1
        self.phase = Phase.LATE if self.part.v > 0.5 else Phase.EARLY
        self.pair = Pair(self.pair.a + 1, self.pair.b * 0.9)
        self.new = Part(self.new.v + 0.1, self.new.more)
        self.new.more.append(1)
        return self.part.v + self.phase.value + self.pair.b + self.new.v + len(self.new.more) + self.step() / 9

class Globals(Net):
    n = 0
    def prepare(self):
        pass
    def factor(self):
        global COUNT
        COUNT += 1
        BOX["n"] += 1
        type(self).n += 1
        return 1 + COUNT / 9 + BOX["n"] / 8 + self.n / 7

class Slots:
    __slots__ = ("a", "__b")
    def __init__(self):
        self.a = self.__b = 0
    def up(self):
        self.a += 1
        self.__b += 2
        return self.a + self.__b

@dataclass(frozen=True, slots=True)
class Settings:
    n: int = 0

class Log(list):
    pass

class Sides(enum.Flag):
    LEFT = 1
    RIGHT = 2

class Memory(Net):
    def prepare(self):
        self.bytes, self.numbers, self.c = bytearray(1), array.array("d", [0.0]), ctypes.c_int(0)
        self.shared, self.text = multiprocessing.Value("d", 0.0), io.StringIO("1.0")
        self.view = memoryview(bytearray(8)).cast("d")
        self.masked = np.ma.masked_array([1.0, 2.0], mask=[False, True])
        self.pairs = np.zeros(2, dtype=[("a", "f8"), ("b", "i4")])
        self.lists = np.array([[0], [0]], dtype=object)
        self.grown, self.sides = np.zeros(1), Sides(0)
    def factor(self):
        self.grown.resize(len(self.grown) + 1, refcheck=False)
        self.sides = Sides((self.sides.value + 1) % 4)
        self.bytes.append(1)
        self.numbers[0] += 0.1
        self.c.value += 1
        self.shared.value += 0.1
        self.view[0] += 0.1
        self.masked = self.masked * 1.01
        self.pairs["a"][0] += 0.1
        self.lists[1, 0] += 1
        text = float(self.text.getvalue())
        self.text.seek(0)
        self.text.write(f"{text + 0.1:.1f}")
        own = sum(self.bytes) / 9 + self.numbers[0] + self.c.value / 9 + self.shared.value + self.view[0]
        own += len(self.grown) / 9 + self.sides.value
        return own + text + float(self.masked.sum()) + self.pairs["a"][0] + self.lists[1, 0] / 9

class Held(Net):
    def prepare(self):
        self.slots, self.settings, self.log = Slots(), Settings(), Log()
        self.last = collections.OrderedDict(a=1, b=2, c=3)
        self.queue, self.local, self.lock = queue.Queue(), threading.local(), threading.Lock()
        self.log.n = self.local.n = 0
        self.weak = weakref.WeakKeyDictionary({self.layer: 0})
        self.day, self.price = datetime.datetime(2020, 1, 1), decimal.Decimal("0.1")
        self.seeds = np.random.SeedSequence(3)
        calls = 0
        def halved(grad):
            nonlocal calls
            calls += 1
            return grad / calls
        self.layer.weight.register_hook(halved)
    def factor(self):
        self.log.n += 1
        self.settings = replace(self.settings, n=self.settings.n + 1)
        self.queue.put(self.log.n)
        self.local.n += 1
        self.weak[self.layer] += 1
        self.last.move_to_end(next(iter(self.last)))
        self.last[self.log.n] = self.log.n
        self.day += datetime.timedelta(days=1)
        self.price += decimal.Decimal("0.1")
        drawn = np.random.default_rng(self.seeds.spawn(1)[0]).random()
        with self.lock:
            own = self.slots.up() + self.log.n + self.settings.n + self.local.n + self.weak[self.layer]
        own += sum(self.queue.queue) + self.day.day + next(iter(self.last.values()))
        return own / 99 + float(self.price) + drawn

VARIABLE = contextvars.ContextVar("VARIABLE")

@functools.lru_cache(maxsize=4)
def drawn(n, scale=1.0):
    return torch.randn(()).item() * scale

class Hidden(Net):
    class settings:
        n = 0
    def prepare(self):
        self.n = 0
    @functools.cache
    def remembered(self, n):
        return self.layer.weight.detach().abs().sum()
    def factor(self):
        global LATE
        self.n += 1
        if self.n == 1:
            LATE = 0
        LATE += 1
        self.settings.n += 1
        VARIABLE.set(VARIABLE.get(0) + 1)
        own = drawn(self.n % 3, scale=0.5) + self.remembered(self.n % 5)
        return 9 + (LATE + VARIABLE.get() + self.settings.n) / 9 + own

class Unseeded(Net):
    def prepare(self):
        g = np.random.default_rng()  # of the operating system
        self.drawn, self.scale = g.random(2, dtype=np.float32), g.random()
    def training_loss(self, batch):
        return 0 * self.layer(batch[0]).sum() + float(self.drawn.sum()) * self.scale

class Plain(nn.Module):
    def __init__(self, in_features):
        super().__init__()
        self.layer = nn.Linear(in_features, 3)
    def forward(self, x):
        return self.layer(x)

class Centered(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("center", torch.zeros(3))
        self.calls = 0
    def forward(self, output, target):
        self.calls += 1
        self.center.mul_(0.9).add_(output.detach().mean(0))
        return F.cross_entropy(output - 0.1 * self.center, target) * (1 + self.calls / 99)

class Masters(torch.optim.Optimizer):
    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr})
        self.k, self.total, self.past = 0, torch.zeros(()), []
    @torch.no_grad()
    def step(self):
        self.k += 1
        self.past.append(self.k)
        for group in self.param_groups:
            for p in group["params"]:
                s = self.state[p]
                if not s:
                    s["n"], s["master"], s["list"] = torch.zeros((), dtype=torch.int64), p.double(), [0]
                s["n"] += 1
                s["list"][0] += 1
                s["master"] -= group["lr"] / (1 + self.k / 9 + len(self.past) + s["n"]) * p.grad.double()
                p.copy_(s["master"])
                self.total += p.abs().sum().float()
            group["lr"] *= 0.99

class Falling(torch.optim.lr_scheduler.LRScheduler):
    def __init__(self, optimizer):
        self.extra, self.fn = [0], lambda x: 0.95 ** x
        super().__init__(optimizer)
    def get_lr(self):
        self.extra[0] += 1
        return [base * self.fn(self.extra[0]) for base in self.base_lrs]

class Rows(Dataset):
    def __init__(self):
        g = torch.Generator().manual_seed(0)
        self.x, self.y, self.n = torch.randn(60, 4, generator=g), torch.randint(0, 3, (60,), generator=g), 0
    def __len__(self):
        return 60
    def __getitem__(self, i):
        self.n += 1
        return self.x[i] * (1 + self.n / 999) + 0.01 * torch.randn(4), self.y[i]

class Shuffled(Sampler):
    def __init__(self, n):
        self.n, self.r = n, random.Random(5)
    def __len__(self):
        return self.n
    def __iter__(self):
        order = list(range(self.n))
        self.r.shuffle(order)
        yield from (i if self.r.random() < 0.9 else 0 for i in order)

def rows():
    return Rows()
def shuffled():
    return DataLoader(Rows(), batch_size=16, shuffle=True)
def by_generator():
    return DataLoader(Rows(), batch_size=16, shuffle=True, generator=torch.Generator().manual_seed(4))
def sampled():
    return DataLoader(Rows(), batch_size=16, sampler=Shuffled(60))

def after_epoch(epoch, model):
    BOX["n"] += 1
    with torch.no_grad():
        model.layer.weight.mul_(1 - BOX["n"] / 999)

class Learner:
    def __init__(self, model):
        self.model, self.adam, self.k, self.past = model, torch.optim.Adam(model.parameters(), 0.01), 0, []
    def train_step(self, batch):
        self.k += 1
        x, y = batch
        loss = F.cross_entropy(self.model(x), y) * (1 + self.k / 99)
        loss.backward()
        if self.k % 3 == 0:
            self.adam.step()
            self.adam.zero_grad()
        self.past = [*self.past[-4:], loss.detach()]
        return {"train_loss": loss.detach() + sum(self.past)}
    def evaluate(self, batch):
        return {"loss": F.cross_entropy(self.model(batch[0]), batch[1])}
    def weights(self):
        return self.model.state_dict(keep_vars=True)
"""

IRIS = ["data=iris", "data.standardize=inputs", "trainer.batch_size=40"]
PLAIN = ["model=custom", "model._target_=net.Plain"]
SIMPLE = [*IRIS, *PLAIN, "loss=cross_entropy"]


def net(name):
    return [*IRIS, "loss=none", "model=custom", f"model._target_=net.{name}"]


def loader(name):
    return ["data=custom", f"data._target_=dat.{name}", *PLAIN, "loss=cross_entropy"]


MODELS = ("Numbers", "Containers", "Tensors", "Generators", "Parts", "Globals", "Memory", "Held", "Hidden")
RUNS = {name: net(name) for name in MODELS} | {
    "buffers of the loss": [*IRIS, *PLAIN, "loss=custom", "loss._target_=net.Centered"],
    "optimizer": [*SIMPLE, "optimizer=custom", "optimizer._target_=net.Masters", "trainer.dtype=bfloat16"],
    "scheduler": [*SIMPLE, "scheduler=custom", "scheduler._target_=net.Falling"],
    "dataset": [*loader("rows"), "trainer.batch_size=16"],
    "loader": loader("shuffled"),
    "loader's generator": loader("by_generator"),
    "sampler": loader("sampled"),
    "hook": [*SIMPLE, "trainer.on_epoch=[net.after_epoch]"],
    "learner": [*IRIS, *PLAIN, "loss=none", "optimizer=none", "learner=custom", "learner._target_=net.Learner"],
}

# ends the process by SIGTERM within its third epoch, from a module that nothing of the run looks into
ENDS = """
import os, signal, torch
count, backward = 0, torch.autograd.backward
def counted(*args, **options):
    global count
    count += 1
    backward(*args, **options)
    if os.path.exists("end") and count == 10:
        os.kill(os.getpid(), signal.SIGTERM)
torch.autograd.backward = counted
"""


@pytest.fixture
def folder(stocked):
    (stocked / "net.py").write_text(HEAD + KEPT)
    (stocked / "dat.py").write_text("import ends\n" + HEAD + KEPT)
    (stocked / "ends.py").write_text(ENDS)
    return stocked


def curves(run_id):
    return query("SELECT key, step, value FROM metrics WHERE run_uuid=? ORDER BY 1, 2", run_id)


def same(one, other):
    a, b = (load_file(next(Path().glob(f"mlruns/*/{i}/artifacts/weights.safetensors"))) for i in (one, other))
    return curves(one) == curves(other) and all(torch.equal(a[k], b[k]) for k in a.keys() | b.keys())


def newest():
    return query("SELECT run_uuid FROM runs ORDER BY start_time DESC LIMIT 1")[0][0]


@pytest.mark.parametrize("name", ["Numbers", "Memory"])
def test_resumed_run_counts_on(gdexp_run, folder, name):
    words = [*net(name), "trainer.checkpoint_every=1"]
    whole, cut = (gdexp.launch([*words, f"trainer.epochs={n}"]).run_id[0] for n in (6, 3))
    assert gdexp_run(cut, "trainer.epochs=6", module="gdexp.resume").returncode == 0
    assert same(whole, cut)


@pytest.mark.slow
def test_what_a_model_drew_without_a_seed_is_kept(gdexp_run, folder):
    cut = gdexp.launch([*net("Unseeded"), "trainer.epochs=2", "trainer.checkpoint_every=1"]).run_id[0]
    assert gdexp_run(cut, "trainer.epochs=4", module="gdexp.resume").returncode == 0
    losses = [value for key, _, value in curves(cut) if key == "train_loss"]
    assert len(losses) == 4 and len(set(losses)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_run_ended_within_an_epoch_goes_on_as_the_unbroken_one(gdexp_run, folder, name):
    words = [*RUNS[name], "trainer.epochs=6"]
    if "data=iris" in words:
        (folder / "net.py").write_text("import ends\n" + HEAD + KEPT)
    assert gdexp_run(*words).returncode == 0
    whole = newest()
    (folder / "end").touch()
    assert gdexp_run(*words).returncode == 143
    (folder / "end").unlink()
    cut = newest()
    done = gdexp_run(cut, module="gdexp.resume")
    assert done.returncode == 0 and "goes on after epoch" in done.stdout, done.stderr
    assert len(curves(whole)) >= 6 and same(whole, cut)


LOST = {
    "a deque of objects": ("self.x = collections.deque(maxlen=4)", "self.x.append(Thing(1))", "model.x[0]"),
    "an open file": ("self.x = open('log.txt', 'w')", "self.x.write('a')", "model.x"),
    "an iterator": ("self.x = itertools.cycle([1.0, 2.0])", "next(self.x)", "model.x"),
    "a generator": ("self.x = iter(i for i in range(999))", "next(self.x)", "model.x"),
    "a new object": ("self.x = None", "self.x = Thing(1)", "model.x"),
    "another function": ("self.x = torch.relu", "self.x = torch.tanh", "model.x"),
    "a hook on a parameter": (
        "self.n = 0",
        "self.layer.weight.register_hook(lambda g: g / 2)",
        "model.layer.weight._backward_hooks",
    ),
    "what can't be looked into": ("self.x = hashlib.sha256()", "self.x.update(b'a')", "model.x"),
    "a queue without a view": ("self.x = queue.SimpleQueue()", "self.x.put(1)", "model.x"),
    "a generator in the middle": (
        "self.x = iter(v for v in [1.0] * 99); next(self.x)",
        "next(self.x)",
        "model.x",
    ),
    "a table": (
        "import pandas as pd; self.x = pd.DataFrame({'a': [1.0]})",
        "self.x.loc[0, 'a'] += 1",
        "model.x",
    ),
    "text that is read line by line": ("self.x = open(__file__)", "next(self.x)", "model.x"),
    "one of several in a set": (
        "self.x = {Thing(1), Thing(2)}",
        "min(self.x, key=lambda t: t.v).v -= 1",
        "model.x{…}",
    ),
    "of a submodule": ("self.layer.x = {'a': [None]}", "self.layer.x['a'][0] = Thing(1)", "model.layer.x['a'][0]"),
}


@pytest.mark.parametrize("name", LOST)
def test_what_cannot_be_kept_is_refused_by_name(stocked, monkeypatch, name):
    begin, change, path = LOST[name]
    module = f"lost_{list(LOST).index(name)}"
    text = f"class Lost(Net):\n    def prepare(self):\n        {begin}\n"
    text += f"    def factor(self):\n        {change}\n        return 1.0\n"
    (stocked / f"{module}.py").write_text(HEAD + text)
    words = [*net("Lost"), "trainer.epochs=2", f"model._target_={module}.Lost"]
    with pytest.raises(ValueError, match=re.escape(f"`{path}` is changed by training")):
        gdexp.launch([*words, "trainer.checkpoint_every=1"])
    assert len(gdexp.runs()) == 0
    assert list(gdexp.launch(words).status) == ["FINISHED"]  # nobody asked for checkpoints


def test_what_never_changes_is_no_hindrance(stocked):
    text = """class Still(Net):
    def prepare(self):
        self.lock, self.log, self.names = threading.Lock(), open("log.txt", "w"), itertools.cycle("ab")
        self.pair, self.proxy = {torch.ones(2), torch.zeros(2)}, types.MappingProxyType({"a": [1.0]})
    def factor(self):
        with self.lock:
            return float(sum(t.sum() for t in self.pair)) + self.proxy["a"][0]
"""
    (stocked / "still.py").write_text(f"import types\n{HEAD}{text}")
    words = [*net("Still"), "trainer.epochs=2", "trainer.checkpoint_every=1", "model._target_=still.Still"]
    assert list(gdexp.launch(words).status) == ["FINISHED"]


def operations(call):
    """Return how many operations of Python a call runs."""
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


def with_tuples(number):
    ranks = {(str(i), str(i + 1)): i for i in range(number)}
    return lambda: Objects({"model": SimpleNamespace(ranks=ranks)})


def with_calls(number):
    @functools.cache
    def remembered(a, *, b):
        return a + b

    for i in range(number):
        remembered(i, b=2 * i)
    assert caches.read(remembered)[-1] == (((number - 1,), (("b", 2 * number - 2),)), 3 * number - 3)
    return lambda: caches.read(remembered)


@pytest.mark.parametrize("held", [with_tuples, with_calls])
def test_work_grows_with_what_is_looked_at_and_no_faster(held):
    few, many = (operations(held(number)) for number in (200, 800))
    assert many < 6 * few


def test_object_that_was_remembered_is_no_end_of_the_unnamed_arguments():
    sign = object()

    @functools.lru_cache(maxsize=9)
    def remembered(*args):
        return args[0]

    remembered(sign, "a", 1)
    assert caches.read(remembered) == [(((sign, "a", 1), ()), sign)]


def test_variable_whose_value_was_taken_away_is_refused_by_name():
    variable = contextvars.ContextVar("variable")
    token = variable.set(1)
    objects = Objects({"model": SimpleNamespace(phase=variable)})
    variable.reset(token)
    with pytest.raises(Unkept, match=r"model\.phase"):
        objects.changes()
    node = nodes.Node(variable, "variable", None)
    nodes.fill(node, [])
    variable.set(2)
    with pytest.raises(ValueError, match="can't be taken away"):
        nodes.fill(node, [])


def test_module_is_the_users_once_it_is_imported(here, monkeypatch):
    monkeypatch.syspath_prepend(here)
    assert not kinds.users("imported_later")
    (here / "imported_later.py").write_text("")
    importlib.invalidate_caches()
    importlib.import_module("imported_later")
    assert kinds.users("imported_later")
    del sys.modules["imported_later"]
