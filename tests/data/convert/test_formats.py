"""The same rows in any format give the same bytes; and what each format has of its own."""

from __future__ import annotations

import datetime
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from data.convert.converting import Rows, converted, delimited, jsonl, parquet, write, xlsx

from tanren.data.convert import Settings, convert, preview
from tanren.errors import ConfigError, DataError, TanrenError

ROWS: Rows = [
    {"question": "空は青い？", "answer": "はい、\n「青い」です。"},
    {"question": 'a, b; c\td | "q"', "answer": "🗾 é\u3000終"},
    {"question": "3", "answer": "x\u2028y"},
]


def in_every_format(folder: Path, rows: Rows) -> dict[str, Path]:
    document = json.dumps(rows, ensure_ascii=False, indent=2)
    below = json.dumps({"version": [1], "rows": rows, "licence": None}, ensure_ascii=False)
    return {
        "csv": write(folder / "a.csv", delimited(rows)),
        "semicolon": write(folder / "b.csv", delimited(rows, ";")),
        "tsv": write(folder / "a.tsv", delimited(rows, "\t")),
        "xlsx": xlsx(folder / "a.xlsx", rows),
        "parquet": parquet(folder / "a.parquet", rows),
        "json": write(folder / "a.json", document),
        "object": write(folder / "b.json", below),
        "jsonl": write(folder / "a.jsonl", jsonl(rows)),
        "array.jsonl": write(folder / "b.jsonl", document),
        "gzip": write(folder / "c.jsonl.gz", gzip.compress(jsonl(rows).encode())),
        "csv.gz": write(folder / "c.csv.gz", gzip.compress(delimited(rows).encode())),
        "bom": write(folder / "bom.csv", "\ufeff" + delimited(rows)),
        "utf-16": write(folder / "wide.csv", delimited(rows).encode("utf-16")),
    }


def test_the_same_rows_in_any_format_give_the_same_bytes(tmp_path: Path) -> None:
    """T26."""
    expected = [[("user", row["question"]), ("assistant", row["answer"])] for row in ROWS]
    found = {}
    for name, path in in_every_format(tmp_path, ROWS).items():
        encoding = "utf-16" if name == "utf-16" else None
        done = converted(path, encoding=encoding)
        assert done.turns == expected, name
        assert done.made.parts[0].rows == 3 and not done.ledger
        found[name] = done.bytes
    assert len(set(found.values())) == 1


def test_several_inputs_of_several_forms_follow_each_other(tmp_path: Path) -> None:
    first = write(tmp_path / "1.csv", "q,a\nx,y\n")
    second = write(tmp_path / "2.json", '[{"instruction": "i", "output": "o"}]')
    done = converted(first, second)
    assert [turn[1][1] for turn in done.turns] == ["y", "o"]
    assert [part.shape.split(":")[0] for part in done.made.parts] == ["columns", "Alpaca"]


@pytest.mark.parametrize(
    ("header", "named"),
    [("q,a", "comma"), ("q\ta", "tab"), ("q;a", "semicolon"), ("q|a", "bar")],
)
def test_the_delimiter_is_found_and_said(tmp_path: Path, header: str, named: str) -> None:
    row = header.replace("q", "x, y; z" if named not in ("comma", "semicolon") else "x")
    done = converted(write(tmp_path / "t.csv", f"{header}\n{row}\n"))
    assert f"{named}-separated" in done.made.parts[0].format
    assert done.turns[0][1] == ("assistant", "a")


def test_a_text_full_of_another_delimiter_does_not_mislead(tmp_path: Path) -> None:
    rows = "".join(f"a;b;{i},c;d\n" for i in range(9))
    assert converted(write(tmp_path / "t.csv", f"q,a\n{rows}")).turns[8][1][1] == "c;d"


def test_rows_with_other_numbers_of_cells_refuse_all_or_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", 'q,a\n1,2\n1,2,3\n"x\ny",2\n1\n\n5,6\n')
    with pytest.raises(DataError) as caught:
        converted(path)
    assert [fault.where for fault in caught.value.faults] == [f"{path}:3", f"{path}:6"]
    assert "double quotes" in caught.value.faults[0].remedy
    assert not path.with_name("out.jsonl").exists(), "nothing half-written"
    assert [p for p in tmp_path.iterdir() if p != path] == []
    done = converted(path, skip_faulty=True)
    assert done.left_out == {"another number of cells than the header": [3, 6]}
    assert done.turns[1][0][1] == "x\ny" and done.made.parts[0].blank == 1
    assert done.ledger[0]["faults"][0]["found"] == "3 cells"


