"""The user's own modules: where they are found, and the text that each was imported with."""

import builtins
import importlib.util
import io
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from gdexp.config import folders


class Imported(NamedTuple):
    """A module as it was imported here.

    Args:
        file: that it comes from.
        text: of the file then.
        read: the SHA-256 of each file that it read while it was imported.
        by: the module whose code imported it.
    """

    file: Path
    text: bytes
    read: dict[Path, str]
    by: str


_imported: dict[str, Imported] = {}  # the local modules that were imported here
launches = 0  # in this process

_lock = threading.Lock()
_importing = threading.local()  # what the innermost import of a thread notes, and below which folders
_imports = 0  # that are under way
_opens: Any = ()  # what `_noting` stands for


@contextmanager
def local_modules() -> Iterator[None]:
    """Make modules of the current directory and of experiments/ importable, last in line."""
    places = [str(Path.cwd()), str(Path.cwd() / folders.STUDIES), str(folders.studies_dir())]
    sys.path.extend(places)
    finder: Any = _Finder([Path(place) for place in places])
    finders = sys.meta_path
    finders.insert(finders.index(PathFinder) if PathFinder in finders else len(finders), finder)
    try:
        yield
    finally:
        finders.remove(finder)
        for folder in reversed(places):  # remove ours, the last of its name, and leave the host's
            del sys.path[len(sys.path) - 1 - sys.path[::-1].index(folder)]


def imported(name: str) -> Imported | None:
    """Return a module as it was imported here, None if it wasn't, or if its host has reloaded it."""
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return _imported.get(name) if isinstance(getattr(spec, "loader", None), _Loader) else None


def imported_by(name: str) -> list[str]:
    """Return the modules that the code of another has imported here, in whatever way."""
    return [inner for inner, own in _imported.items() if own.by == name]


def forget_changed() -> None:
    """Let local modules be imported anew if one of them, or a file that it read, has changed since.

    So it is if the current directory has another module of its name. They go together: a module may
    hold what it took from another. What the host imported itself stays.
    """
    global launches
    launches += 1
    changed = any(
        _text(own.file) != own.text or any(_digest(path) != then for path, then in own.read.items())
        for own in _imported.values()
    )
    here = Path.cwd(), folders.studies_dir()
    moved = any(not any(own.file.is_relative_to(folder) for folder in here) for own in _imported.values())
    if changed or moved:
        forget()


def forget() -> None:
    """Let all local modules be imported anew."""
    for name in _imported:
        if imported(name) or getattr(sys.modules.get(name), "__file__", None) is None:
            sys.modules.pop(name, None)
    _imported.clear()
    importlib.invalidate_caches()


class _Finder:
    """Finds modules as Python does, and has those of some folders imported by our loader."""

    def __init__(self, places: list[Path]) -> None:
        self._places = places

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader and self._is_own(spec.origin):
            spec.loader = _Loader(name, str(spec.origin), self._places)
            spec.cached = None
        elif spec is not None and spec.loader is None and spec.submodule_search_locations:
            folder = next(iter(spec.submodule_search_locations))  # of a package without a file
            if self._is_own(folder):
                _imported[name] = Imported(Path(folder), b"", {}, _importer())
        return spec

    def _is_own(self, file: str | None) -> bool:
        place = Path(str(file)).absolute()
        return any(place.is_relative_to(p) for p in self._places) and not folders.is_installed(place)


class _Loader(SourceFileLoader):
    """Keeps the text that a module is made of.

    It takes no compiled file, which an edit within the same second would not have made anew.
    """

    def __init__(self, name: str, path: str, places: list[Path]) -> None:
        super().__init__(name, path)
        self._places = places

    def get_code(self, fullname: str) -> Any:
        text = self.get_data(self.path)
        _imported[fullname] = Imported(Path(self.path).absolute(), text, {}, _importer())
        return self.source_to_code(text, self.path)

    def exec_module(self, module: ModuleType) -> None:
        read: dict[Path, str] = {}
        with _noted(read, self._places):
            super().exec_module(module)
        _imported[module.__name__].read.update(read)


def _importer() -> str:
    """Return the module whose code is importing another."""
    frame = sys._getframe(1)
    while frame is not None:
        name = str(frame.f_globals.get("__name__"))
        if name != __name__ and name.partition(".")[0] not in ("importlib", "_frozen_importlib"):
            return name
        frame = frame.f_back  # type: ignore[assignment]
    return ""


@contextmanager
def _noted(read: dict[Path, str], places: list[Path]) -> Iterator[None]:
    """Note the user's files that this thread opens to read, with what is in them.

    Of imports within one another each notes its own files.
    """
    outer = getattr(_importing, "notes", None)
    _hook(1)
    try:
        _importing.notes = read, places
        yield
    finally:
        _importing.notes = outer
        _hook(-1)


def _hook(more: int) -> None:
    """Stand in for `open` while there are imports, in whatever thread, and once only."""
    global _imports, _opens
    with _lock:
        if _imports == 0:
            _opens = builtins.open, io.open
            builtins.open = io.open = _noting
        _imports += more
        if _imports == 0:
            builtins.open = _opens[0] if builtins.open is _noting else builtins.open
            io.open = _opens[1] if io.open is _noting else io.open  # type: ignore[assignment]


def _noting(file: Any, mode: str = "r", *more: Any, **options: Any) -> Any:
    opened = _opens[0](file, mode, *more, **options)
    notes = getattr(_importing, "notes", None)
    if notes and isinstance(file, (str, bytes, os.PathLike)) and "r" in mode:
        path = Path(os.fsdecode(file)).absolute()
        if any(path.is_relative_to(place) for place in notes[1]) and path.is_file():
            with _opens[0](path, "rb") as whole:
                notes[0][path] = sha256(whole.read()).hexdigest()
    return opened


def _text(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


def _digest(file: Path) -> str:
    return sha256(_text(file)).hexdigest()
