"""The maintainer's measuring scripts: their inputs, their referee, and a tiny run of each.

A measurement that nobody runs is wrong without anybody knowing; here each script runs whole, at a
size at which its numbers say nothing but its logic everything.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "scripts"))
bench_cpu = importlib.import_module("bench_cpu")
bench_data = importlib.import_module("bench_data")
bench_eval = importlib.import_module("bench_eval")
bench_export = importlib.import_module("bench_export")
gpu_check = importlib.import_module("gpu_check")
contestants = importlib.import_module("bench.contestants")
encode_speed = importlib.import_module("bench.encode_speed")
loss_memory = importlib.import_module("bench.loss_memory")
inputs = importlib.import_module("bench.inputs")
report = importlib.import_module("bench.report")
turns = importlib.import_module("bench.turns")
lab = importlib.import_module("gpu_checks.lab")
numerics = importlib.import_module("gpu_checks.numerics")
run = importlib.import_module("gpu_checks.run")
speed = importlib.import_module("gpu_checks.speed")
steps = importlib.import_module("gpu_checks.steps")

Turn = turns.Turn


# --- inputs ---------------------------------------------------------------------------------------


def test_a_made_row_has_exactly_the_length_asked_for() -> None:
    tokenizer = inputs.word_tokenizer(512)
    lengths = [16, 57, 130]
    for length, row in zip(lengths, inputs.chat_rows(lengths, words=500, seed=0), strict=True):
        text = tokenizer.apply_chat_template(row["messages"], tokenize=False)
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert len(ids) == length
        assert tokenizer.unk_token_id not in ids


def test_lengths_are_lognormal_with_the_mean_asked_for() -> None:
    lengths = np.array(inputs.chat_lengths(20_000, mean=130, seed=0))
    assert lengths.mean() == pytest.approx(130, rel=0.03)
    assert np.log(lengths[lengths > 16]).std() == pytest.approx(0.7, rel=0.06)


def test_inputs_depend_on_the_seed_alone() -> None:
    one, again, other = (list(inputs.chat_rows([40], words=99, seed=seed)) for seed in (1, 1, 2))
    assert one == again != other


def test_the_models_shapes_have_the_parameters_of_their_names() -> None:
    from tanren.estimate import shape_of

    sizes = {name: shape_of(numbers).total / 1e9 for name, numbers in lab.MODELS.items()}
    assert sizes == pytest.approx(
        {"qwen3-0.6b": 0.596, "qwen3-1.7b": 1.721, "qwen3-8b": 8.191, "llama-8b": 8.030}, rel=1e-3
    )
    assert 20e6 < shape_of(inputs.BENCH_MODEL).total < 30e6


# --- the referee ----------------------------------------------------------------------------------


def _contestant(name: str, times: list[Turn], folder: Path, shift: float = 0.0) -> Any:
    from safetensors.torch import save_file

    path = folder / f"{name}.safetensors"
    save_file({"x.lora_B.weight": torch.tensor([1.0, 2.0 + shift])}, path)
    made = object.__new__(turns.Contestant)
    made.name, made.turns = name, times
    made.facts = {"adapter": str(path), "peak_rss_bytes": 300, "ready_rss_bytes": 100}
    return made


def test_ratios_are_medians_over_quiet_rounds_only(tmp_path: Path) -> None:
    options = argparse.Namespace(clock="wall", max_others=0.05)
    # The first round warms up; the third is disturbed: neither may count.
    hand = [9.0, 2.0, 50.0, 2.0, 2.0, 2.0, 2.0]
    ours = [1.0, 1.0, 1.0, 1.0, 1.0, 3.0, 1.0]
    busy = [0.0, 0.0, 0.9, 0.0, 0.0, 0.0, 0.0]
    found, text = bench_cpu.judge(
        options,
        "float32",
        [
            _contestant(
                "hand", [Turn(s, s, 1.0, b) for s, b in zip(hand, busy, strict=True)], tmp_path
            ),
            _contestant("tanren", [Turn(s, s, 1.0, 0.0) for s in ours], tmp_path),
        ],
    )
    assert (found["rounds"], found["rounds_kept"], found["rounds_counted"]) == (6, 5, 5)
    assert found["contestants"]["hand"]["tanren_ratio"] == 0.5
    assert found["contestants"]["hand"]["reached"] is True
    assert found["contestants"]["hand"]["step_rss_bytes"] == 200
    assert "5 of 6 rounds" in text


def test_too_few_quiet_rounds_are_said_and_all_are_counted(tmp_path: Path) -> None:
    options = argparse.Namespace(clock="cpu", max_others=0.05)
    times = [Turn(1.0, 1.0, 1.0, 0.5)] * 8
    found, text = bench_cpu.judge(options, "float32", [_contestant("hand", times, tmp_path)])
    assert (found["rounds_kept"], found["rounds_counted"]) == (0, 7)
    assert "unreliable" in text


def test_who_does_not_learn_the_same_is_found_out(tmp_path: Path) -> None:
    good = [Turn(1.0, 1.0, loss, 0.0) for loss in (2.0, 1.0)]
    bad = [Turn(1.0, 1.0, loss, 0.0) for loss in (2.0, 1.02)]
    found = bench_cpu.learning(
        [_contestant("hand", good, tmp_path), _contestant("tanren", bad, tmp_path, shift=-4.0)]
    )
    assert found["hand"]["agrees"] and found["hand"]["all_moved"]
    assert not found["tanren"]["agrees"]
    assert found["tanren"]["largest_gap"] == pytest.approx(0.02)
    assert found["tanren"]["cosine"] < 0


def test_the_hand_loop_spreads_every_row_and_label_once() -> None:
    rows = [([5] * n, [-100] * (n - 2) + [5, 5]) for n in (9, 3, 6, 4)]
    for parts in (1, 2, 4):
        spread = contestants.sorted_parts(rows, parts)
        assert sorted(len(ids) for part in spread for ids, _ in part) == [3, 4, 6, 9]
        targets = [contestants.padded(part)[2] for part in spread]
        assert sum(int((t != -100).sum()) for t in targets) == 8


def test_a_table_shows_nothing_as_a_dash_and_failure_in_capitals() -> None:
    text = report.table(["a", "b", "c"], [[None, False, 12345.6], ["x|y", True, 0.12345]])
    assert text.splitlines()[2:] == ["| – | NO | 12,346 |", "| x/y | yes | 0.1235 |"]


# --- tiny runs ------------------------------------------------------------------------------------


def test_bench_cpu_runs_contestants_in_turns_and_they_learn_the_same(tmp_path: Path) -> None:
    wanted = ["--tiny", "--sections", "steps", "--contestants", "hand", "tanren"]
    assert bench_cpu.main([*wanted, "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "bench_cpu.json").read_text(encoding="utf-8"))
    told = found["steps_float32"]
    assert all(one["agrees"] and one["all_moved"] for one in told["learning"].values())
    assert told["learning"]["tanren"]["cosine"] > 0.9999
    assert len(told["contestants"]["tanren"]["turns"]) == 3
    assert told["contestants"]["tanren"]["facts"]["proof"] is True
    assert (tmp_path / "bench_cpu.md").read_text(encoding="utf-8").startswith("# CPU")


def test_both_losses_that_are_measured_are_the_same_loss() -> None:
    """T13: less memory for the same number."""
    full, chunked = (
        loss_memory.measure(kind, torch.float32, 4096, 96, 32) for kind in ("full", "chunked")
    )
    assert chunked["loss"] == pytest.approx(full["loss"], rel=1e-5)


def test_bench_data_makes_rows_that_differ_and_measures_each_stage(tmp_path: Path) -> None:
    path = bench_data.write_chats(tmp_path / "rows.jsonl", 40, seed=0)
    assert len(set(path.read_text(encoding="utf-8").splitlines())) == 40
    found = encode_speed.measure(path, str(ROOT / "data" / "tiny-chat"), repeats=1)
    assert (found["rows"], found["refused"]) == (40, 0)
    assert 0 < found["trained_tokens"] < found["tokens"]
    assert tuple(found["cpu"]) == bench_data.STAGES
    assert all(seconds > 0 for seconds in found["cpu"].values())


def test_our_time_is_held_against_the_fastest_by_hand() -> None:
    """By medians of rounds, whoever wins single ones."""
    times = {"tanren": [3.0, 4.0, 9.0], "slow": [1.0, 5.0, 5.0], "fast": [2.0, 2.0, 30.0]}
    contestants = {name: {"seconds": seconds, "same": 1} for name, seconds in times.items()}
    found = bench_eval.judged(contestants)
    assert found == {"best": "fast", "ratio": 1.5, "reached": True}
    contestants["tanren"]["seconds"] = [3.1, 4.0, 99.0]
    assert bench_eval.judged(contestants)["reached"] is False


def test_bench_eval_compares_those_who_write_the_same(tmp_path: Path) -> None:
    assert bench_eval.main(["--tiny", "--threads", "1", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "bench_eval.json").read_text(encoding="utf-8"))
    names = {"tanren"} | {
        f"{who}, {size} at once" for who in ("tanren", "generate") for size in (1, 4)
    }
    assert set(found["contestants"]) == names
    assert all(one["same"] == 6 for one in found["contestants"].values())
    assert found["answer_tokens"] > 0
    assert len(set(bench_eval.prompts(300))) > 290


@pytest.mark.slow
@pytest.mark.parametrize("script", [bench_cpu, bench_data, bench_eval, bench_export, gpu_check])
def test_the_whole_script_runs_at_its_tiny_size(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUT", str(tmp_path))
    assert script.main(["--tiny", *(["--cpu"] if script is gpu_check else [])]) == 0
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".md"}


def test_gpu_check_records_a_section_that_dies_and_runs_the_others(tmp_path: Path) -> None:
    options = gpu_check.parse(["--tiny", "--cpu", "--out", str(tmp_path / "out")])
    crew = gpu_check.Crew(options, tmp_path)
    try:
        names = ["no such section", "environment", "attention"]
        found = {name: crew.run(name, 60) for name in names}
        found["late"] = crew.run("environment", 0)
    finally:
        crew.close()
    states = [one["state"] for one in found.values()]
    assert states == ["failed", "done", "done", "skipped"], found
    assert "KeyError" in found["no such section"]["note"] and "time" in found["late"]["note"]
    assert [name for name, one in found.items() if gpu_check.failed(one)] == ["no such section"]
    assert len(found["attention"]["rows"]) == 16
    assert all(row["ok"] for row in found["attention"]["rows"])
    gpu_check.save(options, {**report.circumstances(), "sections": found})
    text = (tmp_path / "out" / "gpu_check.md").read_text(encoding="utf-8")
    assert "## no such section: FAILED" in text and "## late: skipped" in text


def _tiny_lab(tmp_path: Path) -> Any:
    return lab.Lab(torch.device("cpu"), tmp_path, tiny=True, deadline=1e12, big="llama-8b")


def test_four_bits_are_checked_down_to_the_grid(tmp_path: Path) -> None:
    assert all(row["ok"] for row in numerics.nf4(_tiny_lab(tmp_path)))


def test_packed_rows_are_compared_and_what_a_cpu_cannot_show_is_said(tmp_path: Path) -> None:
    """T16: the same loss and gradient, padded and side by side."""
    section = numerics.packed(_tiny_lab(tmp_path))
    assert [next(section)["ok"], next(section)["ok"]] == [True, True]
    with pytest.raises(lab.Skipped, match="CUDA"):
        next(section)


def test_a_merged_four_bit_run_answers_as_its_adapter_does(tmp_path: Path) -> None:
    """T5: the section passes on the base that the adapter saw."""
    rows = list(numerics.merge(_tiny_lab(tmp_path)))
    assert [row["method"] for row in rows] == ["lora", "dora", "qlora"]
    assert all(row["ok"] for row in rows)


def test_throughput_is_only_told_of_a_run_that_learned(tmp_path: Path) -> None:
    row = next(speed.throughput(_tiny_lab(tmp_path)))
    assert row["ok"] and row["tokens/s"] > 0
    clock = steps.Clock(_tiny_lab(tmp_path))
    clock.losses, clock.norms = [2.0, 2.0, 2.1, 2.1], [0.1] * 4
    assert not clock.learned
    clock.losses, clock.norms = [2.0, 1.9, 1.8, 1.7], [0.0] * 4
    assert not clock.learned


def test_every_section_has_its_seconds_and_its_function() -> None:
    assert list(gpu_check.SECONDS) == list(run.SECTIONS)
    assert sum(gpu_check.SECONDS.values()) > gpu_check.parse([]).budget_seconds
