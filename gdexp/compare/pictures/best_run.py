"""What the best run learnt: its confusions, its path over the contour, its fit over the epochs.

Needs torch and the run's own parts, which are built from its record as a rerun builds them.
"""

import contextlib
import io
import warnings
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from gdexp.compare.comparison import Comparison
from gdexp.compare.pictures.axes import cut, hue, shade
from gdexp.config.refusal import Refusal
from gdexp.lines import say

if TYPE_CHECKING:
    from gdexp.build import Parts
    from gdexp.config.compose import Job
    from gdexp.tracking.reading import Recorded

_PATHS = 60  # trajectories in one picture
_POINTS = 200  # of a grid, along each side
_LINES = 12  # epochs at which a fit is drawn
_LONG = 1e9  # parameters × rows × epochs above which a run isn't trained again for a picture


def of(found: Comparison) -> Iterator[tuple[str, str, Any]]:
    """Yield the pictures that suit the model of the best run, or of the only one."""
    best = found.best or (found.selection.rows[0] if len(found.selection.rows) == 1 else None)
    if best is None or best.status != "FINISHED":
        return
    params = best.params
    two = params.get("model.start", "").count(",") == 1 and params.get("data") == "none"
    if not two and params.get("data") == "none":
        return
    from gdexp.again import recorded
    from gdexp.build import build
    from gdexp.config.modules import local_modules
    from gdexp.objectives import Objective

    try:
        words = [best.run_id, f"tracking.uri={found.selection.uri}"]
        run, job = recorded(words, "", changeable=False, weights="*.safetensors")
        with local_modules():
            parts = build(job.config, job.options)
    except (Refusal, ImportError) as error:
        say(f"No picture of the best run: {error}")
        return
    name = cut(best.name, 60)
    if isinstance(parts.model, Objective) and len(parts.model.x) == 2:
        yield "contour", f"Paths of the runs over the contour of {params.get('model')}", partial(_contour, found, parts)
    elif parts.reading is not None and (rows := _confused(run, parts)) is not None:
        yield "confusion", f"Confusions of {name} on its {rows[0]} rows", partial(_confusion, *rows, name)
    elif (fit := _fit(run, job, parts)) is not None:
        yield "fit", f"Data and the fit of {name} over the epochs", partial(_fitted, *fit, name)  # type: ignore[call-arg]


_TRAJECTORY = "trajectory.safetensors"


def _confused(run: "Recorded", parts: "Parts") -> tuple[str, np.ndarray] | None:
    """Return how often rows of each class were taken for each other one: (classes, classes)."""
    import torch

    from gdexp.metrics import classes

    split = next((s for s in ("val", "test", "train") if getattr(parts.data, s) is not None), "train")
    batch = getattr(parts.data, split)
    pair = isinstance(batch, tuple) and len(batch) in (2, 3)  # the third are weights of the rows
    if not pair or not all(isinstance(t, torch.Tensor) for t in batch):
        return None
    names = {"val": "validation", "test": "test", "train": "training"}
    from gdexp.tracking.weights import of_model

    parts.model.load_state_dict(of_model(run.weights["weights.safetensors"], parts.model))
    with torch.no_grad():
        output = parts.model.eval()(batch[0])
    assert parts.reading is not None
    output, target = parts.reading(output, batch[1])
    count = 2 if output.shape == target.shape else output.shape[1]  # a label is there or not
    predicted, target = (t.flatten() for t in classes(output, target))
    table = torch.zeros(count, count, dtype=torch.long)
    table.index_put_((target.long(), predicted.long()), torch.ones_like(target, dtype=torch.long), accumulate=True)
    return names[split], table.numpy()


def _confusion(split: str, table: np.ndarray, name: str, figure: Any) -> None:
    count = len(table)
    figure.set_size_inches(max(4.6, 0.35 * count + 2), max(4.0, 0.3 * count + 1.6))
    axes = figure.subplots()
    shares = table / table.sum(axis=1, keepdims=True).clip(min=1)
    shown = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if count <= 20:
        for i in range(count):
            for j in range(count):
                if table[i, j]:
                    color = "white" if shares[i, j] > 0.5 else "black"
                    axes.text(j, i, table[i, j], ha="center", va="center", color=color, size=8)
        axes.set_xticks(range(count))
        axes.set_yticks(range(count))
    axes.grid(False)
    figure.colorbar(shown, ax=axes, label="share of the rows of a class")
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(f"{name}, {split} rows")


