from __future__ import annotations

from dataclasses import replace

from compare.hand_made import DORA, LORA, LORA_PLUS, arm, compared, evaluation, failed, run

from tanren.compare.analyse import ArmInput


def test_how_soon_in_the_words_of_a_person() -> None:
    runs = tuple(
        run("plus", s, (2.0, last + 0.5, last - 0.5 - 0.1 * s, last - 0.6), LORA_PLUS)
        for s, last in ((1, 1.0), (2, 1.1), (3, 0.95))
    )
    found = compared(arm("lora"), replace(arm("plus", LORA_PLUS), runs=runs))
    reach = found.reaches[0]
    assert reach.steps_ratio is not None and reach.steps_low is not None
    told = (
        f"plus makes 90% of lora's drop in validation loss in {reach.steps_ratio:.2f} of the "
        f"steps (3 seeds, {reach.steps_low:.2f} to {reach.steps_high:.2f})."
    )
    assert reach.steps_ratio < 0.7 and told in found.sentences
    assert found.sentences[0].startswith("plus is better than lora by ")


def test_not_distinguishable_and_what_it_costs() -> None:
    evaluations = {
        "lora": evaluation("lora", {s: range(1, 99 + s) for s in (1, 2, 3)}, 200),
        "dora": evaluation("dora", {s: range(2, 97 + 2 * s) for s in (1, 2, 3)}, 200),
    }
    slow = arm("dora", DORA, by=0.1, seconds=56.0, peak_memory_bytes=1_010_000)
    found = compared(arm("lora"), slow, evaluations=evaluations)
    first = found.sentences[0]
    comparison = found.comparison("exact_match", "dora")
    assert comparison is not None and comparison.detectable is not None
    assert first.startswith(
        "dora is not distinguishable from lora here in exact match (difference −0.5 points, 95% −"
    ), first
    would = f"; 3 seeds x 200 rows would show {100 * comparison.detectable:.1f} points)"
    assert would in first
    assert first.endswith("and takes 1.40 times as long."), "1% more memory is not worth a word"


def test_the_warning_comes_before_everything() -> None:
    found = compared(arm("lora"), arm("bad", LORA_PLUS, by=-0.2, ratio=1.0))
    assert found.sentences[0].startswith("Warning: this comparison is not fair; what failed: ")
    assert "bad seed 1: B's rate over A's was 1, not 16" in found.sentences[0]
    assert found.sentences[1].startswith("bad is better than lora")


def test_equal_answers_and_a_single_lucky_seed_are_not_dressed_up() -> None:
    evaluations = {
        name: evaluation(name, {s: range(1, 99 + s) for s in (1, 2, 3)}, 200)
        for name in ("lora", "dora")
    }
    lucky = replace(arm("dora", DORA), runs=tuple(
        run("dora", s, (2.0, last, last), DORA) for s, last in ((1, 0.5), (2, 1.9), (3, 1.8))
    ))  # fmt: skip
    found = compared(arm("lora"), lucky, evaluations=evaluations)
    told = "dora and lora do not differ at all in exact match (3 seeds x 200 rows)."
    assert told in found.sentences
    assert (found.reaches[0].reached, found.reaches[0].seeds) == (1, 3)
    assert not any("drop" in sentence for sentence in found.sentences)


def test_never_reached_and_failures_are_told() -> None:
    found = compared(
        arm("lora"), arm("dora", DORA, by=0.3),
        replace(arm("plus", LORA_PLUS, by=-0.1), runs=(
            *arm("plus", LORA_PLUS, by=-0.1, seeds=(1, 2)).runs,
            failed("plus", 3, "diverged", "training diverged: step 9: a loss of nan"))),
    )  # fmt: skip
    told = "dora never reaches what lora has after 90% of its drop in validation loss."
    assert told in found.sentences
    assert "plus failed in seed 3: training diverged: step 9: a loss of nan." in found.sentences


def test_without_finished_runs() -> None:
    gone = ArmInput("lora", LORA, runs=(failed("lora", 1), failed("lora", 2), failed("lora", 3)))
    assert "No run finished: there is nothing to compare." in compared(gone).sentences
    without = compared(gone, arm("dora", DORA)).sentences
    assert "lora has no finished run: nothing could be compared with it." in without


def test_few_seeds_are_said_to_be_few() -> None:
    for seeds, words in (((1,), "One seed: "), ((1, 2), "Two seeds "), ((1, 2, 3), None)):
        found = compared(
            arm("lora", seeds=seeds), arm("dora", DORA, by=0.1, seeds=seeds), seeds=seeds
        )
        told = [text for text in found.sentences if text.startswith(("One seed", "Two seeds"))]
        assert (len(told) == 1 and told[0].startswith(words)) if words else not told


def test_many_arms_are_counted_and_not_told_one_by_one() -> None:
    arms = [
        arm(
            f"rank {i}",
            {**LORA, "method.rank": i},
            by=0.1 + 0.01 * i,
            more_settings={"method.rank": i},
        )
        for i in range(20)
    ]
    found = compared(arm("lora"), *arms)
    assert len(found.sentences) < 10
    assert found.sentences[0].startswith(
        "20 arms differ from lora in validation loss, from rank 0 (+0.11 nats) to rank 19 (+0.319"
    )
