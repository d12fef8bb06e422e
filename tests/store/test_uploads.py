"""A file in parts becomes the file it would have been in one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jobs.stores import START, Clock, config, files_below, killed_when_it_says, python

from tanren.errors import StorageError
from tanren.jobs.service import JobService
from tanren.store.errors import InvalidRequest, LimitExceeded, NotFound, TooLarge
from tanren.store.records import UploadRecord


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def service(tmp_path: Path, clock: Clock) -> Iterator[JobService]:
    with JobService(config(tmp_path / "service"), clock=clock) as opened:
        yield opened


def begin(service: JobService, size: int, **changes: Any) -> UploadRecord:
    values = {"filename": "訓練.jsonl", "purpose": "fine-tune", "mime_type": "text/jsonl"}
    return service.uploads.create(**{**values, "bytes": size, **changes})


def send(service: JobService, upload: UploadRecord, *contents: bytes) -> list[str]:
    parts = []
    for content in contents:
        with service.uploads.add_part(upload.id) as receiver:
            receiver.write(content)
            parts.append(receiver.commit().id)
    return parts


def parts_on_disk(service: JobService) -> list[str]:
    return files_below(service.uploads.folder)


# --- the way through ------------------------------------------------------------------------------


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.binary(max_size=40), min_size=1, max_size=6).filter(any), st.randoms())
def test_parts_become_a_file_in_the_order_that_is_asked_for(
    service: JobService, contents: list[bytes], chance: Any
) -> None:
    whole = b"".join(contents)
    upload = begin(service, len(whole))
    sent = list(range(len(contents)))
    chance.shuffle(sent)
    ids = dict(zip(sent, send(service, upload, *(contents[k] for k in sent)), strict=True))
    done = service.uploads.complete(
        upload.id, [ids[k] for k in range(len(contents))], hashlib.md5(whole).hexdigest().upper()
    )
    assert done.status == "completed" and done.file is not None
    assert service.files.path(done.file.id).read_bytes() == whole
    assert service.files.get(done.file.id) == done.file
    assert (done.file.filename, done.file.purpose) == ("訓練.jsonl", "fine-tune")
    assert done.file.sha256 == hashlib.sha256(whole).hexdigest()
    assert parts_on_disk(service) == [] and service.uploads.get(upload.id) == done


def test_an_upload_says_what_it_is(service: JobService) -> None:
    upload = begin(service, 5, purpose="fine_tune", expires_after=7200)
    assert upload == service.uploads.get(upload.id)
    assert upload == UploadRecord(
        id=upload.id, filename="訓練.jsonl", purpose="fine-tune", bytes=5, mime_type="text/jsonl",
        status="pending", created_at=START, expires_at=START + 3600, file=None,
    )  # fmt: skip
    done = service.uploads.complete(upload.id, send(service, upload, b"12345"))
    assert done.file is not None and done.file.expires_at == START + 7200


def test_a_part_that_was_sent_twice_is_left_out(service: JobService) -> None:
    """A client that saw no answer sends it again."""
    upload = begin(service, 4)
    first, _, last = send(service, upload, b"ab", b"ab", b"cd")
    done = service.uploads.complete(upload.id, [first, last])
    assert done.file is not None and parts_on_disk(service) == []
    assert service.files.path(done.file.id).read_bytes() == b"abcd"


def test_completing_again_tells_what_it_has_become(service: JobService) -> None:
    upload = begin(service, 2)
    parts = send(service, upload, b"ab")
    done = service.uploads.complete(upload.id, parts)
    assert service.uploads.complete(upload.id, parts) == done
    assert len(service.files.list().items) == 1


# --- what is refused ------------------------------------------------------------------------------


def refused(service: JobService, upload: UploadRecord, parts: Sequence[str], **words: str) -> Any:
    with pytest.raises(InvalidRequest) as error:
        service.uploads.complete(upload.id, parts, **words)
    assert service.uploads.get(upload.id).status == "pending", "it can be mended"
    assert service.files.list().items == () and files_below(service.files.folder) == []
    return error.value


def test_what_does_not_fit_makes_no_file(service: JobService) -> None:
    upload, other = begin(service, 4), begin(service, 2)
    a, b = send(service, upload, b"ab", b"cd")
    (foreign,) = send(service, other, b"xy")
    for wrong in ([a, foreign], [a, "part_none"], [a, a], [a], [], [a, b, foreign]):
        assert refused(service, upload, wrong).param == "part_ids"
    assert refused(service, upload, [a, b], md5="0" * 32).param == "md5"
    assert refused(service, upload, [a, b], md5="日本").param == "md5"
    assert service.uploads.complete(upload.id, [b, a]).status == "completed"


def test_what_cannot_be_begun(service: JobService) -> None:
    for changes, param in (
        ({"bytes": 0}, "bytes"),
        ({"purpose": "foo"}, "purpose"),
        ({"filename": "x" * 2000}, "file"),
        ({"expires_after": 1}, "expires_after"),
    ):
        with pytest.raises(InvalidRequest) as error:
            begin(service, **{"size": 1, **changes})  # type: ignore[arg-type]
        assert error.value.param == param
    with pytest.raises(TooLarge, match="8,589,934,592"):
        begin(service, 8 * 2**30 + 1)
    for ask in (service.uploads.get, service.uploads.add_part, service.uploads.cancel):
        with pytest.raises(NotFound, match="No such Upload object: upload_none"):
            ask("upload_none")


def test_limits_of_parts_and_of_all_parts_together(tmp_path: Path) -> None:
    limits = {"part_bytes": 10, "upload_bytes": 25}
    with JobService(config(tmp_path, limits=limits)) as service:
        upload = begin(service, 25)
        with service.uploads.add_part(upload.id) as receiver, pytest.raises(TooLarge, match="10"):
            receiver.write(b"x" * 11)
        send(service, upload, b"x" * 10, b"x" * 10)
        with pytest.raises(TooLarge, match="25"):
            send(service, upload, b"x" * 6)
        assert len(parts_on_disk(service)) == 2


def test_parts_count_towards_all_that_is_stored(tmp_path: Path) -> None:
    """And not twice once they are a file."""
    with JobService(config(tmp_path, limits={"storage_bytes": 10})) as service:
        upload = begin(service, 10)
        parts = send(service, upload, b"x" * 6, b"x" * 4)
        with pytest.raises(TooLarge, match="delete some"):
            send(service, upload, b"x")
        assert service.uploads.complete(upload.id, parts).status == "completed"
        assert len(parts_on_disk(service)) == 0


def test_the_number_of_parts_has_a_limit(
    service: JobService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tanren.store.uploads.MOST_PARTS", 2)
    upload = begin(service, 10)
    send(service, upload, b"a", b"b")
    with pytest.raises(LimitExceeded):
        send(service, upload, b"c")
    assert len(parts_on_disk(service)) == 2


# --- ends -----------------------------------------------------------------------------------------


def test_a_cancelled_upload_takes_nothing_and_keeps_nothing(service: JobService) -> None:
    upload = begin(service, 2)
    parts = send(service, upload, b"ab")
    with service.uploads.add_part(upload.id) as late:
        late.write(b"x")
        assert service.uploads.cancel(upload.id).status == "cancelled"
        with pytest.raises(InvalidRequest, match="is cancelled"):
            late.commit()
    assert parts_on_disk(service) == []
    for ask in (
        lambda: service.uploads.complete(upload.id, parts),
        lambda: service.uploads.cancel(upload.id),
        lambda: service.uploads.add_part(upload.id),
    ):
        with pytest.raises(InvalidRequest, match=f"Upload {upload.id} is cancelled"):
            ask()


def test_an_upload_expires_after_an_hour(service: JobService, clock: Clock) -> None:
    upload = begin(service, 2)
    parts = send(service, upload, b"ab")
    clock.at += 3599
    assert service.expire() == 0
    clock.at += 1
    assert service.uploads.get(upload.id).status == "expired"
    with pytest.raises(InvalidRequest, match="is expired"):
        service.uploads.complete(upload.id, parts)
    assert parts_on_disk(service) and service.expire() == 1 and service.expire() == 0
    assert parts_on_disk(service) == [] and service.uploads.get(upload.id).status == "expired"


def test_a_part_that_is_gone_from_the_disk_is_told(service: JobService) -> None:
    upload = begin(service, 2)
    parts = send(service, upload, b"ab")
    (service.uploads.folder / parts[0][-2:] / parts[0]).unlink()
    with pytest.raises(StorageError, match="send it again"):
        service.uploads.complete(upload.id, parts)
    assert files_below(service.files.folder) == []


# --- processes that die ---------------------------------------------------------------------------

DIE = """
import sys, time
from pathlib import Path
from jobs.stores import config
from tanren.jobs.service import JobService
def say(*_):
    print("there", flush=True)
    time.sleep(60)
