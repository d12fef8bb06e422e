"""One upload to the Hub, in a process of its own.

`python -P -c "from tanren.export.upload import main; main()"` reads a job as JSON from stdin and
answers on stdout, one JSON object a line: `{"says": …}` while it works, then `{"receipt": …}` or
`{"error": …}`. The process is fresh because huggingface_hub decides when it is imported whether it
may use the network, and the rest of the package runs with the network closed.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tanren import privacy
from tanren.errors import Fault, StorageError, TanrenError, UserError

privacy.apply()

from huggingface_hub import CommitOperationAdd, HfApi, get_token  # noqa: E402 - telemetry is off
from huggingface_hub.errors import HfHubHTTPError, HTTPError  # noqa: E402

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

LARGE_BYTES = 10_000_000
"""The Hub stores larger files apart from git; each is sent before the commit and told."""
WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".pt")
LOGIN = "run `hf auth login` with a token that may write, or set HF_TOKEN"
AGAIN = "push again: what arrived is not sent twice, and the repository changes in one commit only"


@dataclass(frozen=True, slots=True)
class Job:
    """What to send, and the token to send it with; "" where nobody has logged in."""

    folder: str
    repo: str
    private: bool
    files: tuple[str, ...]
    message: str
    token: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the Hub has afterwards. `commit` is its newest commit, `changed` whether it is ours;
    `others` are files in the repository that are not of this export.
    """

    url: str
    commit: str
    changed: bool
    private: bool
    others: tuple[str, ...]


def main() -> None:
    """Carry out the job on stdin. Libraries that print reach stderr, never the answers."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    values = json.load(sys.stdin)
    token = values.pop("token") or get_token() or ""
    job = Job(**{**values, "files": tuple(values["files"])}, token=token)

    def answer(kind: str, value: object) -> None:
        line = json.dumps({kind: value})  # may hold what a server said, and that our token
        print(line.replace(token, "<token>") if token else line, file=answers)

    try:
        answer("receipt", asdict(send(job, lambda text: answer("says", text))))
    except TanrenError as error:
        answer("error", _as_json(error))
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        answer("error", _as_json(as_told(error, job.repo)))


def _as_json(error: TanrenError) -> dict[str, object]:
    faults = [fault.as_dict() for fault in error.faults]
    return {"message": error.message, "faults": faults, "user": isinstance(error, UserError)}


def send(job: Job, tell: Callable[[str], None]) -> Receipt:
    """Make the repository if there is none, send the files, and show them by one commit."""
    if not job.token:
        raise UserError.of(Fault("Hugging Face Hub", "nobody logged in", "a token", LOGIN))
    api = HfApi(token=job.token, library_name="tanren")
    url = api.create_repo(job.repo, private=job.private, exist_ok=True)
    before = api.model_info(job.repo)
    others = _others(before, job)
    _require_fitting(before, others, job)
    additions = [CommitOperationAdd(name, str(Path(job.folder, name))) for name in job.files]
    for addition in additions:
        if addition.upload_info.size > LARGE_BYTES:
            tell(f"sending {addition.path_in_repo} ({addition.upload_info.size:,} bytes)")
            api.preupload_lfs_files(job.repo, [addition], free_memory=False)
    tell("committing")
    commit = api.create_commit(job.repo, additions, commit_message=job.message)
    return Receipt(str(url), commit.oid, commit.oid != before.sha, bool(before.private), others)


def _others(info: ModelInfo, job: Job) -> tuple[str, ...]:
    names = {file.rfilename for file in info.siblings or ()} - {".gitattributes"}
    return tuple(sorted(names - set(job.files)))


def _require_fitting(info: ModelInfo, others: tuple[str, ...], job: Job) -> None:
    """Nothing private into a repository that all can read; no weights of two exports in one."""
    faults = []
    if job.private and info.private is False:
        faults.append(
            Fault(
                job.repo,
                "a repository that everybody can read",
                "a private one, as was asked for",
                "make it private in its settings on the Hub, ask for a public push, or choose "
                "another name",
            )
        )
    stale = [name for name in others if name.endswith(WEIGHTS)]
    if stale:
        faults.append(
            Fault(
                job.repo,
                f"weights that are not of this export ({', '.join(stale[:3])})",
                "one export in a repository: loaders would mix the two",
                "delete those files on the Hub, or push to another name",
            )
        )
    if faults:
        raise UserError.of(*faults)


def as_told(error: BaseException, repo: str) -> TanrenError:
    """A failure of the Hub's client in words for the user."""
    for cause in _causes(error):
        if isinstance(cause, HfHubHTTPError):
            return _answered(cause, repo)
        if isinstance(cause, PermissionError) and cause.errno is None:  # hf_xet's own
            return UserError.of(_fault(repo, "a token that was refused", LOGIN))
        if isinstance(cause, HTTPError | ConnectionError | TimeoutError):
            found = f"no connection, or one that broke ({type(cause).__name__}: {_words(cause)})"
            return StorageError("could not push", [_fault(repo, found, f"check it and {AGAIN}")])
        if isinstance(cause, FileNotFoundError) and cause.filename:
            found = f"that {Path(cause.filename).name} is gone"
            return UserError.of(_fault(repo, found, "export again"))
    if isinstance(error, json.JSONDecodeError):
        found = "an answer that is none of the Hub's: something stands between, or it is broken"
        return StorageError("could not push", [_fault(repo, found, f"wait and {AGAIN}")])
    if isinstance(error, ValueError):
        return UserError.of(_fault(repo, _words(error), "mend what the Hub names and push again"))
    return StorageError("could not push", [_fault(repo, f"an upload that broke: {error}", AGAIN)])


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what led to it, the first cause last."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _answered(error: HfHubHTTPError, repo: str) -> TanrenError:
    status = error.response.status_code
    found = f"HTTP {status} ({error.server_message or _words(error)})"
    remedies = {
        401: f"the token is missing, wrong or expired: {LOGIN}",
        403: f"this token may not write there: {LOGIN}, and check the owner in the name",
        404: "check the name; a token without access is told the same",
        409: "somebody else changes it at this moment: push again in a while",
        412: "somebody else changed it meanwhile: push again",
        413: "the Hub takes no files this large: export smaller shards",
    }
    if status in (401, 403, 404):
        return UserError.of(_fault(repo, found, remedies[status]))
    if status in (400, 422):
        return UserError.of(_fault(repo, found, "mend what the Hub names and push again"))
    remedy = remedies.get(status, f"the Hub is busy or broken: wait and {AGAIN}")
    return StorageError("could not push", [_fault(repo, found, remedy)])


def _fault(repo: str, found: str, remedy: str) -> Fault:
    return Fault(repo, found, "an upload", remedy)


def _words(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:300] or "no words"
