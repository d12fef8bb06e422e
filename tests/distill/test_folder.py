"""Laws of the folder: begun by one set of settings, held by one process, and nobody else's."""

from __future__ import annotations

from pathlib import Path

import pytest
from distill.distilling import Carry, lines, settings, write_texts
from endpoint.chat_server import ChatServer

from tanren.errors import RunError
from tanren.rundir import RunDirectory


def test_other_settings_are_refused_unless_the_folder_is_begun_anew(
    tmp_path: Path, carry_out: Carry, teacher: ChatServer
) -> None:
    source = write_texts(tmp_path / "texts", 3)
    values = settings(teacher.url, source)
    first = carry_out(values)
    before = {f.name: f.read_bytes() for f in first.folder.path.iterdir()}
    for changed, where in (
        ({"repairs": 5}, "repairs"),
        ({"system": "x"}, "system"),
        ({"constraints": [{"length": {"target": 100, "tolerance": 4}}]}, "constraints"),
        ({"wording": "ja"}, "wording"),
        ({"teacher": {**values["teacher"], "model": "u"}}, "teacher"),
    ):
        with pytest.raises(RunError, match="other settings") as error:
            carry_out({**values, **changed})
        (fault,) = error.value.faults
        assert fault.where.endswith(where)
        assert "--overwrite" in fault.remedy
    (source / "000.txt").write_text("another text", encoding="utf-8")
    with pytest.raises(RunError) as error:
        carry_out(values)
    assert error.value.faults[0].where.endswith("rows")
    assert {f.name: f.read_bytes() for f in first.folder.path.iterdir()} == before
    asked = len(teacher.bodies)
    (first.folder.path / "mine.txt").write_text("kept", encoding="utf-8")
    again = carry_out(values, overwrite=True)
    assert again.complete and len(teacher.bodies) > asked
    assert (again.folder.path / "mine.txt").exists()


def test_what_changes_no_answer_may_change(
    tmp_path: Path, carry_out: Carry, teacher: ChatServer
) -> None:
    values = settings(teacher.url, write_texts(tmp_path / "texts", 5), system="s")
    carry_out(values)
    asked = len(teacher.bodies)
    values["teacher"] = {**values["teacher"], "timeout_seconds": 9.0, "retries": 1}
    done = carry_out({**values, "concurrency": 1, "system_in_rows": "none"})
    assert len(teacher.bodies) == asked
    assert lines(done.folder.train_file)[0]["messages"][0]["role"] == "user"


def test_a_folder_of_somebody_else_is_left_alone(
    tmp_path: Path, carry_out: Carry, teacher: ChatServer
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine", encoding="utf-8")
    for overwrite in (False, True):
        with pytest.raises(RunError, match="other things in it"):
            carry_out(settings(teacher.url, write_texts(tmp_path / "t", 1)), overwrite=overwrite)
    assert [f.name for f in (tmp_path / "out").iterdir()] == ["thesis.txt"]
    assert not teacher.bodies


def test_two_processes_do_not_work_in_one_folder(
    tmp_path: Path, carry_out: Carry, teacher: ChatServer
) -> None:
    values = settings(teacher.url, write_texts(tmp_path / "texts", 2))
    done = carry_out(values)
    asked = len(teacher.bodies)
    with RunDirectory(done.folder.path).claim():
        for overwrite in (False, True):
            with pytest.raises(RunError, match="at work"):
                carry_out(values, overwrite=overwrite)
    assert done.folder.train_file.exists() and len(teacher.bodies) == asked


def test_what_a_killed_process_left_half_written_goes(
    tmp_path: Path, carry_out: Carry, teacher: ChatServer
) -> None:
    values = settings(teacher.url, write_texts(tmp_path / "texts", 2))
    done = carry_out(values)
    before = done.folder.train_file.read_bytes()
    (done.folder.path / ".train.jsonl.1.tmp").write_text("half", encoding="utf-8")
    for name in ("replies.jsonl", "spending.jsonl"):
        with open(done.folder.path / name, "ab") as file:
            file.write(b'{"torn": "li')
    asked = len(teacher.bodies)
    again = carry_out(values)
    assert not list(again.folder.path.glob(".*")) and len(teacher.bodies) == asked
    assert again.folder.train_file.read_bytes() == before
