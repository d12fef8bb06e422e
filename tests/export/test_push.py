"""Laws of pushing: exactly the planned bytes, only when asked, never a secret, never half."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from export.hub_server import Hub, Repository, running_hub

from tanren.errors import StorageError, TanrenError, UserError
from tanren.export.push import PushPlan, plan_push, push, without_secrets
from tanren.rundir import staged_folder, write_json

TOKEN = "hf_" + "Q7xT" * 8
REPO = "someone/tuned"
CARD = "---\nlicense: apache-2.0\nbase_model: someone/base\n---\n\nA tuned model.\n"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A Hub that the pushing process is pointed to, with a home that holds no token."""
    with running_hub(TOKEN) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield running


@pytest.fixture
def export(tmp_path: Path) -> Callable[..., Path]:
    """`export(name="export", passed=True, **files)`: a sealed folder as exporting leaves it."""

    def make(name: str = "export", *, passed: Any = True, **files: str | None) -> Path:
        folder = tmp_path / name
        contents = {
            "README.md": CARD,
            "tanren.json": '{"base": "someone/base"}',
            "config.json": '{"model_type": "qwen3"}',
            **{key.replace("__", "."): value for key, value in files.items()},
        }
        with staged_folder(folder) as staged:
            for file, text in contents.items():
                if text is not None:
                    (staged / file).write_text(text, encoding="utf-8")
            (staged / "model.safetensors").write_bytes(bytes(range(256)) * 40)
            (staged / "assets").mkdir()
            (staged / "assets" / "large.txt").write_text("あ" * 3000, encoding="utf-8")
            if passed is not None:
                write_json(staged / "proof.json", {"passed": passed, "failures": ["logits differ"]})
        return folder

    return make


def contents(folder: Path) -> dict[str, bytes]:
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != "COMPLETE.json"]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def pushed(plan: PushPlan, **options: Any) -> Any:
    return push(plan, token=TOKEN, dry_run=False, **options)


# --- what arrives ---------------------------------------------------------------------------------


def test_what_arrives_is_byte_for_byte_what_lies_in_the_folder_in_one_commit(
    hub: Hub, export: Callable[..., Path]
) -> None:
    folder = export()
    heard: list[str] = []
    result = pushed(plan_push(folder, REPO), tell=heard.append)
    repository = hub.repositories[REPO]
    assert repository.files == contents(folder)
    assert repository.in_lfs == {"model.safetensors", "assets/large.txt"}
    assert len(repository.messages) == 1 and "tanren" in repository.messages[0]
    assert (result.commit, result.changed) == (repository.commits[-1], True)
    assert result.url == f"{hub.url}/{REPO}"
    assert heard == ["committing"]


def test_large_weights_are_told_one_by_one_and_still_shown_by_one_commit(
    hub: Hub, export: Callable[..., Path], tmp_path: Path
) -> None:
    large = tmp_path / "large"
    with staged_folder(large) as staged:
        for name, content in contents(export()).items():
            if "/" not in name:
                (staged / name).write_bytes(content)
        (staged / "second.safetensors").write_bytes(b"0123456789a" * 1_000_000)
    heard: list[str] = []
    pushed(plan_push(large, REPO), tell=heard.append)
    assert heard == ["sending second.safetensors (11,000,000 bytes)", "committing"]
    assert hub.repositories[REPO].files == contents(large)
    assert len(hub.repositories[REPO].messages) == 1
    assert sum(line.startswith("PUT") for line in hub.requests) == 2


def test_a_new_repository_is_private_unless_public_is_asked_for(
    hub: Hub, export: Callable[..., Path]
) -> None:
    folder = export()
    assert pushed(plan_push(folder, REPO)).private
    assert hub.repositories[REPO].private
    assert not pushed(plan_push(folder, "someone/open", private=False)).private
    assert not hub.repositories["someone/open"].private


def test_a_second_push_changes_nothing_and_a_changed_file_alone_is_sent(
    hub: Hub, export: Callable[..., Path]
) -> None:
    folder = export()
    pushed(plan_push(folder, REPO))
    again = pushed(plan_push(folder, REPO))
    assert len(hub.repositories[REPO].commits) == 2
    assert not again.changed and "nothing new" in again.lines()[0]
    (folder / "README.md").write_text(CARD + "\nMore words.\n", encoding="utf-8")
    plan = plan_push(folder, REPO)
    assert any("edited after the export" in text for text in plan.warnings)
    stored = sum(line.startswith("PUT") for line in hub.requests)
    assert pushed(plan).changed
    assert hub.repositories[REPO].files == contents(folder)
    assert sum(line.startswith("PUT") for line in hub.requests) == stored


