"""`tanren keys`: who may use the service, and for what."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from tanren.cli.display import row, table, text
from tanren.cli.options import Json
from tanren.cli.output import of

if TYPE_CHECKING:
    from tanren.store.keys import Keys
    from tanren.store.records import KeyRecord

app = typer.Typer(rich_markup_mode="rich", no_args_is_help=True)

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="SERVE.yaml",
        help="Settings of the service. (default: serve.yaml in TANREN_HOME, configs/serve.yaml)",
    ),
]


@app.callback()
def keys() -> None:
    """API keys of the service: make, list, revoke. A running server knows of it at once.

    \b
    tanren keys create laptop
    tanren keys create dashboard --scope chat --scope metrics --days 90
    tanren keys list
    tanren keys revoke key_...
    """


@app.command("create")
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose it is, or what for.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(
            "--scope",
            metavar="SCOPE",
            help="chat, files, jobs, models (delete them), metrics or all; may be repeated. "
            "(default: all)",
        ),
    ] = None,
    days: Annotated[
        float | None,
        typer.Option("--days", min=0.001, metavar="N", help="It expires then. (default: never)"),
    ] = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Make a key. It is shown this once: only its hash is kept.

    \b
    tanren keys create laptop --days 90
    """
    expires_at = None if days is None else int(time.time() + days * 86_400)
    with _opened(config) as known:
        secret, record = known.create(name, tuple(scope or ("all",)), expires_at)

    def show(console: Console) -> None:
        console.print(text(secret), soft_wrap=True)
        console.print(text(f"{record.id}: {_facts(record)}"), soft_wrap=True)
        console.print(text("Keep it now; it cannot be shown again."), soft_wrap=True)

    of(context).give({"key": secret, **_document(record)}, show)


@app.command("list")
def show_all(context: typer.Context, config: Config = None, json: Json = False) -> None:
    """All keys, with what they may do and when they were used last.

    \b
    tanren keys list
    """
    with _opened(config) as known:
        records = known.list()

    def show(console: Console) -> None:
        if not records:
            console.print(text("no keys; `tanren keys create NAME` makes one"))
            return
        _show_table(console, records)

    of(context).give({"keys": [_document(record) for record in records]}, show)


@app.command("revoke")
def revoke(
    context: typer.Context,
    key: Annotated[str, typer.Argument(metavar="KEY", help="Its id, as the list shows it.")],
    config: Config = None,
    json: Json = False,
) -> None:
    """Refuse a key from now on.

    \b
    tanren keys revoke key_0123456789abcdefghijklmn
    """
    with _opened(config) as known:
        record = known.revoke(key)
    words = f"{record.id} ({record.name}) is refused from now on"
    of(context).give(_document(record), lambda console: console.print(text(words), soft_wrap=True))


@contextlib.contextmanager
def _opened(config: Path | None) -> Iterator[Keys]:
    from tanren.jobs.service import JobService
    from tanren.store.settings import load_service, service_file

    with JobService(load_service(service_file(config))) as service:
        yield service.keys


def _document(record: KeyRecord) -> dict[str, Any]:
    return {**asdict(record), "scopes": list(record.scopes)}


def _facts(record: KeyRecord) -> str:
    return f"{record.name}, may do {', '.join(record.scopes)}, expires {_when(record.expires_at)}"


def _show_table(console: Console, records: Sequence[KeyRecord]) -> None:
    made = table("id", "name", "key", "may do", "state", "made", "last used")
    for record in records:
        row(
            made,
            record.id,
            record.name,
            record.hint,
            ", ".join(record.scopes),
            _state(record),
            _when(record.created_at),
            _when(record.last_used_at),
        )
    console.print(made)


def _state(record: KeyRecord) -> str:
    if record.revoked_at is not None:
        return f"revoked {_when(record.revoked_at)}"
    if record.expires_at is None:
        return "valid"
    late = record.expires_at <= time.time()
    return f"{'expired' if late else 'valid until'} {_when(record.expires_at)}"


def _when(seconds: int | None) -> str:
    if seconds is None:
        return "never"
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M")
