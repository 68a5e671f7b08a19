"""`python -m gdexp.store check | sync | merge | prepare`: heal, upload and join stores."""

import argparse
import os
import shutil
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

from gdexp.config.refusal import Refusal
from gdexp.failure import told
from gdexp.lines import say
from gdexp.tracking import begins, endings, kept, locks, places, store
from gdexp.tracking.kept import Finding
from gdexp.tracking.lacking import lacking
from gdexp.tracking.places import serialised
from gdexp.tracking.sqlite import KNOWN, SYNCED, DeletedExperiment, Tables, revision


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of `python -m gdexp.store`."""
    parser = argparse.ArgumentParser(prog="gdexp.store", description="Heal, upload and join MLflow stores in SQLite.")
    commands = parser.add_subparsers(dest="command", required=True)
    check_words = commands.add_parser("check", help="name what is wrong with a store, and repair it")
    check_words.add_argument("store", nargs="?", help="file or sqlite:/// URI; default: that of MLFLOW_TRACKING_URI")
    sync_words = commands.add_parser("sync", help="copy the runs of a store to a server")
    sync_words.add_argument("--to", required=True, metavar="URI", help="tracking URI")
    sync_words.add_argument("store", nargs="?", help="likewise")
    merge_words = commands.add_parser("merge", help="copy the runs of one store into another")
    merge_words.add_argument("source")
    merge_words.add_argument("target", help="made if it isn't there")
    commands.add_parser("prepare", help="make the empty store that new ones are copied from, if there is none yet")
    words = parser.parse_args(argv)
    with told():
        if words.command == "prepare":
            lines = [f"an empty store is kept at {kept}" if (kept := store.template()) else "nothing can be kept here"]
        elif words.command == "check":
            findings = check(_file(words.store))
            say(*(finding.line for finding in findings))
            sys.exit(0 if all(finding.mended for finding in findings) else 1)
        elif words.command == "sync":
            lines = sync(_file(words.store), words.to)
        else:
            lines = merge(_file(words.source), _file(words.target))
        say(*lines)


def check(db: Path) -> list[Finding]:
    """Name and repair what is wrong with a store; never touch a run that is alive.

    Returns:
        what was found, then a line for the whole.
    """
    if not db.exists() and not store.is_there(db):
        raise Refusal(f"no store at {db}")
    found: list[Finding] = []
    with closing(_connection(db)) as connection:
        try:
            [(state,)] = connection.execute("PRAGMA quick_check(1)")
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")}
        except sqlite3.DatabaseError as error:
            state = str(error)
    if state != "ok":
        raise Refusal(f"{db} is damaged ({state}): sqlite3 {db.name} .recover may save what is left")
    if (schema := revision(db)) is None:
        if tables and "experiments" not in tables and "alembic_version" not in tables:
            raise Refusal(f"{db} is no MLflow store: it holds {', '.join(sorted(tables)[:5])}")
        aside = db.with_name(f"{db.name}.half-made")
        db.replace(aside)
        store.ensure(db)
        line = f"{db.name} was half-made: it is {aside.name} now, and a new store stands in its place"
        found.append(Finding(line))
    elif schema not in KNOWN:
        return [*found, Finding(_of_another_version(db, schema), mended=False)]
    store.ensure(db)
    with closing(Tables(db)) as open_store:
        if store.follow_move(open_store):
            found.append(Finding("the store was moved: the paths of its artifacts are put right"))
        removed = begins.clear(open_store)
        found += [Finding(f"{run_id}, a run that was never begun, is removed") for run_id in removed]
        found += [Finding(line) for line in endings.close_dead(open_store).lines()]
        found += [*kept.take_in(open_store), *lacking(open_store)]
        found += [Finding(line) for line in _clear_drafts(db)]  # last: the locks among them say whose process is gone
        [(runs,)] = open_store.select("SELECT count(*) FROM runs")
        alive = open_store.select("SELECT count(*) FROM runs WHERE status='RUNNING'")[0][0]
    store.fold_in(db)
    left = sum(not finding.mended for finding in found)
    how = f"{left} of these findings can't be mended here" if left else "repaired" if found else "all well"
    return [*found, Finding(f"{db}: {runs} runs, {alive} of them running; {how}")]


def sync(db: Path, uri: str) -> list[str]:
    """Copy the finished runs of a store to a server; what is there already isn't doubled."""
    from gdexp.tracking import transfer, withdrawn
    from gdexp.tracking.client import Unreachable, answers

    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    shown = store.without_password(uri)
    try:
        answers(uri)
    except Unreachable as error:
        raise Refusal(str(error)) from error
    with closing(_known(db)) as tables, serialised(db):
        server = transfer.Server(uri)
        with suppress(Exception):  # of a server that is sick: the next one does it
            withdrawn.delete(uri, server)
        waiting = [run_id for run_id in transfer.finished(tables) if not _is_synced(tables, run_id, shown)]
        for run_id in waiting:
            try:
                transfer.sync(tables, server, run_id)
            except DeletedExperiment as error:
                raise Refusal(f"experiment {error.name!r} was deleted at {shown}; restore it") from error
            except Exception as error:  # MLflow's own, or a server's
                line = str(error).splitlines()[0].replace(uri, shown)
                raise Refusal(f"{shown}: run {run_id} could not be sent: {line}") from error
            with tables.transaction():
                tables.add_tags(run_id, {SYNCED: shown})
        left = transfer.running(tables)
    store.fold_in(db)
    later = f"; {left} still training: sync again later" if left else ""
    return [f"{len(waiting)} runs of {db} are now at {shown}{later}"]


