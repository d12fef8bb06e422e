"""What judges think of the answers.

A judge's YAML file holds an endpoint's settings (or `local: MODEL`, one on this machine) and

    name: careful              # in results; without it the model's name
    prompt: rubric.ja          # a ready prompt or a YAML file, or a list of them

Judges that are asked the same prompt stand together, with their agreement.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tanren.config import read_yaml
from tanren.endpoint import EndpointConfig, Journal, Ledger, ReplyCache
from tanren.endpoint.checked import checked
from tanren.errors import ConfigError, Fault, UserError
from tanren.evaluate.answered import Answered
from tanren.evaluate.folder import EvaluationFolder
from tanren.evaluate.judges import (
    Judge,
    JudgePrompt,
    Judging,
    PairJudging,
    judge_at,
    judge_pairs,
    judge_rows,
    load_prompt,
)
from tanren.evaluate.judges.record import Judgement, read_judgements
from tanren.evaluate.judges.scale import Mode
from tanren.evaluate.metrics.base import RowMetric
from tanren.evaluate.named_models import read_model
from tanren.evaluate.report.data import Agreement, Opinion
from tanren.evaluate.settings import StatisticsConfig
from tanren.evaluate.statistics import interval_of
from tanren.rundir import read_json, write_json

ALPHA = "Krippendorff's alpha"
LOCAL_TOKENS = 512
"""Most tokens of a local judge's reply, where its file says nothing."""


@dataclass(frozen=True)
class JudgeFile:
    """One judge as its file describes it: behind an endpoint, or a model on this machine."""

    source: str
    name: str
    prompts: tuple[JudgePrompt, ...]
    endpoint: EndpointConfig | None = None
    local: str | None = None
    max_tokens: int = LOCAL_TOKENS


Judges = tuple[JudgeFile, ...]
OpenLocal = Callable[[JudgeFile], Judge]
"""A judge on this machine, from its file; the caller knows how models are loaded."""


@dataclass(frozen=True)
class Opinions:
    opinions: tuple[Opinion, ...] = ()
    agreements: tuple[Agreement, ...] = ()
    notes: tuple[str, ...] = ()


def read_judges(files: Sequence[str]) -> Judges:
    """ConfigError with the faults of all files."""
    found: list[JudgeFile] = []
    faults: list[Fault] = []
    for file in files:
        try:
            found.append(_read_judge(Path(file)))
        except UserError as error:
            faults += error.faults
    names = [judge.name for judge in found]
    for name in sorted({name for name in names if names.count(name) > 1}):
        faults.append(Fault("--judge", f"two judges {name!r}", "names that differ", "add a name"))
    if faults:
        raise ConfigError.of(*faults)
    return tuple(found)


def _read_judge(path: Path) -> JudgeFile:
    values = dict(read_yaml(path))
    source = str(path)
    asked = values.pop("prompt", None)
    prompts = tuple(load_prompt(_beside(path, str(p))) for p in _listed(asked))
    if not prompts:
        remedy = "add prompt: rubric.en, or another ready prompt or file"
        raise ConfigError.of(Fault(f"{source} prompt", "nothing", "what to ask", remedy))
    name, local = values.pop("name", None), values.pop("local", None)
    if local is None:
        endpoint = checked(EndpointConfig, values, source=source)
        endpoint.ensure_allowed(source)
        endpoint.api_key(source)
        return JudgeFile(source, str(name or endpoint.model), prompts, endpoint)
    tokens = values.pop("max_tokens", LOCAL_TOKENS)
    if values or not isinstance(tokens, int) or tokens < 1:
        found = ", ".join(values) or repr(tokens)
        expected = "beside local: name, prompt, and max_tokens of at least 1"
        raise ConfigError.of(Fault(source, found, expected, "remove the rest"))
    model = read_model(str(local))
    if not model.is_local:
        remedy = "write base_url and model for an endpoint"
        raise ConfigError.of(Fault(f"{source} local", repr(local), "a model to load", remedy))
    return JudgeFile(source, str(name or model.name), prompts, local=str(local), max_tokens=tokens)


