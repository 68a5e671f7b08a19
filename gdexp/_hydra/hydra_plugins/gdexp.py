"""Hydra's door to our sweep. Hydra demands the name of the folder and imports this file at every start."""

from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class GdexpSweeper(Sweeper):
    """Hands a sweep to the task function, with the launcher that its packs are for.

    Args:
        params: of a study's file; they are read where the words are composed.
    """

    def __init__(self, params: Any = None) -> None:
        self._setup: dict[str, Any] = {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._setup = {"hydra_context": hydra_context, "task_function": task_function, "config": config}

    def sweep(self, arguments: list[str]) -> Any:
        def launcher(task: TaskFunction) -> Any:
            return Plugins.instance().instantiate_launcher(**{**self._setup, "task_function": task})

        return self._setup["task_function"].sweep(launcher, self._setup["config"].hydra.launcher)
