"""lm-eval's tasks with their data, from disk. Imported only where lm-eval is installed."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import yaml
from datasets.exceptions import DatasetsError
from lm_eval.tasks import TaskManager

from tanren.errors import ConfigError, Fault
from tanren.evaluate.benchmarks import unknown_task

_UNREADABLE = (
    ValueError, LookupError, TypeError, AttributeError, AssertionError, DatasetsError,
    yaml.YAMLError,
)  # fmt: skip
"""What a task's YAML, its functions and its data may raise while they are read."""
_ONLINE = "HF_DATASETS_OFFLINE=0"


def load_tasks(names: Sequence[str], include: Path | None) -> dict[str, Any]:
    """lm-eval's tasks and groups by name, with their data. ConfigError with every fault."""
    if include is not None and not include.is_dir():
        fault = Fault("--lm-eval-include", str(include), "a folder", "name the tasks' folder")
        raise ConfigError.of(fault)
    with _from_disk(), quiet():
        manager = _manager(names, include)
        found: list[Any] = []
        faults: list[Fault] = []
        for name in names:
            try:
                found += _loaded(manager, name)
            except ConfigError as error:
                faults += error.faults
        if faults:
            raise ConfigError.of(*faults)
        loaded: dict[str, Any] = manager.load(found)
    _require_usable(loaded["tasks"])
    return loaded


def _manager(names: Sequence[str], include: Path | None) -> TaskManager:
    """lm-eval's own ten thousands of tasks take seconds to list: only where they are needed."""
    if include is not None:
        alone = TaskManager(include_path=str(include), include_defaults=False)
        if set(names) <= set(alone.all_tasks):
            return alone
    return TaskManager(include_path=str(include) if include is not None else None)


def _loaded(manager: TaskManager, name: str) -> list[Any]:
    """The task or group, or a tag's tasks."""
    if name not in manager.task_index:
        raise ConfigError.of(unknown_task(name, manager.all_tasks))
    where = f"--lm-eval {name}"
    try:
        done = manager.load([name])
    except ImportError as error:
        remedy = f"pip install {error.name or 'it'}"
        fault = Fault(where, str(error), "the packages that the task needs", remedy)
    except OSError as error:
        remedy = f"check its path; data of the hub is fetched once with {_ONLINE} set"
        fault = Fault(where, _first_line(error), "the task's data on this disk", remedy)
    except _UNREADABLE as error:
        remedy = f"mend the task; data of the hub is fetched once with {_ONLINE} set"
        found = f"{type(error).__name__}: {_first_line(error)}"
        fault = Fault(where, found, "a task with its data", remedy)
    else:
        groups = done.get("groups") or {}
        children = {child for names in done.get("group_map", {}).values() for child in names}
        tops = [group for key, group in groups.items() if key not in children]
        return tops or list(done["tasks"].values())
    raise ConfigError.of(fault)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _require_usable(tasks: dict[str, Any]) -> None:
    """Tasks that run code which a model wrote are refused, and those that show pictures."""
    faults = []
    for name, task in tasks.items():
        where = f"--lm-eval {name}"
        if getattr(task, "UNSAFE_CODE", False):
            expected = "a task that does not run what the model writes"
            faults.append(Fault(where, "it runs code of the model's", expected, "leave it"))
        if getattr(task, "MULTIMODAL", False):
            faults.append(Fault(where, "pictures or sound", "a task of text alone", "leave it"))
    if faults:
        raise ConfigError.of(*faults)


@contextlib.contextmanager
def _from_disk() -> Iterator[None]:
    """Nothing is looked up on the hub meanwhile, unless the environment allows it by name."""
    settings = datasets.config
    allowed = os.environ.get("HF_DATASETS_OFFLINE", "").lower() in ("0", "false", "no", "off")
    before, bars = settings.HF_HUB_OFFLINE, datasets.are_progress_bars_disabled()
    settings.HF_HUB_OFFLINE = before or not allowed
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        settings.HF_HUB_OFFLINE = before
        if not bars:
            datasets.enable_progress_bars()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """lm-eval's chatter off; what it prints never mixes with a document on stdout."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(before)
