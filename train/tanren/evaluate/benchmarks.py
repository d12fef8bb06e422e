"""Benchmarks of lm-eval (EleutherAI's language model evaluation harness) on a model in memory.

Tasks are lm-eval's own, or YAML files of the user's in the same form. Their data is read from disk
alone: nothing is fetched unless HF_DATASETS_OFFLINE=0 is set. lm-eval is imported when it is asked
for; this file needs neither it nor torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from importlib.metadata import version
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tanren import privacy
from tanren.errors import ConfigError, Fault
from tanren.evaluate.report.data import MeasuredMetric, MeasuredValue
from tanren.evaluate.settings import BenchmarkConfig
from tanren.strict_json import close_match

if TYPE_CHECKING:
    from tanren.evaluate.answering import LocalModel, OnProgress

NAME_PREFIX = "lm_eval"
_Z95 = 1.959963984540054
_SHARES = frozenset(
    {"acc", "acc_norm", "acc_bytes", "acc_mutual_info", "acc_all", "exact_match", "em", "f1"}
    | {"match", "contains"}
)
_SHARE_WORDS = ("_acc", "_em", "_f1", "_match")
_POINTS = frozenset({"bleu", "chrf", "chrfpp", "ter"})


@dataclass(frozen=True, slots=True)
class BenchmarkResult:
    """A task's or group's value of one metric. `filter` says how answers were read ("none": as they
    are). `stderr`: lm-eval's standard error, None where it has none. `rows`: documents asked, None
    for groups that lm-eval does not count.
    """

    task: str
    metric: str
    filter: str
    value: float
    stderr: float | None
    higher_is_better: bool | None
    rows: int | None
    version: str | None
    few_shot: int | None

    @property
    def name(self) -> str:
        """Of its column: lm_eval:TASK:METRIC, with the filter where there is one."""
        parts = [NAME_PREFIX, self.task, self.metric]
        return ":".join(parts if self.filter == "none" else [*parts, self.filter])

    @property
    def title(self) -> str:
        how = self.metric if self.filter == "none" else f"{self.metric}, {self.filter}"
        return f"{self.task} ({how})"

    @property
    def unit(self) -> str:
        """`share` and `points` for the metrics known to be such; else empty."""
        if self.metric in _POINTS:
            return "points"
        known = self.metric in _SHARES or self.metric.endswith(_SHARE_WORDS)
        return "share" if known or self.metric.startswith("pass@") else ""

    @property
    def interval(self) -> tuple[float | None, float | None]:
        """95%, by the normal approximation, within what is possible. None without a standard error,
        and where it is zero: answers that are all alike do not tell how sure they are.
        """
        if not self.stderr:
            return None, None
        low, high = self.value - _Z95 * self.stderr, self.value + _Z95 * self.stderr
        if self.unit in ("share", "points"):
            low, high = max(low, 0.0), min(high, 1.0) if self.unit == "share" else high
        return low, high

    def measured(self) -> MeasuredValue:
        low, high = self.interval
        details = {
            "stderr": self.stderr,
            "interval": "normal approximation with lm-eval's standard error",
            "version": self.version,
            "few_shot": self.few_shot,
        }
        return MeasuredValue(self.value, low, high, self.rows, details)


@dataclass(frozen=True, slots=True)
class Benchmarks:
    """What lm-eval measured of one model. `shortened`: requests whose beginning was cut because
    they do not fit the model's context.
    """

    results: tuple[BenchmarkResult, ...]
    lm_eval: str
    """Its version."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    shortened: int = 0

    @property
    def notes(self) -> tuple[str, ...]:
        if not self.shortened:
            return ()
        return (f"benchmarks: {self.shortened:,} requests lost their beginning (too long)",)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """From `as_dict`."""
        results = tuple(BenchmarkResult(**one) for one in values["results"])
        return cls(**{**values, "results": results})


def benchmark_metrics(
    found: Mapping[str, Benchmarks], models: Sequence[str]
) -> tuple[MeasuredMetric, ...]:
    """The results as metrics that stand in the table of all `models`; nothing for models that are
    not in `found`.
    """
    by_name: dict[str, dict[str, BenchmarkResult]] = {}
    for model, benchmarks in found.items():
        for one in benchmarks.results:
            by_name.setdefault(one.name, {})[model] = one
    nothing = MeasuredValue(None, rows=0)
    metrics = []
    for name, results in by_name.items():
        first = next(iter(results.values()))
        values = {m: results[m].measured() if m in results else nothing for m in models}
        metrics.append(
            MeasuredMetric(name, first.title, first.unit, first.higher_is_better, values)
        )
    return tuple(metrics)


# --- running --------------------------------------------------------------------------------------