service = JobService(config(Path(sys.argv[1])), clock=lambda: 1_800_000_000)
uploads, upload, parts = service.uploads, sys.argv[2], sys.argv[3:]
{then}
"""


@pytest.mark.parametrize(
    "then",
    [
        "with uploads.add_part(upload) as part:\n    part.write(b'x' * 99_999)\n    say()",
        "uploads._pending = lambda *_: say()\nuploads.complete(upload, parts)",
        "def end(*_):\n    done(*_); say()\ndone, uploads._completed = uploads._completed, end\n"
        "uploads.complete(upload, parts)",
    ],
    ids=["in a part", "before the parts are joined", "when they are joined, before that is kept"],
)
def test_a_killed_server_loses_no_part_and_leaves_nothing_half(
    service: JobService, then: str
) -> None:
    upload = begin(service, 4)
    parts = send(service, upload, b"ab", b"cd")
    killed_when_it_says(
        "there", python(DIE.replace("{then}", then), service.home, upload.id, *parts)
    )
    with JobService(service.config, clock=service.clock) as again:
        assert sorted(Path(name).name for name in parts_on_disk(again)) == sorted(parts)
        assert files_below(again.files.folder) == []
        done = again.uploads.complete(upload.id, parts)
        assert done.file is not None
        assert again.files.path(done.file.id).read_bytes() == b"abcd"


def test_parts_of_an_end_that_was_cut_short_go_at_the_next_opening(service: JobService) -> None:
    upload = begin(service, 2)
    send(service, upload, b"ab")
    service.uploads._remove = lambda parts: None  # type: ignore[method-assign]
    service.uploads.cancel(upload.id)
    assert parts_on_disk(service)
    with JobService(service.config) as again:
        assert parts_on_disk(again) == []
