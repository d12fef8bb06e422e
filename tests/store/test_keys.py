"""A key opens what it was made for, until its time is over; nobody can read it from the disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cli.commands import Ended
from jobs.stores import START, Clock, config

from tanren.cli import main
from tanren.jobs.service import JobService
from tanren.store.errors import Forbidden, InvalidRequest, NotFound, Unauthorized
from tanren.store.keys import SCOPES
from tanren.store.tables import KeyRow


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def service(tmp_path: Path, clock: Clock) -> Iterator[JobService]:
    with JobService(config(tmp_path / "service"), clock=clock) as opened:
        yield opened


def test_a_key_is_chance_and_only_its_hash_is_kept(service: JobService) -> None:
    made = [service.keys.create(f"key {n}") for n in range(20)]
    secrets = {secret for secret, _ in made}
    assert len(secrets) == 20
    assert all(len(s) == len("sk-tanren-") + 43 and s.startswith("sk-tanren-") for s in secrets)
    service.close()
    stored = b"".join(path.read_bytes() for path in service.home.rglob("*") if path.is_file())
    for secret, record in made:
        middle = secret.removeprefix("sk-tanren-")[2:-4]
        assert middle.encode() not in stored
        assert hashlib.sha256(secret.encode()).digest() in stored
        assert record.hint == f"{secret[:12]}...{secret[-4:]}"


def test_a_key_is_good_for_its_scopes_alone(service: JobService) -> None:
    for scope in SCOPES:
        secret, record = service.keys.create("k", [scope])
        for wanted in SCOPES:
            if scope in (wanted, "all"):
                assert service.keys.check(secret, wanted).id == record.id
            else:
                with pytest.raises(Forbidden, match=wanted) as refused:
                    service.keys.check(secret, wanted)
                assert refused.value.status == 403
        assert service.keys.check(secret).id == record.id, "any key will do"
    both, _ = service.keys.create("k", ["jobs", "chat", "jobs"])
    assert service.keys.check(both, "chat").scopes == ("chat", "jobs")


def test_what_is_no_key_opens_nothing(service: JobService) -> None:
    secret, record = service.keys.create("k")
    wrong = [None, "", "x", record.id, record.hint, secret[:-1], secret + "x", secret.upper(),
             f" {secret}", "\ud83d", "\x00", "鍵", "sk-tanren-", "' OR 1=1 --"]  # fmt: skip
    for text in wrong:
        with pytest.raises(Unauthorized) as refused:
            service.keys.check(text, "chat")
        assert (refused.value.status, refused.value.code) == (401, "invalid_api_key")
        assert not text or len(text) < 10 or text not in refused.value.message


def test_an_expired_key_is_refused(service: JobService, clock: Clock) -> None:
    secret, _ = service.keys.create("k", expires_at=START + 10)
    clock.at += 9
    service.keys.check(secret)
    clock.at += 1
    with pytest.raises(Unauthorized):
        service.keys.check(secret)
    with pytest.raises(InvalidRequest, match="over"):
        service.keys.create("k", expires_at=clock.at)


def test_a_revoked_key_is_refused_at_once_by_every_process(
    service: JobService, clock: Clock
) -> None:
    secret, record = service.keys.create("k")
    other, _ = service.keys.create("other")
    with JobService(service.config, clock=clock) as server:
        server.keys.check(secret)
        clock.at += 5
        assert service.keys.revoke(record.id).revoked_at == START + 5
        clock.at += 5
        assert service.keys.revoke(record.id).revoked_at == START + 5
        with pytest.raises(Unauthorized):
            server.keys.check(secret)
        server.keys.check(other)
    with pytest.raises(NotFound):
        service.keys.revoke("key_none")


def test_the_last_use_is_noted_once_a_minute(service: JobService, clock: Clock) -> None:
    secret, _ = service.keys.create("k")
    assert service.keys.list()[0].last_used_at is None
    noted = []
    for at in (0, 1, 59, 60, 100, 119, 120):
        clock.at = START + at
        service.keys.check(secret)
        noted.append(service.keys.list()[0].last_used_at)
    assert [at and at - START for at in noted] == [0, 0, 0, 60, 60, 60, 120]
    with pytest.raises(Unauthorized):
        service.keys.check("sk-tanren-" + "x" * 43)


@pytest.mark.parametrize(
    "name, scopes, param",
    [("", ["all"], "name"), (" ", ["all"], "name"), ("x" * 129, ["all"], "name"),
     ("a\nb", ["all"], "name"), ("\ud83d", ["all"], "name"), ("k", [], "scopes"),
     ("k", ["chat", "root"], "scopes")],
)  # fmt: skip
def test_what_a_key_cannot_be(
    service: JobService, name: str, scopes: list[str], param: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        service.keys.create(name, scopes)
    assert refused.value.param == param and service.keys.list() == ()


# --- tanren keys ----------------------------------------------------------------------------------


@pytest.fixture
def tanren(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Ended]:
    """The command line, in a folder with settings of a service."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TANREN_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")  # where a name is broken depends on the random key
    (tmp_path / "configs").mkdir()
    settings = "models: [{id: tiny, name: data/tiny-chat}]\n"
    (tmp_path / "configs" / "serve.yaml").write_text(settings, encoding="utf-8")

    def call(*words: str) -> Ended:
        capfd.readouterr()
        code = main(words)
        out, err = capfd.readouterr()
        return Ended(code, out, err)

    return call


def test_the_command_line_makes_keys_that_the_service_takes(
    tanren: Callable[..., Ended], tmp_path: Path
) -> None:
    words = ("--scope", "chat", "--scope", "jobs", "--days", "2", "--json")
    made = tanren("keys", "create", "ラップトップ", *words).document
    with JobService(config(tmp_path / "service")) as service:
        record = service.keys.check(made["key"], "jobs")
        assert (record.name, record.scopes) == ("ラップトップ", ("chat", "jobs"))
        assert record.expires_at is not None
        assert record.expires_at - record.created_at == pytest.approx(172_800, abs=2)
    listed = tanren("keys", "list", "--json").document["keys"]
    assert [key["id"] for key in listed] == [made["id"]] and made["key"] not in str(listed)
    shown = tanren("keys", "list").out
    assert "ラップトップ" in shown and made["key"] not in shown
    assert tanren("keys", "revoke", made["id"]).code == 0
    with JobService(config(tmp_path / "service")) as service, pytest.raises(Unauthorized):
        service.keys.check(made["key"])
    assert "revoked" in tanren("keys", "list").out


def test_the_command_line_shows_a_key_once(tanren: Callable[..., Ended]) -> None:
    said = tanren("keys", "create", "laptop")
    secret = said.out.splitlines()[0]
    assert said.code == 0 and secret.startswith("sk-tanren-") and len(secret) == 53


def test_mistakes_on_the_command_line_are_told(
    tanren: Callable[..., Ended], tmp_path: Path
) -> None:
    assert "root" in tanren("keys", "create", "k", "--scope", "root").err
    assert tanren("keys", "create", "k", "--scope", "root").code == 2
    assert tanren("keys", "revoke", "key_none").code == 2
    assert "no keys" in tanren("keys", "list").out
    (tmp_path / "configs" / "serve.yaml").unlink()
    assert "--config" in tanren("keys", "list").err
    assert tanren("keys", "list", "--config", "nothing.yaml").code == 2


def test_a_row_has_no_place_for_a_secret() -> None:
    kept = {column.name for column in KeyRow.__table__.columns}
    assert kept == {"number", "id", "name", "hint", "hash", "scopes", "created_at", "expires_at",
                    "last_used_at", "revoked_at"}  # fmt: skip
