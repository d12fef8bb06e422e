"""`tanren serve`: OpenAI's API for files, fine-tuning and chat, on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from tanren.cli.display import text
from tanren.cli.options import Json
from tanren.cli.output import of

if TYPE_CHECKING:
    from tanren.jobs.service import JobService


def serve(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SERVE.yaml] [KEY=VALUE]...",
            help="Settings of the service. (default: serve.yaml in TANREN_HOME, "
            "configs/serve.yaml)",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Serve OpenAI's API for files, fine-tuning and chat: change base_url, keep the code.

    Jobs run one after another in processes of their own. Ctrl-C lets them save a
    checkpoint; they go on from it at the next start.

    \b
    tanren serve
    tanren serve configs/serve.yaml port=8080
    tanren serve host=0.0.0.0             # demands keys: tanren keys create NAME
    """
    path, overrides = _settings(words or ())
    from tanren.store.settings import load_service, service_file

    config = load_service(service_file(path), overrides)
    _require_extra()
    from tanren.api.logs import start_log
    from tanren.api.server import address_of, listen
    from tanren.api.server import serve as work
    from tanren.jobs.service import JobService

    output = of(context)
    with JobService(config) as service:
        bound = listen(config.host, config.port)
        address = address_of(bound, config.host)
        start_log(config.log_format)

        def ready() -> None:
            document = {
                "url": address,
                "base_url": f"{address}/v1",
                "demands_keys": config.demands_keys,
                "models": [base.id for base in config.models],
            }
            output.give(document, lambda console: _show(console, service, address))

        work(service, bound, ready=ready)


def _settings(words: Sequence[str]) -> tuple[Path | None, list[str]]:
    """A file first, if there is one, and settings after it."""
    if words and "=" not in words[0]:
        return Path(words[0]), list(words[1:])
    return None, list(words)


def _require_extra() -> None:
    """Raises ConfigError where what the server needs was not installed."""
    from importlib.util import find_spec

    from tanren.errors import ConfigError, Fault

    needed = {
        "fastapi": "fastapi",
        "uvicorn": "uvicorn",
        "python_multipart": "python-multipart",
        "prometheus_client": "prometheus-client",
        "llguidance": "llguidance",
    }
    absent = [name for module, name in needed.items() if find_spec(module) is None]
    if absent:
        raise ConfigError.of(
            Fault(
                "tanren serve",
                f"no {', '.join(absent)}",
                "the packages of the server",
                'pip install "tanren[serve]"',
            )
        )


def _show(console: Console, service: JobService, address: str) -> None:
    config = service.config
    console.print(text(f"listening on {address}"), soft_wrap=True)
    console.print(text(f"  export OPENAI_BASE_URL={address}/v1"), soft_wrap=True)
    key = "sk-tanren-..." if config.demands_keys else "any"
    console.print(text(f"  export OPENAI_API_KEY={key}"), soft_wrap=True)
    if config.demands_keys and not any(key.revoked_at is None for key in service.keys.list()):
        console.print(
            text("No key has been made yet, so nobody can use it: tanren keys create NAME"),
            soft_wrap=True,
        )
    console.print(text(f"models: {', '.join(base.id for base in config.models)}"), soft_wrap=True)
