"""Commands that are attacked at one place of the code that keeps their record.

`python attacked.py HOW PLACES words…` does what `python -m gdexp.run words…` does, once for each place, each
in a folder of that name, which must be there, and prints place and exit code. HOW is the name of a signal, which
comes before that line of gdexp/tracking is run; or `fail`: that change of a file below the folder fails.
The process is forked for each, for importing torch takes longer than all the rest.
"""

import os
import signal
import sys
import threading
from pathlib import Path

HOME = str(Path(__file__).resolve().parents[1] / "gdexp" / "tracking")
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.link", "os.rmdir")
left = 0


def is_time() -> bool:
    global left
    left -= 1
    return left == 0


def trace(frame, event, argument):
    if not frame.f_code.co_filename.startswith(HOME):
        return None
    in_main = threading.current_thread() is threading.main_thread()
    if event == "line" and in_main and is_time():
        os.kill(os.getpid(), getattr(signal, how))
    return trace


def fail(event, arguments):
    writes = event in CHANGES or (event == "open" and set("wxa+") & set(str(arguments[1])))
    if writes and str(arguments[0]).startswith(os.getcwd()) and is_time():
        raise OSError(28, "No space left on device", str(arguments[0]))


def attack(place: str) -> None:
    """Run the command in a process of its own."""
    global left
    os.chdir(place)
    from gdexp import run  # before its places are counted

    left = int(place)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(name, os.O_CREAT | os.O_WRONLY), number)
    sys.argv = ["gdexp", *words]
    if how == "fail":
        sys.addaudithook(fail)
    else:
        sys.settrace(trace)
    run.main()


def main() -> None:
    import torch

    from gdexp import run, session  # noqa: F401, imported before the fork
    from gdexp.build import build  # noqa: F401
    from gdexp.tracking import done, provenance, recorder, sqlite, store, transfer, view  # noqa: F401

    torch.set_num_threads(1)
    for place in places:
        if (child := os.fork()) == 0:
            code = 1
            try:
                attack(place)
            except SystemExit as end:
                code = end.code or 0
            finally:
                sys.settrace(None)
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        print(place, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    how, places, words = sys.argv[1], sys.argv[2].split(","), sys.argv[3:]
    main()
