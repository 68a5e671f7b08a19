"""All that a comparison says, before it is shown: on a screen, as pictures, as a report."""

import csv
import io
import json
import math
from typing import Any, NamedTuple

from gdexp.compare import words
from gdexp.compare.selection import Selection
from gdexp.compare.settings import Setting, repetition, sensitivities, settings
from gdexp.compare.verdict import Verdict, verdict
from gdexp.config.printable import cell
from gdexp.tracking.address import without_password
from gdexp.tracking.reader import Reader, Row


class Comparison(NamedTuple):
    """Runs, gathered and judged.

    Args:
        selection: the runs.
        settings: the best first.
        sensitivities: of each optimizer to its learning rate.
        verdict: on the first two settings.
        best: the run with the best objective of the best setting.
        confirm: the command line that trains the first two on fresh seeds.
    """

    selection: Selection
    settings: list[Setting]
    sensitivities: dict[str, float]
    verdict: Verdict
    best: Row | None
    confirm: str | None


def compared(found: Selection, reader: Reader) -> Comparison:
    """Gather runs into settings and judge them."""
    made = settings(found)
    said = verdict(found, made)
    best = _best(found, made[0])
    good = [s for s in made if s.summary.n]
    confirm = words.of_fresh_seeds(good[0], good[1], said.fresh, words.of_objective(found)) if len(good) > 1 else None
    return Comparison(found, made, sensitivities(found, made, reader), said, best, confirm)


def _best(found: Selection, setting: Setting) -> Row | None:
    ended = [row for row in setting.rows if repetition(row, found) in setting.values]
    sign = 1 if found.least else -1
    return min(ended, key=lambda row: sign * found.values[row.run_id], default=None)


def as_csv(found: Comparison) -> str:
    """Return the settings as CSV, a line each."""
    rows = [{cell(k): cell(v) if isinstance(v, str) else v for k, v in row.items()} for row in _rows(found)]
    text = io.StringIO()
    heads = dict.fromkeys(key for row in rows for key in row)
    writer = csv.DictWriter(text, list(heads), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_json(found: Comparison) -> str:
    """Return all of a comparison as JSON; what isn't there is null."""
    v, chosen = found.verdict, found.selection
    said: dict[str, Any] = {
        "runs": chosen.title,
        "store": without_password(chosen.uri),
        "objective": chosen.objective,
        "objective_at": chosen.at,
        "settings": _rows(found),
        "lr_sensitivity": found.sensitivities,
        "verdict": {"text": v.text, "winner": v.winner, "provisional": v.provisional, "p": v.p},
        "best_run": found.best.run_id if found.best else None,
        "confirm": found.confirm,
    }
    if v.difference is not None:
        d = v.difference
        said["verdict"] |= {"difference": d.summary.mean, "low": d.summary.low, "high": d.summary.high}
        said["verdict"] |= {"common_seeds": d.summary.n, "p_uncorrected": d.p, "p_wilcoxon": d.wilcoxon}
    return json.dumps(_plain(said), indent=1)


def _rows(found: Comparison) -> list[dict[str, Any]]:
    keys = list(dict.fromkeys(key for setting in found.settings for key in setting.params))
    rows = []
    for s in found.settings:
        n, mean, deviation, low, high = s.summary
        numbers = {"n": n, "mean": mean, "sd": deviation, "low": low, "high": high, "best": s.best}
        about = {
            "diverged": s.diverged,
            "nan": s.nan,
            "seconds": s.seconds,
            "runs": " ".join(row.run_id for row in s.rows),
        }
        rows.append({k: s.params.get(k) for k in keys} | _plain(numbers) | _plain(about))
    return rows


def _plain(value: Any) -> Any:
    """Return a value as JSON takes it."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
