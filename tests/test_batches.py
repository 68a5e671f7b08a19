"""Batches that are more than rows, and streams: trained as a plain loop trains them, none of their rows lost."""

import pytest
import torch
from mlflow.tracking import MlflowClient
from torch import nn

import gdexp

PARTS = """
import random
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence
from torch.utils.data import DataLoader, Dataset, IterableDataset

def generator(seed=1):
    return torch.Generator().manual_seed(seed)

ROWS = [(torch.tensor([i / 10]), torch.tensor([i / 5 + 1])) for i in range(22)]

class Stream(IterableDataset):
    def __iter__(self):
        return iter(ROWS)

class Once(IterableDataset):
    def __init__(self):
        self.rows = iter(ROWS)
    def __iter__(self):
        yield from self.rows

class Noisy(IterableDataset):
    def __iter__(self):
        for x, y in ROWS:
            yield x + random.random(), y

class Empty(IterableDataset):
    def __iter__(self):
        return iter(())

def again():
    return DataLoader(Stream(), batch_size=4)

def once():
    return DataLoader(Once(), batch_size=4)

def bare():
    return Once()

def noisy():
    return DataLoader(Noisy(), batch_size=4)

def empty():
    return DataLoader(Empty(), batch_size=4)

def shuffled():
    return DataLoader(ROWS, batch_size=4, shuffle=True)

def shuffled_by_its_own():
    return DataLoader(ROWS, batch_size=4, shuffle=True, generator=generator(7))


def by_sampler():
    return DataLoader(Named(), batch_sampler=[["a", "c"], ["b"]])

class Named(Dataset):
    def __len__(self):
        return 3
    def __getitem__(self, name):
        return torch.tensor([float(ord(name) - 96)]), torch.tensor([1.0])

def whole():
    return DataLoader([(torch.ones(3, 1), torch.ones(3, 1)), (torch.zeros(2, 1), torch.ones(2, 1))], batch_size=None)

def graphs():
    def one(i):
        k = 5 + i % 4
        x = torch.randn(k, 3, generator=generator(i))
        return x, torch.randint(0, k, (2, 2 * k), generator=generator(i)), x.sum()[None]
    def join(items):
        xs, es, bs, ys, at = [], [], [], [], 0
        for j, (x, e, y) in enumerate(items):
            xs.append(x), es.append(e + at), bs.append(torch.full((len(x),), j)), ys.append(y)
            at += len(x)
        return {"x": torch.cat(xs), "edge_index": torch.cat(es, 1), "batch": torch.cat(bs), "y": torch.stack(ys)}
    return DataLoader([one(i) for i in range(21)], 8, collate_fn=join)

class Gnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 8), nn.Linear(8, 1)
    def training_loss(self, b):
        h = torch.tanh(self.a(b["x"]))
        source, end = b["edge_index"]
        h = h.index_add(0, end, h[source])
        out = torch.zeros(len(b["y"]), 8).index_add(0, b["batch"], h)
        return ((self.b(out) - b["y"]) ** 2).mean()

WORDS = ["a cat", "two black dogs", "one", "so many words here", "a b"]

class Texts(Dataset):
    def __len__(self):
        return len(WORDS)
    def __getitem__(self, i):
        return WORDS[i], torch.tensor([float(len(WORDS[i].split()))])

def texts():
    return Texts()

class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.e = nn.EmbeddingBag(50, 4)
        self.out = nn.Linear(4, 1)
    def forward(self, texts):
        tokens = [torch.tensor([sum(map(ord, w)) % 50 for w in t.split()]) for t in texts]
        return self.out(self.e(torch.cat(tokens), torch.tensor([0] + [len(t) for t in tokens])[:-1].cumsum(0)))

def sequences():
    return [(torch.randn(3 + i % 4, 2, generator=generator(i)), torch.tensor([float(i % 3)])) for i in range(10)]

def padded():
    def join(items):
        xs, ys = zip(*items)
        return (pad_sequence(xs, batch_first=True), torch.tensor([len(x) for x in xs])), torch.stack(ys)
    return DataLoader(sequences(), 4, collate_fn=join)

def packed():
    def join(items):
        xs, ys = zip(*items)
        lengths = torch.tensor([len(x) for x in xs])
        return pack_padded_sequence(pad_sequence(xs, batch_first=True), lengths, True, False), torch.stack(ys)
    return DataLoader(sequences(), 4, collate_fn=join)

class Rnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.out = nn.GRU(2, 6, batch_first=True), nn.Linear(6, 1)
    def forward(self, batch):
        if isinstance(batch, tuple) and len(batch) == 2:
            batch = pack_padded_sequence(*batch, batch_first=True, enforce_sorted=False)
        return self.out(self.rnn(batch)[1][0])
"""


