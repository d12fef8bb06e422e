"""The files for containers and systemd say what is true of this repository."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name}\s+(.+)$", DOCKERFILE, re.M)


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    return loaded


def test_what_the_image_copies_is_there_and_is_sent_to_the_builder() -> None:
    sent = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").split()
    assert sent[0] == "*", "only what is named is sent"
    for words in instructions("COPY"):
        for source in words.split()[:-1]:
            name = source.removeprefix("./")
            assert (ROOT / name).exists(), name
            assert f"!{name}" in sent, f"{name} never reaches the builder"


def test_the_extras_that_are_installed_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = re.findall(r"'\.\[([\w,-]+)\]'", DOCKERFILE)
    assert named
    for extras in named:
        assert set(extras.split(",")) <= project["optional-dependencies"].keys()
        assert "serve" in extras.split(",")


def test_the_python_of_the_image_is_one_that_the_project_takes() -> None:
    (version,) = re.findall(r"^ARG PYTHON=3\.(\d+)$", DOCKERFILE, re.M)
    assert 11 <= int(version) <= 13


def test_images_run_as_a_user_and_serve_with_keys_demanded() -> None:
    from tanren.store.settings import load_service

    (command,) = [json.loads(words) for words in instructions("CMD")]
    stages = DOCKERFILE.split("\nFROM ")[1:]
    assert all(stage.rstrip().endswith("USER tanren") for stage in stages[1:]), "all but the base"
    program, verb, config, *settings = command
    assert (program, verb) == ("tanren", "serve")
    assert load_service(ROOT / config, settings).demands_keys


def test_every_service_of_compose_is_a_stage_and_is_reached_from_this_machine_alone() -> None:
    stages = re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.M)
    services = compose()["services"]
    assert services.keys() == {"cpu", "cuda"}
    for name, service in services.items():
        assert service["build"]["target"] == name and name in stages
        assert (DEPLOY / service["build"]["context"]).resolve() == ROOT
        assert (ROOT / service["build"]["dockerfile"]).is_file()
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        mounted = [volume.split(":")[0] for volume in service["volumes"]]
        assert all((DEPLOY / path).exists() for path in mounted if path.startswith("."))
        named = {path for path in mounted if not path.startswith(".")}
        assert named <= compose()["volumes"].keys()


def test_state_lies_in_volumes_because_the_rest_cannot_be_written() -> None:
    volumes = {path for words in instructions("VOLUME") for path in json.loads(words)}
    (home,) = {value for words in instructions("ENV") for value in _values(words, "TANREN_HOME")}
    assert home in volumes
    for service in compose()["services"].values():
        assert service["read_only"] is True
        assert any(volume.endswith(f":{home}") for volume in service["volumes"])


def _values(words: str, name: str) -> list[str]:
    return re.findall(rf"\b{name}=(\S+)", words)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not here")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    text = (DEPLOY / "tanren.service").read_text(encoding="utf-8")
    program = re.search(r"^ExecStart=(\S+)", text, re.M)
    assert program is not None
    unit = tmp_path / "tanren.service"
    text = text.replace(f"ExecStart={program[1]}", f"ExecStart={shutil.which('true')}")
    unit.write_text(re.sub(r"^Documentation=.*$", "", text, flags=re.M), encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )
    said = [line for line in done.stderr.splitlines() if "tanren" in line]
    assert done.returncode == 0 and not said, done.stderr


def test_jobs_have_time_to_save_before_they_are_killed() -> None:
    from tanren.jobs import GRACE_SECONDS

    unit = (DEPLOY / "tanren.service").read_text(encoding="utf-8")
    (stop,) = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.M)
    assert float(stop) > GRACE_SECONDS
    for service in compose()["services"].values():
        assert 60 * float(service["stop_grace_period"].removesuffix("m")) > GRACE_SECONDS
