"""Requests to end the process, answered where a state can be kept and a record closed.

The first signal that comes while runs train is only noted; the training looks at it between two
steps, so that nobody's bare `except` can swallow it. A second one is raised where it comes, and a
third does what the system does. While a record is begun or closed all but the third are only noted.
"""

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

SIGNALS = tuple(getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n))
_TWINS_SECONDS = 1.0  # `timeout` and a closed terminal send their signal twice

requested: int | None = None  # the number of the last signal
_count = 0  # of the signals so far
_last = 0.0  # when the last one came
_watchers = 0  # trainings that look at the request between two steps
_holders = 0  # records that are being begun or closed


@contextmanager
def handled(numbers: Sequence[int] = SIGNALS) -> Iterator[None]:
    """Answer signals while something is done, then put back what answered them before.

    One that is ignored, as SIGHUP is under nohup, stays ignored. Python lets only the main thread
    handle signals; in any other nothing is changed.
    """
    global requested, _count
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {n: h for n in numbers if callable(h := signal.getsignal(n)) or h is signal.SIG_DFL}
    try:
        for number in before:
            signal.signal(number, _on_signal)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if before and _on_signal not in before.values():
            requested, _count = None, 0


@contextmanager
def watched() -> Iterator[None]:
    """Say that the code inside calls `obey` between two steps."""
    global _watchers
    _watchers += 1
    try:
        yield
    finally:
        _watchers -= 1


@contextmanager
def held() -> Iterator[None]:
    """Raise nothing inside, where half of it would be worse than all or nothing."""
    global _holders
    _holders += 1
    try:
        yield
    finally:
        _holders -= 1


def obey() -> None:
    """End as an interruption does if that was requested."""
    if requested is not None:
        raise KeyboardInterrupt(requested)


def _on_signal(number: int, frame: object) -> None:
    global requested, _count, _last
    now = time.monotonic()
    is_twin = number != signal.SIGINT and number == requested and now - _last < _TWINS_SECONDS
    requested, _last = number, now
    if is_twin:
        return
    _count += 1
    if _count > 1:
        for other in SIGNALS:
            if signal.getsignal(other) is _on_signal:
                signal.signal(other, signal.SIG_DFL)
    if not _holders and (_count > 1 or not _watchers):
        raise KeyboardInterrupt(number)
