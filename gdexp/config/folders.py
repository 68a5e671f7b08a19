"""The folders of our YAML files, of the user's, and of installed code.

Imports nothing, so that every command can.
"""

import os
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


def is_installed(file: Path | str) -> bool:
    """Say whether a module's file is an installed package's, Python's or gdexp's."""
    folder = os.path.dirname(os.path.abspath(file))
    if os.path.islink(file):
        folder = os.path.dirname(os.path.realpath(file))
    return _holds_installed(folder)


@cache  # hundreds of modules lie in a few folders
def _holds_installed(folder: str) -> bool:
    place = Path(folder).resolve()
    if any(part in ("site-packages", "dist-packages") for part in place.parts):
        return True
    return any(place.is_relative_to(other) for other in _of_python_and_gdexp())


@cache
def _of_python_and_gdexp() -> list[Path]:
    import sysconfig

    places = [Path(__file__).parents[1], *(Path(sysconfig.get_path(k)) for k in ("stdlib", "platstdlib"))]
    return [place.resolve() for place in places]