def ensure_benchmarks(config: BenchmarkConfig) -> None:
    """ConfigError for a missing package, unknown tasks and data that is not on disk, all at once;
    before any model is loaded. Nothing where no task is asked for.
    """
    if config.tasks:
        _imported()
        from tanren.evaluate.benchmark_tasks import load_tasks

        load_tasks(config.tasks, _folder(config.include))


def run_benchmarks(
    local: LocalModel,
    tasks: Sequence[str],
    *,
    limit: int | None = None,
    few_shot: int | None = None,
    chat: bool = True,
    batch_size: int = 16,
    include_path: Path | None = None,
    on_progress: OnProgress | None = None,
) -> Benchmarks:
    """lm-eval's `tasks` (names of tasks, groups or tags) on the model as it is in memory.

    `limit`: documents of each task. `few_shot`: examples before each, where the task does not fix
    them. `chat`: prompts are put into the model's chat template, examples as turns of their own.
    `include_path`: a folder with more tasks. Raises ConfigError as `ensure_benchmarks` does, and
    for tasks that this model cannot answer; OutOfMemoryError.
    """
    _imported()
    from tanren.evaluate.benchmark_model import answered
    from tanren.evaluate.benchmark_tasks import load_tasks

    loaded = load_tasks(tasks, include_path)
    settings = {
        "tasks": list(tasks), "limit": limit, "few_shot": few_shot, "chat_template": chat,
        "batch_size": batch_size, "include": str(include_path) if include_path else None,
    }  # fmt: skip
    done, shortened = answered(
        local, loaded, limit=limit, few_shot=few_shot, chat=chat, batch_size=batch_size,
        on_progress=on_progress,
    )  # fmt: skip
    return Benchmarks(tuple(results_of(done)), _version(), settings, shortened)


def benchmarks_of(
    local: LocalModel, config: BenchmarkConfig, *, on_progress: OnProgress | None = None
) -> Benchmarks:
    """`run_benchmarks` as the settings say."""
    return run_benchmarks(
        local,
        config.tasks,
        limit=config.limit,
        few_shot=config.few_shot,
        chat=config.chat_template,
        batch_size=config.batch_size,
        include_path=_folder(config.include),
        on_progress=on_progress,
    )


def benchmarks_key(config: BenchmarkConfig) -> str:
    """Changes with everything but the model that a result depends on."""
    folder = _folder(config.include)
    files = sorted(f for f in folder.rglob("*") if f.is_file()) if folder is not None else []
    digests = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
    return f"{_version()} {config.model_dump_json()} {digests}"


def _folder(include: str | None) -> Path | None:
    return Path(include) if include is not None else None


def _imported() -> None:
    """ConfigError where lm-eval, or a package that it needs, is not installed."""
    privacy.apply()
    try:
        import_module("lm_eval.tasks")
    except ImportError as error:
        remedy = 'pip install "tanren[lm-eval]"'
        raise ConfigError.of(Fault("--lm-eval", str(error), "lm-eval", remedy)) from None


def _version() -> str:
    return version("lm_eval")


def results_of(done: Mapping[str, Any]) -> list[BenchmarkResult]:
    """From lm-eval's own table: `METRIC,FILTER` and `METRIC_stderr,FILTER` by task or group.
    Values that are no numbers are left out: groups without a mean have blanks.
    """
    found = []
    for task, values in {**done["results"], **done.get("groups", {})}.items():
        for key, value in values.items():
            metric, comma, how = key.partition(",")
            if not comma or metric.endswith("_stderr") or not _is_number(value):
                continue
            stderr = values.get(f"{metric}_stderr,{how}")
            edition = done["versions"].get(task)
            found.append(
                BenchmarkResult(
                    task=task,
                    metric=metric,
                    filter=how,
                    value=float(value),
                    stderr=float(stderr) if _is_number(stderr) else None,
                    higher_is_better=done["higher_is_better"].get(task, {}).get(metric),
                    rows=_rows(task, values, done),
                    version=None if edition is None else str(edition),
                    few_shot=done["n-shot"].get(task),
                )
            )
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _rows(task: str, values: Mapping[str, Any], done: Mapping[str, Any]) -> int | None:
    counted = done["n-samples"].get(task)
    rows: Any = counted["effective"] if counted else values.get("sample_len")
    return int(rows) if _is_number(rows) else None


def unknown_task(name: str, known: Sequence[str]) -> Fault:
    near = close_match(name, known)
    remedy = f"did you mean {near!r}?" if near else "list them with `lm-eval ls tasks`"
    expected = "a task, group or tag of lm-eval, or one in --lm-eval-include"
    return Fault("--lm-eval", repr(name), expected, remedy)
