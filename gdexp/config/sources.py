"""Where the YAML files are: our `conf/` and `experiments/`, then those of the current directory.

Hydra asks its sources in order and takes the first that has an option, so a user's folders come
last: they add options and never change the meaning of ours.
"""

import atexit
import importlib
import os
import sys
import tempfile
from functools import cache
from pathlib import Path

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from gdexp.config.folders import STUDIES, conf_dir, studies_dir, user_dirs


def unused() -> list[str]:
    """Return the user's files that our own of the same name hide, as paths below the current directory."""
    hidden = []
    for folder in user_dirs():
        ours = studies_dir() if folder.name == STUDIES else conf_dir()
        hidden += [p for p in sorted(folder.rglob("*.yaml")) if (ours / p.relative_to(folder)).is_file()]
    return [str(p.relative_to(Path.cwd())) for p in hidden]


def options(group: str) -> list[str]:
    """Return the names that may be chosen in a group, ours and the user's."""
    folders = [studies_dir().parent, Path.cwd()] if group == STUDIES else [conf_dir(), Path.cwd() / "conf"]
    return sorted({p.stem for folder in folders for p in (folder / group).glob("*.yaml")})


def groups() -> list[str]:
    """Return the names of the groups."""
    return [*_folders(), STUDIES]


@cache
def _folders() -> list[str]:
    return sorted(p.name for p in conf_dir().iterdir() if p.is_dir())


@cache
def register() -> None:
    """Make our sources known to Hydra in this process."""
    Plugins.instance().register(_StudySource)
    Plugins.instance().register(_SearchPath)
    OmegaConf.register_new_resolver("gdexp.scratch", _scratch, replace=True)
    sweeper = {"_target_": "hydra_plugins.gdexp.GdexpSweeper", "params": None}
    ConfigStore.instance().store("gdexp", sweeper, group="hydra/sweeper", provider="gdexp")


def register_sweeper() -> None:
    """Make our sweeper known to Hydra in this process, and in those that its launchers start."""
    folder = str(Path(__file__).resolve().parents[1] / "_hydra")
    sys.path.append(folder)
    there = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [there, folder]))
    module = importlib.import_module("hydra_plugins.gdexp")
    Plugins.instance().register(module.GdexpSweeper)


@cache
def _scratch() -> str:
    """Return a folder that lives as long as this process."""
    folder = tempfile.TemporaryDirectory(prefix="gdexp-")
    atexit.register(folder.cleanup)
    return folder.name


class _SearchPath(SearchPathPlugin):
    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("gdexp-studies", f"group://{studies_dir()}")
        for folder in user_dirs():
            scheme = "group" if folder.name == STUDIES else "file"
            search_path.append(f"user-{folder.name}", f"{scheme}://{folder}")


class _StudySource(FileConfigSource):
    """`group:///path/experiments` shows the files of that folder as the config group `experiments`."""

    @staticmethod
    def scheme() -> str:
        return "group"

    def _inside(self, config_path: str) -> str | None:
        """Return the path below the folder, "" for the folder itself, None for another group."""
        group, _, rest = config_path.replace(os.sep, "/").strip("/").partition("/")
        return rest if group == STUDIES else None

    def load_config(self, config_path: str) -> ConfigResult:
        if not (inside := self._inside(config_path)):
            raise ConfigLoadError(f"Config not found: {config_path}")
        return super().load_config(inside)

    def is_group(self, config_path: str) -> bool:
        inside = self._inside(config_path)
        return config_path == "" or (inside is not None and super().is_group(inside))

    def is_config(self, config_path: str) -> bool:
        inside = self._inside(config_path)
        return inside is not None and inside != "" and super().is_config(inside)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        if config_path == "":
            return [] if results_filter == ObjectType.CONFIG else [STUDIES]
        if (inside := self._inside(config_path)) is None:
            return []
        found: list[str] = []
        # FileConfigSource.list would drop the group's name, and --help show nothing
        for name in os.listdir(os.path.join(self.path, inside)):
            self._list_add_result(found, f"{config_path}/{name}", name, results_filter)
        return sorted(set(found))
