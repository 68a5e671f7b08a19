"""From overrides to jobs, through Hydra; and Hydra's refusals in one line each."""

import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from uuid import uuid4

from hydra import compose as hydra_compose
from hydra import initialize_config_dir, version
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from gdexp.config import folders, grid, secrets, sources
from gdexp.config.check import check_own
from gdexp.config.refusal import Refusal, nearest

_WHOLE = ("sweep", "hydra", "tracking")  # keys of a sweep as a whole
_HEARD = r"hydra\.(mode|sweeper\.params)\b"  # of Hydra's words, what we do ourselves
_HYDRA = threading.RLock()  # Hydra keeps its state in singletons


class Job(NamedTuple):
    """All that is needed to train one run, here or in another process."""

    config: dict[str, Any]  # resolved, in plain containers, which jobs of a sweep may share
    source: dict[str, Any]  # the same before its interpolations were resolved
    options: dict[str, str | None]  # the option chosen in each group
    name: str | None  # what was varied; None: nothing was
    sweep: str | None  # the sweep it belongs to
    number: int = 1  # in that sweep

    @property
    def label(self) -> str:
        """The job as messages name it."""
        return f"job {self.number} ({self.name})" if self.name else f"job {self.number}"


def compose(
    overrides: Sequence[str], multirun: bool = False, *, defer: bool = False, hosted: bool = False
) -> list[Job]:
    """Compose the jobs that a command line means.

    Args:
        overrides: as typed, without flags.
        multirun: as the flag `-m`.
        defer: return no job where a setting of Hydra's own, as a launcher or a callback, is for its main.
        hosted: refuse such a setting, for the process is somebody else's.

    Raises:
        Refusal: with the line that the command prints.
    """
    try:
        parsed = parse(overrides)
        with _hydra():
            whole = hydra_compose("config", _fixed(parsed), return_hydra_config=True)
            hydras = _hydras(parsed, whole.hydra)
            unheard = [line for line in hydras if not re.match(_HEARD, line.lstrip("+~"))]
            if hosted and unheard:
                raise Refusal(
                    f"`{unheard[0]}` is for the command line: launch trains in this process, in its folder; "
                    "start python -m gdexp.run for it"
                )
            if defer:
                if hydras or whole.hydra.output_subdir:
                    return []
                HydraConfig.instance().set_config(whole)  # for ${hydra:…}
            if multirun or whole.hydra.mode == RunMode.MULTIRUN:
                study = parse([f"{k}={v}" for k, v in (whole.hydra.sweeper.get("params") or {}).items()])
                typed = {o.get_key_element() for o in parsed}  # which wins over a study's own axis
                return _grid([*(o for o in study if o.get_key_element() not in typed), *parsed], _sweep(whole))
            if any(o.is_sweep_override() for o in parsed):  # Hydra refuses several values of one key
                hydra_compose("config", list(overrides), return_hydra_config=True)
            return [job(whole, whole.hydra, [o.get_key_element() for o in parsed])]
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error, overrides) from error


def _hydras(parsed: Iterable[Override], node: Any) -> list[str]:
    """Return what a command line or a study sets of Hydra's own, as KEY=VALUE."""
    typed = [str(o.input_line) for o in parsed if re.match(r"[+~]*hydra[./]", o.get_key_element())]
    launcher = str(node.launcher._target_)
    own = {
        "hydra.launcher": "" if launcher.endswith(".BasicLauncher") else launcher,
        "hydra.callbacks": node.callbacks,
        "hydra.job.env_set": node.job.env_set,
        "hydra.job.chdir": node.job.chdir,
    }
    return typed + [f"{key}={value}" for key, value in own.items() if value]


def _fixed(parsed: Iterable[Override]) -> list[str]:
    return [o.input_line for o in parsed if not o.is_sweep_override() and o.input_line]


