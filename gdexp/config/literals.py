"""Secrets in the text of code: what is written out under a name that is a secret's.

It reads tokens, not a syntax tree, so that a piece of code, such as git's diff, will do.
"""

import ast
import functools
import re

from gdexp.config import secrets

_HIDDEN = f'"{secrets.HIDDEN}"'
_SHORTEST = 4  # digits of a number that may be a secret
_LONGEST = 100  # characters of a name
_STEMS = re.compile(
    r"secret|pass|pwd|pw|cred|key|auth|bearer|cookie|jwt|token|conn|dsn|psk|otp|pin|pat|webhook", re.IGNORECASE
)
_LONG = r"'''(?:\\.|(?!''').)*'''|\"\"\"(?:\\.|(?!\"\"\").)*\"\"\""
_SHORT = r"'(?:\\.|[^'\\\n])*'|\"(?:\\.|[^\"\\\n])*\""
_TOKEN = re.compile(
    rf"(?P<string>[rRbBuUfF]{{0,3}}(?:{_LONG}|{_SHORT}))|(?P<comment>\#[^\n]*)|(?P<space>\\\n|[^\S\n]+)"
    r"|(?P<word>\w+)|(?P<mark>.)",
    re.DOTALL,
)
_QUOTED = re.compile(r"([rRbBuUfF]{0,3})('''|\"\"\"|'|\")(.*)\2", re.DOTALL)
_VARIABLE = re.compile(r"(?:environb?(?:\.\w+)?|getenvb?)\s*[\[(]\s*$")  # its name follows, which is no value
_ENVIRONMENT = {"environ", "environb", "getenv", "getenvb"}
_CALL = re.compile(r"\w\s*\(\s*$")
_PROSE = re.compile(r"([\w.-]+)(['\"]\s*[=:]\s*|=)('[^'\n]*'|\"[^\"\n]*\"|[^\s,;&#}\])'\"]+)")


def hide(text: str) -> str:
    """Return the text of code without its secrets.

    >>> print(hide('login(user="me", token="hf_abc"); lr = 0.1'))
    login(user="me", token="***"); lr = 0.1
    """
    return secrets.hide(_scanned(text), pairs=False)


@functools.lru_cache(maxsize=1024)
def _scanned(text: str) -> str:
    return _Scan(text).shown() if _STEMS.search(text) else text


@functools.lru_cache(maxsize=64)
def from_environment(text: str) -> frozenset[str]:
    """Return the names in a text of Python whose values come from the environment, maybe by way of others."""
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return frozenset()
    uses = [(_assigned(node), _used(node)) for node in nodes]
    taken, known = set(_ENVIRONMENT), 0
    while len(taken) > known:
        known = len(taken)
        for assigned, used in uses:
            if assigned and not taken.isdisjoint(used):
                taken |= assigned
    return frozenset(taken - _ENVIRONMENT)


def _assigned(node: ast.AST) -> set[str]:
    """Return the names that get a value from a piece of code: of targets, functions, imports."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return {node.name}
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return {alias.asname or alias.name for alias in node.names}
    targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
    if isinstance(node, ast.With):
        targets = [item.optional_vars for item in node.items]
    names = [inner for target in targets if isinstance(target, ast.AST) for inner in ast.walk(target)]
    return {name.id for name in names if isinstance(name, ast.Name)}


def _used(node: ast.AST) -> set[str]:
    """Return the names that a piece of code looks up."""
    found: set[str] = set()
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return {alias.name for alias in node.names}
    for inner in ast.walk(node) if _assigned(node) else ():
        if isinstance(inner, ast.Name):
            found.add(inner.id)
        elif isinstance(inner, ast.Attribute):
            found.add(inner.attr)
    return found


class _Scan:
    """Reads a text once, from token to token.

    `_named` holds while the name of a secret is the last thing that was read, `_in_value` while its value is read.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._named = self._in_value = self._is_new = False
        self._is_target = True  # nothing but names that something is assigned to has stood in this line
        self._has_secret = False  # among them
        self._spreads = False  # commas don't end the value: there are several targets
        self._depth = 0  # of brackets within the value
        self._is_argument = False  # the last text is the first argument of a call, as in setenv("TOKEN", …)
        self._before = "\n"  # the last token

    def shown(self) -> str:
        """Return the text without secrets."""
        return "".join(self._next(found) for found in _TOKEN.finditer(self._text))

    def _next(self, found: re.Match[str]) -> str:
        token, kind = found[0], str(found.lastgroup)
        if kind == "space":
            return token
        if kind == "comment":
            return "#" + _in_prose(hide(token[1:]))
        shown = self._string(found) if kind == "string" else self._word(token) if kind == "word" else token
        if kind == "mark":
            self._mark(token)
        elif self._in_value:
            self._is_new = False
        self._before = token
        return shown

    def _string(self, found: re.Match[str]) -> str:
        prefix, quote, content = _QUOTED.fullmatch(found[0]).groups()  # type: ignore[union-attr]
        ahead = self._text[max(0, found.start() - 40) : found.start()]
        if self._in_value and not _VARIABLE.search(ahead):
            return _HIDDEN if content else found[0]
        if not self._in_value:
            self._named = len(content) < _LONGEST and secrets.is_secret(content)
            self._is_argument = bool(_CALL.search(ahead))
            self._has_secret |= self._is_target and self._named
        return f"{prefix}{quote}{_in_prose(content)}{quote}"

    def _word(self, token: str) -> str:
        if self._in_value:
            return _HIDDEN if self._is_new and token.isdigit() and len(token) >= _SHORTEST else token
        self._is_target = self._is_target and not self._before.isidentifier()
        self._named, self._is_argument = secrets.is_secret(token), False
        self._has_secret |= self._is_target and self._named
        return token

    def _mark(self, mark: str) -> None:
        if self._in_value:
            self._within(mark)
        elif mark in "=:!" or (mark == "," and self._is_argument):
            if self._named or (mark == "=" and self._is_target and self._has_secret):
                self._in_value, self._is_new, self._depth = True, mark != ":" or self._before[-1:] in "'\"", 0
                self._spreads = self._is_target and mark == "="
            self._is_target = self._is_target and mark == ":"
        elif mark not in "]+|":
            self._named = self._is_argument = False
            self._is_target = self._is_target and mark in (",.[+-*(" if self._before in "+-\n" else ",.[*")
        if mark == "\n" and not self._in_value:
            self._is_target, self._has_secret = True, False

    def _within(self, mark: str) -> None:
        """Go on in a value, and see whether it ends here."""
        self._depth += (mark in "([{") - (mark in ")]}")
        ends = mark == ";" or (mark == "," and not self._spreads) or (mark == "\n" and not self._is_new)
        if self._depth < 0 or (self._depth == 0 and ends):
            self._in_value = self._named = False
        elif mark not in "\n=([{-":
            self._is_new = False


def _in_prose(text: str) -> str:
    """Return a text within a text without what is given as `password=…` or `"password": …`."""
    return _PROSE.sub(_pair, text) if _STEMS.search(text) else text


def _pair(found: re.Match[str]) -> str:
    is_shown = found[3].startswith(("{", "$", secrets.HIDDEN)) or found[3] in ("None", "null", "True", "False")
    return found[0] if is_shown or not secrets.is_secret(found[1]) else f"{found[1]}{found[2]}{secrets.HIDDEN}"
