"""What all runs of a process share is put back: each run of a sweep, and of a process, is the run alone."""

import sqlite3

import pytest

import gdexp

OWN = """
import contextvars, functools, itertools, random
from dataclasses import dataclass, field
import torch
from torch import nn
from gdexp.data import TensorData

def rows():
    x = torch.arange(24.0).reshape(8, 3) / 24
    return TensorData((x, x.sum(1)[:, None]))

class Numbered(nn.Module):
    '''each pass has its number, which the model itself counts here'''
    def __init__(self):
        super().__init__()
        self.a, self.passes = nn.Linear(3, 1), 0
    def number(self):
        self.passes += 1
        return self.passes
    def forward(self, x):
        return self.a(x) / (1 + self.number() % 7)

def attribute():
    attribute.calls += 1
    return attribute.calls
attribute.calls = 0
class FunctionAttribute(Numbered):
    number = lambda self: attribute()

def default(seen=[]):
    seen.append(None)
    return len(seen)
class DefaultArgument(Numbered):
    number = lambda self: default()

class DefaultOfAMethod(Numbered):
    def number(self, *, seen={"calls": 0}):
        seen["calls"] += 1
        return seen["calls"]

def made():
    calls = 0
    def inner():
        nonlocal calls
        calls += 1
        return calls
    return inner
closed = made()
class Closure(Numbered):
    number = lambda self: closed()

@functools.lru_cache
def cell(key):
    return []
class Cache(Numbered):
    def number(self):
        cell(1).append(None)
        return len(cell(1))

@dataclass
class State:
    calls: int = 0
    seen: list = field(default_factory=list)
state = State()
class AttributeOfAnObject(Numbered):
    def number(self):
        state.calls += 1
        return state.calls
class ListOfAnObject(Numbered):
    def number(self):
        state.seen.append(None)
        return len(state.seen)

class NewAttribute(Numbered):
    def number(self):
        state.later = getattr(state, "later", 0) + 1
        return state.later

count = itertools.count(1)
class Count(Numbered):
    number = lambda self: next(count)

class Other:
    calls = 0
class AttributeOfAnotherClass(Numbered):
    def number(self):
        Other.calls += 1
        return Other.calls

tensor = torch.zeros(())
class InATensor(Numbered):
    def number(self):
        tensor.data += 1
        return int(tensor)

class Patched(Numbered):
    def number(self):
        before = Patched.last
        Patched.last = lambda: before() + 1
        return Patched.last()
    last = lambda: 0

def naturals():
    n = 0
    while True:
        n += 1
        yield n
generator = naturals()
class Generator(Numbered):
    number = lambda self: next(generator)

more = {"calls": 0}
class GeneratorAndMore(Numbered):
    def number(self):
        next(generator)
        more["calls"] += 1
        return more["calls"]

class OwnNameOfAGenerator(Numbered):
    def __init__(self):
        super().__init__()
        self.numbers = generator
    def number(self):
        return next(self.numbers)

def around(numbers):
    return lambda: next(numbers)
enclosed = around(naturals())
class EnclosedGenerator(Numbered):
    number = lambda self: enclosed()

source = random.Random(0)
class Drawing(Numbered):
    number = lambda self: source.random()

def drawn():
    while True:
        yield source.random()
draws = drawn()
class GeneratorThatDraws(Numbered):
    number = lambda self: next(draws)

class GeneratorOfAGenerator(Numbered):
    number = lambda self: next(outer)
def passing():
    while True:
        yield next(generator)
outer = passing()

def both():
    n = 0
    while True:
        n += 1
        yield n + source.random()
counting = both()
class GeneratorThatCountsAndDraws(Numbered):
    number = lambda self: next(counting)

pair = naturals(), None
class GeneratorInATuple(Numbered):
    number = lambda self: next(pair[0])

variable = contextvars.ContextVar("variable", default=0)
variable.set(0)
class Variable(Numbered):
    def number(self):
        variable.set(variable.get() + 1)
        return variable.get()
"""
KINDS = ["FunctionAttribute", "DefaultArgument", "DefaultOfAMethod", "Closure", "Cache", "AttributeOfAnObject"]
KINDS += ["ListOfAnObject", "NewAttribute", "Count", "AttributeOfAnotherClass", "InATensor", "Patched", "Variable"]
UNCOPIED = ["Generator", "GeneratorAndMore", "OwnNameOfAGenerator", "EnclosedGenerator"]
UNCOPIED += ["GeneratorThatDraws", "GeneratorOfAGenerator"]
FOR_GOOD = {"GeneratorInATuple": "pair", "GeneratorThatCountsAndDraws": "counting"}