def _grid(parsed: Sequence[Override], sweep: Any) -> list[Job]:
    """Compose every point of a sweep: by Hydra for each choice of options, by plain values on a copy of that."""
    swept = [o for o in parsed if o.is_sweep_override()]
    check_axes(o.get_key_element() for o in swept)
    fixed, identity = _fixed(parsed), uuid4().hex
    bases: dict[tuple[str, ...], Job] = {}
    jobs: list[Job] = []
    for point in grid.points(swept, sweep):
        check_axes(s.key for s in point)  # of `sweep.each`, too
        plain = [setting for setting in point if _is_plain(setting)]
        choice = tuple(f"{s.key}={s.text}" for s in point if s not in plain)
        if choice not in bases:  # with all of the words, so that Hydra refuses a key that isn't there
            words = [f"{s.key}={s.text}" for s in point]
            whole = hydra_compose("config", [*fixed, *words], return_hydra_config=True)
            bases[choice] = job(whole, whole.hydra, [])
        source = bases[choice].source
        for setting in plain:
            source = with_value(source, setting.key.lstrip("+").split("."), setting.value)
        name = _name({s.key.lstrip("+"): s.text for s in point})
        if any(secrets.is_secret(s.key) for s in point):
            secrets.learn(resolved(source), source)
        jobs.append(Job(resolved(source), source, bases[choice].options, name, identity, len(jobs) + 1))
    return jobs


def check_axes(keys: Iterable[str]) -> None:
    """Refuse to vary what a sweep has as a whole."""
    for key in keys:
        if re.split(r"[./@]", key.lstrip("+~"))[0] in _WHOLE:
            raise Refusal(f"`{key}` is one for the whole sweep and can't be swept")


def _is_plain(setting: grid.Setting) -> bool:
    """Say whether a setting replaces a value in the config, and chooses no option and merges no mapping."""
    name = setting.key.lstrip("+")
    return not (set(name) & set("/@~[") or isinstance(setting.value, dict)) and name not in sources.groups()


