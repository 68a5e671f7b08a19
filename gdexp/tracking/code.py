"""The user's code that a config reaches: the text of each module, as it was imported.

What a text doesn't show is written below it: files that were read on import, and values that a
script or a notebook had set.
"""

import ast
import dis
import functools
import importlib.util
import inspect
import linecache
import marshal
import os
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

from gdexp.config import folders, literals, modules, secrets
from gdexp.config.refusal import Refusal

_MAIN = "__main__"
_EARLIER = 0.01  # seconds that Python takes at least from its start to its first import


class Code(NamedTuple):
    """Modules from outside the installed packages.

    Args:
        texts: by their names, as `my_nets/mlp.py`.
        shown: the same without secrets, for the record.
        unknown: why it can't be told what is trained, if it can't.
    """

    texts: dict[str, str]
    shown: dict[str, str]
    unknown: str | None


class _Notes(NamedTuple):
    """What a text doesn't show."""

    what: str = ""
    lines: Sequence[str] = ()
    shown: Sequence[str] = ()  # the lines without secrets

    def below(self, text: str) -> str:
        """Return a text with the notes below it."""
        return f"{text.rstrip()}\n\n# {self.what}:\n{_as_comment(self.lines)}" if self.lines else text

    def shown_below(self, text: str) -> str:
        """Return a text with the notes below it, without secrets."""
        return self._replace(lines=self.shown).below(literals.hide(text))


def _as_comment(lines: Sequence[str]) -> str:
    return "".join(f"#   {line}\n" for line in lines)


def reached(config: Mapping[str, Any], also: Collection[str] = ()) -> Code:
    """Return the modules that the targets of a config name, and those that these use, in turn.

    Args:
        config: resolved.
        also: names of texts that are wanted, too.

    Raises:
        Refusal: a module's file isn't any more what was imported, by whom we can't import it anew.
    """
    names = set(_named(config))
    waiting = [name for name in map(_module, names) if name]
    waiting += [name.removesuffix(".py").replace("/", ".") for name in also]
    texts: dict[str, str] = {}
    shown: dict[str, str] = {}
    seen: set[str] = set()
    unknown: list[str] = []
    while waiting:
        if (name := waiting.pop()) in seen:
            continue
        seen.add(name)
        if (file := _file(name)) is None and name != _MAIN:
            gone = getattr(sys.modules.get(name), "__file__", None)
            if gone and not folders.is_installed(Path(gone)):
                unknown.append(f"{_here(Path(gone))} is gone")
            continue
        if file is not None and folders.is_installed(file):
            continue
        try:
            text, notes = _of_main(file, names, unknown) if name == _MAIN else _text(name, file, unknown)
        except (OSError, UnicodeDecodeError, SyntaxError) as error:
            unknown.append(f"{name} can't be read as text: {error}")
            continue
        place = f"{name.replace('.', '/')}.py"
        texts[place] = notes.below(text)
        shown[place] = notes.shown_below(text)
        waiting += _imports(text, _package(name, file))
        waiting += _of_values(sys.modules.get(name))
        waiting += modules.imported_by(name)
    return Code(dict(sorted(texts.items())), dict(sorted(shown.items())), unknown[0] if unknown else None)


def later(config: Mapping[str, Any], begun: Mapping[str, str]) -> dict[str, str]:
    """Return the texts, as they are shown, that a run has come to use or that are others now.

    Args:
        config: resolved.
        begun: the texts that it began with, as they are shown.
    """
    return {name: text for name, text in reached(config, begun).shown.items() if begun.get(name) != text}


def _named(node: Any) -> Iterator[str]:
    """Yield each dotted name in a config."""
    if isinstance(node, Mapping):
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for inner in node:
            yield from _named(inner)
    elif isinstance(node, str) and "." in node and node.partition(".")[0] in sys.modules:
        yield node


def _module(name: str) -> str | None:
    """Return the module of a dotted name."""
    parts = name.split(".")
    names = (".".join(parts[:i]) for i in range(len(parts), 0, -1))
    return next((n for n in names if n in sys.modules), None)