def _listed(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def _beside(path: Path, name: str) -> str:
    """A prompt file is looked for beside the judge's own file first."""
    near = path.parent / name
    return str(near) if name.endswith((".yaml", ".yml")) and near.is_file() else name


# --- judging --------------------------------------------------------------------------------------


def judged(
    files: Judges,
    answers: Mapping[str, Sequence[Answered]],
    folder: EvaluationFolder,
    settings: StatisticsConfig,
    *,
    reference: str | None,
    open_local: OpenLocal,
    tell: Callable[..., None],
) -> Opinions:
    """Every prompt's judges on every model; pairs against `reference`. What was judged before is in
    the folder's journal and not asked again.
    """
    found = Opinions()
    if not files:
        return found
    judgings: list[dict[str, Any]] = []
    with ExitStack() as files_open:
        journal = files_open.enter_context(folder.judgements())
        opened = {file.name: _opened(file, folder, open_local, files_open) for file in files}
        for prompt, asked in _by_prompt(files).items():
            names = ", ".join(file.name for file in asked)
            tell("stage", name="judge", text=f"{names} judge by {prompt.name}")
            judges = [opened[file.name] for file in asked]
            if prompt.mode == "pairwise":
                each = _judge_pairs(prompt, judges, answers, reference, journal)
            else:
                each = _judge_rows(prompt, judges, answers, journal)
            if not each:
                words = f"{prompt.name}: there is no second model to compare with"
                found = replace(found, notes=(*found.notes, words))
            judgings += [_remembered(judging) for judging in each]
            new = _opinions(each, answers, settings)
            found = Opinions(
                found.opinions + new.opinions,
                found.agreements + new.agreements,
                found.notes + new.notes,
            )
    write_json(folder.judgings_file, judgings)
    return found


def _by_prompt(files: Judges) -> dict[JudgePrompt, list[JudgeFile]]:
    found: dict[str, tuple[JudgePrompt, list[JudgeFile]]] = {}
    for file in files:
        for prompt in file.prompts:
            found.setdefault(prompt.sha256, (prompt, []))[1].append(file)
    return dict(found.values())


def _opened(
    file: JudgeFile, folder: EvaluationFolder, open_local: OpenLocal, files_open: ExitStack
) -> Judge:
    """The judge; what it costs is counted over all that it is asked."""
    if file.endpoint is None:
        return open_local(file)
    spending = files_open.enter_context(folder.spending(f"judge-{file.name}"))
    ledger = Ledger(file.endpoint.budget, file.endpoint.prices, spending)
    return judge_at(file.endpoint, name=file.name, cache=ReplyCache(), ledger=ledger)


def _judge_rows(
    prompt: JudgePrompt,
    judges: Sequence[Judge],
    answers: Mapping[str, Sequence[Answered]],
    journal: Journal,
) -> list[Judging | PairJudging]:
    return [
        judge_rows(rows, prompt, judges, journal, model=model) for model, rows in answers.items()
    ]


def _judge_pairs(
    prompt: JudgePrompt,
    judges: Sequence[Judge],
    answers: Mapping[str, Sequence[Answered]],
    reference: str | None,
    journal: Journal,
) -> list[Judging | PairJudging]:
    if reference is None:
        return []
    others = answers[reference]
    return [
        judge_pairs(rows, others, prompt, judges, journal, model=model, against=reference)
        for model, rows in answers.items()
        if model != reference
    ]


def _opinions(
    judgings: Sequence[Judging | PairJudging],
    answers: Mapping[str, Sequence[Answered]],
    settings: StatisticsConfig,
) -> Opinions:
    opinions: list[Opinion] = []
    agreements: list[Agreement] = []
    notes: list[str] = []
    for judging in judgings:
        notes += _notes(judging)
        for criterion in judging.prompt.criteria:
            rows = answers[judging.model]
            opinions.append(_opinion(judging, criterion.name, rows, settings))
            agreements += _agreements(judging, criterion.name)
    return Opinions(tuple(opinions), tuple(agreements), tuple(notes))


def _remembered(judging: Judging | PairJudging) -> dict[str, Any]:
    """What finds its judgements in the journal again."""
    return {
        "prompt": judging.prompt.model_dump(mode="json"),
        "model": judging.model,
        "against": judging.against if isinstance(judging, PairJudging) else None,
        "judges": list(judging.judges),
        "keys": sorted({one.key for one in judging.judgements}),
    }


def judgings_of(folder: EvaluationFolder) -> list[Judging | PairJudging]:
    """What judges said in an earlier evaluation; empty where none were asked."""
    if not folder.judgings_file.is_file():
        return []
    with folder.judgements() as journal:
        every = read_judgements(journal.records)
    return [_recalled(values, every) for values in read_json(folder.judgings_file)]


def _recalled(values: Mapping[str, Any], every: Sequence[Judgement]) -> Judging | PairJudging:
    prompt = checked(JudgePrompt, values["prompt"], source="judgings.json")
    keys, model, judges = set(values["keys"]), values["model"], tuple(values["judges"])
    latest = {(o.judge, o.key, o.row, o.place): o for o in every if o.model == model}
    found = tuple(one for one in latest.values() if one.key in keys)
    if values["against"] is None:
        return Judging(prompt, model, judges, found, len(found), 0, {})
    return PairJudging(prompt, model, values["against"], judges, found, len(found), 0, {})


def _bias(judging: PairJudging, criterion: str) -> float | None:
    """How much more often the first place wins than the second, over all judges, as a share."""
    found = [judging.position_bias(criterion, judge) for judge in judging.judges]
    first, second = sum(b.first for b in found), sum(b.second for b in found)
    return (first - second) / (first + second) if first + second else None


def _opinion(
    judging: Judging | PairJudging,
    criterion: str,
    rows: Sequence[Answered],
    settings: StatisticsConfig,
) -> Opinion:
    values = judging.values(criterion)
    bias = _bias(judging, criterion) if isinstance(judging, PairJudging) else None
    one = opinion_of(values, rows, judging.prompt.mode, settings)
    return replace(
        one,
        name=" + ".join(judging.judges),
        model=judging.model,
        criterion=criterion,
        position_bias=bias,
    )


def opinion_of(
    values: Mapping[int, float], rows: Sequence[Answered], mode: Mode, settings: StatisticsConfig
) -> Opinion:
    """The mean of what was said, by row, with its interval. Names are the caller's to add."""
    unit = {"likert": "likert", "score": "points"}.get(mode, "share")
    metric = _Given(values, unit)
    interval = interval_of(rows, metric, seed=settings.seed, resamples=settings.resamples)
    return Opinion(
        source="judge",
        name="",
        model="",
        criterion="",
        unit=unit,
        value=metric.value(rows),
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        rows=len(values),
        excluded=len(rows) - len(values),
    )


class _Given(RowMetric):
    """Values that are there already, by row, so that they get an interval like any metric."""

    name = "opinion"
    title = "Opinion"
    needs_reference = False

    def __init__(self, values: Mapping[int, float], unit: str) -> None:
        self.unit = unit
        self._values = values

    def measure(self, row: Answered) -> float | None:
        return self._values.get(row.row)


def _agreements(judging: Judging | PairJudging, criterion: str) -> list[Agreement]:
    found = judging.agreement(criterion)
    if found is None:
        return []
    between = f"{' and '.join(judging.judges)} on {judging.model}"
    return [Agreement(between, criterion, ALPHA, found.alpha, found.units)]


def _notes(judging: Judging | PairJudging) -> list[str]:
    model = judging.model
    notes = [f"{judge} on {model}: {why}" for judge, why in judging.stopped.items()]
    failed = sum(one.status == "failed" for one in judging.judgements)
    unreadable = sum(one.status == "unparsable" for one in judging.judgements)
    if failed or unreadable:
        notes.append(
            f"judgements of {model} left out: {failed} failed, {unreadable} could not be read"
        )
    return notes
