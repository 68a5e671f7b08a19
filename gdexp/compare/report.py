"""The report: one HTML file that needs nothing else, for light and dark screens."""

import base64
from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING

import gdexp
from gdexp.compare import screen, words
from gdexp.compare.comparison import Comparison
from gdexp.config.printable import printable
from gdexp.tracking.address import without_password

if TYPE_CHECKING:
    from gdexp.compare.pictures import Picture

_MOST = 200  # lines of what was lost


def report(found: Comparison, pictures: "Sequence[Picture]") -> str:
    """Return the page.

    Args:
        found: what is said.
        pictures: to be drawn into it.
    """
    from jinja2 import Environment

    page = files(gdexp.compare).joinpath("report.html").read_text("utf-8")
    template = Environment(autoescape=True, finalize=_shown).from_string(page)
    heads, lines = screen.columns(found)
    chosen = found.selection
    drawn = [{"caption": p.caption, "light": _coded(p.png()), "dark": _coded(p.png(dark=True))} for p in pictures]
    return template.render(
        title=f"gdexp: {chosen.title}",
        headline=screen.headline(found),
        asked=chosen.summary.name if chosen.summary else None,
        verdict=found.verdict.text,
        confirm=found.confirm,
        again=words.of_run(found.best.params) if found.best else None,
        heads=heads,
        lines=lines,
        remarks=[line for line in screen.remarks(found)[: len(found.sensitivities)]],
        pictures=drawn,
        lost=_lost(found),
        environment=_environment(found),
    )


def _shown(value: object) -> object:
    return printable(value, lines=True) if isinstance(value, str) else value


def _coded(png: bytes) -> str:
    return base64.b64encode(png).decode()


def _lost(found: Comparison) -> list[str]:
    lines = []
    for row in found.selection.rows:
        if row.outcome == "diverged":
            lines.append(f"{row.name}: diverged at epoch {row.tags.get('gdexp.diverged_at', row.epoch)}")
        elif row.status in ("FAILED", "KILLED"):
            lines.append(f"{row.name}: {row.status} ({row.run_id})")
        elif row.status == "RUNNING":
            lines.append(screen.running(row))
    more = [f"… and {len(lines) - _MOST} more"] if len(lines) > _MOST else []
    return lines[:_MOST] + more


def _environment(found: Comparison) -> list[tuple[str, str]]:
    """Return what the runs were made with; where they differ, all of it."""
    kept = {"gdexp": "gdexp.version", "torch": "gdexp.torch", "Python": "gdexp.python", "host": "gdexp.host"}
    rows = found.selection.rows
    shown = {name: sorted({row.tags[tag] for row in rows if tag in row.tags}) for name, tag in kept.items()}
    lines = [(name, ", ".join(values)) for name, values in shown.items() if values]
    return [
        *lines,
        ("store", without_password(found.selection.uri)),
        ("experiment", ", ".join(sorted({r.experiment for r in rows}))),
    ]
