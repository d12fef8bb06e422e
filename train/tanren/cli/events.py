"""An event of a run in one line of plain words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tanren.cli.display import at, count, counted, duration, number, one_line, size

Event = Mapping[str, Any]


def describe(event: Event) -> str:
    """One line for any event, also for kinds and fields of other versions."""
    kind = str(event.get("event", "event"))
    words = _WORDS.get(kind, _any)
    return one_line(words(event))


def step_words(event: Event) -> list[str]:
    """What a step says besides its number and loss; figures that are not known are left out."""
    words = reward_words(event)
    words.append(f"learning rate {number(event.get('learning_rate'), '.3g')}")
    if event.get("tokens_per_second") is not None:
        words.append(f"{number(event.get('tokens_per_second'), ',.0f')} tokens/s")
    if event.get("mfu") is not None:
        words.append(f"MFU {number(event.get('mfu'), '.1%')}")
    if event.get("eta_seconds") is not None:
        words.append(f"{duration(event.get('eta_seconds'))} left")
    if event.get("memory_bytes") is not None:
        words.append(f"memory {size(event.get('memory_bytes'))}")
    return words


def reward_words(event: Event) -> list[str]:
    """What preference optimisation says besides the loss."""
    if event.get("reward_margin") is None:
        return []
    return [
        f"margin {number(event.get('reward_margin'), '.3f')}",
        f"preferred {number(event.get('reward_accuracy'), '.0%')}",
    ]


def _step(event: Event) -> str:
    place = f"step {event.get('step')}/{event.get('steps')}"
    epoch = f"epoch {number(event.get('epoch'), '.2f')}"
    return "  ".join([place, epoch, f"loss {number(event.get('loss'))}", *step_words(event)])


def _stage(event: Event) -> str:
    return f"{event.get('name')}: {event.get('text')}"


def _gate(event: Event) -> str:
    ledger = at(event.get("summary"), "data", "train", "ledger") or {}
    plan = at(event.get("summary"), "plan") or {}
    memory = at(event.get("summary"), "memory") or {}
    trained = (ledger.get("trained_whole") or 0) + (ledger.get("trained_cut") or 0)
    words = [
        f"gate: {count(trained)} of {count(ledger.get('source_rows'))} rows trained",
        f"{count(ledger.get('trained_cut'))} of them cut",
        f"{count(ledger.get('trained_tokens'))} of {count(ledger.get('tokens'))} tokens trained",
        f"{count(plan.get('steps'))} steps",
        f"learning rate {number(plan.get('learning_rate'), '.3g')}",
    ]
    if memory:
        words.append(
            f"memory {size(memory.get('total_bytes'))} of {size(memory.get('memory_bytes'))}"
        )
    return ", ".join(words)


def _started(event: Event) -> str:
    resumed = event.get("resumed_from")
    begin = "started" if resumed is None else f"resumed after step {resumed}"
    processes = event.get("world_size")
    words = [f"{begin} on {event.get('device')}"]
    if isinstance(processes, int) and processes > 1:
        words.append(f"{processes} processes")
    trained = at(event.get("coverage"), "trained_parameters")
    if trained is not None:
        everything = at(event.get("coverage"), "all_parameters")
        words.append(f"{count(trained)} of {count(everything)} parameters train")
    return ", ".join(words)


def _evaluation(event: Event) -> str:
    line = f"validation at step {event.get('step')}: loss {number(event.get('loss'))}"
    if event.get("token_accuracy") is not None:
        line += f", token accuracy {number(event.get('token_accuracy'), '.1%')}"
    words = [line, *reward_words(event), *metric_words(event.get("metrics"))]
    best = "best so far" if event.get("best") is True else f"best was step {event.get('best_step')}"
    if event.get("metric", "loss") != "loss":
        best += f" by {event.get('metric')}"
    if event.get("answer_seconds") is not None:
        rows = counted(event.get("metric_rows") or 0, "row")
        best += f"; {rows} answered in {duration(event.get('answer_seconds'))}"
    return ", ".join(words) + f" ({best})"


def metric_words(values: object) -> list[str]:
    """`chrF 31.2` and the like; a metric of another version has its bare name and number."""
    from tanren.evaluate.metrics import METRICS, metric_named
    from tanren.evaluate.report.wording import shown, shown_size
    from tanren.verdict import ANSWER_METRICS

    words = []
    for name, value in values.items() if isinstance(values, Mapping) else ():
        if name in METRICS and name in ANSWER_METRICS and isinstance(value, int | float | None):
            metric = metric_named(name)
            says_unit = shown_size if metric.unit in metric.title else shown
            words.append(f"{metric.title} {says_unit(value, metric.unit)}")
        else:
            words.append(f"{name} {number(value)}")
    return words


def _early_stopping(event: Event) -> str:
    return (
        f"stopped early at step {event.get('step')}: no better validation in "
        f"{event.get('patience')} evaluations, best was step {event.get('best_step')} with "
        f"{number(event.get('best'))}"
    )


def _checkpoint(event: Event) -> str:
    return f"checkpoint of step {event.get('step')}: {event.get('path')}"


def _out_of_memory(event: Event) -> str:
    return (
        f"out of memory at step {event.get('step')}: passes of "
        f"{count(event.get('micro_batch_tokens'))} tokens instead of {count(event.get('before'))}; "
        "the effective batch stays"
    )


def _proof(event: Event) -> str:
    if event.get("passed") is not True:
        failures = event.get("failures") or ["reason unknown"]
        return "proof failed: " + "; ".join(str(failure) for failure in failures)
    line = (
        f"proof passed: {event.get('tensors')} tensors reloaded from disk, logits differ by "
        f"{number(event.get('logit_difference'), '.1e')} "
        f"(tolerance {number(event.get('tolerance'), '.0e')})"
    )
    if event.get("moved_from_base") is not None:
        line += f", moved {number(event.get('moved_from_base'), '.2g')} from the base"
    return line


def _answers(event: Event) -> str:
    answers = event.get("answers") or []
    stopped = sum(at(answer, "stopped") is True for answer in answers)
    asked = counted(len(answers), "question")
    return f"answered {asked} before and after, {stopped} ended by themselves"


def _succeeded(event: Event) -> str:
    loss = at(event.get("result"), "loss") or {}
    return (
        f"succeeded: {at(event.get('result'), 'steps')} steps, loss {number(loss.get('first'))} -> "
        f"{number(loss.get('last'))}, {at(event.get('result'), 'artefact')}"
    )


def _failed(event: Event) -> str:
    faults = event.get("faults") or []
    more = f" ({len(faults)} faults)" if len(faults) > 1 else ""
    return f"failed: {event.get('error')}{more}"


def _interrupted(event: Event) -> str:
    return (
        f"interrupted: {event.get('message') or 'by a signal'}; go on with: {event.get('resume')}"
    )


def _note(event: Event) -> str:
    return f"note: {event.get('text')}"


def _any(event: Event) -> str:
    fields = [f"{key}={value}" for key, value in event.items() if key not in ("event", "time")]
    return " ".join([str(event.get("event", "event")), *fields])


_WORDS: Mapping[str, Callable[[Event], str]] = {
    "stage": _stage,
    "gate": _gate,
    "note": _note,
    "started": _started,
    "step": _step,
    "evaluation": _evaluation,
    "early_stopping": _early_stopping,
    "checkpoint": _checkpoint,
    "out_of_memory": _out_of_memory,
    "proof": _proof,
    "answers": _answers,
    "succeeded": _succeeded,
    "failed": _failed,
    "interrupted": _interrupted,
}