def test_only_the_known_requests_are_made_and_they_tell_nothing_about_the_machine(
    hub: Hub, export: Callable[..., Path]
) -> None:
    """T29: no telemetry, no version check, no list of agents; the agent names no torch."""
    pushed(plan_push(export(), REPO))
    api = f"/api/models/{REPO}"
    known = {
        "POST /api/repos/create",
        f"GET {api}",
        "POST /api/validate-yaml",
        f"POST {api}/preupload/main",
        f"POST /{REPO}.git/info/lfs/objects/batch",
        f"POST {api}/commit/main",
    }
    assert {line for line in hub.requests if not line.startswith("PUT /storage/")} == known
    assert all("torch" not in agent and "agent" not in agent for agent in hub.agents), hub.agents
    assert any(agent.startswith("tanren/") for agent in hub.agents), hub.agents


def test_a_process_that_runs_offline_can_push(hub: Hub, export: Callable[..., Path]) -> None:
    """The network is closed for huggingface_hub here, and stays closed afterwards."""
    import huggingface_hub.constants as constants

    assert constants.HF_HUB_OFFLINE and os.environ["HF_HUB_OFFLINE"] == "1"
    assert pushed(plan_push(export(), REPO)).changed
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_the_token_that_a_login_left_is_used(
    hub: Hub, export: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text(TOKEN, encoding="utf-8")
    assert push(plan_push(export(), REPO), dry_run=False).changed


# --- a dry run ------------------------------------------------------------------------------------


def test_a_dry_run_asks_no_network_for_anything(hub: Hub, export: Callable[..., Path]) -> None:
    """Not the Hub, and not any other machine: every connection would end the process."""
    folder = export()
    code = (
        "import os, sys\n"
        "def closed(name, arguments):\n"
        "    if name.startswith('socket.') and name != 'socket.__new__': os._exit(97)\n"
        "sys.addaudithook(closed)\n"
        "from pathlib import Path\n"
        "from tanren.export.push import plan_push, push\n"
        f"result = push(plan_push(Path({str(folder)!r}), {REPO!r}), dry_run=True)\n"
        "print('\\n'.join(result.lines()))"
    )
    environment = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"}
    source = Path(__file__).parents[2] / "train"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={**environment, "PYTHONPATH": str(source)},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not hub.requests
    for name, content in contents(folder).items():
        assert any(f"{len(content):,}" in ln and name in ln for ln in done.stdout.splitlines())
    assert "left out: COMPLETE.json" in done.stdout and "nothing was sent" in done.stdout


def test_what_was_not_part_of_the_export_is_left_out_and_told(export: Callable[..., Path]) -> None:
    folder = export()
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    (folder / ".env").write_text("KEY=1", encoding="utf-8")
    plan = plan_push(folder, REPO)
    assert {item.name for item in plan.left_out} == {"COMPLETE.json", "notes.txt", ".env"}
    assert {file.name for file in plan.files} == contents(folder).keys() - {"notes.txt", ".env"}
    assert plan.total_bytes == sum((folder / file.name).stat().st_size for file in plan.files)
    json.dumps(plan.as_dict())


# --- what is refused before anything is asked -----------------------------------------------------


def refused(folder: Path, repo: str = REPO) -> str:
    with pytest.raises(UserError) as caught:
        plan_push(folder, repo)
    return str(caught.value)


@pytest.mark.parametrize("passed", [None, False, "true"])
def test_no_push_without_a_proof_that_passed(export: Callable[..., Path], passed: Any) -> None:
    said = refused(export(passed=passed))
    assert "proof" in said and ("logits differ" in said) == (passed is not None)


def test_an_incomplete_folder_is_refused(export: Callable[..., Path]) -> None:
    folder = export()
    (folder / "model.safetensors").write_bytes(b"half")
    assert "model.safetensors has 4 bytes instead of 10240" in refused(folder)
    (folder / "model.safetensors").unlink()
    assert "model.safetensors is missing" in refused(folder)
    (folder / "COMPLETE.json").unlink()
    said = refused(folder)
    assert "COMPLETE.json is missing" in said and "checkpoint" not in said


def test_a_model_card_is_required_and_its_front_matter_is_read(
    export: Callable[..., Path],
) -> None:
    assert "no model card" in refused(export(README__md=None))
    assert "front matter" in refused(export("other", README__md="---\na: [1\n---\n"))
    assert "front matter" in refused(export("third", README__md="words alone"))


@pytest.mark.parametrize(
    "repo", ["tuned", "a/b/c", "someone/", "https://huggingface.co/a/b", "a b/c", "a/b..c", ""]
)
def test_a_name_that_the_hub_would_not_take_is_refused(
    export: Callable[..., Path], repo: str
) -> None:
    said = refused(export(), repo)
    assert "OWNER/NAME" in said and "1 fault found" in said


@pytest.mark.parametrize(
    ("file", "text", "found"),
    [
        ("README.md", CARD + "\nTrained in /home/someone/runs/7.\n", "/home/someone/runs/7"),
        ("tanren.json", '{"base": "/root/models/x"}', "/root/models/x"),
        ("adapter_config.json", '{"base_model_name_or_path": "HERE/base"}', "HERE/base"),
        ("tokenizer_config.json", r'{"name_or_path": "C:\\Users\\someone\\m"}', "C:"),
        ("Modelfile", "FROM file:///Users/someone/m.gguf", "/Users/someone/m.gguf"),
        ("README.md", CARD + "token " + TOKEN, "a Hugging Face token (hf_Q…)"),
        ("notes.md", "-----BEGIN OPENSSH PRIVATE KEY-----", "a private key"),
    ],
)
def test_paths_of_this_machine_and_keys_are_faults(
    export: Callable[..., Path], tmp_path: Path, file: str, text: str, found: str
) -> None:
    text, found = text.replace("HERE", str(tmp_path)), found.replace("HERE", str(tmp_path))
    said = refused(export(**{file.replace(".", "__"): text}))
    assert file in said and found in said
    assert TOKEN not in said


def test_a_path_in_the_metadata_of_weights_is_a_fault(export: Callable[..., Path]) -> None:
    folder = export()
    weights = folder / "model.safetensors"
    place = f"{folder.parent}/base/".encode()
    weights.write_bytes(place + weights.read_bytes()[len(place) :])
    assert "model.safetensors: found" in refused(folder) and str(folder.parent) in refused(folder)


def test_what_only_looks_like_a_path_is_none(export: Callable[..., Path]) -> None:
    words = (
        "</think> and/or https://huggingface.co/home/someone \n path/to/model #!/usr/bin/env\n"
        "'Topic:\\n\\nUsers' /no_think 入/出力 runs/home/x /dev/null"
    )
    vocabulary = '{"/home/someone": 7}'
    folder = export(README__md=CARD + words, chat_template__jinja=words, vocab__json=vocabulary)
    assert {"README.md", "vocab.json"} <= {file.name for file in plan_push(folder, REPO).files}


def test_all_faults_are_told_at_once(export: Callable[..., Path]) -> None:
    folder = export(passed=False, README__md="words /home/someone/x")
    (folder / "config.json").unlink()
    assert refused(folder, "tuned").startswith("5 faults")


@pytest.mark.parametrize("licence", ["", "license: unknown\n"])
def test_an_unknown_licence_is_a_warning(export: Callable[..., Path], licence: str) -> None:
    card = f"---\n{licence}base_model: someone/base\n---\n"
    (warning,) = plan_push(export(README__md=card), REPO).warnings
    assert "licence is unknown" in warning
    assert plan_push(export("known"), REPO).warnings == ()


# --- what the Hub and the network do --------------------------------------------------------------


def failed(plan: PushPlan, token: str | None = TOKEN) -> TanrenError:
    with pytest.raises(TanrenError) as caught:
        push(plan, token=token, dry_run=False)
    assert TOKEN not in str(caught.value) and "Traceback" not in str(caught.value)
    return caught.value


def test_without_a_token_nothing_is_asked(hub: Hub, export: Callable[..., Path]) -> None:
    error = failed(plan_push(export(), REPO), token=None)
    assert isinstance(error, UserError) and "hf auth login" in str(error)
    assert not hub.requests


def test_a_wrong_token_is_told(hub: Hub, export: Callable[..., Path]) -> None:
    error = failed(plan_push(export(), REPO), token="hf_" + "Wrong123" * 4)
    assert isinstance(error, UserError) and "401" in str(error) and "hf auth login" in str(error)
    assert "Wrong123" not in str(error)
    assert not hub.repositories


@pytest.mark.parametrize(
    ("part", "status", "kind", "remedy"),
    [
        ("repos/create", 403, UserError, "hf auth login"),
        ("preupload", 403, UserError, "hf auth login"),
        ("preupload", 404, UserError, "check the name"),
        ("/commit/", 409, StorageError, "push again"),
        ("/commit/", 412, StorageError, "push again"),
        ("/commit/", 500, StorageError, "push again"),
        ("objects/batch", 422, UserError, "mend"),
    ],
)
def test_a_refusal_of_the_hub_is_told_with_its_words(
    hub: Hub,
    export: Callable[..., Path],
    part: str,
    status: int,
    kind: type[TanrenError],
    remedy: str,
) -> None:
    hub.refuse(part, status, f"not today, {TOKEN}")
    error = failed(plan_push(export(), REPO))
    assert type(error) is kind
    assert str(status) in str(error) and "not today" in str(error) and remedy in str(error)
    assert all(len(repository.commits) == 1 for repository in hub.repositories.values())


def test_a_token_is_never_told_whatever_its_form_and_wherever_it_came_from(
    hub: Hub, export: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A login's token is known to the sending process alone; a server may repeat it."""
    hub.token = "plain+secret/0123"
    monkeypatch.setenv("HF_TOKEN", hub.token)
    hub.refuse("preupload", 403, f"go away, {hub.token}")
    error = failed(plan_push(export(), REPO), token=None)
    assert "go away, <token>" in str(error) and hub.token not in str(error)
    told = without_secrets(f"{TOKEN}, hf_oauth_ab.cd-ef and {hub.token}", ["", hub.token])
    assert told == "<token>, <token> and <token>"


def test_a_page_in_place_of_an_answer_is_told(hub: Hub, export: Callable[..., Path]) -> None:
    hub.garble("validate-yaml")
    error = failed(plan_push(export(), REPO))
    assert isinstance(error, StorageError) and "none of the Hub's" in str(error)


def test_a_connection_that_breaks_at_the_commit_leaves_the_repository_as_it_was(
    hub: Hub, export: Callable[..., Path]
) -> None:
    plan = plan_push(export(), REPO)
    hub.drop("/commit/", times=1)
    error = failed(plan)
    assert isinstance(error, StorageError) and "connection" in str(error)
    assert not hub.repositories[REPO].files
    stored = dict(hub.stored)
    assert pushed(plan).changed
    assert hub.stored == stored  # what had arrived was not sent twice
    assert sum(line.startswith("PUT") for line in hub.requests) == len(stored)


def test_a_connection_that_breaks_in_the_middle_of_the_weights_is_tried_again(
    hub: Hub, export: Callable[..., Path]
) -> None:
    folder = export()
    hub.drop("/storage/", times=1)
    assert pushed(plan_push(folder, REPO)).changed
    assert hub.repositories[REPO].files == contents(folder)


def test_no_network_is_told(
    hub: Hub, export: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    error = failed(plan_push(export(), REPO))
    assert isinstance(error, StorageError) and "connection" in str(error)


def test_nothing_private_goes_into_a_public_repository(
    hub: Hub, export: Callable[..., Path]
) -> None:
    hub.repositories[REPO] = Repository(private=False)
    plan = plan_push(export(), REPO)
    assert "everybody can read" in str(failed(plan))
    assert not hub.repositories[REPO].files and not hub.stored


def test_weights_of_two_exports_are_never_mixed(hub: Hub, export: Callable[..., Path]) -> None:
    files = {"model-00001-of-00002.safetensors": b"old", "README.md": b"old", "logo.png": b"x"}
    hub.repositories[REPO] = Repository(private=True, files=files)
    plan = plan_push(export(), REPO)
    assert "model-00001-of-00002.safetensors" in str(failed(plan))
    assert not hub.stored
    del files["model-00001-of-00002.safetensors"]
    result = pushed(plan)
    assert result.others == ("logo.png",) and "logo.png" in "\n".join(result.lines())
    assert files["README.md"] == CARD.encode()


def test_an_upload_that_dies_is_told(
    hub: Hub, export: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "no number")  # huggingface_hub cannot be imported
    error = failed(plan_push(export(), REPO))
    assert isinstance(error, StorageError) and "ended with 1" in str(error)