@pytest.mark.parametrize("text", ['q,a\n1,"2\n3,4\n', 'q,a\n1,"2"x\n3,4\n'])
def test_quotes_that_do_not_pair_are_a_fault_with_the_line(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "t.csv", text)
    with pytest.raises(DataError) as caught:
        converted(path)
    assert caught.value.faults[0].where == f"{path}:2"


def test_columns_need_names_of_their_own(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="twice"):
        converted(write(tmp_path / "t.csv", "q,q\n1,2\n"))
    path = write(tmp_path / "t.csv", "x,y\n1,2\n")
    done = converted(path, header=False, user="column 1", assistant="column 2")
    assert done.turns == [
        [("user", "x"), ("assistant", "y")],
        [("user", "1"), ("assistant", "2")],
    ]


# --- JSON ---


def test_broken_lines_are_all_named_with_their_place(tmp_path: Path) -> None:
    """T7."""
    path = write(tmp_path / "t.jsonl", '{"q":1,"a":"x"}\n{"q"\n\n{"q":NaN,"a":"x"}\n"text"\n')
    with pytest.raises(DataError) as caught:
        converted(path)
    places = [fault.where.split(" ")[0] for fault in caught.value.faults]
    assert places == [f"{path}:2", f"{path}:4", f"{path}:5"]
    done = converted(path, skip_faulty=True)
    assert done.left_out == {"not JSON": [2, 4], "a row that is no object": [5]}
    assert done.made.parts[0].blank == 1


def test_an_array_is_read_in_pieces_and_named(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("tanren.data.convert.document.CHUNK_CHARACTERS", 5)
    rows = [{"q": "あ" * n, "a": "{[,]}\"\\", "n": 10**n} for n in range(1, 12)]  # fmt: skip
    body = json.dumps(
        {"m": {"x": []}, "n": 10**30, "empty": [], "data": rows, "tags": ["a"]}, indent=1
    )
    done = converted(write(tmp_path / "t.json", body))
    assert [turn[0][1] for turn in done.turns] == [row["q"] for row in rows]
    said = done.made.parts[0].format
    assert '"data" of 11 rows' in said and '"m", "n", "empty", "tags"' in said
    assert done.made.parts[0].unused == {"n": 11}


def test_of_several_arrays_one_must_be_named(tmp_path: Path) -> None:
    body = '{"train": [{"q": "1", "a": "2"}], "test": [{"q": "3", "a": "4"}]}'
    path = write(tmp_path / "t.json", body)
    with pytest.raises(DataError) as caught:
        converted(path)
    assert '"train" (1 rows), "test" (1 rows)' in caught.value.faults[0].found
    assert "--key train" in caught.value.faults[0].remedy
    assert converted(path, key="test").turns[0][1][1] == "4"
    with pytest.raises(DataError, match="--key test"):
        converted(path, key="tset")


def test_one_object_may_be_one_row(tmp_path: Path) -> None:
    body = {"conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "!"}]}
    for indent in (None, 2):
        path = write(tmp_path / "t.json", json.dumps(body, indent=indent))
        assert converted(path).turns == [[("user", "?"), ("assistant", "!")]]


@pytest.mark.parametrize(
    "text", ['[{"q": "1", "a": "2"}', '[{"q": "1", "a": "2"} {"q"', '[{"q": }]', "[1] x", "[,]"]
)
def test_a_document_that_breaks_off_is_never_half_converted(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "t.json", text)
    for skip in (False, True):
        with pytest.raises(DataError) as caught:
            converted(path, skip_faulty=skip)
        assert caught.value.faults[0].where.startswith(f"{path}")
    assert list(tmp_path.iterdir()) == [path]


# --- Excel and Parquet ---


def test_cells_of_excel_become_the_text_that_excel_shows(tmp_path: Path) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    page = book.active
    assert page is not None
    page.append(["問い", "答え"])
    shown = [
        (3, "General", "3"), (2.0, "General", "2"), (0.5, "0%", "50%"),
        (1234.5, "#,##0.00", "1,234.50"), (7, "000", "007"),
        (0.1, "General", "0.1"), (True, "General", "TRUE"),
        (datetime.datetime(2026, 11, 22), "yyyy/mm/dd", "2026-11-22"),
        (datetime.datetime(2026, 11, 22, 10, 30), "yyyy-mm-dd hh:mm", "2026-11-22 10:30:00"),
    ]  # fmt: skip
    for number, (value, form, _) in enumerate(shown, 2):
        page.append(["x", value])
        page.cell(number, 2).number_format = form
    page.append([None, None])
    page.append(["y", "最後"])
    book.create_sheet("他")
    book.save(tmp_path / "t.xlsx")
    with pytest.raises(DataError, match="--sheet"):
        converted(tmp_path / "t.xlsx")
    done = converted(tmp_path / "t.xlsx", sheet="Sheet")
    assert [turn[1][1] for turn in done.turns] == [*(text for *_, text in shown), "最後"]
    assert done.made.parts[0].blank == 1
    assert done.made.tally["numbers written as text"] == 6
    assert done.made.tally["booleans written as text (TRUE, FALSE)"] == 1
    assert done.made.tally["dates and times written as text (2026-11-22 10:30:00)"] == 2


def test_a_failed_formula_and_a_cell_beyond_the_header_are_faults(tmp_path: Path) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    page = book.active
    assert page is not None
    for row in (["q", "a"], ["1", "#N/A"], ["1", "2", "3"], ["1", "2"]):
        page.append(row)
    page["B2"].data_type = "e"
    book.save(tmp_path / "t.xlsx")
    with pytest.raises(DataError) as caught:
        converted(tmp_path / "t.xlsx")
    assert [f.where.rpartition(":")[2] for f in caught.value.faults] == ["2 column 2", "3 column 3"]


@pytest.mark.parametrize("head", [b"PK\x03\x04junk", b"PAR1junk", b"\x1f\x8bjunk", b"BZh9", b""])
@pytest.mark.parametrize("suffix", [".xlsx", ".parquet", ".csv", ".jsonl"])
def test_damaged_files_are_told_not_raised(tmp_path: Path, head: bytes, suffix: str) -> None:
    path = write(tmp_path / f"t{suffix}", head)
    with pytest.raises(TanrenError) as caught:
        preview([str(path)])
    assert caught.value.exit_code == 2 and str(path) in caught.value.faults[0].where


def test_nulls_that_arrow_adds_are_no_keys(tmp_path: Path) -> None:
    """T21."""
    turns = [
        {"role": "user", "content": "?", "name": "A"},
        {"role": "assistant", "content": "!"},
    ]
    path = parquet(tmp_path / "t.parquet", [{"messages": turns, "n": 1}])
    done = converted(path)
    assert done.chats == [{"messages": turns}]
    (nulls,) = (times for words, times in done.made.tally.items() if "null" in words)
    assert nulls == 1 and done.made.parts[0].unused == {"n": 1}


def test_a_saved_data_set_is_read_by_its_split(tmp_path: Path) -> None:
    import datasets

    rows = [{"question": "?", "answer": "!"}]
    made = datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(rows * 2), "test": datasets.Dataset.from_list(rows)}
    )
    made.save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(DataError, match="--split train"):
        preview([str(tmp_path / "saved")])
    assert preview([str(tmp_path / "saved")], Settings(split="train")).chats == 2


