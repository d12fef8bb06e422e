"""Laws of splitting: nothing is lost, nothing crosses, the same seed gives the same bytes."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tanren.chat import Example, parse_line
from tanren.data.duplicates import find_duplicates
from tanren.data.near import NEAR_THRESHOLD, comparable, jaccard, shingles
from tanren.data.read import read_chat
from tanren.data.split import SplitSettings, counts_wish, shares_wish, split_file
from tanren.data.split.assign import assign
from tanren.data.split.rows import prompt_digest, said
from tanren.errors import ConfigError, DataError, TanrenError

SHARES = SplitSettings(shares_wish("60,20,20"))
WORDS = [*"RSBCGLW", "rain", "river", "garden", "lantern", "空", "海", "山", "犬", "橋"]


def chat(question: str, answer: str, **beside: Any) -> str:
    messages = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    ]
    return json.dumps({"messages": messages, **beside}, ensure_ascii=False)


def some_chats(rows: int, *, seed: int = 1, metadata: bool = False) -> list[str]:
    """Rows that are far from each other."""
    draw = random.Random(seed)
    lines = []
    for number in range(rows):
        words = " ".join(draw.choices(WORDS, k=20))
        beside = {"metadata": {"kind": draw.choice("aaab"), "who": draw.randrange(rows // 5 or 1)}}
        lines.append(chat(f"{number} {words}?", f"{words[::-1]}.", **(beside if metadata else {})))
    return lines


def write(folder: Path, lines: list[str], name: str = "rows.jsonl") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes("".join(f"{line}\n" for line in lines).encode("utf-8"))
    return path


def parts_of(out: Path) -> dict[str, list[bytes]]:
    manifest = json.loads((out / "split.json").read_text(encoding="utf-8"))
    return {
        part["name"]: (out / part["file"]).read_bytes().splitlines() for part in manifest["parts"]
    }


def examples(out: Path, part: str) -> Iterator[Example]:
    for row in read_chat(out / f"{part}.jsonl"):
        assert isinstance(row, Example)
        yield row


# --- nothing is lost ------------------------------------------------------------------------------

pieces = st.sampled_from(["a", "b", "空は青い", "what is it", "why", "zz"])
row_lines = st.builds(chat, pieces, pieces)
noise = st.sampled_from(["", "   ", "\r"])
files = st.lists(st.one_of(row_lines, row_lines, row_lines, noise), min_size=1, max_size=40).filter(
    lambda lines: any(line.strip() for line in lines)
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(files, st.integers(0, 2**70), st.booleans(), st.booleans(), st.booleans())
def test_every_row_is_in_one_part_as_it_stood_and_in_its_order(
    tmp_path_factory: pytest.TempPathFactory,
    lines: list[str],
    seed: int,
    near: bool,
    same_prompt: bool,
    last_newline: bool,
) -> None:
    folder = tmp_path_factory.mktemp("split")
    data = "\n".join(lines) + ("\n" if last_newline else "")
    (folder / "rows.jsonl").write_bytes(b"\xef\xbb\xbf" + data.encode("utf-8"))
    rows = [line.encode("utf-8") for line in data.split("\n") if line.strip()]
    wish = counts_wish("1", rest=True)
    asked = SplitSettings(wish, seed, None, None, 0.8 if near else None, same_prompt)
    try:
        manifest = split_file(folder / "rows.jsonl", folder / "out", asked)
    except DataError as error:
        assert "group" in error.faults[0].found  # all rows are one group: nothing can be split
        assert not (folder / "out").exists()
        return
    found = {
        name: (folder / "out" / f"{name}.jsonl").read_bytes().split(b"\n")[:-1]
        for name in ("train", "rest")
    }
    assert Counter(found["train"] + found["rest"]) == Counter(rows)
    for part in found.values():
        remaining = iter(rows)
        assert all(line in remaining for line in part)  # a subsequence: the file's order
    assert manifest["source"]["rows_split"] == len(rows)
    assert sum(part["rows"] for part in manifest["parts"]) == len(rows)


def test_keys_beside_the_messages_and_line_ends_survive_byte_for_byte(tmp_path: Path) -> None:
    odd = [
        '{"id": 7 ,  "messages": [{"role":"user","content":"\\u3042"},'
        '{"role":"assistant","content":"x"}], "metadata": {"n": 1.50, "e": 1e5}}\r',
        *some_chats(9),
    ]
    path = write(tmp_path, odd)
    split_file(path, tmp_path / "out", SplitSettings(shares_wish("50,50")))
    together = b"".join(
        (tmp_path / "out" / f"{n}.jsonl").read_bytes() for n in ("train", "validation")
    )
    assert sorted(together.splitlines(True)) == sorted(path.read_bytes().splitlines(True))


# --- the same seed, the same bytes ----------------------------------------------------------------


def contents(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in out.iterdir()}


def test_the_same_bytes_and_seed_give_the_same_bytes_anywhere(tmp_path: Path) -> None:
    lines = some_chats(60, metadata=True)
    asked = replace(SHARES, stratify="kind")
    here, there = write(tmp_path / "a", lines), write(tmp_path / "b" / "c", lines)
    split_file(here, tmp_path / "one", asked)
    split_file(there, tmp_path / "deep" / "two", asked)
    assert contents(tmp_path / "one") == contents(tmp_path / "deep" / "two")
    split_file(here, tmp_path / "other", replace(asked, seed=43))
    assert parts_of(tmp_path / "other") != parts_of(tmp_path / "one")


def test_the_parts_of_a_seed_are_these_on_every_machine_and_version(tmp_path: Path) -> None:
    path = write(tmp_path, [chat(f"question {n}", f"{n * n}") for n in range(10)])
    asked = SplitSettings(counts_wish("5,3,2"), seed=42, near_threshold=None)
    split_file(path, tmp_path / "out", asked)
    numbers = {
        name: [int(json.loads(line)["messages"][0]["content"].split()[1]) for line in lines]
        for name, lines in parts_of(tmp_path / "out").items()
    }
    start = splitmix64(42)
    order = sorted(range(10), key=lambda row: splitmix64(start + row * GOLDEN))
    expected = {"train": order[:5], "validation": order[5:8], "test": order[8:]}
    assert numbers == {name: sorted(rows) for name, rows in expected.items()}
    assert numbers["test"] == [1, 7]


GOLDEN = 0x9E3779B97F4A7C15


def splitmix64(state: int) -> int:
    """In Python's own integers, as the paper has it."""
    z = (state + GOLDEN) % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