@pytest.fixture
def parts(stocked, monkeypatch):
    (stocked / "pieces.py").write_text(PARTS)
    namespace = {}
    exec(PARTS, namespace)
    namespace["folder"] = stocked
    return namespace


def only(table):
    [run] = table.to_dict("records")
    return run


def data(name):
    return ["data=custom", f"data._target_=pieces.{name}", "optimizer.lr=0.05"]


def plain(loader, model, loss, epochs):
    """Return the mean loss of each epoch, over its targets, as a loop without a framework has it."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    curve = []
    for _ in range(epochs):
        total = rows = 0
        for batch in loader:
            value, n = loss(model, batch)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            total, rows = total + n * value.item(), rows + n
        curve.append(total / rows)
    return curve


def squared(model, batch):
    inputs, target = batch
    return nn.functional.mse_loss(model(inputs), target), len(target)


def curve_of(parts, run):
    client = MlflowClient(f"sqlite:///{parts['folder']}/mlflow.db")
    return [m.value for m in client.get_metric_history(run["run_id"], "train_loss")]


def seeded(make, seed=0):
    torch.manual_seed(seed)
    return make()


@pytest.mark.parametrize(
    ("name", "epochs"),
    [("again", 3), ("once", 1), ("shuffled", 3), ("shuffled_by_its_own", 2), ("by_sampler", 2), ("whole", 2)],
)
def test_loader_gives_what_it_gives_a_plain_loop(parts, name, epochs):
    run = only(gdexp.launch([*data(name), f"trainer.epochs={epochs}"]))
    model = seeded(lambda: nn.Linear(1, 1))
    assert curve_of(parts, run) == plain(parts[name](), model, squared, epochs)
    assert torch.equal(gdexp.load(run["run_id"]).linear.weight, model.weight)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_stream_without_a_loader_loses_no_row(parts, workers):
    words = ["trainer.batch_size=4", "trainer.epochs=1", f"trainer.workers={workers}"]
    run = only(gdexp.launch([*data("bare"), *words]))
    assert curve_of(parts, run) == plain(parts["once"](), seeded(lambda: nn.Linear(1, 1)), squared, 1)


def test_what_a_stream_draws_depends_on_the_seed_alone(parts):
    losses = [curve_of(parts, only(gdexp.launch([*data("noisy"), "trainer.epochs=2", f"seed={s}"]))) for s in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize(("name", "line"), [("empty", "no training rows"), ("once", "no rows in epoch 2.*epochs=1")])
def test_stream_that_has_no_rows_is_named(parts, name, line):
    with pytest.raises(ValueError, match=line):
        gdexp.launch([*data(name), "trainer.epochs=3"])


def test_graphs_count_by_their_targets(parts):
    run = only(
        gdexp.launch([*data("graphs"), "loss=none", "model=custom", "model._target_=pieces.Gnn", "trainer.epochs=2"])
    )
    wanted = plain(parts["graphs"](), seeded(parts["Gnn"]), lambda m, b: (m.training_loss(b), len(b["y"])), 2)
    assert curve_of(parts, run) == wanted


@pytest.mark.parametrize(("name", "model"), [("padded", "Rnn"), ("packed", "Rnn")])
def test_sequences_of_different_lengths(parts, name, model):
    run = only(gdexp.launch([*data(name), "model=custom", f"model._target_=pieces.{model}", "trainer.epochs=2"]))
    assert curve_of(parts, run) == plain(parts[name](), seeded(parts[model]), squared, 2)


def test_texts(parts):
    words = [*data("texts"), "model=custom", "model._target_=pieces.Words", "data.val_fraction=2", "trainer.epochs=3"]
    run = only(gdexp.launch([*words, "data.split_seed=null"]))
    loader = torch.utils.data.DataLoader(torch.utils.data.Subset(parts["Texts"](), range(3)), 3)
    assert curve_of(parts, run) == plain(loader, seeded(parts["Words"]), squared, 3) and run["val_loss"] > 0
