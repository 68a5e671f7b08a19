"""Models of all sorts, for tests that train each in a sweep and alone."""

import random
from collections import deque

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from gdexp.data import TensorData


def rows():
    """Return 48 rows of 6 numbers, of three classes."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(48, 6, generator=generator)
    y = (x @ torch.randn(6, 3, generator=generator)).argmax(1)
    return TensorData((x[:36], y[:36]), val=(x[36:], y[36:]), classes=3)


class Plain(nn.Module):
    """A small network, of which the others change one thing."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 8)
        self.b = nn.Linear(8, 3)

    def hidden(self, x):
        return self.a(x).tanh()

    def forward(self, x):
        return self.b(self.hidden(x))


class Tied(Plain):
    def __init__(self):
        super().__init__()
        self.c = nn.Linear(8, 8)
        self.d = nn.Linear(8, 8)
        self.d.weight = self.c.weight

    def hidden(self, x):
        return self.d(self.c(super().hidden(x)).tanh())


class Frozen(Plain):
    def __init__(self):
        super().__init__()
        self.a.requires_grad_(False)


class Spare(Plain):
    def __init__(self):
        super().__init__()
        self.spare = nn.Linear(3, 3)


class BatchNorm(Plain):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(8)

    def hidden(self, x):
        return self.norm(super().hidden(x))


class BatchNormOfBias(BatchNorm):
    def hidden(self, x):
        return self.norm(self.a(x)).tanh()


class RunningMeanOnly(Plain):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(8, momentum=None, affine=False)

    def hidden(self, x):
        return self.norm(super().hidden(x))


class LayerNorm(Plain):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(8)

    def hidden(self, x):
        return self.norm(super().hidden(x))


class GroupNorm(LayerNorm):
    def __init__(self):
        super().__init__()
        self.norm = nn.GroupNorm(2, 8)


class RMSNorm(LayerNorm):
    def __init__(self):
        super().__init__()
        self.norm = nn.RMSNorm(8)


class InstanceNorm(Plain):
    def __init__(self):
        super().__init__()
        self.norm = nn.InstanceNorm1d(2, affine=True, track_running_stats=True)

    def hidden(self, x):
        return self.norm(super().hidden(x).reshape(-1, 2, 4)).flatten(1)


class WeightNorm(Plain):
    def __init__(self):
        super().__init__()
        self.a = parametrizations.weight_norm(self.a)


class SpectralNorm(Plain):
    def __init__(self):
        super().__init__()
        self.a = parametrizations.spectral_norm(self.a)


class Orthogonal(Plain):
    def __init__(self):
        super().__init__()
        self.c = parametrizations.orthogonal(nn.Linear(8, 8))

    def hidden(self, x):
        return self.c(super().hidden(x))


class OldWeightNorm(Plain):
    def __init__(self):
        super().__init__()
        import warnings

        with warnings.catch_warnings(action="ignore"):
            self.a = nn.utils.weight_norm(self.a)


class Dropout(Plain):
    def hidden(self, x):
        return F.dropout(super().hidden(x), 0.3, self.training)


class AlphaDropout(Plain):
    def hidden(self, x):
        return F.alpha_dropout(super().hidden(x), 0.3, self.training)


class FeatureDropout(Plain):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout1d(0.3)

    def hidden(self, x):
        return self.drop(super().hidden(x)[:, :, None])[:, :, 0]


class Noise(Plain):
    def hidden(self, x):
        hidden = super().hidden(x)
        return hidden + 0.1 * torch.randn_like(hidden) if self.training else hidden


class NoiseOfNormal(Plain):
    def hidden(self, x):
        hidden = super().hidden(x)
        return hidden + torch.normal(0.0, 0.1, hidden.shape) if self.training else hidden


class RandInt(Plain):
    def hidden(self, x):
        return super().hidden(x) * (1 + torch.randint(0, 2, (8,)).to(x) * self.training)


class Permuted(Plain):
    def hidden(self, x):
        return super().hidden(x)[:, torch.randperm(8)] if self.training else super().hidden(x)


class Bernoulli(Plain):
    def hidden(self, x):
        hidden = super().hidden(x)
        return hidden * torch.bernoulli(torch.full_like(hidden, 0.8)) if self.training else hidden


class PythonRandom(Plain):
    def hidden(self, x):
        return super().hidden(x) * (random.random() if self.training else 1.0)


class NumpyRandom(Plain):
    def hidden(self, x):
        return super().hidden(x) * (float(np.random.rand()) if self.training else 1.0)


class OwnGenerator(Plain):
    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(3)

    def hidden(self, x):
        return super().hidden(x) + 0.1 * torch.randn(8, generator=self.generator)


class OwnPythonRandom(Plain):
    def __init__(self):
        super().__init__()
        self.random = random.Random(3)

    def hidden(self, x):
        return super().hidden(x) * self.random.random()


