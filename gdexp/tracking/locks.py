"""Files that are locked while a process lives.

The system frees such a lock in the moment in which its process is gone, however it ended. Every process
that shares the disk hears it, in other containers too, whatever process numbers, host names and clocks
are there. Only on a network file system another machine may not hear it, so the file names the system
on which it was locked: there a free lock is believed.
"""

import os
import socket
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path
from uuid import uuid4

from gdexp.tracking.places import is_shared

try:
    import fcntl
except ImportError:  # a system without: nothing can be told by locks there
    fcntl = None  # type: ignore[assignment]

_held: dict[Path, tuple[int, int]] = {}  # open files of this process, and how many times each was taken
_turn = threading.Lock()  # a second thread that opened a file would wait for the first one's lock for ever


def path(store: Path, name: str) -> Path:
    """Return the file beside a store that is locked by whom the name stands for."""
    return store.resolve().with_name(f".gdexp-{name}")


@cache
def process() -> str:
    """Return a name for this process that no other has or will have."""
    return uuid4().hex


def take(file: Path) -> None:
    """Lock a file that only this process has a name for, until it is released as many times or the process is gone.

    Raises:
        OSError: no file can be made there.
    """
    with _turn:
        number, times = _held.get(file, (0, 0))
        _held[file] = number if times else _locked(file), times + 1


def release(file: Path) -> None:
    """Remove a lock of this process, if it isn't held for something else, too."""
    with _turn:
        number, times = _held.pop(file, (0, 0))
        if times > 1:
            _held[file] = number, times - 1
        elif times:
            _give_up(file, number)


def _locked(file: Path) -> int:
    """Make a file and lock it, or leave nothing; return its number."""
    while True:
        number = os.open(file, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            with suppress(OSError):  # of a file system without locks
                if fcntl is not None:
                    fcntl.flock(number, fcntl.LOCK_EX)  # waits for one who looks at it just now
            if _is_there(file, number):
                os.write(number, system().encode())
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
    is_heard = not is_shared(file) or os.read(number, 100) == system().encode()
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
