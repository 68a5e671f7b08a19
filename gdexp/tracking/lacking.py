"""What finished runs lack in a store: artifacts and rows that were there when they ended."""

import json
from collections.abc import Iterator
from pathlib import Path

from gdexp.config.refusal import Refusal
from gdexp.tracking import places
from gdexp.tracking.kept import Finding
from gdexp.tracking.sqlite import Tables

_WEIGHTS = "weights.safetensors"
_FILES = ("config.yaml", "environment.json", _WEIGHTS)
_OURS = (  # finished runs, but for the summaries of sweeps
    "status='FINISHED' AND r.lifecycle_stage='active'"
    " AND EXISTS (SELECT 1 FROM tags t WHERE t.run_uuid=r.run_uuid AND t.key='gdexp.outcome')"
    " AND NOT EXISTS (SELECT 1 FROM tags t WHERE t.run_uuid=r.run_uuid AND t.key='gdexp.kind' AND t.value='sweep')"
)


def lacking(tables: Tables) -> Iterator[Finding]:
    """Yield what finished runs lack; artifacts that lie where a new run's would are found there again."""
    rows = tables.select(
        "SELECT run_uuid, r.name, artifact_uri, artifact_location FROM runs r JOIN experiments USING (experiment_id)"
        f" WHERE {_OURS}"
    )
    for run_id, name, uri, location in rows:
        folder = places.local_path(uri)
        if folder is None or not (gone := _gone(folder)):
            continue
        other = f"{location.rstrip('/')}/{run_id}/artifacts"
        if other != uri and (place := _own(tables, other, run_id)) is not None and not _gone(place):
            with tables.transaction():
                tables.execute("UPDATE runs SET artifact_uri=? WHERE run_uuid=?", other, run_id)
            yield Finding(f"run {name} ({run_id}): its artifacts are found again in {place}")
        else:
            cure = f"put back {'it' if len(gone) == 1 else 'them'} from a copy of the folder"
            again = f", or python -m gdexp.rerun {run_id} trains it again" if "config.yaml" not in gone else ""
            yield Finding(f"run {name} ({run_id}): {_told(gone)} in {folder}: {cure}{again}", mended=False)
    yield from _without_rows(tables)


def _without_rows(tables: Tables) -> Iterator[Finding]:
    """Yield the runs of which epochs, or all params, are missing."""
    rows = tables.select(
        "SELECT run_uuid, r.name, o.value,"
        " (SELECT count(DISTINCT step) FROM metrics m WHERE m.run_uuid=r.run_uuid AND m.key='train_loss'),"
        " (SELECT step FROM latest_metrics l WHERE l.run_uuid=r.run_uuid AND l.key='train_loss'),"
        " (SELECT count(*) FROM params p WHERE p.run_uuid=r.run_uuid)"
        f" FROM runs r JOIN tags o USING (run_uuid) WHERE o.key='gdexp.outcome' AND {_OURS}"
    )
    for run_id, name, outcome, epochs, last, params in rows:
        if not params:
            what = "its params"
        elif last is None and outcome != "diverged":
            what = "all of its epochs"
        elif epochs < (last or 0):
            what = f"{last - epochs} of its {last} epochs"
        else:
            continue
        cure = f"python -m gdexp.rerun {run_id} trains it again"
        yield Finding(f"run {name} ({run_id}): the rows of {what} are missing: {cure}", mended=False)


def _own(tables: Tables, uri: str, run_id: str) -> Path | None:
    try:
        return places.folder(tables.path, uri, run_id)
    except Refusal:  # it is none of this store's
        return None


def _gone(folder: Path) -> dict[str, str]:
    """Return which files of a run can't be used, and why."""
    gone = {name: "missing" for name in _FILES if not (folder / name).is_file()}
    if _WEIGHTS not in gone and not _is_whole(folder / _WEIGHTS):
        gone[_WEIGHTS] = "damaged"
    return gone


def _told(gone: dict[str, str]) -> str:
    if len(gone) == len(_FILES) and set(gone.values()) == {"missing"}:
        return "all of its artifacts are missing"
    return ", ".join(f"{name} is {how}" for name, how in gone.items())


def _is_whole(path: Path) -> bool:
    """Say whether a safetensors file is as long as its header says."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > path.stat().st_size:
                return False
            entries = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"]
        return path.stat().st_size == 8 + length + max(ends, default=0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