class Activation(Plain):
    """What the seed decides in Python."""

    def __init__(self):
        super().__init__()
        self.activation = [torch.tanh, torch.relu, torch.sigmoid][int(torch.randint(3, ()))]

    def hidden(self, x):
        return self.activation(self.a(x))


class Mask(Plain):
    def __init__(self):
        super().__init__()
        self.mask = torch.rand(8) > 0.3

    def hidden(self, x):
        return super().hidden(x) * self.mask


class MaskInABuffer(Plain):
    def __init__(self):
        super().__init__()
        self.register_buffer("mask", (torch.rand(8) > 0.3).float())

    def hidden(self, x):
        return super().hidden(x) * self.mask


class MaskInAList(Plain):
    def __init__(self):
        super().__init__()
        self.kept = [i for i in range(8) if torch.rand(()) > 0.3] or [0]

    def hidden(self, x):
        mask = torch.zeros(8)
        mask[self.kept] = 1
        return super().hidden(x) * mask


class Closure(Plain):
    def __init__(self):
        super().__init__()
        scale = float(torch.rand(()))
        self.scaled = lambda x: x * scale

    def hidden(self, x):
        return self.scaled(super().hidden(x))


class Counter(Plain):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def hidden(self, x):
        self.calls += self.training
        return super().hidden(x) * min(1.0, self.calls / 20)


class CounterInAList(Plain):
    def __init__(self):
        super().__init__()
        self.calls = [0]

    def hidden(self, x):
        self.calls[0] += 1
        return super().hidden(x) / self.calls[0]


class CounterOfTheClass(Plain):
    calls = 0

    def hidden(self, x):
        type(self).calls += 1
        return super().hidden(x) / (1 + type(self).calls % 7)


CALLS = [0]


class CounterOfTheFile(Plain):
    def hidden(self, x):
        CALLS[0] += 1
        return super().hidden(x) / (1 + CALLS[0] % 7)


class CounterInABuffer(Plain):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def hidden(self, x):
        self.calls += 1
        return super().hidden(x) / self.calls


class AssignedBuffer(CounterInABuffer):
    def hidden(self, x):
        self.calls = self.calls + 1
        return self.a(x).tanh() / self.calls


class Cache(Plain):
    def __init__(self):
        super().__init__()
        self.cached = None

    def hidden(self, x):
        if self.cached is None:
            self.cached = x.mean(0)
        return super().hidden(x - self.cached)


class History(Plain):
    def __init__(self):
        super().__init__()
        self.seen = deque(maxlen=3)

    def hidden(self, x):
        self.seen.append(float(x.sum()))
        return super().hidden(x) / (1 + len(self.seen))


class ParameterHook(Plain):
    def __init__(self):
        super().__init__()
        self.a.weight.register_hook(lambda g: 0.1 * g)


class PostHook(Plain):
    def __init__(self):
        super().__init__()
        self.a.weight.register_post_accumulate_grad_hook(lambda p: p.grad.mul_(0.1))


class ForwardHook(Plain):
    def __init__(self):
        super().__init__()
        self.a.register_forward_hook(lambda module, inputs, output: output * 0.5)


class BackwardHook(Plain):
    def __init__(self):
        super().__init__()
        self.a.register_full_backward_hook(lambda module, given, wanted: (given[0],))


class GradientScale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return -0.5 * g


class OwnFunction(Plain):
    def hidden(self, x):
        return GradientScale.apply(super().hidden(x))


class Scripted(Plain):
    def __init__(self):
        super().__init__()
        import warnings

        with warnings.catch_warnings(action="ignore"):
            self.c = torch.jit.script(nn.Linear(8, 8))

    def hidden(self, x):
        return self.c(super().hidden(x))


class LaterUsed(Plain):
    """A part that joins after some calls, told by a buffer."""

    def __init__(self):
        super().__init__()
        self.c = nn.Linear(8, 8)
        self.register_buffer("calls", torch.zeros(()))

    def hidden(self, x):
        self.calls += self.training
        hidden = super().hidden(x)
        return self.c(hidden) if self.calls > 5 else hidden


class UsedByTraining(Plain):
    """A branch that depends on the data."""

    def __init__(self):
        super().__init__()
        self.c = nn.Linear(8, 8)

    def hidden(self, x):
        hidden = super().hidden(x)
        return self.c(hidden) if hidden.sum() > 0 else hidden


class Lstm(Plain):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(1, 8, batch_first=True)

    def hidden(self, x):
        return self.rnn(x[:, :, None])[0][:, -1]


class Gru(Lstm):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(1, 8, batch_first=True)


class Cell(Plain):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(6, 8)

    def hidden(self, x):
        state = torch.zeros(len(x), 8)
        for _ in range(3):
            state = self.cell(x, state)
        return state


class Attention(Plain):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def hidden(self, x):
        h = super().hidden(x).reshape(-1, 1, 8).expand(-1, 3, 8)
        return self.attention(h, h, h)[0].mean(1)


