"""What may be built from a record, which anybody may have written.

A name is judged before anything is imported, by the file that its module would come from. What it turns out
to be is judged once more, since a name proves nothing: `torch.nn.functional.os.system` resolves.
"""

import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from gdexp.config import folders, modules, targets
from gdexp.config.refusal import Refusal

_NAMES = re.compile(r"(^|\.)_target_$|^trainer\.on_epoch\b|^metrics\b")  # keys whose values are imported
_OURS = ("gdexp.models.", "gdexp.objectives.", "gdexp.losses.", "gdexp.optimizers.", "gdexp.data.")
_TORCHS = ("torch.nn.", "torch.optim.", "torch.utils.data.")
_METRICS = ("sklearn.metrics.", "torchmetrics.")
_RUN_ID = re.compile(r"[0-9a-f]{32}")
_LIBRARY = re.compile(r"/lib(64|32)?/python3(\.\d+)?t?/|/(site|dist)-packages/")  # of any Python
_ARTIFACTS = ("mlruns", "mlartifacts")  # MLflow's own names for where artifacts are


def check_trusted(node: Any) -> None:
    """Refuse a recorded config that names what may not be built from a record, wherever it stands in it.

    Args:
        node: of the config, in plain containers.

    Raises:
        Refusal: names the key and the way to allow it.
    """
    names = [(key, name) for key, name in _names(node) if name not in _allowed()]
    with modules.local_modules():
        for key, name in names:
            if not may_be_imported(name):
                raise _refusal(key, name)
        for key, name in names:
            target = targets.resolve(key, name, _is_on_its_way)
            if target is None or not _may_be_built(target):
                raise _refusal(key, name)


def artifact_folders() -> list[Path]:
    """Return the folders of artifacts that the user names beside those of the stores."""
    return [Path(name).absolute() for name in os.environ.get("GDEXP_ARTIFACTS", "").split(os.pathsep) if name]


def is_own(name: str, file: Path) -> bool:
    """Say whether a module is the user's own: found from the top of the current directory or of experiments/.

    Nothing is that is installed, lies in an environment of Python's or in a hidden folder, or among artifacts.

    Args:
        name: of the module.
        file: where it comes from.
    """
    parts = file.stem if name == "__main__" else name.replace(".", "/")
    places = [Path.cwd(), Path.cwd() / folders.STUDIES, folders.studies_dir()]
    if not any(file in (folder / f"{parts}.py", folder / parts / "__init__.py") for folder in places):
        return False
    place = file.resolve()
    if place.parent == folders.studies_dir().resolve():  # which may be installed
        return True
    return not (folders.is_installed(place) or _is_pythons(place) or _is_hidden(place) or _is_artifact(place))


def _names(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield key and value of all that is imported."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _names(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from _names(value, f"{key}[{i}]")
    elif isinstance(node, str) and "." in node and _NAMES.search(key):
        yield key, node


def _allowed() -> list[str]:
    return os.environ.get("GDEXP_ALLOW", "").replace(",", " ").split()


def _refusal(key: str, name: str) -> Refusal:
    shown = name if len(name) <= 100 else f"{name[:99]}…"
    return Refusal(f"`{key}`: {shown} is not built from a record unless you allow it: GDEXP_ALLOW={shown}")


def may_be_imported(name: str) -> bool:
    """Say whether the module of a dotted name may be imported; nothing is imported to find out."""
    parts = name.split(".")
    if not all(part.isidentifier() for part in parts):
        return True  # which is no name, and refused as such
    if parts[0] in ("gdexp", "torch"):
        return name.startswith(_OURS + _TORCHS)
    files = list(_files(parts))
    if name.startswith(_METRICS):
        return bool(files) and all(folders.is_installed(file) for _, file in files)
    return bool(files) and all(is_own(module, file) for module, file in files)


def _files(parts: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Yield the modules along a dotted name and their files; of a mere folder the one that would make it a package."""
    importlib.invalidate_caches()
    spec = _top(parts[0])
    for i in range(1, len(parts) + 1):
        if spec is None:
            return
        module, places = ".".join(parts[:i]), list(spec.submodule_search_locations or ())
        if spec.has_location and spec.origin:
            yield module, Path(spec.origin)
        elif places:
            yield from ((module, Path(place) / "__init__.py") for place in places)
        else:  # built in, or frozen
            yield module, Path(module)
        # by its last word alone: with its whole name the module above would have to be imported
        spec = PathFinder.find_spec(parts[i], places) if places and i < len(parts) else None


def _top(name: str) -> ModuleSpec | None:
    """Return where a module comes from, or came from if it is loaded."""
    module = sys.modules.get(name)
    if name == "__main__" and module is not None and getattr(module, "__file__", None):
        return importlib.util.spec_from_file_location(name, str(Path(str(module.__file__)).absolute()))
    try:
        return importlib.util.find_spec(name)
    except (ValueError, ImportError):  # loaded in a way that doesn't say where from
        return None


def _is_on_its_way(name: str, found: object) -> bool:
    """Say whether a dotted name may lead through an object: a class, or the module of just that name."""
    return isinstance(found, type) or (isinstance(found, ModuleType) and found.__name__ == name)


def _may_be_built(target: Any) -> bool:
    """Say whether an object is of a kind that may be built from a record."""
    from torch import nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    module = str(getattr(target, "__module__", None) or "")
    if isinstance(target, type) and module.startswith("torch."):
        return issubclass(target, (nn.Module, Optimizer, LRScheduler)) or module == "torch.utils.data.dataset"
    if module == "torch.nn.functional":
        return callable(target)
    if f"{module}.".startswith(_OURS):
        return not getattr(target, "__name__", "_").startswith("_")
    if f"{module}.".startswith(_METRICS):
        return not getattr(target, "__name__", "_").startswith("_")
    file = getattr(sys.modules.get(module), "__file__", None)
    return bool(file) and is_own(module, Path(str(file)).absolute())


def _is_pythons(place: Path) -> bool:
    """Say whether a file lies in an environment of Python's: this one, the one it was made from, or any other."""
    prefixes = {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix} - {"/"}
    if any(place.is_relative_to(Path(prefix).resolve()) for prefix in prefixes):
        return True
    marks = ("pyvenv.cfg", "conda-meta")
    return bool(_LIBRARY.search(place.as_posix())) or any((p / mark).exists() for p in place.parents for mark in marks)


def _is_hidden(place: Path) -> bool:
    """Say whether a file lies in a hidden folder, maybe by a link; that the current one is hidden is no matter."""
    home = Path.cwd().resolve()
    parts = place.relative_to(home).parts if place.is_relative_to(home) else place.parts
    return any(part.startswith(".") for part in parts)


def _is_artifact(place: Path) -> bool:
    if any(part in _ARTIFACTS or _RUN_ID.fullmatch(part) for part in place.parts):
        return True
    return any(place.is_relative_to(root.resolve()) for root in artifact_folders())