def test_a_folder_with_several_splits_is_never_mixed(tmp_path: Path) -> None:
    for name in ("train-1.jsonl", "train-2.jsonl", "test.jsonl"):
        write(tmp_path / name, '{"q": "?", "a": "!"}\n')
    with pytest.raises(DataError, match="--split train"):
        preview([str(tmp_path)])
    assert preview([str(tmp_path)], Settings(split="train")).chats == 2


# --- what is not done by accident ---


def test_nothing_is_overwritten_unless_told_and_never_the_input(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "q,a\n1,2\n")
    out = write(tmp_path / "o.jsonl", "kept")
    with pytest.raises(ConfigError, match="--overwrite"):
        convert([str(path)], out)
    assert out.read_text(encoding="utf-8") == "kept"
    with pytest.raises(ConfigError, match="the input itself"):
        convert([str(path)], path, overwrite=True)
    convert([str(path)], out, overwrite=True)
    assert out.read_text(encoding="utf-8") != "kept"


def test_the_limit_counts_rows_over_all_inputs(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{n}.csv", f"q,a\n{n},2\n{n},4\n") for n in range(3)]
    done = converted(*paths, limit=3)
    assert [turn[0][1] for turn in done.turns] == ["0", "0", "1"]
    assert done.made.partial


def test_an_option_that_concerns_no_input_is_a_mistake(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", '{"q": "?", "a": "!"}\n')
    with pytest.raises(ConfigError) as caught:
        converted(path, sheet="S", key="k", delimiter=";", header=False)
    assert [f.where for f in caught.value.faults] == [
        "--sheet", "--key", "--delimiter", "--no-header",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="--encoding"):
        converted(parquet(tmp_path / "t.parquet", [{"q": "?", "a": "!"}]), encoding="cp932")
    assert converted(write(tmp_path / "t.csv", "q;a\n1;2\n"), path, delimiter=";").made.chats == 2
