"""Answers of another evaluation: taken where they would be the same, and only there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
from evaluate.evaluating import Tuned, records, run, untimed

from tanren.errors import RunError
from tanren.evaluate.answered import Answered
from tanren.evaluate.folder import EvaluationFolder
from tanren.evaluation import Evaluated

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tiny.write_rows(tmp_path / "test.jsonl", 6)


def journal(done: Evaluated, model: str) -> dict[str, dict[str, Any]]:
    """Records by key, without where they were taken from."""
    found = records(EvaluationFolder(done.folder.path).path / "answers" / f"{model}.jsonl")
    assert len({record["key"] for record in found}) == len(found), "nothing twice"
    return {r["key"]: {k: v for k, v in r.items() if k != "taken_from"} for r in found}


def taken(done: Evaluated, model: str) -> int:
    found = records(done.folder.path / "answers" / f"{model}.jsonl")
    return sum("taken_from" in record for record in found)


def rows(done: Evaluated, model: str) -> list[Answered]:
    return untimed(done.evaluation.answers[model])


def test_a_base_is_asked_once(tuned: Tuned, data: Path, tmp_path: Path) -> None:
    """The second evaluation has the base's answers and losses with the times of the first: nothing
    was asked. Its journal stands alone, and the tuned model of another name is asked.
    """
    words = (f"base={tuned.run}@base", f"one={tuned.run}")
    first = run(*words, data=data, out=tmp_path / "first", reference="base")
    assert taken(first, "base") == 0
    words = (f"base={tuned.run}@base", f"two={tuned.run}")
    options = {"data": data, "reference": "base", "answers_from": [str(tmp_path / "first")]}
    second = run(*words, out=tmp_path / "second", **options)
    assert journal(second, "base") == journal(first, "base")
    assert len(journal(second, "base")) == 12 == taken(second, "base")
    assert taken(second, "two") == 0 and len(journal(second, "two")) == 12
    assert rows(second, "base") == rows(first, "base")
    assert [note for note in second.evaluation.notes if "12 answers" in note and "base" in note]
    values = [
        {metric.name: metric.values["base"].value for metric in done.evaluation.metrics}
        for done in (first, second)
    ]
    for name in values[0].keys() - {"latency", "tokens_per_second"}:
        assert values[0][name] == values[1][name], name

    shutil.rmtree(tmp_path / "first")
    options["answers_from"] = []
    again = run(*words, out=tmp_path / "second", resume=True, **options)
    assert rows(again, "base") == rows(second, "base"), "it stands alone, and is the same request"
    assert [note for note in again.evaluation.notes if "12 answers" in note], "still told"


def test_only_what_is_lacking_is_asked(tuned: Tuned, data: Path, tmp_path: Path) -> None:
    word = f"base={tuned.run}@base"
    run(word, data=data, out=tmp_path / "few", reference="none", limit=2)
    options: dict[str, Any] = {"data": data, "reference": "none"}
    more = run(word, out=tmp_path / "more", answers_from=[str(tmp_path / "few")], **options)
    alone = run(word, out=tmp_path / "alone", **options)
    assert taken(more, "base") == 4 and len(journal(more, "base")) == 12
    assert [row.answer for row in rows(more, "base")] == [row.answer for row in rows(alone, "base")]


def test_nothing_is_taken_that_could_differ(tuned: Tuned, data: Path, tmp_path: Path) -> None:
    """Another model of the name, another name, other decoding: all is asked anew."""
    run(f"base={tuned.run}@base", data=data, out=tmp_path / "a", reference="none")
    cases: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("base", f"base={tuned.run}", {}),
        ("other", f"other={tuned.run}@base", {}),
        ("base", f"base={tuned.run}@base", {"decoding": {"max_new_tokens": 5}}),
    )
    for number, (name, word, options) in enumerate(cases):
        done = run(
            word, data=data, out=tmp_path / f"b{number}", reference="none",
            answers_from=[str(tmp_path / "a")], **options,
        )  # fmt: skip
        assert taken(done, name) == 0 and len(journal(done, name)) == 12


def test_general_answers_of_another_length_are_not_taken(
    tuned: Tuned, data: Path, tmp_path: Path
) -> None:
    """Their keys do not tell how long they might be."""
    first = run(f"base={tuned.run}@base", data=data, out=tmp_path / "a", reference="none")
    settings = json.loads(first.folder.settings_file.read_text(encoding="utf-8"))
    settings["retention_tokens"] = 7
    first.folder.settings_file.write_text(json.dumps(settings), encoding="utf-8")
    second = run(
        f"base={tuned.run}@base", data=data, out=tmp_path / "b", reference="none",
        answers_from=[str(tmp_path / "a")],
    )  # fmt: skip
    assert taken(second, "base") == 0
    assert any("7 tokens" in note for note in second.evaluation.notes), "nothing silent"


def test_a_folder_that_is_no_evaluation_is_refused(
    tuned: Tuned, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(RunError) as raised:
        run(
            tuned.run, data=data, out=tmp_path / "b",
            answers_from=[str(tmp_path), str(tmp_path / "nowhere")],
        )  # fmt: skip
    assert len(raised.value.faults) == 2 and "nowhere" in str(raised.value)
    assert not (tmp_path / "b").exists()
