"""Files that are locked while a process lives, and what goes with them.

The system frees such a lock in the moment in which its process is gone, however it ended. Every process
that shares the disk hears it, in other containers too, whatever process numbers, host names and clocks
are there. Only on a network file system another machine may not hear it, so the file names the system
on which it was locked: there a free lock is believed.
"""

import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from uuid import uuid4

from gdexp.tracking.places import RUN_ID, is_shared

try:
    import fcntl
except ImportError:  # a system without: nothing can be told by locks there
    fcntl = None  # type: ignore[assignment]

_PREFIX = ".gdexp-"
_held: dict[Path, tuple[int, list[str]]] = {}  # open files of this process, and the stores each is held for
_turn = threading.Lock()  # a second thread that opened a file would wait for the first one's lock for ever


def path(store: Path, name: str) -> Path:
    """Return the file beside a store that is locked by whom the name stands for."""
    return store.resolve().with_name(f"{_PREFIX}{name}")


@cache
def process() -> str:
    """Return a name for this process that no other has or will have."""
    return uuid4().hex


def take(store: Path, name: str) -> None:
    """Lock a file that only this process has a name for, until it is released as many times or the process is gone.

    The file names the stores that it is held for: what lies beside them may be theirs, or another store's.

    Args:
        store: the file beside which it lies.
        name: what it stands for.

    Raises:
        OSError: no file can be made there.
    """
    file = path(store, name)
    with _turn:
        number, stores = _held.get(file) or (_locked(file, store), [])
        if stores and store.name not in stores:
            os.write(number, f"{store.name}\n".encode())
        _held[file] = number, [*stores, store.name]


def release(store: Path, name: str) -> None:
    """Remove a lock of this process, if it isn't held for something else, too."""
    file = path(store, name)
    with _turn:
        number, stores = _held.pop(file, (0, []))
        if len(stores) > 1:
            stores.remove(store.name)
            _held[file] = number, stores
        elif stores:
            _give_up(file, number)


def clear(store: Path) -> list[str]:
    """Remove the locks of processes that are gone, and what they were about to make beside a store; return the names.

    Only once the store has closed their runs, for it is a free lock that says whose process is gone.
    """
    removed = []
    for beside in _beside(store):
        with suppress(OSError):
            if not _is_left(store, beside):
                continue
            if beside.is_dir() and not beside.is_symlink():
                shutil.rmtree(beside)
            else:
                beside.unlink()
            removed.append(beside.name)
    return removed


def is_anyone_there(store: Path) -> bool:
    """Say whether a process may be at work beside a store."""
    return any(RUN_ID.fullmatch(beside.name.removeprefix(_PREFIX)) for beside in _beside(store))


@contextmanager
def draft(store: Path) -> Iterator[Path]:
    """Make a folder beside a store that goes with this process."""
    take(store, process())
    try:
        with tempfile.TemporaryDirectory(dir=store.parent, prefix=f"{_PREFIX}{process()}-") as folder:
            yield Path(folder)
    finally:
        release(store, process())


def _beside(store: Path) -> list[Path]:
    with suppress(OSError), os.scandir(store.absolute().parent) as entries:
        return [store.absolute().with_name(e.name) for e in entries if e.name.startswith(_PREFIX)]
    return []


def _is_left(store: Path, beside: Path) -> bool:
    """Say whether a lock of this store alone is free, or a draft has lost its process."""
    name = beside.name.removeprefix(_PREFIX)
    if not RUN_ID.fullmatch(name):
        lock = path(store, name[:32])
        return not RUN_ID.fullmatch(name[:32]) or not lock.exists() or is_held(lock) is False
    if beside.is_symlink() or is_held(beside) is not False:
        return False
    _, *stores = beside.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
    return set(stores) <= {store.name}


def _locked(file: Path, store: Path) -> int:
    """Make a file for a store and lock it, or leave nothing; return its number."""
    while True:
        number = os.open(file, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            with suppress(OSError):  # of a file system without locks
                if fcntl is not None:
                    fcntl.flock(number, fcntl.LOCK_EX)  # waits for one who looks at it just now
            if _is_there(file, number):
                os.write(number, f"{system()}\n{store.name}\n".encode())
                return number
        except BaseException:
            _give_up(file, number)
            raise
        os.close(number)  # whoever looked at it before it was locked has removed it


def _is_there(file: Path, number: int) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(number), os.stat(file, follow_symlinks=False))
    return False


def _give_up(file: Path, number: int) -> None:
    with suppress(OSError):
        file.unlink()
    os.close(number)


def remove_free(file: Path | None) -> None:
    """Remove what a process that is gone had locked."""
    if file is not None and is_held(file) is False:
        with suppress(OSError):
            file.unlink()


def is_held(file: Path) -> bool | None:
    """Say whether a process holds a lock, None where that can't be told."""
    try:
        number = os.open(file, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return None
    try:
        return _is_held(file, number)
    finally:
        os.close(number)


@cache
def system() -> str:
    """Return what tells this machine since its start from every other; its containers have it, too."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"host {socket.gethostname()}"


def _is_held(file: Path, number: int) -> bool | None:
    if fcntl is None:
        return None
    try:
        fcntl.flock(number, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    is_heard = not is_shared(file) or os.read(number, 300).partition(b"\n")[0] == system().encode()
    return False if is_heard else None


def _forget() -> None:
    """Leave the locks to the parent of a forked process, or they would outlive it."""
    global _turn
    _turn = threading.Lock()  # another thread may have had it
    for number, _ in _held.values():
        os.close(number)
    _held.clear()
    process.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
