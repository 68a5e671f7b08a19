"""Every optimizer, schedule, loss and training option against a plain PyTorch loop: the same bits.

The loops below use nothing of gdexp's but the data; the runs go through `gdexp.launch`, with the
epochs and the model seen by a hook.
"""

import inspect
import sys

import pytest
import torch
from torch import nn, optim
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import gdexp
from gdexp.config.sources import options
from gdexp.data import bundled, synthetic

EPOCHS = 20
OWN_RULES = ["trainer.divergence_factor=null"]  # the plain loops have none


@pytest.fixture
def run(here):
    """Launch a command of 20 epochs; return its curve of each metric and its model."""
    (here / "spy.py").write_text("seen = []\ndef take(epoch, model):\n    seen.append((epoch, model))\n")
    sys.modules.pop("spy", None)

    def launch(*words):
        gdexp.launch([f"trainer.epochs={EPOCHS}", "trainer.on_epoch=[spy.take]", "tracking=none", *OWN_RULES, *words])
        seen = sys.modules["spy"].seen
        epochs, model = [epoch for epoch, _ in seen], seen[-1][1]
        names = dict.fromkeys(name for epoch in epochs for name in epoch.metrics)
        curves = {name: [epoch.metrics.get(name) for epoch in epochs] for name in names}
        weights = {name: t.detach().clone() for name, t in model.state_dict().items()}
        seen.clear()
        return curves, weights

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield launch
    torch.set_num_threads(threads)


def batches(x, y, size, epoch, seed):
    if size is None:
        return [(x, y)]
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1_000_003 * seed + epoch))
    return [(x[index], y[index]) for index in order.split(size)]


def plain(
    model, loss_function, optimizer, x, y, *, size=32, seed=3, scheduler=None, by_step=False, change=None, over=len
):
    """Train as a ten-line script does; return the losses, the rates and the weights.

    `over` gives what the loss of a batch was divided by, of its target: the rows, if nothing else is said.
    """
    losses, rates = [], []
    for epoch in range(1, EPOCHS + 1):
        total = 0.0
        for inputs, target in batches(x, y, size, epoch, seed):
            first = []

            def closure(inputs=inputs, target=target, first=first):
                optimizer.zero_grad()
                loss = loss_function(model(inputs), target)
                loss.backward()
                first.append(loss.item())
                if change is not None:
                    change(model)
                return loss

            optimizer.step(closure)
            total += first[0] * float(over(target))
            rates.append(optimizer.param_groups[0]["lr"])
            if scheduler is not None and by_step:
                scheduler.step()
        losses.append(total / float(over(y)))
        if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
            scheduler.step(losses[-1])
        elif scheduler is not None and not by_step:
            scheduler.step()
    return losses, rates[:: len(rates) // EPOCHS] if not by_step else rates, model.state_dict()


def same(curve, weights, losses, state):
    assert curve == pytest.approx(losses, rel=0, abs=0)
    assert [t.tolist() for t in weights.values()] == [t.tolist() for t in state.values()]


IRIS = ["data=iris", "data.val_fraction=0", "model=mlp", "model.hidden=[16]", "loss=cross_entropy", "seed=3"]


def iris_mlp():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))


def iris():
    x, y = bundled.iris().train
    return x.float(), y


NAMED = {
    "sgd": (optim.SGD, {"lr": 0.01}),
    "momentum": (optim.SGD, {"lr": 0.01, "momentum": 0.9}),
    "nesterov": (optim.SGD, {"lr": 0.01, "momentum": 0.9, "nesterov": True}),
    "amsgrad": (optim.Adam, {"amsgrad": True}),
    "sparse_adam": (optim.SparseAdam, {}),
}
CLASSES = [c for c in vars(optim).values() if isinstance(c, type) and issubclass(c, optim.Optimizer)]
APART = (optim.Optimizer, optim.SparseAdam, optim.Muon)
OPTIMIZERS = {c.__name__.lower(): (c, {}) for c in CLASSES if c not in APART} | NAMED
SWITCHES = {"params", "foreach", "fused", "capturable", "differentiable"}  # how it is computed, not what


def test_every_optimizer_of_torch_is_an_option_with_torchs_defaults():
    from gdexp.config.compose import compose

    assert set(options("optimizer")) == set(OPTIMIZERS) | {"custom", "none", "muon"}
    for name, (kind, changed) in OPTIMIZERS.items():
        node = dict(compose([f"optimizer={name}"])[0].config["optimizer"])
        assert node.pop("_target_") == f"torch.optim.{kind.__name__}" and node.pop("param_groups") is None
        assert tuples(node) == defaults_of(kind) | changed