# --- as many as were asked for --------------------------------------------------------------------


def test_counts_are_met_exactly_where_no_rows_belong_together(tmp_path: Path) -> None:
    path = write(tmp_path, some_chats(130))
    manifest = split_file(path, tmp_path / "out", SplitSettings(counts_wish("70,30,30")))
    assert [part["rows"] for part in manifest["parts"]] == [70, 30, 30]
    assert {name: len(rows) for name, rows in parts_of(tmp_path / "out").items()} == {
        "train": 70,
        "validation": 30,
        "test": 30,
    }


def test_each_row_is_as_likely_in_the_first_part_as_any_other() -> None:
    rows, one_stratum = np.arange(8), np.zeros(8, dtype=np.int64)
    times = np.zeros(8)
    for seed in range(400):
        times += assign(rows, one_stratum, (2, 6), seed).part_of == 0
    # 100 expected, standard deviation 8.7
    assert times.sum() == 800 and (abs(times - 100) < 40).all()


def test_strata_have_their_shares_and_the_parts_their_counts(tmp_path: Path) -> None:
    lines = [chat(f"{n} {w}", "yes" if n % 10 < 7 else "no" if n % 10 < 9 else "maybe")
             for n, w in enumerate(some_chats(101))]  # fmt: skip
    path = write(tmp_path, lines)
    asked = SplitSettings(counts_wish("61,23,17"), stratify="answer", near_threshold=None)
    manifest = split_file(path, tmp_path / "out", asked)
    assert [part["rows"] for part in manifest["parts"]] == [61, 23, 17]
    sizes = Counter(json.loads(line)["messages"][1]["content"] for line in lines)
    for stratum in manifest["strata"]:
        for target, rows in zip((61, 23, 17), stratum["rows"], strict=True):
            assert abs(rows - sizes[stratum["value"]] * target / 101) <= 1
    in_files = {
        name: Counter(json.loads(line)["messages"][1]["content"] for line in rows)
        for name, rows in parts_of(tmp_path / "out").items()
    }
    for part, name in enumerate(in_files):
        told = {s["value"]: s["rows"][part] for s in manifest["strata"] if s["rows"][part]}
        assert in_files[name] == told


