"""What all tests share: a sealed environment, tiny models on disk, and the marks `slow` and `gpu`.

- No test reaches the network, this machine's runs, or its GPU (unless marked `gpu`).
- One thread, so that sums are bitwise the same whatever else the machine does.
- Fixtures: `tiny_model("qwen3")` gives a model folder (families: see `tiny.FAMILIES`),
  `make_config(...)` short settings for it, `make_run(...)` a run directory, `tokenizer` theirs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Read by libraries when they are imported, and inherited by the processes that tests start.
os.environ.update(
    {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
        "PYTHONUTF8": "1",
        # Whatever asks for another machine meets a closed door at once.
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "no_proxy": "localhost,127.0.0.1",
        "NO_PROXY": "localhost,127.0.0.1",
    }
)

import pytest

# Warnings of libraries that nobody here can mend, each with its reason.
TOLERATED = (
    # PEFT asks transformers for a property by the name that transformers has deprecated.
    "ignore:.is_gradient_checkpointing.:FutureWarning",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run tests longer than a minute")


def pytest_configure(config: pytest.Config) -> None:
    for rule in TOLERATED:
        config.addinivalue_line("filterwarnings", rule)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what was not asked for or cannot run here, with the reason."""
    skip_slow = pytest.mark.skip(reason="takes longer than a minute; run with --slow")
    skip_gpu = pytest.mark.skip(reason="needs a CUDA device")
    has_gpu = any("gpu" in item.keywords for item in items) and _has_gpu()
    for item in items:
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(skip_slow)
        if "gpu" in item.keywords and not has_gpu:
            item.add_marker(skip_gpu)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture(autouse=True)
def sealed_environment(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Runs and caches go to a temporary folder; the CPU computes unless a test is marked `gpu`."""
    monkeypatch.setenv("TANREN_HOME", str(tmp_path_factory.mktemp("home")))
    if request.node.get_closest_marker("gpu") is None:
        monkeypatch.setenv("TANREN_DEVICE", "cpu")
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session", autouse=True)
def single_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`tiny_model(family="qwen3", **config)`: a saved random model, made once per session.

    Tests must not write into the folder.
    """
    import tiny

    made: dict[tuple[Any, ...], Path] = {}

    def build(family: str = "qwen3", **changes: Any) -> Path:
        key = (family, *sorted(changes.items()))
        if key not in made:
            made[key] = tiny.build_model(tmp_path_factory.mktemp(family), family, **changes)
        return made[key]

    return build


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """The tokenizer of the tiny models."""
    import tiny

    return tiny.build_tokenizer()


@pytest.fixture
def make_config(tiny_model: Callable[..., Path], tmp_path: Path) -> Callable[..., Any]:
    """`make_config("training.max_steps=3", family="qwen3", method="lora", rows=6)`: a RunConfig.

    The rows lie in `train.jsonl` of the test's folder; `validation` rows, if asked for, beside
    them. `method` is a name or a mapping such as {"name": "dora", "lr_ratio": 4}.
    """
    import tiny

    def make(
        *overrides: str,
        family: str = "qwen3",
        method: Any = "lora",
        rows: int = 6,
        validation: int = 0,
    ) -> Any:
        train = tiny.write_rows(tmp_path / "train.jsonl", rows)
        extra = []
        if validation:
            held_out = tiny.write_rows(tmp_path / "validation.jsonl", validation, turns=2)
            extra.append(f"data.validation={held_out}")
        return tiny.settings(tiny_model(family), train, [*extra, *overrides], method=method)

    return make


@pytest.fixture
def make_run(make_config: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """`make_run(*overrides, name="run", **as make_config)`: a fresh RunDirectory.

    `tanren.pipeline.execute(run)` carries it out in a few seconds.
    """
    from tanren.rundir import RunDirectory

    def make(*overrides: str, name: str = "run", **options: Any) -> Any:
        return RunDirectory.create(tmp_path / name, make_config(*overrides, **options))

    return make


@pytest.fixture(autouse=True)
def _signals_stay() -> Iterator[None]:
    """A run that a test stops must leave the handlers of Ctrl-C and SIGTERM as they were."""
    import signal

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