def with_value(node: dict[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """Return a config with one value replaced; all else is shared with the one that was given."""
    inner = node.get(path[0])
    if len(path) > 1:
        value = with_value(inner if isinstance(inner, dict) else {}, path[1:], value)
    return {**node, path[0]: value}


def resolved(source: dict[str, Any]) -> dict[str, Any]:
    """Return a config with its interpolations resolved; `check` names a value that is missing."""
    if "${" not in str(source):
        return source
    try:
        return OmegaConf.to_container(OmegaConf.create(source), resolve=True)  # type: ignore[return-value]
    except InterpolationToMissingValueError:
        return source


@contextmanager
def _hydra() -> Iterator[None]:
    """Make Hydra ready to compose, and leave it as the host had it, who may run Hydra too."""
    sources.register()
    with _HYDRA:
        state = GlobalHydra.instance()
        host, base = state.hydra, version.getbase()
        state.clear()
        try:
            with initialize_config_dir(str(folders.conf_dir()), version_base="1.3"):
                yield
        finally:
            GlobalHydra.instance().hydra = host
            VersionBase.instance().version_base = base


def parse(overrides: Sequence[str]) -> list[Override]:
    """Parse overrides by Hydra's grammar, without the two that would leave a hyperparameter to chance.

    Raises:
        Refusal: names the override.
    """
    try:
        return _parsed(overrides)
    except HydraException as error:
        raise explain(error, overrides) from error


def _parsed(overrides: Sequence[str]) -> list[Override]:
    parsed = grid.parser().parse_overrides(list(overrides))
    for override in parsed:
        group = override.get_key_element()
        if override.is_delete() and "." in group and not group.startswith("~hydra."):
            raise Refusal(f"`{override.input_line}`: a key can't be taken away; give it a value")
        if group in sources.groups() and group != folders.STUDIES and override.value() is None:
            raise Refusal(f"`{override.input_line}`: choose from {', '.join(sources.options(group))}")
    return parsed


def job(config: DictConfig, hydra: Any, varied: Iterable[str], sweep: str | None = None) -> Job:
    """Make the job of a composed config.

    Args:
        config: composed, with or without its `hydra` node.
        hydra: that node.
        varied: the keys of the overrides that make up the job's name.
        sweep: id of the sweep, if any.
    """
    config = OmegaConf.masked_copy(config, [k for k in map(str, config) if k != "hydra"])
    source: Any = OmegaConf.to_container(config, resolve=False)
    options = {k: v for k, v in hydra.runtime.choices.items() if not k.startswith("hydra/")}
    task: Any = OmegaConf.to_container(hydra.overrides.task, resolve=False)  # an ${oc.env:…} stays one
    typed = dict(o.split("=", 1) for o in task if "=" in o)
    values = {k.lstrip("+"): typed[k] for k in varied if k in typed}
    now = resolved(source)
    secrets.learn(now, source)
    return Job(now, source, options, _name(values), sweep)


def _name(values: dict[str, str]) -> str | None:
    """Return `lr=0.01 seed=3` for {"optimizer.lr": "0.01", "seed": "3"}."""
    hidden = ("tracking", "hydra", "sweep")
    values = {k: v for k, v in values.items() if k.partition(".")[0].partition("/")[0] not in hidden}
    ends = [k.rpartition(".")[2] for k in values]
    short = {k: e if ends.count(e) == 1 and not e.startswith("_") else k for k, e in zip(values, ends, strict=True)}
    name = " ".join(secrets.word(f"{short[k]}={v}") for k, v in values.items())
    return (name if len(name) <= 200 else name[:199] + "…") or None  # MLflow's column takes 250


def explain(error: Exception, overrides: Sequence[str]) -> Refusal:
    """Return a refusal of Hydra's as one line of ours, naming what was typed."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        if group in sources.groups():
            return Refusal(f"`{group}={name}` is not an option{nearest(name, sources.options(group))}")
    if isinstance(error, OverrideParseException):
        reason = error.__cause__ if isinstance(error.__cause__, ValueError) else str(error).splitlines()[0].strip()
        return Refusal(f"`{error.override}` is not an override: {reason}")
    try:
        parsed = _parsed(overrides)
    except HydraException:
        return Refusal(str(error))
    for override in parsed:
        if override.is_sweep_override() and "Ambiguous value" in str(error):
            line = override.input_line
            return Refusal(f"`{line}` gives several values: add -m to sweep over them, or [ ] to make them a list")
    if bad := re.search(r"Could not override '([^']+)'", str(error)):
        chosen = [o.input_line or "" for o in parsed if o.get_key_element() in sources.groups()]
        return _unknown_key(bad[1], chosen)
    if "Multiple values for" in str(error) or "appears more than once" in str(error):
        return Refusal(str(error).splitlines()[0])
    if bad := re.search(r"Could not override '([^'=]+)=([^']*)'", str(error)):
        return Refusal(f"`{bad[1]}` is not a group{nearest(bad[1], sources.groups())}")
    return Refusal(str(error.__cause__ or error).split("full_key")[0])


def _unknown_key(key: str, chosen: list[str]) -> Refusal:
    """Return the line for a key that the config lacks, with the nearest one that it has."""
    with _hydra():
        known = keys(OmegaConf.to_container(hydra_compose("config", chosen), resolve=False))  # type: ignore[arg-type]
    folder, _, name = key.rpartition(".")
    if any(k.startswith(f"{folder}.") for k in known):
        known = [k for k in known if k.startswith(f"{folder}.")]
        ends = {k.rpartition(".")[2] for k in known}
        hint = nearest(name, ends).replace("mean `", f"mean `{folder}.")
    else:
        hint = nearest(key, known) if "did you mean" in nearest(key, known) else ""
    return Refusal(f"`{key}` is not a key{hint}")


def keys(config: Mapping[str, Any]) -> list[str]:
    """Return the dotted names of a config's leaves."""
    names: list[str] = []
    for name, value in config.items():
        names += [f"{name}.{inner}" for inner in keys(value)] if isinstance(value, Mapping) and value else [str(name)]
    return names


def _sweep(whole: DictConfig) -> dict[str, Any]:
    """Return the checked `sweep` node."""
    node: Any = OmegaConf.to_container(whole.sweep, resolve=True)
    check_own("sweep", node)
    return node