def test_rows_without_the_key_are_a_stratum_of_their_own(tmp_path: Path) -> None:
    lines = [
        chat(f"q{n} {n * 7}", "x", **({"metadata": {"k": 1}} if n % 2 else {})) for n in range(40)
    ]
    path = write(tmp_path, lines)
    asked = SplitSettings(shares_wish("50,50"), stratify="k", near_threshold=None)
    manifest = split_file(path, tmp_path / "out", asked)
    assert {s["value"]: s["rows"] for s in manifest["strata"]} == {
        "(none)": [10, 10],
        "1": [10, 10],
    }


def test_rest_takes_the_others(tmp_path: Path) -> None:
    path = write(tmp_path, some_chats(50))
    split_file(path, tmp_path / "out", SplitSettings(counts_wish("20,10", rest=True)))
    sizes = {name: len(rows) for name, rows in parts_of(tmp_path / "out").items()}
    assert sizes == {"train": 20, "validation": 10, "rest": 20}


# --- nothing crosses ------------------------------------------------------------------------------


def test_groups_stay_whole_and_sizes_are_as_near_as_they_allow(tmp_path: Path) -> None:
    path = write(tmp_path, some_chats(200, metadata=True))
    asked = replace(SHARES, group="who", near_threshold=None)
    manifest = split_file(path, tmp_path / "out", asked)
    homes: dict[int, set[str]] = {}
    for name, rows in parts_of(tmp_path / "out").items():
        for line in rows:
            homes.setdefault(json.loads(line)["metadata"]["who"], set()).add(name)
    assert len(homes) > 30 and all(len(parts) == 1 for parts in homes.values())
    # Single rows are few here, so that the last group may be too many by less than its size.
    largest = max(group["rows"] for group in manifest["together"]["largest"])
    assert all(abs(part["rows"] - part["wanted"]) < largest for part in manifest["parts"])
    assert manifest["groups"] == len(homes)


def test_large_groups_are_not_all_trained(tmp_path: Path) -> None:
    lines = [chat(f"{n} {w}", "x", metadata={"g": n % 10}) for n, w in enumerate(some_chats(100))]
    path = write(tmp_path, lines)
    with_test = 0
    for seed in range(12):
        asked = SplitSettings(shares_wish("80,20"), seed, group="g", near_threshold=None)
        split_file(path, tmp_path / f"out{seed}", asked)
        held_out = parts_of(tmp_path / f"out{seed}")["validation"]
        assert len(held_out) == 20
        with_test += any(json.loads(line)["metadata"]["g"] == 0 for line in held_out)
    assert 0 < with_test < 10  # each group is held out one time in five


def placed(sizes: list[int], targets: tuple[int, ...], seed: int) -> list[int]:
    """The part of each group."""
    starts = np.cumsum([0, *sizes[:-1]])
    labels = np.repeat(starts, sizes)
    made = assign(labels, np.zeros(len(labels), dtype=np.int64), targets, seed)
    return [int(made.part_of[start]) for start in starts]


@pytest.mark.parametrize("sizes", [[2] * 10 + [10], [3] * 6 + [1] * 12, [7, 7, 7] + [1] * 9])
def test_sizes_are_met_exactly_where_small_groups_can_fill_what_is_left(sizes: list[int]) -> None:
    for seed in range(40):
        parts = placed(sizes, (20, 10), seed)
        assert sum(s for s, part in zip(sizes, parts, strict=True) if part == 0) == 20


def test_the_largest_group_is_in_each_part_as_often_as_its_share_says() -> None:
    held_out = sum(placed([10] + [1] * 90, (60, 40), seed)[0] for seed in range(200))
    # 80 expected, standard deviation 6.9
    assert 50 < held_out < 110


def near_chats() -> list[str]:
    """Forty families of near rows: a chain in which each member has lost one more word."""
    draw = random.Random(3)
    lines = []
    for family in range(40):
        words = [f"{draw.choice(WORDS)}{draw.randrange(99)}" for _ in range(30)]
        for member in range(4):
            kept = words[member:] + [f"{family}"] * member
            lines.append(chat(" ".join(kept), " ".join(reversed(words))))
    draw.shuffle(lines)
    return lines


