"""`python -m gdexp.compare [what …]`: which setting won, by how much, and whether to believe it."""

import argparse
import gc
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gdexp.config.printable import printable
from gdexp.config.refusal import Refusal
from gdexp.failure import told
from gdexp.lines import page, say

if TYPE_CHECKING:
    from gdexp.compare.comparison import Comparison
    from gdexp.tracking.reader import Reader


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="gdexp.compare", description="Compare runs: a table, a verdict, pictures.")
    parser.add_argument(
        *("what",),
        nargs="*",
        help="id of a sweep, name of an experiment, a filter in MLflow's syntax, or ids of runs; default: the newest"
        " sweep; tracking.uri=… names another store",
    )
    parser.add_argument("--objective", metavar="METRIC", help="that the runs are ordered by")
    parser.add_argument("--mode", choices=("min", "max"), help="which of it is best; default: what the runs say")
    parser.add_argument("--csv", metavar="FILE", type=Path, help="write the table; - prints it")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all; - prints it")
    parser.add_argument("--html", metavar="FILE", type=Path, help="write a report with pictures, in one file")
    parser.add_argument("--out", metavar="DIR", type=Path, help="write the pictures there")
    parser.add_argument("--log", action="store_true", help="put report and pictures on the sweep's summary run")
    words = parser.parse_args(argv)
    gc.disable()  # a collection among many runs finds nothing to free and takes a tenth of the time
    with told():
        _compare(words)


def _compare(words: argparse.Namespace) -> None:
    from gdexp.compare import comparison, screen
    from gdexp.compare.selection import select, split_words
    from gdexp.tracking.reader import reading
    from gdexp.tracking.table import RUN_ID

    what, uri = split_words(words.what)
    with reading(uri) as reader:
        chosen = select(reader, what, words.objective, words.mode)
        found = comparison.compared(chosen, reader)
        shown = "-" not in (str(words.csv), str(words.json))
        of_runs = chosen.sweep is None and bool(what) and all(RUN_ID.fullmatch(word) for word in what)
        if shown and of_runs:
            screen.show_runs(chosen)
        if shown and (not of_runs or len(found.settings) > 1):
            screen.show(found)
        for file, text in ((words.csv, comparison.as_csv), (words.json, comparison.as_json)):
            if file is not None:
                _write(file, text(found))
        if words.html or words.out or words.log:
            _draw(words, found, reader)


def _draw(words: argparse.Namespace, found: "Comparison", reader: "Reader") -> None:
    from gdexp.compare.pictures import pictures
    from gdexp.compare.report import report

    drawn = pictures(found, reader)
    if words.out:
        words.out.mkdir(parents=True, exist_ok=True)
        for picture in drawn:
            (words.out / f"{picture.name}.png").write_bytes(picture.png())
        say(f"{len(drawn)} pictures: {words.out}")
    if words.html or words.log:
        page = report(found, drawn)
        if words.html:
            _write(words.html, page)
        if words.log:
            from gdexp.tracking.attach import attach

            target = found.selection.summary or (found.selection.rows[0] if len(found.selection.rows) == 1 else None)
            if target is None:
                raise Refusal("`--log` puts them on the summary run of a sweep, or on a run: name one")
            files = {f"pictures/{picture.name}.png": picture.png() for picture in drawn}
            attach(reader.uri, target.run_id, files | {"report.html": page.encode()})
            say(f"Report and {len(drawn)} pictures are artifacts of run {target.run_id}")


def _write(file: Path, text: str) -> None:
    if str(file) == "-":
        page(printable(text, lines=True))
        return
    file.write_text(text, encoding="utf-8")
    say(str(file))