def defaults_of(kind):
    return {k: p.default for k, p in inspect.signature(kind).parameters.items() if k not in SWITCHES}


def tuples(node):
    return {k: tuple(v) if isinstance(v, list) else v for k, v in node.items()}


def test_muon_has_the_defaults_of_torchs_muon_and_adamw():
    from gdexp.config.compose import compose

    node = dict(compose(["optimizer=muon"])[0].config["optimizer"])
    assert node.pop("use_muon") is True and node.pop("param_groups") is None and node.pop("_target_")
    beside = {f"adamw_{k}": v for k, v in defaults_of(optim.AdamW).items() if k not in ("amsgrad", "maximize")}
    assert tuples(node) == defaults_of(optim.Muon) | beside


@pytest.mark.parametrize("size", [32, pytest.param(None, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [n for n in OPTIMIZERS if n != "sparse_adam"])
def test_optimizer(run, name, size):
    kind, arguments = OPTIMIZERS[name]
    curves, weights = run(*IRIS, f"optimizer={name}", f"trainer.batch_size={size or 'null'}")
    model = iris_mlp()
    losses, _, state = plain(model, nn.CrossEntropyLoss(), kind(model.parameters(), **arguments), *iris(), size=size)
    same(curves["train_loss"], weights, losses, state)


class Both:
    """Two optimizers that step one after the other, as a script does."""

    def __init__(self, *optimizers):
        self.optimizers = optimizers
        self.param_groups = [group for o in optimizers for group in o.param_groups]

    def zero_grad(self):
        for o in self.optimizers:
            o.zero_grad()

    def step(self, closure):
        closure()
        for o in self.optimizers:
            o.step()


MUON = {
    "defaults": ([], {}, {}, "none"),
    "own": (
        ["optimizer.lr=0.02", "optimizer.momentum=0.9", "optimizer.adamw_lr=0.003", "optimizer.adamw_betas=[0.8,0.9]"],
        {"lr": 0.02, "momentum": 0.9},
        {"lr": 0.003, "betas": (0.8, 0.9)},
        "none",
    ),
    "head by AdamW": (["optimizer.param_groups={2.weight: {use_muon: false}}"], {}, {}, "2.weight"),
    "clipped": (["trainer.clip_norm=0.05"], {}, {}, "none"),
}


@pytest.mark.parametrize("size", [32, None])
@pytest.mark.parametrize("case", MUON)
def test_muon_takes_adamw_for_what_is_no_matrix(run, case, size):
    words, of_muon, of_adamw, apart = MUON[case]
    curves, weights = run(*IRIS, "optimizer=muon", f"trainer.batch_size={size or 'null'}", *words)
    model = iris_mlp()
    matrices = [p for name, p in model.named_parameters() if name.endswith("weight") and name != apart]
    others = [p for name, p in model.named_parameters() if not name.endswith("weight") or name == apart]
    both = Both(optim.Muon(matrices, **of_muon), optim.AdamW(others, **of_adamw))
    clip = (lambda m: nn.utils.clip_grad_norm_(m.parameters(), 0.05)) if case == "clipped" else None
    losses, _, state = plain(model, nn.CrossEntropyLoss(), both, *iris(), size=size, change=clip)
    same(curves["train_loss"], weights, losses, state)


def test_muon_gives_a_groups_hyperparameters_to_all_of_it(run):
    first = "{lr: 0.004, weight_decay: 0}"
    groups = f"optimizer.param_groups={{0.w: {first}, 0.b: {first}, bias: {{adamw_lr: 0.02}}}}"
    curves, weights = run(*IRIS, "optimizer=muon", groups, "scheduler=exponential")
    model = iris_mlp()
    p = dict(model.named_parameters())
    own = {"lr": 0.004, "weight_decay": 0}
    muon = optim.Muon([{"params": [p["2.weight"]]}, {"params": [p["0.weight"]], **own}])
    adamw = optim.AdamW([{"params": [p["0.bias"]], **own}, {"params": [p["2.bias"]], "lr": 0.02}])
    change = [lr_scheduler.ExponentialLR(o, 0.95) for o in (muon, adamw)]
    falls = type("Falls", (), {"step": lambda self: [s.step() for s in change]})()
    both = Both(muon, adamw)
    losses, _, state = plain(model, nn.CrossEntropyLoss(), both, *iris(), size=None, scheduler=falls)
    same(curves["train_loss"], weights, losses, state)


WORDS = """
import torch
from torch import nn
from gdexp.data import TensorData

def load():
    g = torch.Generator().manual_seed(1)
    x = torch.randint(0, 50, (120, 6), generator=g)
    return TensorData((x, (x.sum(1) % 3)), classes=3)

class Bag(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Embedding(50, 3, sparse=True))
    def forward(self, x):
        return super().forward(x).mean(1)
"""


def test_sparse_adam(run, here):
    (here / "words.py").write_text(WORDS)
    own = ["data=custom", "data._target_=words.load", "model=custom", "model._target_=words.Bag", "seed=3"]
    curves, weights = run(*own, "loss=cross_entropy", "optimizer=sparse_adam", "trainer.batch_size=32")
    names: dict = {}
    exec(WORDS, names)
    torch.manual_seed(3)
    model = names["Bag"]()
    optimizer = optim.SparseAdam(model.parameters())
    losses, _, state = plain(model, nn.CrossEntropyLoss(), optimizer, *names["load"]().train)
    same(curves["train_loss"], weights, losses, state)
    with pytest.raises(ValueError, match="sparse gradients"):
        run("optimizer=sparse_adam")


SCHEDULES = {
    "step": (lambda o, n: lr_scheduler.StepLR(o, 4), ["scheduler.step_size=4"]),
    "multistep": (lambda o, n: lr_scheduler.MultiStepLR(o, [5, 9]), ["scheduler.milestones=[5,9]"]),
    "exponential": (lambda o, n: lr_scheduler.ExponentialLR(o, 0.95), []),
    "cosine": (lambda o, n: lr_scheduler.CosineAnnealingLR(o, n), []),
    "cosine_warm_restarts": (lambda o, n: lr_scheduler.CosineAnnealingWarmRestarts(o, 7), ["scheduler.T_0=7"]),
    "linear": (lambda o, n: lr_scheduler.LinearLR(o), []),
    "polynomial": (lambda o, n: lr_scheduler.PolynomialLR(o, 15, 2.0), ["scheduler={total_iters: 15, power: 2.0}"]),
    "one_cycle": (lambda o, n: lr_scheduler.OneCycleLR(o, 0.05, n), []),
    "cyclic": (lambda o, n: lr_scheduler.CyclicLR(o, 1e-4, 0.05, 8), ["scheduler.step_size_up=8"]),
    "reduce_on_plateau": (lambda o, n: lr_scheduler.ReduceLROnPlateau(o, patience=1, threshold=0.1), []),
    "constant": (lambda o, n: None, []),
}
SCHEDULES["reduce_on_plateau"][1].extend(["scheduler.patience=1", "scheduler.threshold=0.1"])


def test_every_schedule_is_in_the_table():
    assert set(options("scheduler")) == {*SCHEDULES, "custom"}


MOVES = [(n, i, w) for n in SCHEDULES for i in ("epoch", "step") for w in (0, 3) if n != "reduce_on_plateau"]


ALL_MOVES = [*MOVES, ("reduce_on_plateau", "epoch", 0)]
OFTEN = [pytest.param(*move, marks=[] if move[2] == 0 else pytest.mark.slow) for move in ALL_MOVES]


@pytest.mark.parametrize(("name", "interval", "warmup"), OFTEN)
def test_schedule(run, name, interval, warmup):
    make, words = SCHEDULES[name]
    own = [f"scheduler={name}", f"scheduler.interval={interval}", f"scheduler.warmup={warmup}", "optimizer=momentum"]
    curves, weights = run(*IRIS, *own, *words, "optimizer.lr=0.05", "trainer.batch_size=32")
    model = iris_mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    length = EPOCHS * (1 if interval == "epoch" else 5) - warmup
    ramp = lr_scheduler.LinearLR(optimizer, total_iters=warmup) if warmup else None
    scheduler = make(optimizer, length)
    if ramp is not None:
        scheduler = lr_scheduler.SequentialLR(optimizer, [ramp, scheduler], [warmup]) if scheduler else ramp
    losses, rates, state = plain(
        model, nn.CrossEntropyLoss(), optimizer, *iris(), scheduler=scheduler, by_step=interval == "step"
    )
    same(curves["train_loss"], weights, losses, state)
    if scheduler is None:
        assert "lr" not in curves
    else:
        assert curves["lr"] == (rates if interval == "epoch" else rates[4::5])


@pytest.mark.parametrize("warmup", [0, 3])
@pytest.mark.parametrize(
    ("words", "make"),
    [
        (["scheduler=one_cycle"], lambda o, n: lr_scheduler.OneCycleLR(o, [0.05, 0.002], n)),
        (["scheduler=one_cycle", "scheduler.max_lr=0.1"], lambda o, n: lr_scheduler.OneCycleLR(o, [0.1, 0.004], n)),
        (
            ["scheduler=cyclic", "scheduler.step_size_up=7", "scheduler.base_lr=0.01"],
            lambda o, n: lr_scheduler.CyclicLR(o, [0.01, 0.01 * (0.002 / 0.05)], [0.05, 0.002], 7),
        ),
    ],
)
def test_cycles_keep_the_groups_own_rates(run, words, make, warmup):
    groups = "optimizer.param_groups={bias: {lr: 0.002}}"
    own = ["optimizer=momentum", "optimizer.lr=0.05", groups, f"scheduler.warmup={warmup}", "trainer.batch_size=32"]
    curves, weights = run(*IRIS, *own, *words)
    model = iris_mlp()
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    others = [p for name, p in model.named_parameters() if name.endswith("weight")]
    optimizer = optim.SGD([{"params": others}, {"params": biases, "lr": 0.002}], lr=0.05, momentum=0.9)
    ramp = lr_scheduler.LinearLR(optimizer, total_iters=warmup) if warmup else None
    scheduler = make(optimizer, 5 * EPOCHS - warmup)
    if ramp is not None:
        scheduler = lr_scheduler.SequentialLR(optimizer, [ramp, scheduler], [warmup])
    losses, rates, state = plain(model, nn.CrossEntropyLoss(), optimizer, *iris(), scheduler=scheduler, by_step=True)
    same(curves["train_loss"], weights, losses, state)
    assert curves["lr"] == rates[4::5]


def test_plateau_moves_on_after_its_warmup_and_refuses_steps(run):
    own = ["scheduler=reduce_on_plateau", "scheduler.warmup=3", "scheduler.patience=1", "scheduler.threshold=10"]
    curves, _ = run(*IRIS, *own)
    rises = [0.01 * (1 / 3 + (1 - 1 / 3) * e / 3) for e in range(3)]
    assert curves["lr"][:3] == pytest.approx(rises) and curves["lr"][3] == pytest.approx(0.01)
    assert curves["lr"][6] == pytest.approx(0.001)  # 4 is the first to be seen, 5 and 6 are no better
    with pytest.raises(ValueError, match="`scheduler.interval` must be epoch"):
        run(*IRIS, *own, "scheduler.interval=step")


# option: the class and its arguments, the words beside, and how the data and the model's output are read
LOSSES = {
    "mse": (nn.MSELoss, {}, "sine"),
    "l1": (nn.L1Loss, {}, "sine"),
    "huber": (nn.HuberLoss, {"delta": 0.5}, "sine"),
    "smooth_l1": (nn.SmoothL1Loss, {"beta": 0.3}, "sine"),
    "poisson_nll": (nn.PoissonNLLLoss, {}, "counts"),
    "gaussian_nll": (None, {}, "gaussian"),
    "cross_entropy": (nn.CrossEntropyLoss, {"weight": [1.0, 2.0, 0.5], "label_smoothing": 0.1}, "iris"),
    "nll": (nn.NLLLoss, {"weight": [1.0, 2.0, 0.5]}, "log_softmax"),
    "hinge": (nn.MultiMarginLoss, {"p": 2}, "iris"),
    "kl_div": (nn.KLDivLoss, {"reduction": "batchmean"}, "probabilities"),
    "bce_with_logits": (nn.BCEWithLogitsLoss, {"pos_weight": [3.0]}, "moons"),
    "bce": (nn.BCELoss, {}, "sigmoid"),
    "soft_margin": (nn.SoftMarginLoss, {}, "signs"),
    "hinge_embedding": (nn.HingeEmbeddingLoss, {"margin": 0.5}, "signs"),
    "multilabel_soft_margin": (nn.MultiLabelSoftMarginLoss, {}, "labels"),
    "multilabel_margin": (nn.MultiLabelMarginLoss, {}, "label_lists"),
}
OWN_DATA = """
import torch
from gdexp.data import TensorData, synthetic
g = torch.Generator().manual_seed(5)
x = torch.randn(90, 4, generator=g)

def counts():
    return TensorData((x, torch.randint(0, 5, (90, 1), generator=torch.Generator().manual_seed(1)).float()))

def probabilities():
    return TensorData((x, torch.randn(90, 3, generator=torch.Generator().manual_seed(1)).softmax(1)))

def labels():
    return TensorData((x, (torch.rand(90, 3, generator=torch.Generator().manual_seed(1)) > 0.5).float()))

def label_lists():
    t = torch.full((90, 3), -1)
    t[:, 0] = torch.randint(0, 3, (90,), generator=torch.Generator().manual_seed(1))
    return TensorData((x, t))
"""


def test_every_loss_is_in_the_table():
    assert set(options("loss")) == {*LOSSES, "custom", "none"}


@pytest.mark.parametrize("name", LOSSES)
def test_loss(run, here, name):
    kind, arguments, reading = LOSSES[name]
    (here / "own_data.py").write_text(OWN_DATA)
    names: dict = {}
    exec(OWN_DATA, names)
    last: list[nn.Module] = []
    words = [f"data={reading}"]
    if reading in ("sine", "gaussian"):
        words, (x, y) = ["data=sine", "data.rows=100"], synthetic.sine(100).train
    elif reading in ("iris", "log_softmax"):
        words, (x, y) = ["data=iris"], bundled.iris().train
    elif reading in ("moons", "sigmoid", "signs"):
        words, (x, y) = ["data=moons", "data.rows=100"], synthetic.moons(100).train
        y = y.double()[:, None] * (2 if reading == "signs" else 1) - (1 if reading == "signs" else 0)
    else:
        words, (x, y) = ["data=custom", f"data._target_=own_data.{reading}"], names[reading]().train
    if reading in ("log_softmax", "probabilities"):
        words.append("model.output_activation=log_softmax")
        last = [nn.LogSoftmax(1)]
    elif reading == "sigmoid":
        words.append("model.output_activation=sigmoid")
        last = [nn.Sigmoid()]
    written = [f"loss.{k}={v}".replace(" ", "") for k, v in arguments.items() if k != "reduction"]
    curves, weights = run(
        *words, "data.val_fraction=0", "model=mlp", "model.hidden=[8]", f"loss={name}", *written, "optimizer=adam",
        "trainer.batch_size=32", "seed=3",
    )  # fmt: skip
    outputs = 3 if reading in ("iris", "log_softmax", "probabilities", "labels", "label_lists") else 1
    torch.manual_seed(3)
    hidden = nn.Linear(x.shape[1], 8)
    model = nn.Sequential(hidden, nn.ReLU(), nn.Linear(8, 2 if name == "gaussian_nll" else outputs), *last)
    if name == "gaussian_nll":
        gaussian = nn.GaussianNLLLoss()
        loss = lambda output, target: gaussian(output[:, :1], target, output[:, 1:].exp())  # noqa: E731
    else:
        tensors = {k: torch.tensor(v) if isinstance(v, list) else v for k, v in arguments.items()}
        loss = kind(**tensors)
    y = y.float() if y.is_floating_point() else y
    weight = arguments.get("weight")
    over = len if weight is None else lambda target: torch.tensor(weight)[target].sum()  # what torch divides by
    losses, _, state = plain(model, loss, optim.Adam(model.parameters()), x.float(), y, over=over)
    same(curves["train_loss"], weights, losses, state)


def test_clipping_by_value_and_norm(run):
    def clip(model):
        norms.append(nn.utils.get_total_norm([p.grad for p in model.parameters()]).item())
        nn.utils.clip_grad_value_(model.parameters(), 0.02)
        nn.utils.clip_grad_norm_(model.parameters(), 0.05)

    norms: list[float] = []
    words = ["trainer.clip_value=0.02", "trainer.clip_norm=0.05", "trainer.record=[grad_norm]"]
    curves, weights = run(*IRIS, *words, "optimizer=adam", "trainer.batch_size=32")
    model = iris_mlp()
    losses, _, state = plain(model, nn.CrossEntropyLoss(), optim.Adam(model.parameters()), *iris(), change=clip)
    same(curves["train_loss"], weights, losses, state)
    means = [(32 * sum(norms[i : i + 4]) + 22 * norms[i + 4]) / 150 for i in range(0, len(norms), 5)]
    assert curves["grad_norm"] == pytest.approx(means, rel=1e-6)


def test_accumulation_steps_once_for_several_batches(run):
    curves, weights = run(*IRIS, "optimizer=adam", "trainer.batch_size=50", "trainer.accumulate=3")
    model, (x, y) = iris_mlp(), iris()
    optimizer, losses = optim.Adam(model.parameters()), []
    for epoch in range(1, EPOCHS + 1):
        optimizer.zero_grad()
        total = 0.0
        for inputs, target in batches(x, y, 50, epoch, 3):
            loss = nn.functional.cross_entropy(model(inputs), target)
            (loss / 3).backward()
            total += loss.item() / 3
        optimizer.step()
        losses.append(total)
    assert curves["train_loss"] == pytest.approx(losses, rel=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(weights.values(), model.state_dict().values(), strict=True))


def test_accumulation_of_uneven_batches_is_the_gradient_of_them_all(run):
    words = [*IRIS, "trainer.dtype=float64", "optimizer=adam"]
    whole, _ = run(*words)
    parts, _ = run(*words, "trainer.batch_size=40", "trainer.accumulate=4")  # 40, 40, 40, 30 rows
    assert parts["train_loss"] == pytest.approx(whole["train_loss"], rel=1e-12)


def test_average_is_torchs_averaged_model(stocked, run):
    words = [*IRIS, "tracking=local", "trainer.ema=0.9", "trainer.batch_size=32", "data.val_fraction=0.2"]
    curves, _ = run(*words, "model.norm=batch")
    run_id = gdexp.runs().run_id[0]
    x, y = iris()
    order = torch.randperm(150, generator=torch.Generator().manual_seed(0))
    x, y, held_x, held_y = x[order[:120]], y[order[:120]], x[order[120:]], y[order[120:]]
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    optimizer = optim.SGD(model.parameters(), lr=0.01)
    optimizer.register_step_post_hook(lambda *_: average.update_parameters(model))
    plain(model, nn.CrossEntropyLoss(), optimizer, x, y)
    loaded = gdexp.load(run_id, weights="ema").state_dict()
    assert all(torch.equal(a, b) for a, b in zip(loaded.values(), average.module.state_dict().values(), strict=True))
    with torch.no_grad():
        loss = nn.functional.cross_entropy(average.module.eval()(held_x), held_y).item()
    assert curves["val_loss_ema"][-1] == loss and curves["val_loss"][-1] != loss


def test_param_groups_by_regular_expressions(run):
    groups = "optimizer.param_groups={bias$: {weight_decay: 0}, 0.w: {lr: 0.002}}"
    curves, weights = run(*IRIS, "optimizer=adamw", groups)
    model = iris_mlp()
    named = dict(model.named_parameters())
    optimizer = optim.AdamW(
        [
            {"params": [named["2.weight"]]},
            {"params": [named["0.bias"], named["2.bias"]], "weight_decay": 0},
            {"params": [named["0.weight"]], "lr": 0.002},
        ]
    )
    losses, _, state = plain(model, nn.CrossEntropyLoss(), optimizer, *iris(), size=None)
    same(curves["train_loss"], weights, losses, state)


def test_dropout_and_batch_norm_draw_as_torch_does(run):
    curves, weights = run(*IRIS, "model.dropout=0.3", "model.norm=layer", "trainer.batch_size=32", "optimizer=adam")
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 16), nn.LayerNorm(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))
    losses, _, state = plain(model, nn.CrossEntropyLoss(), optim.Adam(model.parameters()), *iris())
    same(curves["train_loss"], weights, losses, state)


@pytest.mark.slow
def test_dataset_trains_as_its_tensors_do(run, here):
    (here / "rows.py").write_text(
        "from torch.utils.data import TensorDataset\n"
        "from gdexp.data.bundled import iris\n"
        "def load():\n"
        "    found = TensorDataset(*iris().train)\n"
        "    found.classes = ['a', 'b', 'c']\n"
        "    return found\n"
    )
    words = [*IRIS, "data.val_fraction=0.2", "trainer.batch_size=32", "optimizer=adam"]
    tensors = run(*words)
    own = ["data=custom", "data._target_=rows.load", "data.val_fraction=0.2"]
    for workers in (0, 2):
        rows = run(*words[2:], *own, f"trainer.workers={workers}")
        assert rows[0]["train_loss"] == tensors[0]["train_loss"]
        assert rows[0]["val_loss"] == pytest.approx(tensors[0]["val_loss"], rel=1e-6)
        assert all(torch.equal(a, b) for a, b in zip(rows[1].values(), tensors[1].values(), strict=True))
