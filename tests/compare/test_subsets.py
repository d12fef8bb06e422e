"""Files of fewer rows: nested, in file order, byte for byte the rows of the file."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tanren.compare import subsets
from tanren.compare.subsets import SubsetFacts, subset
from tanren.data.files import BUFFER_BYTES, FileStamp
from tanren.data.read import read_chat
from tanren.errors import DataError

BOM = b"\xef\xbb\xbf"


def row(number: int) -> bytes:
    content = {"role": "assistant", "content": f"こたえ {number}"}
    return json.dumps({"messages": [content]}, ensure_ascii=False).encode("utf-8") + b"\n"


@pytest.fixture
def train(tmp_path: Path) -> Path:
    """200 rows."""
    path = tmp_path / "学習.jsonl"
    path.write_bytes(b"".join(row(i) for i in range(200)))
    return path


def taken(train: Path, rows: int, seed: int = 1) -> list[bytes]:
    out = train.with_name(f"{rows}-{seed}.jsonl")
    subset(train, rows, seed, out)
    return out.read_bytes().splitlines(keepends=True)


def test_rows_are_the_files_own_in_file_order(train: Path) -> None:
    whole = train.read_bytes().splitlines(keepends=True)
    places = [whole.index(line) for line in taken(train, 60)]
    assert len(places) == 60
    assert places == sorted(set(places))
    assert taken(train, 200) == whole


def test_more_rows_contain_fewer(train: Path) -> None:
    for smaller, larger in ((1, 2), (50, 51), (100, 200)):
        assert set(taken(train, smaller)) < set(taken(train, larger))


def test_the_seed_decides_and_nothing_else(train: Path) -> None:
    assert taken(train, 50, seed=1) == taken(train, 50, seed=1)
    assert taken(train, 50, seed=1) != taken(train, 50, seed=2)


def test_the_same_rows_in_every_version_and_process(tmp_path: Path) -> None:
    """`random()` of Mersenne Twister is promised to stay; these rows were written down once."""
    train = tmp_path / "train.jsonl"
    train.write_bytes(b"".join(b"%d\n" % i for i in range(10)))
    subset(train, 4, 7, tmp_path / "four.jsonl")
    assert (tmp_path / "four.jsonl").read_bytes() == b"0\n2\n3\n7\n"


def test_every_row_is_as_likely(tmp_path: Path) -> None:
    """10 rows, 3 taken, 3,000 seeds: 900 times each; 5 standard deviations are 125."""
    counts = Counter[int]()
    for seed in range(3000):
        marks = subsets._chosen(10, 3, seed)
        assert sum(marks) == 3
        counts.update(i for i in range(10) if marks[i])
    assert all(abs(counts[i] - 900) < 125 for i in range(10))


def test_the_facts_are_those_of_the_files(train: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder" / "out.jsonl"
    facts = subset(train, 30, 5, out)
    source, written = (hashlib.sha256(p.read_bytes()).hexdigest() for p in (train, out))
    assert facts == SubsetFacts(30, 200, 5, source, written)


# --- files as people have them --------------------------------------------------------------------


def test_bom_blank_lines_carriage_returns_and_a_missing_last_newline(tmp_path: Path) -> None:
    """T26. Blank lines are no rows; every written line ends with a newline."""
    train, out = tmp_path / "train.jsonl", tmp_path / "out.jsonl"
    lines = [row(0).replace(b"\n", b"\r\n"), b"\n", b" \t\r\n", BOM + row(1), row(2).rstrip(b"\n")]
    train.write_bytes(BOM + b"".join(lines))
    facts = subset(train, 3, 1, out)
    assert facts.of_rows == 3
    assert out.read_bytes() == row(0).replace(b"\n", b"\r\n") + row(1) + row(2)
    assert sum(1 for _ in read_chat(train)) == 3, "the rows that training counts"


def test_rows_with_faults_stay_as_they_are(tmp_path: Path) -> None:
    """The gate before training tells of them."""
    train, out = tmp_path / "train.jsonl", tmp_path / "out.jsonl"
    content = row(0) + b"{broken\n" + b"\x83\x65\x83\x58\x83\x67\n" + row(1)
    train.write_bytes(content)
    assert subset(train, 4, 1, out).rows == 4
    assert out.read_bytes() == content


# --- what cannot be -------------------------------------------------------------------------------


def test_more_rows_than_there_are(train: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with pytest.raises(DataError, match=r"found 200 rows, expected at least 201; ask for at most"):
        subset(train, 201, 1, out)
    assert not out.exists()


def test_a_missing_file_and_the_file_itself(train: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="did you mean"):
        subset(train.with_name("学習.json"), 1, 1, tmp_path / "out.jsonl")
    before = train.read_bytes()
    link = tmp_path / "link.jsonl"
    link.symlink_to(train)
    for same in (train, link):
        with pytest.raises(DataError, match="the training file itself"):
            subset(train, 1, 1, same)
    assert train.read_bytes() == before
    with pytest.raises(ValueError, match="no subset of 0"):
        subset(train, 0, 1, tmp_path / "out.jsonl")


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from tanren.compare.subsets import subset\n"
        "from tanren.errors import DataError\n"
        "try: subset(Path('/dev/stdin'), 1, 1, Path('out.jsonl'))\n"
        "except DataError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=row(0), capture_output=True, cwd=tmp_path, check=True
    )
    assert b"a file that can be read twice" in done.stdout
    assert not (tmp_path / "out.jsonl").exists()


def test_a_file_that_changes_meanwhile_gives_nothing(train: Path, tmp_path: Path) -> None:
    """T14: what lay there before stays."""
    out = tmp_path / "out.jsonl"
    out.write_text("old", encoding="utf-8")
    marks = bytearray([1] * 200)
    with open(train, "rb") as file:
        stamp = FileStamp.of(os.fstat(file.fileno()))

    def lines() -> Iterator[bytes]:
        reading = subsets._taken(train, marks, stamp)
        yield next(reading)
        with open(train, "ab") as file:
            file.write(row(200))
        yield from reading

    with pytest.raises(DataError, match="unchanged while it is read"):
        subsets._write(out, lines())
    assert out.read_text(encoding="utf-8") == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.jsonl", train.name]


def test_memory_is_five_bytes_a_row(tmp_path: Path) -> None:
    """Of 200,000 rows; a list of their numbers alone would take 7 MB."""
    import tracemalloc

    train = tmp_path / "train.jsonl"
    train.write_bytes(b"{}\n" * 200_000)
    tracemalloc.start()
    try:
        subset(train, 100_000, 1, tmp_path / "out.jsonl")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * 200_000 + 3 * BUFFER_BYTES
