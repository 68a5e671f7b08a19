"""The console script `gdexp`: a first word that is a command, else overrides of `run`."""

import sys
from importlib import import_module
from importlib.util import find_spec

COMMANDS = ("run", "resume", "rerun", "compare", "ui", "store")


def main() -> None:
    """Run `gdexp [command] …` as `python -m gdexp.command …`."""
    name = sys.argv[1] if len(sys.argv) > 1 and sys.argv[1] in COMMANDS else "run"
    if sys.argv[1:2] == [name]:
        del sys.argv[1]
    if find_spec(f"gdexp.{name}") is None:
        sys.exit(f"gdexp: there is no command `{name}` yet")
    import_module(f"gdexp.{name}").main()