def _contour(found: Comparison, parts: "Parts", figure: Any) -> None:
    import torch
    from matplotlib.colors import LogNorm

    from gdexp.tracking.reading import read

    paths = []
    for row in [row for setting in found.settings for row in setting.rows][:_PATHS]:
        with contextlib.suppress(Refusal):
            run = read(row.run_id, found.selection.uri, weights=_TRAJECTORY)
            if (path := run.weights.get(_TRAJECTORY)) is not None:
                paths.append((row, path["x"].double().numpy()))
    model = parts.model.double()
    goals = model.minimizers.numpy()
    calm = [path for row, path in paths if row.outcome != "diverged"]
    points = np.concatenate([goals, model.x.detach().numpy()[None], *calm])
    points = points[np.isfinite(points).all(1)]
    low, high = points.min(0), points.max(0)
    room = 0.15 * max(high - low) + 1e-3
    (x0, y0), (x1, y1) = low - room, high + room
    x, y = np.meshgrid(np.linspace(x0, x1, _POINTS), np.linspace(y0, y1, _POINTS))
    with torch.no_grad():
        f = model(torch.from_numpy(np.stack([x, y], -1))).numpy() - float(model.minimum)
    figure.set_size_inches(7, 5.4)
    axes = figure.subplots()
    least = max(f.min(), f.max() * 1e-8, 1e-12)
    levels = np.geomspace(least, f.max(), 22)
    filled = axes.contourf(x, y, np.maximum(f, least), levels, norm=LogNorm(least, f.max()), cmap="Greys", alpha=0.75)
    figure.colorbar(filled, ax=axes, label="f − minimum", format="%.0e")
    by = hue(found.settings)
    of_run = {row.run_id: (i, s) for i, s in enumerate(found.settings) for row in s.rows}
    for row, path in reversed(paths):
        i, setting = of_run[row.run_id]
        color = (
            by.color(setting) if by and len({s.params.get("optimizer") for s in found.settings}) == 1 else f"C{i % 10}"
        )
        known = i < 10 and row is setting.rows[0]
        line = ":" if row.outcome == "diverged" else "-"
        axes.plot(
            *path.T,
            line,
            color=color,
            linewidth=1.1,
            marker=".",
            markersize=2,
            label=cut(setting.name) if known else None,
        )
    axes.plot(*goals.T, "*", color="#d62728", markersize=12, markeredgecolor="white", label="minimum")
    axes.plot(*model.x.detach().numpy(), "o", color="white", markeredgecolor="black", label="start")
    axes.set_xlim(x0, x1)
    axes.set_ylim(y0, y1)
    axes.set_xlabel("x₁")
    axes.set_ylabel("x₂")
    axes.grid(False)
    axes.set_title(f"{found.selection.rows[0].params.get('model')}: paths of {len(paths)} runs")
    axes.legend(fontsize="x-small", loc="best")


def _fit(run: "Recorded", job: "Job", parts: "Parts") -> tuple[Any, ...] | None:
    """Train a small regression of one feature again, and return data, grid, epochs and the fit at each."""
    import torch

    from gdexp.session import Session
    from gdexp.terminal import SweepProgress
    from gdexp.tracking.nothing import Unrecorded

    batch = parts.data.train
    pair = isinstance(batch, tuple) and len(batch) == 2 and all(isinstance(t, torch.Tensor) for t in batch)
    if not pair or batch[0].dim() != 2 or batch[0].shape[1] != 1 or batch[1].shape != batch[0].shape:
        return None
    work = sum(p.numel() for p in parts.model.parameters()) * len(batch[0]) * job.config["trainer"]["epochs"]
    if work > _LONG:
        return None
    x = batch[0].detach()
    grid = torch.linspace(float(x.min()), float(x.max()), _POINTS, dtype=x.dtype)[:, None]
    total = max((step for step, _ in run.metrics.get("train_loss", [(1, 0.0)])), default=1)
    wanted = {0, *np.unique(np.geomspace(1, max(total, 2), _LINES).astype(int)).tolist(), total}
    fits: list[tuple[int, np.ndarray]] = []

    def note(epoch: Any, model: Any) -> None:
        at = epoch if isinstance(epoch, int) else epoch.epoch
        if at in wanted:
            was = model.training
            with torch.no_grad():
                fits.append((at, model.eval()(grid)[:, 0].double().numpy()))
            model.train(was)

    note(0, parts.model)
    quiet = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(quiet):
        warnings.simplefilter("ignore")
        Session(parts._replace(hooks=[note]), Unrecorded(1), SweepProgress(1)).train()
    data = x[:, 0].double().numpy(), batch[1].detach()[:, 0].double().numpy()
    return data, grid[:, 0].double().numpy(), fits


def _fitted(
    data: tuple[np.ndarray, np.ndarray], grid: np.ndarray, fits: list[tuple[int, np.ndarray]], name: str, figure: Any
) -> None:
    from matplotlib.colors import SymLogNorm

    figure.set_size_inches(6.4, 4.2)
    axes = figure.subplots()
    last = max(epoch for epoch, _ in fits)
    norm = SymLogNorm(1, vmin=0, vmax=max(last, 1))
    for epoch, line in fits:
        width = 2.2 if epoch == last else 1.0
        axes.plot(grid, line, color=shade(1 - float(norm(epoch))), linewidth=width, label=f"epoch {epoch}")
    axes.plot(*data, "o", color="#d55e00", markersize=4, label="training rows", zorder=5)
    axes.set_xlabel("input")
    axes.set_ylabel("target")
    reach = np.concatenate([data[1], fits[0][1]])
    room = 0.3 * (reach.max() - reach.min() or 1)
    axes.set_ylim(reach.min() - room, reach.max() + room)
    axes.legend(fontsize="x-small", ncols=2)
    axes.set_title(f"{name}: the fit over the epochs")
