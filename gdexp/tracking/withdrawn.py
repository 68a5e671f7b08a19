"""Runs that were begun on a server and taken back: noted in the user's cache until they are deleted there.

A server may be sick at that moment. The next sync to it, or the next run on it, deletes what is left.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from gdexp.tracking import transfer
from gdexp.tracking.address import without_password
from gdexp.tracking.places import RUN_ID, user_cache


def note(uri: str, run_ids: Sequence[str]) -> Path | None:
    """Name runs that are to be deleted on a server; return the note, None where none can be written."""
    path = _folder() / run_ids[0]
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([without_password(uri), *run_ids]), encoding="utf-8")
        return path
    return None


def delete(uri: str, server: transfer.Server) -> None:
    """Delete on a server what is left of the runs that were taken back; one that is there no more is none."""
    for path, run_ids in _waiting(without_password(uri)):
        for run_id in run_ids:
            server.delete(run_id)
        with suppress(OSError):
            path.unlink()


def _waiting(uri: str) -> Iterator[tuple[Path, list[str]]]:
    for path in sorted(_folder().glob("*")):
        with suppress(OSError, UnicodeDecodeError):
            where, *run_ids = path.read_text(encoding="utf-8").splitlines()
            if where == uri and all(map(RUN_ID.fullmatch, run_ids)):
                yield path, run_ids


def _folder() -> Path:
    return user_cache() / "withdrawn"
