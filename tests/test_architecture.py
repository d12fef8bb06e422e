"""The house's plan, read from the code: who may import whom, and what stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "train" / "tanren"

# A room imports from lower floors and from its own. Where the plan (a room to a floor) left a room
# open, the number is the lowest that its imports allow: `artefact` stands on `gate`, `proof` on
# `adapter`; `environment` needs torch alone.
FLOORS: dict[str, int] = {
    "errors": 0, "privacy": 0, "strict_json": 0,
    "chat": 1, "config": 1, "data": 1, "devices": 1, "estimate": 1, "methods": 1, "rundir": 1,
    "schedule": 1, "serving": 1, "telling": 1, "tracking": 1, "verdict": 1,
    "adapter": 2, "arguments": 2, "attention": 2, "batches": 2, "costs": 2, "encode": 2,
    "endpoint": 2, "energy": 2, "environment": 2,
    "generate": 2, "loss": 2, "model": 2, "targets": 2, "template": 2,
    "artefact": 3, "checkpoint": 3, "evaluate": 3, "export": 3, "gate": 3, "preference": 3,
    "proof": 3, "sft": 3, "stepwise": 3, "moderate": 3, "watch": 3,
    "engine": 4, "evaluation": 4, "pipeline": 4, "quote": 4, "session": 4, "store": 4,
    "compare": 5, "distill": 5, "jobs": 5,
    "api": 6, "cli": 6, "__main__": 6,
}  # fmt: skip
TORCH_FREE_FLOORS = (0, 1)
TORCH_FREE_ROOMS = ("api", "jobs", "store")  # what starts other processes stays small itself
TORCH_FREE_MODULES = ("tanren.engine", "tanren.engine.wire", "tanren.engine.lines",
                      "tanren.engine.client")  # fmt: skip
HEAVY = ("torch", "transformers", "peft", "datasets", "trl", "bitsandbytes", "accelerate")
LARGEST_FILE_BYTES = 30_000

FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(file: Path) -> str:
    first = file.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def module_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports_of(file: Path) -> frozenset[str]:
    """Dotted names that a file imports anywhere in it, inside functions and for types included."""
    return frozenset(_imports(ast.parse(file.read_text(encoding="utf-8")), module_of(file), file))


def _imports(tree: ast.AST, module: str, file: Path) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: a relative import hides its floor"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imported(file: Path) -> set[str]:
    """Rooms of the package that a file imports from, its own left out."""
    names = [name.split(".") for name in imports_of(file) if name.split(".")[0] == "tanren"]
    rooms = {parts[1] for parts in names if len(parts) > 1}
    return {room for room in rooms if room != room_of(file) and room != "__version__"}


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_a_room_imports_from_its_own_floor_or_lower(file: Path) -> None:
    room = room_of(file)
    if room == "__init__":
        assert not rooms_imported(file)
        return
    floor = FLOORS.get(room, 9)  # a room without a floor fails the test below, once
    above = {r for r in rooms_imported(file) if FLOORS.get(r, 0) > floor}
    assert not above, f"{module_of(file)} (floor {floor}) imports from above: {above}"


def test_every_room_has_a_floor_and_every_floor_its_rooms() -> None:
    rooms = {room_of(file) for file in FILES} - {"__init__"}
    assert rooms <= FLOORS.keys(), f"a new room needs a floor: {rooms - FLOORS.keys()}"
    gone = FLOORS.keys() - rooms
    assert not gone, f"rooms that are no more: {gone}"


def test_rooms_form_no_circle() -> None:
    """Within a floor too: what a room needs can be read before the room."""
    needs = {room: set[str]() for room in FLOORS}
    for file in FILES:
        if room_of(file) in needs:
            needs[room_of(file)] |= rooms_imported(file) - {"__init__"}
    _allow_types_only(needs)
    while needs:
        free = {room for room, wanted in needs.items() if not wanted & needs.keys()}
        assert free, f"a circle among {sorted(needs)}"
        needs = {room: wanted for room, wanted in needs.items() if room not in free}


def _allow_types_only(needs: dict[str, set[str]]) -> None:
    """Take out imports that a type checker alone sees."""
    for room, wanted in needs.items():
        at_run_time = set[str]()
        for file in FILES:
            if room_of(file) == room:
                at_run_time |= _rooms_at_run_time(file)
        wanted &= at_run_time


def _rooms_at_run_time(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    names = [name.split(".") for name in _imports(tree, module_of(file), file)]
    return {parts[1] for parts in names if parts[0] == "tanren" and len(parts) > 1}


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_a_file_is_one_subject_and_so_no_larger_than_30_kb(file: Path) -> None:
    assert file.stat().st_size <= LARGEST_FILE_BYTES


def test_nothing_of_tests_or_scripts_is_imported() -> None:
    for file in FILES:
        outside = {n for n in imports_of(file) if n.split(".")[0] in ("tests", "scripts", "pytest")}
        assert not outside, f"{module_of(file)}: {outside}"


# --- what stays light -----------------------------------------------------------------------------


def light_modules() -> list[str]:
    """Every module of the torch-free floors, and the whole command line but what it loads late."""
    found = [
        module_of(file)
        for file in FILES
        if FLOORS.get(room_of(file), 9) in TORCH_FREE_FLOORS or room_of(file) in TORCH_FREE_ROOMS
    ]
    return ["tanren", *found, *TORCH_FREE_MODULES, "tanren.cli"]


def loaded_by(*modules: str) -> set[str]:
    """Heavy packages that a fresh interpreter holds after importing these modules."""
    code = (
        f"import importlib, sys\nfor m in {list(modules)!r}: importlib.import_module(m)\n"
        f"print(*[h for h in {HEAVY!r} if h in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(PACKAGE.parent), "PATH": ""},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_lower_floors_and_the_command_line_load_no_torch() -> None:
    modules = light_modules()
    assert len(modules) > 30
    heavy = loaded_by(*modules)
    if heavy:  # name the one, not the heap
        guilty = {m: sorted(found) for m in modules if (found := loaded_by(m))}
        pytest.fail(f"heavy imports: {guilty}")


def test_the_test_of_lightness_can_fail() -> None:
    assert "torch" in loaded_by("tanren.batches")


@pytest.mark.parametrize("command", [[], ["check"], ["train"], ["runs"], ["chat"]])
def test_help_loads_no_torch(command: list[str]) -> None:
    code = (
        "import sys\nsys.argv = ['tanren', *sys.argv[1:], '--help']\n"
        "from tanren.cli import main\n"
        "try: main()\nexcept SystemExit as end: assert not end.code, end.code\n"
        f"print('heavy:', [h for h in {HEAVY!r} if h in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command],
        env={"PYTHONPATH": str(PACKAGE.parent), "PATH": "", "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip().endswith("heavy: []"), done.stderr
    assert "tanren" in done.stdout
