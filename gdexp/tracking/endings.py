"""Which runs that say RUNNING are still running, and the end of those that aren't."""

import os
import socket
import sys
import time
from functools import cache
from pathlib import Path

from gdexp.config.refusal import Refusal
from gdexp.tracking import places
from gdexp.tracking.sqlite import Tables

PROCESS, HOST, HEARTBEAT = "gdexp.process", "gdexp.host", "gdexp.heartbeat"
STALE_SECONDS = 300.0  # without a sign of life from a process that can't be looked at


def signature() -> dict[str, str]:
    """Return the tags that tell this process from every other."""
    pid = os.getpid()
    return {HOST: socket.gethostname(), PROCESS: f"{_place()} {pid} {_started(pid)}"}


def close_dead(tables: Tables, *, clear: bool = True) -> list[tuple[str, str]]:
    """Close runs whose process is gone as KILLED, at the time of their last sign of life.

    Args:
        tables: of the store.
        clear: whether what such a process was about to write is removed.

    Returns:
        id and name of each.
    """
    closed = []
    for run_id, name, start in tables.select("SELECT run_uuid, name, start_time FROM runs WHERE status='RUNNING'"):
        if is_run_alive(tables, run_id):
            continue
        [(last,)] = tables.select("SELECT max(timestamp) FROM latest_metrics WHERE run_uuid=?", run_id)
        with tables.transaction():  # another command may have been quicker
            if tables.select("SELECT 1 FROM runs WHERE run_uuid=? AND status='RUNNING'", run_id):
                tables.end(run_id, "KILLED", last or start)
                closed.append((run_id, name))
                if clear:
                    _clear(tables, run_id)
    return closed


def _clear(tables: Tables, run_id: str) -> None:
    """Remove what a process that is gone was about to write among the artifacts of its run."""
    [(uri,)] = tables.select("SELECT artifact_uri FROM runs WHERE run_uuid=?", run_id)
    try:
        folder = places.folder(tables.path, uri, run_id)
    except Refusal:  # it is none of this store's
        return
    if folder is not None:
        places.clear(folder)


def is_run_alive(tables: Tables, run_id: str) -> bool:
    """Say whether the process of a run that says RUNNING may still be there; of others' runs that is believed."""
    tags = dict(tables.select("SELECT key, value FROM tags WHERE run_uuid=?", run_id))
    [(last, start)] = tables.select(
        "SELECT (SELECT max(timestamp) FROM latest_metrics l WHERE l.run_uuid=r.run_uuid), start_time"
        " FROM runs r WHERE run_uuid=?",
        run_id,
    )
    seen = max(last or start or 0, int(tags.get(HEARTBEAT, 0)))
    return PROCESS not in tags or is_alive(tags[PROCESS], tags.get(HOST), seen / 1000)


def is_alive(process: str, host: str | None, seen: float) -> bool:
    """Say whether a process may still be there.

    Args:
        process: as in its signature.
        host: likewise.
        seen: when it gave its last sign of life, which decides where the process can't be looked at.
    """
    looked = _looked_at(process, host)
    return time.time() - seen < STALE_SECONDS if looked is None else looked


def is_gone(process: str, host: str | None) -> bool:
    """Say whether it can be seen that a process isn't there any more."""
    return _looked_at(process, host) is False


def _looked_at(process: str, host: str | None) -> bool | None:
    """Say whether a process is there, None where it can't be looked at.

    It can on this host and in this pid namespace; after a restart of this machine it is gone.
    """
    try:
        machine, boot, namespace, pid, started = process.split(" ")
        here = _place().split(" ")
        if host == socket.gethostname() and (machine, boot, namespace) == (here[0], here[1], here[2]) and boot != "-":
            return _started(int(pid)) == started
        if host == socket.gethostname() and machine == here[0] != "-" and boot != here[1]:
            return False
    except ValueError:
        pass
    return None


@cache
def _place() -> str:
    """Return machine, boot and pid namespace; "-" for what can't be told."""
    machine = _read("/etc/machine-id")
    boot = _read("/proc/sys/kernel/random/boot_id")
    try:
        namespace = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        namespace = "-"
    return f"{machine} {boot} {namespace}"


def _started(pid: int) -> str:
    """Return when a process was started, in ticks since boot; "-" if there is none or it can't be told."""
    if sys.platform != "linux":
        return "-"
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # the name may hold blanks
    except OSError:
        return "-"
    return "-" if fields[0] in "ZX" else fields[19]  # a zombie is gone


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip() or "-"
    except OSError:
        return "-"