def test_no_near_pair_crosses_by_comparing_all_pairs(tmp_path: Path) -> None:
    path = write(tmp_path, near_chats())
    manifest = split_file(path, tmp_path / "out", replace(SHARES, same_prompt=False))
    grams = {
        name: [shingles(comparable(said(row))) for row in examples(tmp_path / "out", name)]
        for name in ("train", "validation", "test")
    }
    names = list(grams)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            for left in grams[one]:
                assert all(jaccard(left, right) < NEAR_THRESHOLD for right in grams[other])
    assert manifest["together"]["near"] >= 100
    # and the law has something to hold: without it many pairs cross
    split_file(path, tmp_path / "torn", replace(SHARES, same_prompt=False, near_threshold=None))
    torn = find_duplicates(
        examples(tmp_path / "torn", "train"), examples(tmp_path / "torn", "test")
    )
    assert torn.leaks.near.count > 5


def test_what_check_calls_a_leak_is_never_made(tmp_path: Path) -> None:
    draw = random.Random(5)
    lines = near_chats() + [chat(f"ask {draw.randrange(30)}", f"{n}") for n in range(60)]
    lines += lines[:20]
    path = write(tmp_path, lines)
    split_file(path, tmp_path / "out", SHARES)
    for held_out in ("validation", "test"):
        leaks = find_duplicates(
            examples(tmp_path / "out", "train"), examples(tmp_path / "out", held_out)
        ).leaks
        assert (leaks.identical.count, leaks.same_prompt.count, leaks.near.count) == (0, 0, 0)


def test_rows_of_one_prompt_part_only_when_told(tmp_path: Path) -> None:
    path = write(tmp_path, [chat(f"ask {n % 20}", f"{n}") for n in range(200)])

    def crossing(out: str, **changes: bool) -> int:
        split_file(path, tmp_path / out, replace(SHARES, near_threshold=None, **changes))
        parts = parts_of(tmp_path / out)
        asked = {name: {json.loads(x)["messages"][0]["content"] for x in rows}
                 for name, rows in parts.items()}  # fmt: skip
        return len(asked["train"] & asked["test"])

    assert crossing("whole") == 0
    assert crossing("torn", same_prompt=False) > 0


def test_the_same_words_with_other_tools_are_another_prompt() -> None:
    def digest(**beside: Any) -> int:
        parsed = parse_line(chat("ask", "x", **beside), source="test", line=1)
        assert isinstance(parsed, Example)
        return prompt_digest(parsed)

    tools = [{"type": "function", "function": {"name": n, "parameters": {}}} for n in "fg"]
    digests = {digest(), digest(tools=tools[:1]), digest(tools=tools[1:]), digest(tools=tools)}
    assert len(digests) == 4
    assert digest(id="7") == digest()


# --- what cannot be -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (SplitSettings(counts_wish("70,30,31")), "131 rows"),
        (SplitSettings(counts_wish("70,30")), "30 would be lost"),
        (SplitSettings(shares_wish("99.9,0.1")), "0 of 130 rows"),
        (SplitSettings(counts_wish("131", rest=True)), "131 rows"),
    ],
)
def test_an_impossible_wish_is_a_fault_with_numbers(
    tmp_path: Path, asked: SplitSettings, found: str
) -> None:
    path = write(tmp_path, some_chats(130))
    with pytest.raises(ConfigError) as caught:
        split_file(path, tmp_path / "out", asked)
    assert found in caught.value.faults[0].found
    assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]


def test_one_group_for_all_cannot_be_split(tmp_path: Path) -> None:
    path = write(tmp_path, [chat("always the same", f"{n}") for n in range(30)])
    with pytest.raises(DataError) as caught:
        split_file(path, tmp_path / "out", replace(SHARES, near_threshold=None))
    assert "30 rows in 1 groups" in caught.value.faults[0].found
    assert "--no-same-prompt" in caught.value.faults[0].remedy


