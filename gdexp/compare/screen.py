"""The comparison on a terminal."""

import math
import time
from collections.abc import Sequence

from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from gdexp.compare.comparison import Comparison
from gdexp.compare.selection import Selection
from gdexp.compare.settings import number
from gdexp.config.printable import printable
from gdexp.lines import is_terminal, page
from gdexp.tracking.reader import Row

_MOST = 25  # settings on a screen
_WIDEST = 60  # characters of a name


def show(found: Comparison) -> None:
    """Print the table of settings, what was left out, and the verdict."""
    _print(_text(headline(found)), _settings(found), *map(_text, remarks(found)))


def show_runs(found: Selection) -> None:
    """Print runs side by side: the keys that differ and the last numbers."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for row in found.rows:
        table.add_column(row.run_id, justify="right", overflow="fold")
    for label, cells in side_by_side(found.rows, found.params):
        table.add_row(*map(_text, [label, *cells]))
    _print(table, *map(_text, unfinished(found)))


def side_by_side(rows: Sequence[Row], params: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Return label and cells of each line that tells runs apart."""
    lines = [("name", [r.name for r in rows]), ("outcome", [r.outcome or r.status for r in rows])]
    lines += [(key, [r.params.get(key, "") for r in rows]) for key in params]
    metrics = dict.fromkeys(key for r in rows for key in r.metrics)
    lines += [(key, [_metric(r, key) for r in rows]) for key in metrics]
    return [*lines, ("seconds", [_number(_seconds(r)) for r in rows])]


def headline(found: Comparison) -> str:
    """Return what is compared, and by what."""
    chosen, at = found.selection, found.selection.at
    order = "the least" if chosen.least else "the largest"
    how = f"{chosen.objective} of the {'last' if at == 'last' else 'best'} epoch, {order} is best"
    count = len(chosen.rows)
    return f"{chosen.title}: {count} run{'s' * (count != 1)} of {len(found.settings)} settings, by {how}"


def columns(found: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return heads and cells of the table, a line a setting; columns that would be empty are left out."""
    keys = list(dict.fromkeys(key for setting in found.settings for key in setting.params))
    heads = ["", *keys, "n", "mean", "sd", "95 % interval", "best", "diverged", "NaN", "seconds"]
    lines = []
    for place, setting in enumerate(found.settings):
        s = setting.summary
        interval = "" if math.isnan(s.low) else f"{_number(s.low)} … {_number(s.high)}"
        own = [_cut(_param(setting.params.get(key, ""))) for key in keys]
        mark = "*" if place == 0 and s.n else ""
        numbers = [str(s.n), _number(s.mean), _number(s.deviation), interval, _number(setting.best)]
        lost = [str(count or "") for count in (setting.diverged, setting.nan)]
        lines.append([mark, *own, *numbers, *lost, _number(setting.seconds, 3)])
    kept = [i for i in range(len(heads)) if i == 0 or any(line[i] for line in lines)]
    return [heads[i] for i in kept], [[line[i] for i in kept] for line in lines]


def remarks(found: Comparison) -> list[str]:
    """Return what is said below the table."""
    lines = [f"lr-sensitivity of {name}: {value:.4g}" for name, value in found.sensitivities.items()]
    lines += unfinished(found.selection)
    lines.append(found.verdict.text)
    if found.confirm:
        lines.append(f"On fresh seeds: {found.confirm}")
    return lines


def unfinished(chosen: Selection) -> list[str]:
    """Return a line for each run that is still running, and for what was left out."""
    lines = [running(row) for row in chosen.rows if row.status == "RUNNING"]
    ended = [row for row in chosen.rows if row.status in ("FAILED", "KILLED")]
    for status in ("FAILED", "KILLED"):
        if count := sum(row.status == status for row in ended):
            names = ", ".join(row.name for row in ended if row.status == status)
            lines.append(f"{count} {status}, left out: {_cut(names, 200)}")
    if chosen.foreign:
        are = "run is" if chosen.foreign == 1 else "runs are"
        lines.append(f"{chosen.foreign} {are} not gdexp's, left out")
    return lines


def running(row: Row) -> str:
    """Return how far a run is, and how long it will take if it goes on so."""
    loss = row.metrics.get("train_loss")
    said = f"running: {row.name} ({row.run_id}), epoch {row.epoch}/{row.params.get('trainer.epochs', '?')}"
    said += f", loss {loss:.4g}" if loss is not None else ""
    total = row.params.get("trainer.epochs", "")
    if row.epoch and total.isdigit():
        left = (time.time() - row.start_time / 1000) / row.epoch * (int(total) - row.epoch)
        said += f", about {_duration(left)} left"
    return said


def _settings(found: Comparison) -> Table:
    heads, lines = columns(found)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in heads:
        side: JustifyMethod = "left" if head in ("", *found.selection.params) else "right"
        table.add_column(_text(head), justify=side, no_wrap=True)
    for place, line in enumerate(lines[:_MOST]):
        table.add_row(*map(_text, line), style="bold" if place == 0 and line[0] else None)
    if len(lines) > _MOST:
        table.caption = f"and {len(lines) - _MOST} more settings: --csv FILE has them all"
        table.caption_justify = "left"
    return table


def _print(*parts: Table | Text) -> None:
    """Print tables and lines; a file or a pipe has room."""
    console = Console(highlight=False, width=None if is_terminal() else 200)
    with console.capture() as shown:
        for part in parts:
            console.print(part, soft_wrap=isinstance(part, Text))
    page(shown.get().rstrip("\n"))


def _text(foreign: str) -> Text:
    return Text(printable(foreign))


def _seconds(row: Row) -> float:
    return row.seconds


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _param(text: str) -> str:
    """Return a param, a number of many digits cut to six."""
    value = number(text)
    return text if value is None or len(text) < 9 else f"{value:.6g}"


def _metric(row: Row, key: str) -> str:
    return (_number(row.metrics[key]) or "NaN") if key in row.metrics else ""


def _number(value: float, digits: int = 4) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}g}"


def _cut(text: str, most: int = _WIDEST) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
