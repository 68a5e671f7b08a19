"""Runs on their way to a server: each in a store of our own in the user's cache, until the server has them.

What a process leaves there that is gone is taken into the local store of the folder where it ran, from
where it can go on, and be sent.
"""

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlparse

from gdexp.tracking import endings, transfer
from gdexp.tracking.places import RUN_ID, user_cache
from gdexp.tracking.sqlite import Tables


def make(uri: str, name: str) -> Path:
    """Make a folder for runs, named after the server and the first of them; return it."""
    shown = re.sub(r"[^\w.-]+", "_", f"{urlparse(uri).hostname or 'store'}-{name}")[:100]
    place: Path | None = user_cache() / "spools"
    try:
        place.mkdir(parents=True, exist_ok=True)  # type: ignore[union-attr]
        return Path(tempfile.mkdtemp(prefix=f"{shown}-", dir=place))
    except OSError:
        return Path(tempfile.mkdtemp(prefix="gdexp-"))


def every() -> Iterator[Path]:
    """Yield the stores of runs that are on their way, whoever sends them."""
    yield from (user_cache() / "spools").glob("*/spool.db")


def take(source: Tables, target: Tables) -> list[str]:
    """Bring runs of a process that is gone into the store that they are meant for; return a line for each.

    Args:
        source: where they are, which is removed then.
        target: a store, maybe another one.
    """
    if source.select("SELECT store FROM kept_for") != [(str(target.path.absolute()),)] or not endings.is_left(source):
        return []
    lines = _take(source, target, source.path.parent)
    shutil.rmtree(source.path.parent, ignore_errors=True)
    return lines


def _take(source: Tables, target: Tables, folder: Path) -> list[str]:
    endings.close_dead(source)
    lines = []
    for run_id in transfer.finished(source):
        found = source.select("SELECT value FROM tags WHERE run_uuid=? AND key=?", run_id, transfer.REMOTE)
        remote = found[0][0] if found else run_id
        if not RUN_ID.fullmatch(remote):
            raise ValueError("it holds what isn't a run of ours")
        if remote != run_id:
            source.rename_run(run_id, remote)
        transfer.merge(source, target, remote, folder / "artifacts" / run_id / "artifacts")
        lines.append(f"run {remote}, which was cut off on its way to a server, is in {target.path} now")
    return lines
