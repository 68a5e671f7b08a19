"""Pictures of a comparison. matplotlib is imported here only, torch for those of the best run.

A picture is drawn when it is asked for, once for light and once for dark paper. Numbers are
coloured by viridis, whose lightness rises evenly: it reads in grey and for the colour-blind.
"""

import io
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from gdexp.compare.comparison import Comparison
from gdexp.compare.pictures import best_run, curves, sensitivity
from gdexp.config.printable import printable
from gdexp.tracking.reader import Reader

_STYLE: dict[str, Any] = {
    "figure.dpi": 110,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.axisbelow": True,
    "font.size": 9,
}
_STYLE |= {"axes.titlesize": 10, "figure.titlesize": 11, "hatch.linewidth": 0.6, "axes.spines.top": False}
_STYLE |= {"axes.axisbelow": True, "axes.spines.right": False, "figure.constrained_layout.use": True}
_DARK: dict[str, Any] = {"figure.facecolor": "#16181d", "axes.facecolor": "#16181d", "savefig.facecolor": "#16181d"}
_DARK |= dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), "#d8dbe2")
_DARK |= {"grid.color": "#8a8f9a", "hatch.color": "#8a8f9a", "lines.color": "#d8dbe2"}
_DARK |= {"legend.facecolor": "#16181d", "legend.edgecolor": "#8a8f9a"}

_POWER = re.compile(r"\$\\mathdefault\{[-−\d^{}.,\\a-z ]*\}\$")  # matplotlib's own, on a logarithmic axis


class Picture(NamedTuple):
    """A picture.

    Args:
        name: of its file.
        caption: what it shows.
        draw: fills a figure.
    """

    name: str
    caption: str
    draw: Callable[[Figure], object]

    def png(self, *, dark: bool = False) -> bytes:
        """Return it as a PNG file."""
        with matplotlib.rc_context(_STYLE | (_DARK if dark else {})):  # type: ignore[arg-type]
            figure = Figure()
            FigureCanvasAgg(figure)
            self.draw(figure)
            _as_written(figure)
            file = io.BytesIO()
            figure.savefig(file, format="png")
        return file.getvalue()


def _as_written(figure: Figure) -> None:
    """Show names as they are: a `$` in one isn't TeX, nor a control character a missing glyph."""
    for text in figure.findobj(Text):
        if isinstance(text, Text) and text.get_text() and not _POWER.fullmatch(text.get_text()):
            text.set_parse_math(False)
            text.set_text(printable(text.get_text(), lines=True))


def pictures(found: Comparison, reader: Reader) -> list[Picture]:
    """Return the pictures that suit the runs."""
    drawn = [*curves.of(found, reader), *sensitivity.of(found), *best_run.of(found)]
    return [Picture(*picture) for picture in drawn]
