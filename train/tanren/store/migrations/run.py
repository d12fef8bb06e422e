"""Bring a database to the form that this code knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tanren.errors import ConfigError, Fault
from tanren.store.migrations import FOLDER, HEAD, KNOWN

if TYPE_CHECKING:
    from sqlalchemy import Connection


def missing_package(name: str, extras: str = "serve") -> ConfigError:
    error = ConfigError.of(
        Fault("the service's packages", f"no {name}", "it", f'pip install "tanren[{extras}]"')
    )
    assert isinstance(error, ConfigError)
    return error


def upgrade(connection: Connection, *, name: str) -> str | None:
    """All missing steps in the connection's transaction; the revision it had, None for an empty
    database. `name`: the database, for errors. Raises ConfigError where newer code wrote it.
    """
    had = revision_of(connection)
    if had is not None and had not in KNOWN:
        raise ConfigError.of(
            Fault(
                name,
                f"revision {had!r} of the database",
                f"{HEAD!r} or an earlier one",
                "it was written by a newer tanren: update this one, or name another folder",
            )
        )
    if had != HEAD:
        _run_steps(connection)
    return had


def revision_of(connection: Connection) -> str | None:
    """None where no step was ever made here."""
    from sqlalchemy import inspect, text

    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _run_steps(connection: Connection) -> None:
    """By Alembic's own objects, without its command line and `env.py`: the connection is at hand.

    They are imported here, for their 0.2 s are needed only where a step is missing.
    """
    try:
        from alembic.config import Config
        from alembic.runtime.environment import EnvironmentContext
        from alembic.script import ScriptDirectory
    except ModuleNotFoundError:
        raise missing_package("alembic") from None

    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    script = ScriptDirectory.from_config(config)

    def steps(revision: Any, context: Any) -> Any:
        return script._upgrade_revs("head", revision)

    with EnvironmentContext(config, script, fn=steps) as environment:
        environment.configure(connection=connection, transactional_ddl=True)
        environment.run_migrations()
