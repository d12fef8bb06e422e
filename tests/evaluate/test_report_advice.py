"""Planted evaluations: each sign calls for its own advice, and for nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from evaluate.planted import BASE, TUNED, answered, evaluated

from tanren.evaluate.report import Advice, Agreement, Evaluation, Opinion, Training, advise
from tanren.evaluate.retention import RetentionSet, retention

LABELS = ("red", "green", "blue")
ROWS = 60
WANTED = [LABELS[i % 3] for i in range(ROWS)]
SENTENCES = [
    f"The answer to question number {i} is a sentence of some length." for i in range(ROWS)
]


def half_right(references: list[str], wrong: str = "wrong", right: int = 30) -> list[str]:
    """The first `right` answers are right."""
    return [ref if i < right else f"{wrong} {i}" for i, ref in enumerate(references)]


def against_half(tuned: list[str], **facts: Any) -> Evaluation:
    """Labels; the base is right on the first half and says other labels on the second."""
    base = [label if i < 30 else LABELS[i % 3 - 1] for i, label in enumerate(WANTED)]
    metrics = ("accuracy", "stop_rate", "empty", "repetition")
    answers = {BASE: answered(WANTED, base), TUNED: answered(WANTED, tuned)}
    return evaluated(answers, metrics, **facts)


GOOD = against_half([label if i < 55 else LABELS[i % 3 - 1] for i, label in enumerate(WANTED)])


def only(evaluation: Evaluation, rule: str) -> Advice:
    """The one piece of advice there is."""
    found = advise(evaluation)
    assert [advice.rule for advice in found] == [rule]
    return found[0]


def test_a_good_outcome_calls_for_nothing() -> None:
    assert advise(GOOD) == []


def test_a_model_alone_and_without_metrics_calls_for_nothing() -> None:
    assert advise(evaluated({TUNED: answered(WANTED, WANTED)}, ())) == []


# --- answers as they came -------------------------------------------------------------------------


def test_cut_answers_with_shorter_references_do_not_stop() -> None:
    """T4."""
    answers = [*SENTENCES[:40], *(f"{text} And so on" * 9 for text in SENTENCES[40:])]
    cut = range(41, ROWS + 1)
    advice = only(evaluated({TUNED: answered(SENTENCES, answers, cut=cut)}, ()), "does_not_stop")
    assert "20 of 60 answers (33%)" in advice.finding and "end of turn" in advice.action


def test_cut_answers_with_longer_references_need_a_higher_limit() -> None:
    answers = [*SENTENCES[:40], *(text[:12] for text in SENTENCES[40:])]
    rows = answered(SENTENCES, answers, cut=range(41, ROWS + 1))
    planted = evaluated({TUNED: rows}, (), decoding={"max_new_tokens": 8})
    assert "(now 8)" in only(planted, "limit_too_low").action


def test_one_cut_answer_in_ten_is_the_least_that_is_spoken_of() -> None:
    few = answered(SENTENCES, SENTENCES, cut=range(1, 6))
    enough = answered(SENTENCES, SENTENCES, cut=range(1, 7))
    assert advise(evaluated({TUNED: few}, ())) == []
    only(evaluated({TUNED: enough}, ()), "limit_too_low")


def test_answers_that_are_missing_are_named() -> None:
    rows = list(answered(SENTENCES, SENTENCES))
    rows[3] = replace(rows[3], answer="", finish_reason="error", error="HTTP 500")
    advice = only(evaluated({TUNED: rows}, ()), "errors")
    assert "1 of 60 rows" in advice.finding and "HTTP 500" in advice.finding


def test_empty_answers() -> None:
    answers = ["" if i < 4 else text for i, text in enumerate(SENTENCES)]
    advice = only(evaluated({TUNED: answered(SENTENCES, answers)}, ()), "empty")
    assert "4 of 60 answers" in advice.finding


def test_loops() -> None:
    loop = "and then it went on " * 3
    answers = [f"{loop}{i}" for i in range(ROWS)]
    planted = evaluated({TUNED: answered(SENTENCES, answers)}, ("repetition",))
    assert only(planted, "repetition").area == "hyperparameters"


def test_loops_that_the_references_have_too_are_no_fault() -> None:
    refrains = ["and then it went on " * 3] * ROWS
    assert advise(evaluated({TUNED: answered(refrains, refrains)}, ("repetition",))) == []


@pytest.mark.parametrize(("factor", "times"), [(3, "3.0"), (1 / 3, "0.3")])
def test_answers_of_another_length(factor: float, times: str) -> None:
    references = [f"{i:03d}" + "x" * 57 for i in range(ROWS)]
    answers = [f"{i:03d}" + "y" * int(60 * factor - 3) for i in range(ROWS)]
    advice = only(evaluated({TUNED: answered(references, answers)}, ()), "length")
    assert f"{times} times" in advice.finding


# --- form -----------------------------------------------------------------------------------------


def test_answers_that_are_no_label() -> None:
    answers = [label if i < 48 else f"I do not know {i}" for i, label in enumerate(WANTED)]
    advice = only(against_half(answers), "format_not_learned")
    assert "12 of 60 answers (20%) are none of the labels" in advice.finding
    assert "epochs" in advice.action


def test_where_no_label_is_said_the_missing_ones_are_not_named_again() -> None:
    planted = evaluated({TUNED: answered(WANTED, [f"what {i}" for i in range(ROWS)])}, ["accuracy"])
    only(planted, "format_not_learned")


def test_labels_among_other_words() -> None:
    answers = [label if i < 48 else f"It is {label}, I think" for i, label in enumerate(WANTED)]
    advice = only(against_half(answers), "label_with_more")
    assert "12 of them hold exactly one label" in advice.finding


def test_a_label_that_is_never_said() -> None:
    answers = [label if label != "blue" else "red" for label in WANTED]
    base = ["blue"] * ROWS
    planted = evaluated(
        {BASE: answered(WANTED, base), TUNED: answered(WANTED, answers)}, ["accuracy"]
    )
    assert '"blue" (20 rows)' in only(planted, "label_never_said").finding


def test_one_label_for_everything() -> None:
    planted = evaluated({TUNED: answered(WANTED, ["red"] * ROWS)}, ["accuracy"])
    advice = only(planted, "one_label")
    assert '60 of 60 answers are "red", which is right for 20' in advice.finding


def test_json_that_is_none() -> None:
    references = [f'{{"a": {i}}}' for i in range(ROWS)]
    answers = [ref if i < 40 else f"```json\n{ref}\n```" for i, ref in enumerate(references)]
    planted = evaluated({TUNED: answered(references, answers)}, ["json_valid"])
    finding = only(planted, "json_not_learned").finding
    assert "20 of 60 answers" in finding and "20 would be once a code fence" in finding


# --- training -------------------------------------------------------------------------------------


def test_losses_far_apart() -> None:
    training = Training(rows=40, train_loss=0.2, validation_loss=0.9, best_validation_loss=0.6)
    planted = evaluated({TUNED: answered(SENTENCES, SENTENCES)}, (), training=training)
    advice = only(planted, "overfitting")
    assert all(number in advice.finding for number in ("0.20", "0.90", "0.60", "40 rows"))


@pytest.mark.parametrize(("train", "held_out"), [(0.9, 1.0), (2.0, 2.3), (0.5, None), (None, 0.9)])
def test_losses_that_are_near_or_unknown(train: float | None, held_out: float | None) -> None:
    training = Training(train_loss=train, validation_loss=held_out)
    assert advise(evaluated({TUNED: answered(SENTENCES, SENTENCES)}, (), training=training)) == []


# --- against the reference ------------------------------------------------------------------------


def compared(base: list[str], tuned: list[str], *metrics: str, **facts: Any) -> Evaluation:
    references = SENTENCES[: len(base)]
    answers = {BASE: answered(references, base), TUNED: answered(references, tuned)}
    return evaluated(answers, metrics or ("normalised_match",), **facts)


def test_worse_than_before() -> None:
    planted = compared(half_right(SENTENCES, right=50), half_right(SENTENCES, right=30))
    advice = only(planted, "worse")
    assert "−33.3 points" in advice.finding and "20 rows lost, 0 won" in advice.finding


def test_a_model_that_hardly_moved() -> None:
    advice = only(compared(half_right(SENTENCES), half_right(SENTENCES)), "hardly_moved")
    assert "60 of 60 answers (100%) are the same text" in advice.finding


def test_a_base_that_was_good_already() -> None:
    base = [f"Yes. {text}" for text in SENTENCES]
    tuned = [f"No. {text}" for text in SENTENCES]
    planted = compared(base, tuned, "contains")
    assert "100.0% already" in only(planted, "good_already").finding


def test_a_difference_that_so_few_rows_cannot_show() -> None:
    """5 won against 3 lost of 60. The true difference could well be the one seen."""
    tuned = [*(f"bad {i}" for i in range(3)), *SENTENCES[3:35], *(f"no {i}" for i in range(25))]
    advice = only(compared(half_right(SENTENCES), tuned), "too_few_rows")
    assert "+3.3 points" in advice.finding and "rows to see a difference of" in advice.action


def test_ten_rows_do_not_prove_that_there_is_nothing() -> None:
    base = half_right(SENTENCES[:10], right=5)
    tuned = [*SENTENCES[:4], "bad", SENTENCES[5], *(f"no {i}" for i in range(4))]
    advice = only(compared(base, tuned), "too_few_rows")
    assert "to see a difference of 10.0 points" in advice.action


def test_many_rows_without_a_difference_teach_nothing_new() -> None:
    """600 rows, 5 won and 5 lost, other words in the wrong answers."""
    references = [f"Sentence {i}" for i in range(600)]
    base = half_right(references, "before", right=250)
    tuned = ["lost", *references[1:245], *(["lost"] * 5), *references[250:255]]
    tuned = [*tuned[:600], *(f"after {i}" for i in range(600 - len(tuned)))]
    tuned[245], tuned[0] = references[245], references[0]
    planted = evaluated({BASE: answered(references, base), TUNED: answered(references, tuned)})
    assert "read otherwise" in only(planted, "nothing_new").finding


def test_a_task_out_of_reach() -> None:
    first = [f"These are {i} words that have nothing to do with it at all." for i in range(ROWS)]
    then = [f"Nor have these {i} other words, which were said afterwards." for i in range(ROWS)]
    advice = only(compared(first, then), "out_of_reach")
    assert advice.area == "model" and "0.0% and 0.0% before and after" in advice.finding


def test_guessing_among_labels_is_out_of_reach_too() -> None:
    base = [LABELS[i // 3 % 3] for i in range(ROWS)]
    tuned = [LABELS[(i // 3 + 1) % 3] for i in range(ROWS)]
    answers = {BASE: answered(WANTED, base), TUNED: answered(WANTED, tuned)}
    assert "(33.3%)" in only(evaluated(answers, ["accuracy"]), "out_of_reach").finding


def test_form_without_substance() -> None:
    """The base never stops and the tuned model does; both are right on the same 30 rows, with other
    words around the wrong ones.
    """
    base = answered(SENTENCES, half_right(SENTENCES, "w"), cut=range(1, ROWS + 1))
    tuned = answered(SENTENCES, [*SENTENCES[:30], *SENTENCES[:30]])
    planted = evaluated({BASE: base, TUNED: tuned}, ("normalised_match", "stop_rate"))
    rules = [advice.rule for advice in advise(planted)]
    assert "form_only" in rules and set(rules) <= {"form_only", "hardly_moved"}
    advice = next(advice for advice in advise(planted) if advice.rule == "form_only")
    assert "Ended by itself +100.0 points" in advice.finding


# --- retention ------------------------------------------------------------------------------------


def kept_with(lost: int, gained: int) -> Evaluation:
    rows = RetentionSet.read()
    references = [row.reference for row in rows.rows]
    before = answered(references, [*references[:100], *["ねこ"] * (len(references) - 100)])
    after = answered(
        references,
        [*["ねこ"] * lost, *references[lost : 100 + gained],
         *["ねこ"] * (len(references) - 100 - gained)],
    )  # fmt: skip
    return replace(GOOD, retention={TUNED: retention(before, after, rows)})


def test_general_questions_lost() -> None:
    advice = only(kept_with(lost=8, gained=2), "retention")
    assert "Of 100 general questions" in advice.finding and "8.0 points" in advice.finding
    assert advice.area == "method"


@pytest.mark.parametrize(("lost", "gained"), [(4, 0), (8, 8), (0, 0)])
def test_few_losses_or_as_many_gains_are_no_loss(lost: int, gained: int) -> None:
    assert advise(kept_with(lost, gained)) == []


# --- judges and people ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("opinion", "rule"),
    [
        ({"rows": 50, "excluded": 10}, "judgements_lost"),
        ({"rows": 50, "position_bias": -0.2}, "position_bias"),
        ({"rows": 95, "excluded": 5, "position_bias": 0.05}, None),
    ],
)
def test_judges_that_cannot_be_believed(opinion: dict[str, Any], rule: str | None) -> None:
    facts = {"name": "j", "model": TUNED, "criterion": "clear", "unit": "points", "value": 70.0}
    planted = replace(GOOD, opinions=(Opinion(source="judge", **facts, **opinion),))
    assert [advice.rule for advice in advise(planted)] == ([rule] if rule else [])


def test_raters_who_do_not_agree() -> None:
    poor = Agreement("j and people", "clear", "alpha", 0.2, 30)
    fair = Agreement("two people", "clear", "alpha", 0.6, 30)
    advice = only(replace(GOOD, agreements=(poor, fair)), "poor_agreement")
    assert "0.20 over 30 rows" in advice.finding
