"""An exported folder to the Hugging Face Hub, only when asked by name.

`plan_push` reads the folder and refuses what should not be published; `push` sends exactly what
the plan lists, in one commit, or with `dry_run` nothing at all.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import tanren
from tanren import privacy
from tanren.errors import Fault, StorageError, TanrenError, UserError
from tanren.export.leaks import leaks
from tanren.export.licence import UNKNOWN, front_matter
from tanren.rundir import COMPLETE, missing_files

CARD = "README.md"
PROOF = "proof.json"
_CHILD = "from tanren.export.upload import main; main()"
_TOKEN = re.compile(r"\bhf_[\w.-]{8,}")
# Both forbid the network to huggingface_hub; the third prints whole requests.
_CLOSING = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DEBUG")


@dataclass(frozen=True, slots=True)
class PlannedFile:
    name: str
    bytes: int


@dataclass(frozen=True, slots=True)
class LeftOut:
    name: str
    why: str


@dataclass(frozen=True, slots=True)
class PushPlan:
    """What a push would send and what it would not. Making one touches no network."""

    folder: Path
    repo: str
    private: bool
    files: tuple[PlannedFile, ...]
    left_out: tuple[LeftOut, ...]
    warnings: tuple[str, ...]

    @property
    def total_bytes(self) -> int:
        return sum(file.bytes for file in self.files)

    @property
    def url(self) -> str:
        """Where the model will be; HF_ENDPOINT names another Hub."""
        return f"{os.environ.get('HF_ENDPOINT', 'https://huggingface.co').rstrip('/')}/{self.repo}"

    def lines(self) -> tuple[str, ...]:
        """The plan for a person, a line each."""
        access = "private if it is new" if self.private else "public if it is new"
        head = f"{len(self.files)} files, {self.total_bytes:,} bytes, to {self.url} ({access})"
        files = [f"  {file.bytes:>15,}  {file.name}" for file in self.files]
        left = [f"  left out: {item.name} ({item.why})" for item in self.left_out]
        return (head, *files, *left, *(f"  warning: {text}" for text in self.warnings))

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "folder": str(self.folder), "total_bytes": self.total_bytes}


@dataclass(frozen=True, slots=True)
class PushResult:
    """The outcome. After a dry run `commit` is None and nothing was asked of any network.

    commit    the repository's newest commit
    changed   whether this push made it; False where the Hub had every byte already
    private   who can read the repository: what it is, which is not changed by a push
    others    files in the repository that this export does not have; they stay
    """

    plan: PushPlan
    dry_run: bool
    url: str
    commit: str | None = None
    changed: bool = False
    private: bool = True
    others: tuple[str, ...] = ()

    def lines(self) -> tuple[str, ...]:
        """The outcome for a person, a line each."""
        if self.dry_run:
            return (*self.plan.lines(), "dry run: nothing was sent, no connection was opened")
        access = "private" if self.private else "public"
        what = "pushed to" if self.changed else "nothing new for"
        others = [f"  stays there, not of this export: {name}" for name in self.others]
        return (f"{what} {self.url} ({access}, commit {str(self.commit)[:12]})", *others)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "plan": self.plan.as_dict()}


def plan_push(folder: Path, repo: str, *, private: bool = True) -> PushPlan:
    """List what a push would send. Raises UserError with every reason against it: the name, an
    incomplete folder, no proof or a failed one, no model card, paths and keys in the files.
    """
    if not folder.is_dir():
        raise UserError.of(Fault(str(folder), "no such folder", "an export", "export first"))
    faults = [*name_faults(repo), *_completeness_faults(folder), *_proof_faults(folder)]
    names, left_out = _chosen(folder)
    card = _card(folder)
    faults += [*_card_faults(folder, card), *leaks(folder, names)]
    if faults:
        raise UserError.of(*faults)
    files = tuple(PlannedFile(name, (folder / name).stat().st_size) for name in names)
    return PushPlan(folder, repo, private, files, left_out, tuple(_warnings(folder, card or {})))


def name_faults(repo: str) -> Iterator[Fault]:
    privacy.apply()
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    expected, remedy = "OWNER/NAME", "give the name as the Hub shows it, without an address"
    if repo.count("/") != 1:
        yield Fault("--push", repr(repo), expected, remedy)
        return
    try:
        validate_repo_id(repo)
    except HFValidationError:
        expected = "OWNER/NAME of letters, digits, '-', '_' and '.', at most 96"
        yield Fault("--push", repr(repo), expected, remedy)


def _completeness_faults(folder: Path) -> Iterator[Fault]:
    for problem in missing_files(folder):
        if problem.startswith(f"{CARD} has "):
            continue  # the card is there to be edited before a push
        problem = problem.removesuffix(": the checkpoint was never finished")
        yield Fault(str(folder), problem, "a complete export", "export again")


def _proof_faults(folder: Path) -> Iterator[Fault]:
    path = folder / PROOF
    try:
        proof = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        yield Fault(str(path), "no proof", "what reloading the export showed", "export again")
        return
    except (OSError, ValueError):
        yield Fault(str(path), "a file that is no JSON", "the export's proof", "export again")
        return
    if not isinstance(proof, dict) or proof.get("passed") is not True:
        failures = proof.get("failures") if isinstance(proof, dict) else None
        why = "; ".join(map(str, failures)) if isinstance(failures, list | tuple) else ""
        found = "a failed proof" + (f" ({why})" if why else "")
        yield Fault(str(path), found, "a proof that passed", "mend the export; it is not published")


def _chosen(folder: Path) -> tuple[tuple[str, ...], tuple[LeftOut, ...]]:
    """Names of the files to send, and the rest with reasons. What the export sealed is sent."""
    sealed = _sealed(folder)
    names, left_out = [], []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if name == COMPLETE:
            left_out.append(LeftOut(name, "it marks that this disk has every file"))
        elif name not in sealed:
            left_out.append(LeftOut(name, "it was put there after the export"))
        else:
            names.append(name)
    return tuple(names), tuple(left_out)


def _sealed(folder: Path) -> Mapping[str, int]:
    try:
        files = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, TypeError, KeyError):
        return {}  # told as a fault by `missing_files`
    return files if isinstance(files, dict) else {}


def _card(folder: Path) -> dict[str, Any] | None:
    """The model card's front matter; None where there is none that can be read."""
    try:
        return front_matter((folder / CARD).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None


def _card_faults(folder: Path, card: Mapping[str, Any] | None) -> Iterator[Fault]:
    path = folder / CARD
    if not path.is_file():
        yield Fault(str(path), "no model card", CARD, "export again: exporting writes one")
    elif card is None:
        expected = "YAML between two `---` lines at its top"
        yield Fault(str(path), "no readable front matter", expected, "mend the card's first lines")


def _warnings(folder: Path, card: Mapping[str, Any]) -> Iterator[str]:
    licence = card.get("license")
    if not licence or licence == UNKNOWN:
        yield "the licence is unknown: say in README.md under which terms others may use the model"
    if not card.get("base_model"):
        yield "the base model has no public name: the Hub cannot show where the model comes from"
    if (folder / CARD).stat().st_size != _sealed(folder).get(CARD):
        yield "README.md was edited after the export"


def push(
    plan: PushPlan,
    *,
    token: str | None = None,
    dry_run: bool,
    tell: Callable[[str], None] | None = None,
) -> PushResult:
    """Send the plan's files in one commit; with `dry_run`, nothing. `tell` hears of the progress.

    Raises UserError for a token or a repository that does not fit, StorageError for a Hub or a
    network that failed. Without `token`, the one of `hf auth login` or HF_TOKEN is used.
    """
    if dry_run:
        return PushResult(plan, True, plan.url, private=plan.private)
    job = {
        "folder": str(plan.folder.resolve()),
        "repo": plan.repo,
        "private": plan.private,
        "files": [file.name for file in plan.files],
        "message": f"Upload with tanren {tanren.__version__}",
        "token": token,
    }
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        receipt = _upload(job, log, tell or (lambda text: None))
    return PushResult(
        plan,
        False,
        receipt["url"],
        receipt["commit"],
        receipt["changed"],
        receipt["private"],
        tuple(receipt["others"]),
    )


def _upload(job: Mapping[str, Any], log: IO[str], tell: Callable[[str], None]) -> dict[str, Any]:
    """Let a fresh process carry out the job and return its receipt. The token goes through a pipe:
    other users of the machine can read a command line, and sometimes an environment.
    """
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env=_online_environment(),
        text=True,
        encoding="utf-8",
    )
    assert process.stdin is not None and process.stdout is not None
    answer: dict[str, Any] = {}
    try:
        with contextlib.suppress(BrokenPipeError), process.stdin as job_pipe:
            json.dump(job, job_pipe)
        for line in process.stdout:
            if not line.startswith("{"):
                continue  # a library that printed while it was imported
            answer = json.loads(line)
            if "says" in answer:
                tell(answer["says"])
        process.wait()
    finally:
        process.stdout.close()
        if process.poll() is None:
            process.terminate()
            process.wait()
    if "receipt" in answer:
        receipt: dict[str, Any] = answer["receipt"]
        return receipt
    raise _failure(answer.get("error"), process.returncode, log, job)


def _failure(
    error: Mapping[str, Any] | None, code: int, log: IO[str], job: Mapping[str, Any]
) -> TanrenError:
    if error is None:
        secrets = [str(job["token"] or ""), os.environ.get("HF_TOKEN", "")]
        log.seek(0)
        last = ([line.strip() for line in log if line.strip()] or ["no words"])[-1]
        found = without_secrets(f"an upload that ended with {code} ({last[:300]})", secrets)
        return StorageError(
            "could not push", [Fault(job["repo"], found, "an upload", "push again")]
        )
    kind = UserError if error["user"] else StorageError
    return kind(error["message"], [Fault(**fault) for fault in error["faults"]])


def without_secrets(text: str, secrets: list[str]) -> str:
    """A text in which no token can be read, whatever a library wrote there."""
    for secret in secrets:
        text = text.replace(secret, "<token>") if secret else text
    return _TOKEN.sub("<token>", text)


def _online_environment() -> dict[str, str]:
    """This process's environment with the network open and telemetry as it was: off."""
    privacy.apply()
    kept = {name: value for name, value in os.environ.items() if name not in _CLOSING}
    source = str(Path(tanren.__file__).parent.parent)
    paths = [source, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUTF8": "1"}
