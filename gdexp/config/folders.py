"""The folders of our YAML files and of the user's. Imports nothing, so that every command can."""

from functools import cache
from pathlib import Path

STUDIES = "experiments"  # the one group that has a folder of its own, beside conf/


@cache
def conf_dir() -> Path:
    """Return our `conf/`: inside the package when installed, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    return next(p / "conf" for p in (package, package.parent) if (p / "conf/config.yaml").is_file())


def studies_dir() -> Path:
    """Return our `experiments/`."""
    return conf_dir().parent / STUDIES


def user_dirs() -> list[Path]:
    """Return the `conf/` and `experiments/` of the current directory, if they aren't ours."""
    ours = (conf_dir(), studies_dir())
    return [p for p in (Path.cwd() / "conf", Path.cwd() / STUDIES) if p.is_dir() and p.resolve() not in ours]
