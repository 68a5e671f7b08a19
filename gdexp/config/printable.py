"""Text that somebody else wrote, made safe for where it is shown: a terminal, a spreadsheet, a shell."""

import re
import shlex

# what moves a cursor, rings, recolours, or turns the direction of what follows; a half of a character
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


def printable(text: str, *, lines: bool = False) -> str:
    r"""Return a text whose control characters are written out.

    Args:
        text: of any origin.
        lines: let line ends and tabs stand.

    >>> printable("a\x1b[31mred")
    'a\\x1b[31mred'
    """

    def written(found: re.Match[str]) -> str:
        if lines and found[0] in "\n\t":
            return found[0]
        return found[0].encode("unicode_escape").decode()

    return _CONTROLS.sub(written, text)


def cell(text: str) -> str:
    """Return a text as a cell of a CSV file, which a spreadsheet doesn't take for a formula.

    >>> cell("=1+1"), cell("-0.5"), cell("[16, 64]")
    ("'=1+1", '-0.5', '[16, 64]')
    """
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") and not _NUMBER.fullmatch(text) else text


def word(text: str) -> str:
    r"""Return a word of a shell's command line, one line whatever is in it.

    >>> word("seed=0"), word("a b"), word("a\nb")
    ('seed=0', "'a b'", "$'a\\nb'")
    """
    if not _CONTROLS.search(text):
        return shlex.quote(text)
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{_CONTROLS.sub(lambda found: _in_shell(found[0]), escaped)}'"


def _in_shell(character: str) -> str:
    """Return a control character as bash and zsh write it."""
    if ord(character) < 0x80:
        return character.encode("unicode_escape").decode()
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogatepass"))
