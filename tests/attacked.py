"""Commands that are attacked at one place of what they do.

`python attacked.py` imports all that a command needs, once, for that takes longer than all the rest. Then it reads
jobs from its standard input, a line of JSON each, does each in a process of its own, and answers with its exit code.
A job has the folder to work in, the module and the words of a command, and an attack, which is one of

- {"signal": number, "line": N}: before the N-th line of gdexp/tracking is run,
- {"calls": kinds, "place": N, "below": folder, "signal": …, "error": …, "for_good": …}: at the N-th system call of
  these kinds below a folder, as attacked.c has it, which must be in LD_PRELOAD,

or nothing. How many such calls there were is then in the file `count` beside the folder.
"""

import contextlib
import ctypes
import importlib
import json
import os
import signal
import sys
import threading
from pathlib import Path

HOME = str(Path(__file__).resolve().parents[1] / "gdexp" / "tracking")


def begin(job):
    if "line" in job:
        sys.settrace(lines(job["line"], job["signal"]))
    elif "calls" in job:
        place, below = ctypes.c_long(job["place"]), job["below"].encode()
        happens = job.get("signal", 0), job.get("error", 0), job.get("for_good", False)
        ctypes.CDLL(None).attack_begin(below, job["calls"], place, *happens)


def end(job, folder):
    sys.settrace(None)
    if "calls" in job:
        count = ctypes.CDLL(None).attack_count()
        ctypes.CDLL(None).attack_begin(b"", 0, ctypes.c_long(0), 0, 0, 0)
        (folder.parent / "count").write_text(str(count))


def lines(left, number):
    def trace(frame, event, argument):
        nonlocal left
        if not frame.f_code.co_filename.startswith(HOME):
            return None
        if event == "line" and threading.current_thread() is threading.main_thread():
            left -= 1
            if left == 0:
                os.kill(os.getpid(), number)
        return trace

    return trace


def do(job):
    """Run the command in this process."""
    folder = Path(job["folder"])
    os.chdir(folder)
    os.environ["XDG_CACHE_HOME"] = str(folder.parent / "cache")
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder.parent / name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        signal.signal(number, handler)
    module = importlib.import_module(job["module"])  # before its places are counted
    sys.argv = ["gdexp", *job["words"]]
    code = 0
    begin(job)
    try:
        module.main()
    except SystemExit as done:
        code = done.code or 0
    finally:
        end(job, folder)
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
    return code


def main():
    import torch

    from gdexp import rerun, resume, run, session, store, sweep  # noqa: F401, imported before the fork
    from gdexp.build import build, together  # noqa: F401
    from gdexp.tracking import done, kept, provenance, recorder, spools, sqlite, transfer, view  # noqa: F401

    torch.set_num_threads(1)
    print("ready", flush=True)
    for line in sys.stdin:
        if (child := os.fork()) == 0:
            code = 99
            try:
                code = do(json.loads(line))
            finally:
                os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
