"""The command lines that train a run, or two settings on fresh seeds, from what is recorded of them."""

import re
from collections.abc import Mapping, Sequence
from functools import cache

from gdexp.compare.selection import Selection
from gdexp.compare.settings import FOLD, Setting
from gdexp.config import direction
from gdexp.config.printable import word
from gdexp.config.refusal import Refusal
from gdexp.config.trust import may_be_imported
from gdexp.config.written import typed

_KEY = re.compile(r"[^\w.:/-]")  # what no key of ours has
_MARKED = re.compile(r"\$\{oc\.env:.* #[0-9a-f]{6}$")
_SIZES = ("in_features", "out_features")  # filled in by the data


def of_run(params: Mapping[str, str]) -> str | None:
    """Return the shortest command line of a run; None where its options aren't known here."""
    words = _words(params)
    return None if words is None else _line(words)


def of_objective(found: Selection) -> list[str]:
    """Return the words by which a sweep orders its runs as a comparison does."""
    measured = {name for row in found.rows for name in row.metrics}
    default = "val_loss" if "val_loss" in measured else "train_loss"
    own = [] if found.objective == default else [f"sweep.objective={typed(found.objective)}"]
    if direction.known(found.objective) != found.mode:
        own.append(f"sweep.objective_mode={found.mode}")
    return [*own, *(["sweep.objective_at=best"] if found.at == "best" else [])]


def of_fresh_seeds(first: Setting, second: Setting, seeds: Sequence[int], more: Sequence[str] = ()) -> str | None:
    """Return the command line that trains two settings on fresh seeds, on all their folds; None where it can't be told.

    Args:
        first: of the two.
        second: of the two.
        seeds: that neither has had.
        more: further words of the command line.
    """
    if not seeds or (words := _words(first.rows[0].params)) is None:
        return None
    varied = {k for s in (first, second) for k, v in s.params.items() if first.params.get(k) != second.params.get(k)}
    options = [key for key in varied if "." not in key]
    # keys of a group whose option differs have values for each
    inner = {key for group in options for s in (first, second) for key in s.params if key.startswith(f"{group}.")}
    folds = sorted({row.params.get(FOLD, "") for s in (first, second) for row in s.rows})
    repeated = {"seed", FOLD} if len(folds) > 1 else {"seed"}
    kept = [*(w for w in words if _key(w) not in varied | inner | repeated), *more]
    numbers = [f"seed={','.join(map(str, seeds))}"]
    if len(folds) > 1:
        numbers.insert(0, f"{FOLD}={','.join(folds)}")
    if not options:
        axes = [f"{k}={first.params[k]},{second.params[k]}" for k in first.params if k in varied]
        return _line([*kept, *axes, *numbers], sweep=True)
    if len(options) > 1 or any("." not in k or not k.startswith(f"{options[0]}.") for k in varied - set(options)):
        return None
    each = ", ".join(f"{s.params[options[0]]}: {{{_axes(s, options[0])}}}" for s in (first, second))
    return _line([*kept, f"sweep.each={{{each}}}", *numbers], sweep=True)


def _axes(setting: Setting, group: str) -> str:
    return ", ".join(f"{k}: {v}" for k, v in setting.params.items() if k.startswith(f"{group}."))


def _words(params: Mapping[str, str]) -> list[str] | None:
    """Return options and keys that aren't the defaults."""
    from gdexp.config.check import GROUPS, OWN

    unnamed = {f"{group}.{key}": typed(value) for group, own in OWN.items() for key, value in own.items()}
    try:
        plain, _ = _composed()
        options = [f"{g}={params[g]}" for g in GROUPS if g in params and params[g] != plain.get(g)]
        _, defaults = _composed(*options)
    except Refusal:
        return None
    words = list(options)
    for key, value in params.items():
        if key in GROUPS or key == "experiments" or value == defaults.get(key, unnamed.get(key)):
            continue
        if key.rpartition(".")[2] in _SIZES and defaults.get(key) == "null":
            continue
        if value == "***" or _MARKED.search(value):  # isn't recorded, or is another one's of the environment
            return None
        if key.partition(".")[0] not in (*GROUPS, "seed", "metrics") or _KEY.search(key):
            return None  # no key of ours, such as one that sets something of Hydra's
        if key.endswith("._target_") and not may_be_imported(value):
            return None
        words.append(f"{key}={value}" if key in defaults else f"+{key}={value}")
    return words


@cache
def _composed(*options: str) -> tuple[dict[str, str | None], dict[str, str]]:
    """Return the options and the params that a command line has."""
    from gdexp.config.compose import compose
    from gdexp.config.written import pages

    [job] = compose(list(options))
    return job.options, pages([job.config], [job.options])[0][0]


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+")


def _line(words: Sequence[str], sweep: bool = False) -> str:
    return " ".join(["python -m gdexp.run", *(["-m"] if sweep else []), *map(word, words)])
