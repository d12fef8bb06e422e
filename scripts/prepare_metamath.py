"""Make data/metamath/ for configs/compare/metamath_3b.yaml: MetaMathQA to train, GSM8K to test.

    python scripts/prepare_metamath.py                       # from the Hugging Face hub
    python scripts/prepare_metamath.py --metamath FILE --gsm8k FOLDER    # from files that lie here
    python scripts/prepare_metamath.py --rows 400            # for a try

Writes the splits of PEFT's method comparison (huggingface/peft, method_comparison/MetaMathQA) as
chat files:

- train.jsonl: the first rows of MetaMathQA whose query and response have at most 1,300 characters
  together. Its runs take them in the file's order and stop after 5,000 steps of 4, so 20,000 rows
  are all they ever see.
- validation.jsonl: 50 training questions of GSM8K, drawn with numpy's old generator and seed 0.
- test.jsonl: all test questions of GSM8K.

Answers of GSM8K lose their calculator notes (`<<48/2=24>>`) and end with "The answer is: 24" behind
their "#### 24", as those of MetaMathQA do: so a loss on them says something about the task. The
number is the same.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tanren.errors import DataError, Fault, TanrenError
from tanren.rundir import write_text

METAMATH = ("meta-math/MetaMathQA", "aa4f34d3d2d3231299b5b03d9b3e5a20da45aa18")
GSM8K = ("openai/gsm8k", "cc7b047b6e5bb11b4f1af84efc572db110a51b3c")
"""Names and revisions that the published results were made with."""
LONGEST = 1300
ROWS = 20_000
VALIDATION_ROWS = 50
MARK = "####"

Row = Mapping[str, Any]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--metamath", help="JSON or Parquet file, or folder; default: the hub")
    parser.add_argument(
        "--gsm8k", help="folder with train and test Parquet files; default: the hub"
    )
    parser.add_argument("--rows", type=int, default=ROWS, help=f"training rows (default {ROWS})")
    parser.add_argument(
        "--out", type=Path, default=Path("data/metamath"), help="folder to write to"
    )
    given = parser.parse_args(arguments)
    try:
        prepare(given.metamath, given.gsm8k, given.rows, given.out)
    except TanrenError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def prepare(metamath: str | None, gsm8k: str | None, rows: int, out: Path) -> None:
    """Write the three files. DataError where a source lacks a column or has too few rows."""
    read, train = _first_short(_source(metamath, METAMATH, "train", ("query", "response")), rows)
    if len(train) < rows:
        where = metamath or METAMATH[0]
        found = f"{len(train)} rows of at most {LONGEST} characters"
        raise DataError.of(Fault(where, found, f"{rows}", f"ask for --rows {len(train)}"))
    columns = ("question", "answer")
    questions = list(_source(gsm8k, GSM8K, "train", columns))
    tests = list(_source(gsm8k, GSM8K, "test", columns))
    validation = [questions[i] for i in _drawn(len(questions))]
    out.mkdir(parents=True, exist_ok=True)
    _write(out / "train.jsonl", ((row["query"], row["response"]) for row in train))
    _write(out / "validation.jsonl", map(_gsm8k_pair, validation))
    _write(out / "test.jsonl", map(_gsm8k_pair, tests))
    print(f"{out / 'train.jsonl'}: {len(train)} rows; {read - len(train)} longer ones left out")
    print(f"{out / 'validation.jsonl'}: {len(validation)} of {len(questions)} rows")
    print(f"{out / 'test.jsonl'}: {len(tests)} rows")


# --- which rows -----------------------------------------------------------------------------------


def _first_short(rows: Iterable[Row], count: int) -> tuple[int, list[Row]]:
    """(rows read, the first `count` that are short enough)."""
    read, found = 0, []
    for row in rows:
        if len(found) == count:
            break
        read += 1
        if len(f"{row['query']} {row['response']}") <= LONGEST:
            found.append(row)
    return read, found


def _drawn(total: int) -> list[int]:
    """The rows that `numpy.random.seed(0)` and `shuffle` put first."""
    import numpy as np

    order = np.arange(total)
    np.random.RandomState(0).shuffle(order)
    return [int(i) for i in order[:VALIDATION_ROWS]]


def _gsm8k_pair(row: Row) -> tuple[str, str]:
    steps, mark, number = re.sub(r"<<[^>]*>>", "", row["answer"]).rpartition(MARK)
    if not mark:
        raise DataError.of(
            Fault(
                GSM8K[0], f"{row['answer']!r}", f"a number after {MARK}", "use openai/gsm8k, main"
            )
        )
    number = number.strip()
    return row["question"], f"{steps.strip()}\n{MARK} {number}\nThe answer is: {number}"


# --- reading and writing --------------------------------------------------------------------------


def _source(
    given: str | None, hub: tuple[str, str], split: str, columns: tuple[str, str]
) -> Iterator[Row]:
    """Rows of a local file or folder, or of the hub's data set."""
    if given is None:
        yield from _from_hub(*hub, split)
        return
    for path in _files(Path(given), split):
        for row in _from_file(path):
            missing = [column for column in columns if column not in row]
            if missing:
                found = f"columns {', '.join(row)}"
                raise DataError.of(
                    Fault(str(path), found, " and ".join(columns), f"take the files of {hub[0]}")
                )
            yield row


def _files(place: Path, split: str) -> list[Path]:
    """The file itself; of a folder its only kind of file, or those that are named after a split."""
    if place.is_file():
        return [place]
    every = sorted(path for end in ("parquet", "json") for path in place.rglob(f"*.{end}"))
    named = [path for path in every if path.name.startswith(split)]
    found = named or [path for path in every if not path.name.startswith(("train", "test"))]
    if not found or (len(found) > 1 and not named):
        names = ", ".join(path.name for path in every) or "no Parquet or JSON file"
        raise DataError.of(
            Fault(str(place), names, f"files of the split {split}", "name a file or folder of them")
        )
    return found


def _from_file(path: Path) -> Iterator[Row]:
    if path.suffix == ".json":
        yield from json.loads(path.read_text(encoding="utf-8"))
        return
    from pyarrow import parquet

    for batch in parquet.ParquetFile(path).iter_batches():
        yield from batch.to_pylist()


def _from_hub(name: str, revision: str, split: str) -> Iterator[Row]:
    from datasets import load_dataset

    part = "main" if name == GSM8K[0] else None
    yield from load_dataset(name, part, split=split, revision=revision)


def _write(path: Path, pairs: Iterable[tuple[str, str]]) -> None:
    lines = [
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": question},
                    {"role": "assistant", "content": answer},
                ]
            },
            ensure_ascii=False,
        )
        for question, answer in pairs
    ]
    write_text(path, "\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