@pytest.mark.parametrize("option", ["stratify", "group"])
def test_a_key_that_no_row_has_is_a_fault_that_names_those_there_are(
    tmp_path: Path, option: str
) -> None:
    path = write(tmp_path, some_chats(20, metadata=True))
    with pytest.raises(DataError) as caught:
        split_file(path, tmp_path / "out", replace(SHARES, **{option: "knd"}))
    (fault,) = caught.value.faults
    assert fault.where == f"--{option}" and '"kind"' in fault.expected


def test_faulty_rows_stop_the_split_or_are_left_out_on_record(tmp_path: Path) -> None:
    lines = some_chats(20)
    path = write(tmp_path, [*lines[:5], '{"messages": []}', *lines[5:], "{broken"])
    with pytest.raises(DataError) as caught:
        split_file(path, tmp_path / "out", SHARES)
    assert [fault.where.split(" ")[0].rpartition(":")[2] for fault in caught.value.faults] == [
        "6",
        "22",
    ]
    assert not (tmp_path / "out").exists()
    manifest = split_file(path, tmp_path / "out", replace(SHARES, skip_faulty=True))
    ledger = (tmp_path / "out" / "ledger.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["line"] for line in ledger] == [6, 22]
    source = manifest["source"]
    assert (source["rows"], source["rows_left_out"], source["rows_split"]) == (22, 2, 20)
    assert sum(len(rows) for rows in parts_of(tmp_path / "out").values()) == 20


def test_the_manifest_has_the_hashes_of_what_was_read_and_written(tmp_path: Path) -> None:
    import hashlib

    path = write(tmp_path, some_chats(30))
    split_file(path, tmp_path / "out", SHARES)
    manifest = json.loads((tmp_path / "out" / "split.json").read_text(encoding="utf-8"))
    assert manifest["source"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    for part in manifest["parts"]:
        data = (tmp_path / "out" / part["file"]).read_bytes()
        assert part["sha256"] == hashlib.sha256(data).hexdigest()
        assert (part["bytes"], part["rows"]) == (len(data), data.count(b"\n"))


# --- any file at all ------------------------------------------------------------------------------


def test_a_pipe_is_refused_because_rows_are_read_twice() -> None:
    read, written = os.pipe()
    try:
        os.write(written, f"{chat('a', 'b')}\n".encode())
        os.close(written)
        with pytest.raises(DataError) as caught:
            split_file(Path(f"/dev/fd/{read}"), Path("nowhere"), SHARES)
        assert caught.value.faults[0].found == "a pipe"
    finally:
        os.close(read)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.one_of(st.binary(max_size=30), row_lines.map(str.encode)), max_size=6))
def test_any_bytes_are_split_or_refused_with_faults(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "rows.jsonl").write_bytes(b"\n".join(lines))
    asked = SplitSettings(shares_wish("50,50"), skip_faulty=True)
    try:
        manifest = split_file(folder / "rows.jsonl", folder / "out", asked)
    except TanrenError as error:
        assert error.faults and error.exit_code == 2
        assert not (folder / "out").exists()
        return
    source = manifest["source"]
    assert source["rows"] == source["rows_split"] + source["rows_left_out"]
    assert sum(part["rows"] for part in manifest["parts"]) == source["rows_split"]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=4, max_size=30),
    st.lists(st.integers(0, 3), min_size=1, max_size=300),
    st.lists(st.integers(1, 9), min_size=2, max_size=4),
    st.integers(0, 9),
)
def test_groups_of_any_sizes_and_strata_stay_whole_and_no_part_stays_empty(
    sizes: list[int], kinds: list[int], weights: list[int], seed: int
) -> None:
    rows = sum(sizes)
    labels = np.repeat(np.cumsum([0, *sizes[:-1]]), sizes)
    strata = np.unique(np.resize(kinds, rows), return_inverse=True)[1].reshape(-1)
    targets = [max(1, rows * weight // sum(weights)) for weight in weights[1:]]
    targets.insert(0, rows - sum(targets))
    if targets[0] < 1:
        return
    made = assign(labels, strata, targets, seed)
    for label in np.unique(labels):
        assert len(set(made.part_of[labels == label].tolist())) == 1
    counts = np.bincount(made.part_of, minlength=len(targets))
    assert counts.sum() == rows and counts.min() > 0
    # Each stratum may miss its number by a group in each of the other parts.
    reach = max(sizes) * (len(targets) - 1) * len(set(strata.tolist()))
    assert (abs(counts - targets) <= reach).all()