def curve(run_id):
    with sqlite3.connect("mlflow.db") as connection:
        sql = "SELECT value FROM metrics WHERE run_uuid=? AND key='train_loss' ORDER BY step"
        return connection.execute(sql, (run_id,)).fetchall()


def words(kind):
    own = ["data=custom", "data._target_=own_shared.rows", "model=custom", f"model._target_=own_shared.{kind}"]
    return [*own, "loss=mse", "trainer.epochs=6"]


@pytest.fixture
def own(stocked):
    (stocked / "own_shared.py").write_text(OWN)
    return stocked


@pytest.mark.parametrize("kind", KINDS)
def test_state_outside_of_a_model_begins_anew_with_each_run(own, kind, capsys):
    rates = ["0.01", "0.02", "0.05", "0.1"]
    wanted = [curve(gdexp.launch([*words("Numbered"), f"optimizer.lr={rate}"]).run_id[0]) for rate in rates]
    swept = gdexp.launch([*words(kind), f"optimizer.lr={','.join(rates)}"], multirun=True)
    assert "trained one by one: " in capsys.readouterr().out
    assert [curve(run) for run in swept.run_id] == wanted
    for _ in range(2):
        assert curve(gdexp.launch([*words(kind), "optimizer.lr=0.1"]).run_id[0]) == wanted[-1]


@pytest.mark.parametrize("kind", UNCOPIED)
def test_state_that_cannot_be_copied_begins_anew_with_the_users_file(own, kind):
    """Neither the look before training nor another run takes a value away."""
    like = "Drawing" if kind == "GeneratorThatDraws" else "Numbered"
    wanted = curve(gdexp.launch([*words(like), "optimizer.lr=0.1"]).run_id[0])
    assert curve(gdexp.launch([*words(kind), "optimizer.lr=0.1"]).run_id[0]) == wanted
    swept = gdexp.launch([*words(kind), "optimizer.lr=0.01,0.1", "sweep.stack=never"], multirun=True)
    assert curve(swept.run_id[1]) == wanted


@pytest.mark.parametrize("kind", FOR_GOOD)
def test_what_a_look_changes_for_good_is_said(own, capsys, kind):
    gdexp.launch([*words(kind), "optimizer.lr=0.1"])
    assert f"own_shared.{FOR_GOOD[kind]} was changed when the model was tried" in capsys.readouterr().err


def test_change_that_begins_after_the_trial_is_seen(own):
    """It makes a difference between two looks at the stack only."""
    late = """
from pathlib import Path
class Late(Numbered):
    def forward(self, x):
        if any(Path().glob("mlruns/*/*")):  # once a run is recorded
            state.calls += 1
        return self.a(x) * (1 + (state.calls > 45))
"""
    (own / "own_late.py").write_text(OWN + late)
    own_words = [word.replace("own_shared.", "own_late.") for word in words("Late")]
    own_words.append("trainer.epochs=90")
    rates = ["0.01", "0.02", "0.05", "0.1"]
    swept = gdexp.launch([*own_words, f"optimizer.lr={','.join(rates)}"], multirun=True)
    wanted = [gdexp.launch([*own_words, f"optimizer.lr={rate}"]).run_id[0] for rate in rates]
    assert [curve(run) for run in swept.run_id] == [curve(run) for run in wanted]


@pytest.mark.parametrize("held", ["torch.zeros(200_000)", "np.zeros(200_000)"])
def test_one_number_of_a_large_array_is_seen(own, capsys, held):
    """No trial may pass over it, wherever it is and however it is written."""
    text = f"""
import numpy as np
LARGE = {held}
class Large(Numbered):
    def number(self):
        LARGE.data[12_345] += 1
        return int(LARGE[12_345])
"""
    name = f"own_{held.partition('.')[0]}"
    (own / f"{name}.py").write_text(OWN + text.replace("LARGE.data[", "LARGE[" if "np" in held else "LARGE.data["))
    changed = [word.replace("own_shared.Large", f"{name}.Large") for word in words("Large")]
    gdexp.launch([*changed, "optimizer.lr=0.01,0.02,0.05,0.1"], multirun=True)
    assert f"trained one by one: {name}.LARGE changes" in capsys.readouterr().out