def _file(name: str) -> Path | None:
    """Return the file of a module; of one that isn't imported yet the file that it would be."""
    if (module := sys.modules.get(name)) is not None:
        found = getattr(module, "__file__", None)
        return Path(found).absolute() if found and Path(found).exists() else None
    places: Any = None
    spec = None
    parts = name.split(".")
    if parts[0] in sys.stdlib_module_names and parts[0] not in sys.modules:
        return None
    for i in range(len(parts)):  # by its last word alone: what is above it isn't imported
        spec = PathFinder.find_spec(parts[i], places)
        places = spec.submodule_search_locations if spec is not None else None
        if spec is None or (places is None and i + 1 < len(parts)):
            return None
        if spec.origin is not None and folders.is_installed(Path(spec.origin)):
            return None
    origin = spec.origin if spec is not None and spec.has_location else None
    return Path(origin).absolute() if origin and origin.endswith(".py") else None


def _text(name: str, file: Path | None, unknown: list[str]) -> tuple[str, "_Notes"]:
    """Return the text of a module, and the files that it read on import."""
    assert file is not None
    if (own := modules.imported(name)) is not None:
        notes = [f"{_here(path)}: SHA-256 {digest}" for path, digest in sorted(own.read.items())]
        return importlib.util.decode_source(own.text), _Notes("read on import", notes, notes)
    if (module := sys.modules.get(name)) is None:
        return importlib.util.decode_source(file.read_bytes()), _Notes()
    return _of_host(module, file, unknown), _Notes()


def _of_host(module: ModuleType, file: Path, unknown: list[str]) -> str:
    """Return the text of a module that we didn't import, which no edit during a launch changes."""
    text, doubt = _read(module, file, modules.launches)
    unknown += [doubt] if doubt else []
    return text


@functools.lru_cache(maxsize=4096)
def _read(module: ModuleType, file: Path, launch: int) -> tuple[str, str | None]:
    """Return the text of a file and the doubt about it; once a launch, whose number is only to tell the launches."""
    text = importlib.util.decode_source(file.read_bytes())
    return text, _doubt(module, file, text)


def _doubt(module: ModuleType, file: Path, text: str) -> str | None:
    """Say why a file may not be what its host imported; refuse it where it certainly isn't."""
    about = file.stat()
    if max(about.st_mtime, about.st_ctime) < _began() + _EARLIER:
        return None
    if type(getattr(module, "__loader__", None)) is not SourceFileLoader:
        return f"{_here(file)} may have changed since this process imported it"
    code = compile(text, str(file), "exec", dont_inherit=True)
    now = set(_codes(code))
    edited = any(own not in now for own in _live(module, file))
    compiled = _compiled(module)
    if edited or (compiled is not None and compiled != code):
        raise Refusal(
            f"{_here(file)} has changed since this process imported it: importlib.reload it, or start Python anew"
        )
    if compiled is None and not _has_values(module, text):
        return f"{_here(file)} may have changed since this process imported it"
    return None


def _has_values(module: ModuleType, text: str) -> bool:
    """Say whether a module has the values that its text writes out."""
    for node in ast.parse(text).body:
        names = [t.id for t in node.targets if isinstance(t, ast.Name)] if isinstance(node, ast.Assign) else []
        try:
            value = repr(ast.literal_eval(node.value)) if isinstance(node, ast.Assign) else ""
        except (ValueError, TypeError):
            continue
        if any(repr(getattr(module, name, None)) != value for name in names):
            return False
    return True


def _compiled(module: ModuleType) -> CodeType | None:
    """Return the code that Python kept when it imported a module."""
    try:
        found = marshal.loads(Path(str(module.__cached__)).read_bytes()[16:])
    except (AttributeError, OSError, ValueError, EOFError, TypeError):
        return None
    return found if isinstance(found, CodeType) else None


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _codes(inner)


def _live(owner: Any, file: Path) -> Iterator[CodeType]:
    """Yield the code of the functions and methods that were made by a module's text."""
    for value in list(vars(owner).values()):
        value = inspect.unwrap(value) if isinstance(value, FunctionType) else value
        function = getattr(value, "__func__", getattr(value, "fget", value))
        if isinstance(function, FunctionType) and Path(function.__code__.co_filename).absolute() == file:
            yield function.__code__
        elif isinstance(value, type) and isinstance(owner, ModuleType):
            yield from _live(value, file) if value.__module__ == owner.__name__ else ()


