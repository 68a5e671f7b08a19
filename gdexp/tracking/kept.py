"""Runs that their store didn't take: kept whole, in one file, until it does.

The file is a store of our own, with the artifacts in it. It lies beside the store that it is meant for,
or in the user's cache where nothing can be written there.
"""

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

from gdexp.tracking import locks, places, spools, transfer
from gdexp.tracking.endings import at_work
from gdexp.tracking.places import RUN_ID, serialised, user_cache
from gdexp.tracking.sqlite import Tables


def keep(store: Path, name: str, fill: Callable[[Tables], object]) -> Path | None:
    """Write a file in the first place that takes it; return it, or None where no place does.

    Args:
        store: that the runs are meant for.
        name: a part of the file's name.
        fill: writes the runs.
    """
    for folder in (store.absolute().parent, user_cache() / "kept"):
        path, draft = folder / f"gdexp-kept-{name}.db", folder / f".gdexp-{locks.process()}-kept.part"
        try:
            if folder != store.absolute().parent:
                folder.mkdir(parents=True, exist_ok=True)
            with at_work(path), closing(Tables.own(draft)) as tables, tables.transaction():
                tables.execute("INSERT INTO kept_for VALUES (?)", str(store.absolute()))
                fill(tables)
            draft.replace(path)
            return path
        except Exception:  # a full disk, no right to write, a number that SQLite doesn't take
            continue
        finally:
            for left in (draft, draft.with_name(f"{draft.name}-journal")):
                with suppress(OSError):
                    left.unlink()
    return None


def copy_into(tables: Tables, source: Tables, run_id: str, folder: Path) -> None:
    """Put a run into the file.

    Args:
        tables: of the file.
        source: the store that has the run.
        run_id: of the run.
        folder: of its artifacts.
    """
    transfer.copy_rows(source, tables, run_id, "")
    add_files(tables, run_id, files_in(folder))


def files_in(folder: Path) -> dict[str, bytes]:
    """Return what can be read of the artifacts in a folder, by their paths there."""
    found = {}
    for path in places.files(folder):
        try:
            found[path.relative_to(folder).as_posix()] = path.read_bytes()
        except OSError:
            continue
    return found


def add_files(tables: Tables, run_id: str, files: Mapping[str, bytes]) -> None:
    """Put artifacts of a run into the file, by their paths."""
    for path, content in files.items():
        tables.execute("INSERT OR REPLACE INTO files VALUES (?,?,?)", run_id, path, content)


class Finding(NamedTuple):
    """Something that was wrong with a store.

    Args:
        line: that says so.
        mended: whether all is well now.
    """

    line: str
    mended: bool = True


def take_in(tables: Tables) -> list[Finding]:
    """Bring into a store what was kept for it, and what was on its way to a server when its process was cut off."""
    found = []
    every = [*((path, _take) for path in waiting(tables.path)), *((path, spools.take) for path in spools.every())]
    for path, take in every:
        try:
            with serialised(tables.path), closing(Tables(path)) as source:
                found += [Finding(line) for line in take(source, tables)]
        except (sqlite3.Error, OSError, ValueError) as error:
            if path.exists():  # else another command was quicker
                found.append(Finding(f"{path} can't be taken in: {error}", mended=False))
    return found


def waiting(store: Path) -> Iterator[Path]:
    """Yield the files that were kept for a store."""
    yield from store.absolute().parent.glob("gdexp-kept-*.db")
    for path in (user_cache() / "kept").glob("gdexp-kept-*.db"):
        if _meant(path) == [store.absolute()]:
            yield path


def is_meant(path: Path, store: Path) -> bool:
    """Say whether a kept file can be read and is one for a store of that name."""
    return [there.name for there in _meant(path)] == [store.name]


def _meant(path: Path) -> list[Path]:
    """Return the store that a file was kept for; none where it can't be read."""
    try:
        with closing(Tables(path)) as tables:
            return [Path(name) for (name,) in tables.select("SELECT store FROM kept_for")]
    except (sqlite3.Error, ValueError, TypeError):
        return []


def _take(source: Tables, target: Tables) -> list[str]:
    """Bring all runs of a file into a store, and remove it; return a line, none where it is meant for another store."""
    [(store,)] = source.select("SELECT store FROM kept_for")
    if Path(store).name != target.path.name:
        return []
    runs = transfer.finished(source)
    with locks.draft(target.path) as scratch:
        for run_id in runs:
            if not RUN_ID.fullmatch(run_id):
                raise ValueError("it holds what isn't a run of ours")
            folder = scratch / run_id
            folder.mkdir()
            for name, content in source.select("SELECT path, content FROM files WHERE run_uuid=?", run_id):
                path = (folder / name).resolve()
                if not path.is_relative_to(folder.resolve()):
                    raise ValueError(f"its file {name} leads out of its folder")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            transfer.merge(source, target, run_id, folder)
    source.path.unlink()
    return [f"the record of {len(runs)} run{'s' * (len(runs) != 1)}, kept in {source.path}, is taken in"]
