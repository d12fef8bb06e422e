"""Settings of the service: strict, all faults at once, and what follows from them."""

from __future__ import annotations

from importlib import util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tanren.errors import ConfigError
from tanren.store.settings import OPENAI_NAMES, ServiceConfig, load_service, service_file

ROOT = Path(__file__).resolve().parents[2]
TINY: dict[str, Any] = {"models": [{"id": "tiny", "name": "data/tiny-chat"}]}


def faults(*overrides: str, base: dict[str, Any] = TINY, path: Path | None = None) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        load_service(path, overrides, base=base)
    return [str(fault) for fault in refused.value.faults]


# --- files and overrides --------------------------------------------------------------------------


def test_the_file_that_comes_along_serves_the_tiny_model_under_every_name_of_openai() -> None:
    config = load_service(ROOT / "configs" / "serve.yaml")
    assert [base.id for base in config.models] == ["tiny-chat"]
    assert (ROOT / config.models[0].name / "config.json").is_file()
    assert set(config.models[0].aliases) == set(OPENAI_NAMES)
    assert config.is_loopback and not config.demands_keys


def test_the_models_in_its_comments_are_settings_too() -> None:
    """Who takes the `#` away has models with good settings of runs."""
    lines = (ROOT / "configs" / "serve.yaml").read_text(encoding="utf-8").splitlines()
    shown = [line[1:] for line in lines if line.startswith(("#  - ", "#    "))]
    models = yaml.safe_load("\n".join(shown))
    assert len(models) == 3 and all("/" in model["name"] for model in models)
    config = load_service(None, base={"models": models})
    assert {alias for base in config.models for alias in base.aliases} <= set(OPENAI_NAMES)


def test_words_win_over_the_file_and_the_file_over_the_base(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("port: 9000\nlimits: {part_bytes: 5}\n", encoding="utf-8")
    base = {**TINY, "port": 1, "organization": "me", "limits": {"queued_jobs": 3}}
    config = load_service(file, ["port=9001", "serving.max_batch=2"], base=base)
    assert (config.port, config.organization, config.serving.max_batch) == (9001, "me", 2)
    assert (config.limits.part_bytes, config.limits.queued_jobs) == (5, 3)


def test_every_fault_is_told_at_once_with_a_near_name() -> None:
    """T24."""
    told = faults("prot=1", "port=70000", "limits.file_byte=1", "serving.max_batch=two", "host=5")
    assert len(told) == 5
    assert any("prot" in fault and "did you mean 'port'?" in fault for fault in told)
    assert any("limits.file_byte:" in f and "did you mean 'file_bytes'?" in f for f in told)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"models": []}, "at least one model"),
        ({"models": [{"id": "a", "name": "x"}, {"id": "a", "name": "y"}]}, "a stands more than"),
        ({"models": [{"id": "a", "name": "x", "aliases": ["a"]}]}, "a stands more than once"),
        ({"models": [{"id": "a", "name": "x", "aliases": ["../b c"]}]}, "aliases of letters"),
        ({"models": [{"id": "a", "name": "x", "aliases": ["ft:a::b"]}]}, "no ft: names"),
        ({"models": [{"id": "a/b", "name": "x"}]}, "match pattern"),
        ({"models": [{"id": "ft:a", "name": "x"}]}, "match pattern"),
        ({"models": [{"id": "a"}]}, "add name"),
        ({"organization": "a:b"}, "match pattern"),
        ({"log_format": "xml"}, "'text' or 'json'"),
    ],
)
def test_what_cannot_be_is_told(change: dict[str, Any], words: str) -> None:
    told = faults(base={**TINY, **change})
    assert len(told) == 1 and words in told[0], told


def test_wrong_settings_of_runs_are_told_before_a_job_comes() -> None:
    """T24: with their place, those of all models at once."""
    models = [
        {"id": "a", "name": "x", "run": {"method": {"name": "lora", "rnak": 8}}},
        {"id": "b", "name": "y", "run": {"training": {"batch_size": 0}, "evaluation.every": 5}},
    ]
    told = faults(base={"models": models})
    assert len(told) == 2
    assert "models[0].run method.rnak" in told[0] and "did you mean 'rank'?" in told[0]
    assert "models[1].run training.batch_size" in told[1]


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "serve.yaml").write_text("models: []", encoding="utf-8")
    assert "serve.yaml" in faults(path=tmp_path / "srve.yaml")[0]


def test_where_settings_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TANREN_HOME", str(tmp_path / "home"))
    with pytest.raises(ConfigError, match="--config"):
        service_file(None)
    for place in (tmp_path / "configs" / "serve.yaml", tmp_path / "home" / "serve.yaml"):
        place.parent.mkdir()
        place.touch()
        assert service_file(None).resolve() == place
    assert service_file(Path("other.yaml")) == Path("other.yaml")


# --- what follows ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host, demanded",
    [("127.0.0.1", False), ("127.9.9.9", False), ("localhost", False), ("::1", False),
     ("0.0.0.0", True), ("::", True), ("192.168.0.2", True), ("example.com", True), ("", True),
     ("127.0.0.1.evil.example", True)],
)  # fmt: skip
def test_any_address_but_loopback_demands_keys(host: str, demanded: bool) -> None:
    assert load_service(None, base={**TINY, "host": host}).demands_keys == demanded
    assert load_service(None, ["require_keys=true"], base={**TINY, "host": host}).demands_keys


def test_a_name_means_its_base_and_nothing_else_does() -> None:
    models = [
        {"id": "a", "name": "x", "aliases": ["gpt-4o-mini", "Qwen/Qwen3-0.6B"]},
        {"id": "b", "name": "y"},
    ]
    config = load_service(None, base={"models": models})
    for name, wanted in (("a", "x"), ("gpt-4o-mini", "x"), ("Qwen/Qwen3-0.6B", "x"), ("b", "y")):
        base = config.base_for(name)
        assert base is not None and base.name == wanted
    assert [config.base_for(name) for name in ("x", "A", "", "gpt-4o", "ft:a::x")] == [None] * 5


def test_its_folder_is_below_the_home_unless_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TANREN_HOME", str(tmp_path))
    assert load_service(None, base=TINY).home == tmp_path / "service"
    assert load_service(None, ["folder=/srv/鍛錬"], base=TINY).home == Path("/srv/鍛錬")


# --- the page -------------------------------------------------------------------------------------


def page_maker() -> ModuleType:
    path = ROOT / "scripts" / "make_settings_page.py"
    spec = util.spec_from_file_location("make_settings_page", path)
    assert spec is not None and spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_the_services_settings_is_what_they_say() -> None:
    page = page_maker().serve_page()
    written = (ROOT / "docs" / "serve-settings.md").read_text(encoding="utf-8")
    assert page == written, "run `make docs`"
    for name in (*ServiceConfig.model_fields, "models[].run", "serving.max_batch"):
        assert f"| `{name}` |" in page
    assert "|  |" not in page, "every setting has its meaning"
