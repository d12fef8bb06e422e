"""Laws of `tanren export` as a person meets it: what is printed, how it ends, what is left."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from cli.commands import Ended, run
from export.exporting import as_if_trained

from tanren.rundir import RunDirectory

Tanren = Callable[..., Ended]
MakeTuned = Callable[..., RunDirectory]

ASCII = {"LC_ALL": "C", "LANG": None}
HARD_ASCII = {**ASCII, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture
def make_tuned(make_config: Callable[..., Any], home: Path) -> MakeTuned:
    """`make_tuned(method="qlora")`: a run named 太郎, with a result as if trained."""

    def make(*, amount: float = 0.05, **options: Any) -> RunDirectory:
        return as_if_trained(make_config(**options), home / "runs" / "太郎", amount=amount)

    return make


def left_in(run: RunDirectory) -> set[str]:
    return {path.name for path in run.path.iterdir()}


def lines_of(page: str, label: str) -> list[str]:
    """What stands behind a label of the page, in order."""
    found = [line.split(label, 1)[1] for line in page.splitlines() if line[1:].startswith(label)]
    return [" ".join(words.split()) for words in found]


def test_the_document_says_what_was_written_and_how_it_was_proven(
    tanren: Tanren, make_tuned: MakeTuned
) -> None:
    tuned = make_tuned()
    ended = tanren("export", "太郎", "--prompts", "2", "--json")
    assert ended.code == 0, ended.err
    done = ended.document
    keys = {"kind", "folder", "dtype", "bytes", "commands", "notes", "seconds", "proof"}
    assert set(done) == keys
    folder = Path(done["folder"])
    assert folder.resolve() == tuned.path / "merged"
    assert done["bytes"] == sum(file.stat().st_size for file in folder.iterdir())
    assert done["proof"] == json.loads((folder / "proof.json").read_text(encoding="utf-8"))
    assert (done["kind"], done["proof"]["prompts"], done["proof"]["passed"]) == ("merged", 2, True)
    assert done["dtype"] == done["proof"]["dtype"]
    assert (
        json.loads((folder / "config.json").read_text(encoding="utf-8"))["dtype"] in done["dtype"]
    )


def test_the_page_tells_every_measurement_of_the_proof(
    tanren: Tanren, make_tuned: MakeTuned
) -> None:
    """T5: for a base in 4 bits also what the other base would have changed."""
    make_tuned(method="qlora")
    ended = tanren("export", "太郎", "--out", "書き出し")
    assert ended.code == 0, ended.err
    proof = json.loads(Path("書き出し/proof.json").read_text(encoding="utf-8"))
    page = ended.out
    assert "Exported: merged" in page and "書き出し" in page
    assert f"proof passed: read back from disk by {proof['reader']}" in page
    assert f"compared with {proof['compared_with']}" in page
    moved = f"tuning had moved the base by {proof['moved']['kl_mean']:.1e}"
    distance = f"KL {proof['distance']['kl_mean']:.1e} nats a token; {moved}"
    assert lines_of(page, "distance") == [distance]
    assert lines_of(page, "likeliest token") == [
        f"the same at 100.0% of {proof['positions']} positions"
    ]
    same = round(proof["greedy_agreement"] * proof["prompts"])
    answers = f"{same} of {proof['prompts']} word for word those of the tuned model"
    assert lines_of(page, "answers") == [answers]
    assert lines_of(page, "prompts")[0].startswith(
        f"the same token ids in {proof['prompt_ids_equal']}"
    )
    assert lines_of(page, "stop tokens") == ["the same"]
    other = proof["others"]["adapter on the original base"]["kl_mean"]
    assert other > 0
    assert (
        f"the adapter on the original base: KL {other:.1e}" in lines_of(page, "for comparison")[0]
    )
    assert "tanren chat " in page


def test_a_command_on_the_page_names_the_file_that_lies_there(
    tanren: Tanren, make_tuned: MakeTuned
) -> None:
    tuned = make_tuned()
    page = tanren("export", "太郎", "--to", "gguf", "--dtype", "f16", "--prompts", "1").out
    (file,) = (tuned.path / "gguf").glob("*.gguf")
    assert f"llama-server -m {shlex.quote(str(file))} --jinja" in page
    again = tanren("export", "太郎", "--to", "gguf", "--push", "me/taro", "--dry-run")
    assert again.code == 0 and file.name in again.out, again.err
    assert "tanren chat" not in page + again.out, "it cannot open GGUF"


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (["--to", "vllm", "--dtype", "float16"], ["--dtype"]),
        (["--to", "sglang", "--onto", "original"], ["--onto"]),
        (["--to", "gguf-lora", "--onto", "original"], ["--onto"]),
        (["--to", "gguf", "--proof", "numbers"], ["--proof"]),
        (["--system", "hi"], ["--system"]),
        (["--public", "--dry-run"], ["--public", "--dry-run"]),
        (["--to", "adapter", "--dtype", "f16", "--system", "x"], ["--dtype", "--system"]),
    ],
    ids=lambda words: " ".join(words),
)
def test_options_that_would_mean_nothing_are_refused_together(
    tanren: Tanren, home: Path, words: Sequence[str], where: Sequence[str]
) -> None:
    """T7: before anything is looked for or loaded, and all at once."""
    ended = tanren("export", "nowhere", *words, "--json")
    assert ended.code == 2
    assert [fault["where"] for fault in ended.faults] == where


@pytest.mark.parametrize(("to", "known"), [("merged", "bfloat16"), ("gguf", "q8_0")])
def test_an_unknown_type_is_refused_with_the_known_ones(
    tanren: Tanren, make_tuned: MakeTuned, to: str, known: str
) -> None:
    tuned = make_tuned()
    before = left_in(tuned)
    ended = tanren("export", "太郎", "--to", to, "--dtype", "int7", "--json")
    assert ended.code == 2
    assert ended.faults[0]["where"] == "--dtype" and known in ended.faults[0]["expected"]
    assert left_in(tuned) == before


def test_what_lies_there_is_replaced_only_when_asked(tanren: Tanren, make_tuned: MakeTuned) -> None:
    make_tuned()
    words = ("export", "太郎", "--to", "adapter", "--out", "出力", "--prompts", "1")
    assert tanren(*words).code == 0
    card = Path("出力/README.md")
    before = card.stat().st_mtime_ns
    ended = tanren(*words)
    assert ended.code == 2 and "--overwrite" in ended.err
    assert "Traceback" not in ended.err
    assert card.stat().st_mtime_ns == before
    assert tanren(*words, "--overwrite").code == 0
    assert card.stat().st_mtime_ns != before
    note = Path("出力/note.txt")  # somebody's own file is nobody's to replace
    note.write_text("mine", encoding="utf-8")
    assert tanren(*words, "--overwrite").code == 2
    assert note.read_text(encoding="utf-8") == "mine"


def test_a_failed_proof_ends_with_1_and_says_why(tanren: Tanren, make_tuned: MakeTuned) -> None:
    """bfloat16 cannot hold so small an update; nothing is kept and no number is sugared."""
    tuned = make_tuned(amount=2e-4)
    before = left_in(tuned)
    ended = tanren("export", "太郎", "--dtype", "bfloat16")
    assert ended.code == 1
    assert "does not behave like what was tuned; nothing was kept" in ended.err
    assert "rounding has swallowed the tuning" in ended.err
    assert "Traceback" not in ended.err and "Exported" not in ended.out
    assert left_in(tuned) == before
    error = tanren("export", "太郎", "--dtype", "bfloat16", "--json").document["error"]
    assert error["exit_code"] == 1 and error["faults"]


def test_a_dry_run_shows_every_file_and_the_next_one_writes_nothing(
    tanren: Tanren, make_tuned: MakeTuned
) -> None:
    tuned = make_tuned()
    words = ("export", "太郎", "--push", "me/taro", "--base-name", "me/base", "--dry-run")
    first = tanren(*words, "--json")
    assert first.code == 0, first.err
    pushed = first.document["push"]
    assert pushed["dry_run"] and pushed["commit"] is None
    folder = tuned.path / "merged"
    planned = {file["name"]: file["bytes"] for file in pushed["plan"]["files"]}
    lying = {file.name: file.stat().st_size for file in folder.iterdir()}
    assert planned == {name: size for name, size in lying.items() if name != "COMPLETE.json"}
    assert b"me/base" in (folder / "README.md").read_bytes()
    written = (folder / "proof.json").stat().st_mtime_ns
    again = tanren(*words)
    assert again.code == 0 and "exported before" in again.out
    assert "dry run: nothing was sent" in again.out.split("\nPush\n")[1]
    assert (folder / "proof.json").stat().st_mtime_ns == written


def test_a_push_to_a_wrong_name_is_refused_before_any_work(
    tanren: Tanren, make_tuned: MakeTuned
) -> None:
    tuned = make_tuned()
    ended = tanren("export", "太郎", "--push", "no-owner", "--prompts", "1")
    assert ended.code == 2 and "OWNER/NAME" in ended.err
    assert not (tuned.path / "merged").exists()


def test_a_push_that_is_refused_says_where_the_export_lies(
    tanren: Tanren, make_tuned: MakeTuned
) -> None:
    """The work is not lost, and the person is told: the adapter names its base by a path of this
    machine.
    """
    tuned = make_tuned()
    words = ("--to", "adapter", "--push", "me/mine", "--dry-run", "--prompts", "1")
    ended = tanren("export", "太郎", *words)
    assert ended.code == 2 and "--base-name" in ended.err
    assert (tuned.path / "adapter-export" / "adapter_model.safetensors").is_file()
    assert "adapter-export" in ended.err
    again = tanren("export", "太郎", *words, "--base-name", "me/base", "--overwrite")
    assert again.code == 0, again.err


def test_ascii_locales_export_japanese_runs(make_tuned: MakeTuned) -> None:
    """T26."""
    make_tuned()
    ended = run("export", "太郎", "--to", "adapter", "--prompts", "1", "--out", "出力", **ASCII)
    assert ended.code == 0, ended.err
    assert "出力" in ended.out and Path("出力/adapter_model.safetensors").is_file()


def test_a_locale_that_cannot_name_the_run_is_told_how(make_tuned: MakeTuned) -> None:
    """T26: tokenizers read files by their name as text."""
    make_tuned()
    for words in (["太郎"], ["x", "--out", "出力"], ["x", "--to", "ollama", "--system", "太郎"]):
        ended = run("export", *words, "--json", **HARD_ASCII)
        assert ended.code == 2
        assert "PYTHONUTF8=1" in ended.faults[0]["remedy"] and "Traceback" not in ended.err