class AttentionByItself(Plain):
    def hidden(self, x):
        h = super().hidden(x).reshape(-1, 2, 4)
        return F.scaled_dot_product_attention(h, h, h).flatten(1)


class Convolution(Plain):
    def __init__(self):
        super().__init__()
        self.c = nn.Conv1d(1, 2, 3)

    def hidden(self, x):
        return self.c(x[:, None]).relu().flatten(1)


class Embedding(Plain):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(4, 6)

    def hidden(self, x):
        return super().hidden(self.table((x[:, 0] > 0).long()) + x)


class SparseEmbedding(Embedding):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(4, 6, sparse=True)


class EmbeddingBag(Embedding):
    def __init__(self):
        super().__init__()
        self.table = nn.EmbeddingBag(4, 6)

    def hidden(self, x):
        return Plain.hidden(self, self.table((x > 0).long()))


class InPlace(Plain):
    def hidden(self, x):
        h = self.a(x)
        h += 1
        h.mul_(0.5).relu_()
        return h


class InPlaceOnParameters(Plain):
    """Weights that a forward pass normalises."""

    def hidden(self, x):
        with torch.no_grad():
            self.a.weight.div_(self.a.weight.norm().clamp(min=1))
        return super().hidden(x)


class ComplexWeights(Plain):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(8, 8, dtype=torch.complex64) / 4)

    def hidden(self, x):
        return (super().hidden(x).to(torch.complex64) @ self.w).abs()


class LoosePiece(Plain):
    """Parameters that no module holds."""

    def __init__(self):
        super().__init__()
        self.pieces = [nn.Linear(8, 8)]

    def hidden(self, x):
        return self.pieces[0](super().hidden(x))


class NonLeaf(Plain):
    def __init__(self):
        super().__init__()
        self.scale = self.b.weight.detach().mean()

    def hidden(self, x):
        return super().hidden(x) * (1 + self.scale)


class Stochastic(Plain):
    """Depth that is drawn."""

    def hidden(self, x):
        h = super().hidden(x)
        if self.training and torch.rand(()) < 0.5:
            return h * 2
        return h


class TopK(Plain):
    def hidden(self, x):
        h = super().hidden(x)
        return h * (h >= h.topk(3, dim=1).values[:, -1:])


class Shapes(Plain):
    """A model that looks at how many rows there are."""

    def hidden(self, x):
        return super().hidden(x) / x.shape[0]


class Item(Plain):
    def hidden(self, x):
        return super().hidden(x) * float(self.a.weight.mean().item() + 1)


class Rescaled(Plain):
    """Its own step of training, with a further number."""

    forward = None

    def training_loss(self, batch):
        x, y = batch
        loss = F.cross_entropy(self.b(self.hidden(x)), y)
        return loss, {"penalty": self.a.weight.pow(2).mean()}


class Twice(Plain):
    """A gradient of a gradient."""

    forward = None

    def training_loss(self, batch):
        x = batch[0].clone().requires_grad_(True)
        out = self.b(self.hidden(x))
        [g] = torch.autograd.grad(out.sum(), x, create_graph=True)
        return F.cross_entropy(out, batch[1]) + g.pow(2).mean()


class Sgd(torch.optim.Optimizer):
    """Plain steps, of one's own."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr})

    def move(self, p, group):
        p.add_(p.grad, alpha=-group["lr"])

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.move(p, group)


class BySize(Sgd):
    def move(self, p, group):
        p.add_(p.grad, alpha=-group["lr"] / (1 + p.numel() // 50))


class ByDimension(Sgd):
    def move(self, p, group):
        p.add_(p.grad, alpha=-group["lr"] * (2 if p.dim() > 1 else 1))


class ByNorm(Sgd):
    def move(self, p, group):
        p.add_(p.grad / p.grad.norm().clamp(min=1e-3), alpha=-group["lr"])


class OfAll(Sgd):
    """The norm of all gradients together."""

    @torch.no_grad()
    def step(self, closure=None):
        all_of_them = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.stack([p.grad.norm() for p in all_of_them]).norm()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.add_(p.grad / (1 + norm), alpha=-group["lr"])


class Later(Sgd):
    """Another rule from the tenth step on."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, lr)
        self.count = 0

    def step(self, closure=None):
        self.count += 1
        super().step()

    def move(self, p, group):
        p.add_(p.grad.sign() * 0.1 if self.count > 9 else p.grad, alpha=-group["lr"])


class Kept(Sgd):
    """The rate kept outside of the groups."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, lr)
        self.rate = lr

    def move(self, p, group):
        p.add_(p.grad, alpha=-self.rate)


class Drawing(Sgd):
    def move(self, p, group):
        p.add_(p.grad + 0.01 * torch.randn_like(p), alpha=-group["lr"])


MODELS = [kind.__name__ for kind in list(globals().values()) if isinstance(kind, type) and issubclass(kind, nn.Module)]
OPTIMIZERS = [
    kind.__name__
    for kind in list(globals().values())
    if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)
]
