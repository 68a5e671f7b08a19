"""In which params runs differ."""

from collections.abc import Mapping, Sequence


def varied(runs: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the names of the params that tell runs apart, in order; the seed is one.

    What only follows from the option of a group, as the betas of Adam beside SGD, is left out.

    >>> adam = {"optimizer": "adam", "optimizer.lr": "0.01", "optimizer.eps": "1e-8", "seed": "0"}
    >>> varied([adam, {**adam, "optimizer.lr": "0.1"}, {"optimizer": "sgd", "optimizer.lr": "0.1", "seed": "0"}])
    ['optimizer', 'optimizer.lr']
    """
    names = dict.fromkeys(name for keys in {tuple(run): None for run in runs} for name in keys)
    differing = [name for name in names if len({run.get(name) for run in runs}) > 1]
    return [name for name in differing if _is_chosen(name, differing, runs)]


def _is_chosen(name: str, differing: Sequence[str], runs: Sequence[Mapping[str, str]]) -> bool:
    group, _, rest = name.partition(".")
    if not rest or group not in differing:
        return True
    values: dict[str | None, set[str | None]] = {}
    for run in runs:
        values.setdefault(run.get(group), set()).add(run.get(name))
    return any(len(of_option) > 1 for of_option in values.values())