def _of_main(file: Path | None, names: Collection[str], unknown: list[str]) -> tuple[str, "_Notes"]:
    """Return the text of a script, or of those cells of a notebook that made what a config names; and its values."""
    main = sys.modules[_MAIN]
    used = {name.split(".")[1] for name in names if name.startswith(f"{_MAIN}.")}
    codes, values = _closure(main, used)
    if file is not None:
        text = _of_host(main, file, unknown)
    else:
        cells = {code.co_filename: "".join(linecache.getlines(code.co_filename)) for code in codes}
        if not all(cells.values()) or not cells:
            unknown.append(f"the text of {', '.join(sorted(used))} isn't known")
        text = "\n".join(sorted(set(cells.values())))
    taken = literals.from_environment(text)
    notes, shown = [], []
    for name, value in sorted(values.items()):
        if (plain := _plain(value)) is None:
            unknown.append(f"the value of {name} in {_MAIN} isn't a plain one")
        else:
            notes.append(f"{name} = {plain}")
            private = name in taken or secrets.is_secret(name)
            shown.append(f"{name} = {secrets.HIDDEN if private else _plain(secrets.hide_in(value))}")
    return text, _Notes("values when the run began", notes, shown)


def _closure(main: ModuleType, names: Collection[str]) -> tuple[list[CodeType], dict[str, Any]]:
    """Return the code of functions and classes of a module, and the values that it looks up there."""
    waiting, seen = list(names), set[str]()
    codes: list[CodeType] = []
    values: dict[str, Any] = {}
    while waiting:
        if (name := waiting.pop()) in seen or not hasattr(main, name):
            continue
        seen.add(name)
        value = getattr(main, name)
        if isinstance(value, type):
            own = [k for k in value.__mro__ if k.__module__ == main.__name__]
            waiting += [k.__name__ for k in own]
            found = [code for k in own for code in _functions(k)]
        elif isinstance(value, FunctionType) and value.__module__ == main.__name__:
            found = [inspect.unwrap(value).__code__]
        else:
            if not (isinstance(value, ModuleType) or (callable(value) and hasattr(value, "__name__"))):
                values[name] = value
            continue
        codes += found
        waiting += [n for code in found for inner in _codes(code) for n in _globals(inner)]
    return codes, values


def _functions(kind: type) -> Iterator[CodeType]:
    for value in vars(kind).values():
        function = getattr(value, "__func__", getattr(value, "fget", value))
        if isinstance(function, FunctionType):
            yield inspect.unwrap(function).__code__


def _globals(code: CodeType) -> list[str]:
    return [str(i.argval) for i in dis.get_instructions(code) if "GLOBAL" in i.opname or i.opname == "LOAD_NAME"]


def _plain(value: Any) -> str | None:
    """Return a value as it is written, None if that doesn't tell all about it."""
    if isinstance(value, (list, tuple)):
        inner = [_plain(v) for v in value]
        return None if None in inner else f"{type(value).__name__}({', '.join(map(str, inner))})"
    if isinstance(value, dict):
        return None if (pairs := _plain(list(value.items()))) is None else f"dict({pairs})"
    names = ("device", "dtype", "PosixPath")
    known = isinstance(value, (int, float, complex, str, bytes)) or type(value).__name__ in names
    return repr(value) if value is None or known else None


def _package(name: str, file: Path | None) -> str:
    return name if file is not None and file.name == "__init__.py" else name.rpartition(".")[0]


@functools.lru_cache(maxsize=1024)
def _imports(text: str, package: str) -> tuple[str, ...]:
    """Return the names that the import statements of a text may mean, those inside functions too."""
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ()
    names: list[str] = []
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            try:
                home = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            except ImportError:
                continue
            names += [f"{home}.{alias.name}" for alias in node.names if alias.name != "*"] or [home]
    parts = [name.split(".") for name in names]
    return tuple(dict.fromkeys(".".join(p[: i + 1]) for p in parts for i in range(len(p))))


def _of_values(module: ModuleType | None) -> list[str]:
    """Return the modules that the values of a module come from, however they came there."""
    values = list(vars(module).values()) if module is not None else []
    found = (v.__name__ if isinstance(v, ModuleType) else getattr(v, "__module__", None) for v in values)
    return [name for name in found if isinstance(name, str)]


def _here(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


@functools.cache
def _began() -> float:
    """Return when this process began, or 0 where that isn't known."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        up = time.clock_gettime(time.CLOCK_BOOTTIME)
        return time.time() - up + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0