def merge(source: Path, target: Path) -> list[str]:
    """Copy the finished runs of one store into another; what is there already isn't doubled."""
    from gdexp.tracking import transfer

    if source.resolve() == target.resolve():
        raise Refusal(f"{source} can't be merged into itself")
    with closing(_known(source)) as theirs:
        store.ensure(target)
        with closing(_known(target)) as ours, serialised(target):
            try:
                done = sum([transfer.merge(theirs, ours, run_id) for run_id in transfer.finished(theirs)])
            except (sqlite3.Error, OSError) as error:
                raise Refusal(f"{target} can't be written: {error}; run it again to complete it") from error
            except DeletedExperiment as error:
                raise Refusal(f"experiment {error.name!r} was deleted in {target}") from error
        left = transfer.running(theirs)
    store.fold_in(target)
    later = f"; {left} still training: merge again later" if left else ""
    return [f"{done} runs of {source} are now in {target}{later}"]


def _file(name: str | None) -> Path:
    """Return the file that a path or a sqlite URI means."""
    is_address = name is not None and ("://" in name or name.startswith("sqlite:"))
    uri = store.store_uri(name if name is None or is_address else store.of_file(Path(name).absolute()))
    if (db := store.database(uri)) is None:
        raise Refusal(f"{uri} is no SQLite store")
    return db


def _known(db: Path) -> Tables:
    """Open a store that is there and whose tables are known."""
    if not store.is_there(db):
        raise Refusal(f"no store at {db}")
    if (found := revision(db)) not in KNOWN:
        raise Refusal(_of_another_version(db, found))
    if (tables := store.opened(db)) is None:  # GDEXP_PLAIN=1
        return Tables(db)
    return tables


def _of_another_version(db: Path, found: str | None) -> str:
    from importlib.util import find_spec

    spec = find_spec("mlflow")
    versions = Path(str(spec and spec.origin)).parent / "store/db_migrations/versions"
    if found is None:
        return f"{db} is no whole MLflow store: python -m gdexp.store check {db}"
    if any(versions.glob(f"{found}_*.py")):
        return f"{db} was left by an older MLflow (schema {found}): mlflow db upgrade {store.of_file(db)}"
    return f"{db} is of a newer MLflow (schema {found}): pip install -U mlflow"


def _is_synced(tables: Tables, run_id: str, uri: str) -> bool:
    return bool(tables.select("SELECT 1 FROM tags WHERE run_uuid=? AND key=? AND value=?", run_id, SYNCED, uri))


def _clear_drafts(db: Path) -> list[str]:
    """Remove what commands that were killed while making a store or a run left behind."""
    lines = [f"{name}, which was left half-made, is removed" for name in locks.clear(db)]
    if locks.is_anyone_there(db):  # who may be making one just now
        return lines
    for draft in places.artifact_root(db).glob("*/*/.artifacts.part"):
        if not draft.is_symlink() and not (draft.parent / "artifacts").exists():
            shutil.rmtree(draft, ignore_errors=True)
            with suppress(OSError):
                draft.parent.rmdir()
            lines.append(f"{draft.parent.name}, a run that was never begun, is removed")
    return lines


def _connection(db: Path) -> sqlite3.Connection:
    """Open a file as a database; what a process that was killed had half written can be undone by writing only."""
    return sqlite3.connect(f"{db.absolute().as_uri()}?mode=rw", uri=True)


if __name__ == "__main__":
    main()
