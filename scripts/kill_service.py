"""The service under kill -9: random processes at random moments; then whether anything was lost.

    python scripts/kill_service.py                24 kills while six jobs train on data/tiny-chat
    python scripts/kill_service.py --kills 3      fewer
    python scripts/kill_service.py --tiny         checks the script itself in about a minute

Victims: the server, a job's process, the engine that chats, server and job together, and all of
them at once, as a power failure would. The server is started again each time; everything else has
to come back by itself. The same jobs have run undisturbed before; losses must be equal.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil
from bench import report, service

VICTIMS = ("server", "job", "engine", "server and job", "all")
PATIENCE_SECONDS = 900.0


@dataclass(frozen=True, slots=True)
class Kill:
    """What was killed, when (seconds since the jobs were made), and how the jobs stood."""

    seconds: float
    victim: str
    processes: int
    statuses: dict[str, int]
    steps: list[int]
    """Steps that each job had told of by then."""


@dataclass
class Outcome:
    """What was found afterwards. `problems` is empty where nothing was lost."""

    losses: list[float]
    events: list[int]
    seconds: float
    problems: list[str] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    result: dict[str, Any] = {"options": vars(options).copy(), **report.circumstances()}
    with tempfile.TemporaryDirectory(prefix="kill-") as folder:
        calm, _ = work(Path(folder) / "undisturbed", options, kills=0)
        rough, kills = work(Path(folder) / "disturbed", options, kills=options.kills)
    if rough.losses != calm.losses:
        rough.problems.append(f"losses {rough.losses} instead of {calm.losses}")
    result |= {
        "undisturbed": asdict(calm),
        "disturbed": asdict(rough),
        "kills": [asdict(kill) for kill in kills],
    }
    report.write(report.output_folder(options.out), "kill_service", result, markdown(result))
    return 1 if calm.problems or rough.problems else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--kills", type=int, default=24)
    add("--jobs", type=int, default=6)
    add("--epochs", type=int, default=25)
    add("--longest-wait", type=float, default=9.0, help="seconds between two kills, at most")
    add("--seed", type=int, default=0, help="of victims and moments")
    add("--out", type=Path, default=Path("docs/measured"))
    add("--tiny", action="store_true", help="tiny sizes")
    options = parser.parse_args(arguments)
    if options.tiny:
        options.kills, options.jobs, options.epochs = 2, 1, 3
    return options


def work(home: Path, options: argparse.Namespace, *, kills: int) -> tuple[Outcome, list[Kill]]:
    """Make the jobs, kill while they train, wait for all ends, and look."""
    dice = random.Random(options.seed)
    done: list[Kill] = []
    with contextlib.ExitStack() as stack:
        running = Running(stack, home)
        files = _upload(running)
        began = time.monotonic()
        jobs = [_create(running, files, options, seed) for seed in range(options.jobs)]
        while len(done) < kills and not _all_ended(running, jobs):
            _chat_now_and_then(running, dice)
            time.sleep(dice.uniform(0.05, options.longest_wait))
            done.append(_kill(running, dice, jobs, began))
        _wait_for(running, jobs)
        outcome = _look(running, jobs, files, time.monotonic() - began)
    _look_at_folder(home, outcome)
    if len(done) < kills:
        outcome.problems.append(f"only {len(done)} kills before the jobs had ended")
    return outcome, done


class Running:
    """The server's process, started again on the same folder as often as needed."""

    def __init__(self, stack: contextlib.ExitStack, home: Path) -> None:
        self.home = home
        self._stack = stack
        self._context: Any = None
        self.server: service.Server = self._start()

    def _start(self) -> service.Server:
        self._context = service.serving(self.home)
        server: service.Server = self._stack.enter_context(self._context)
        return server

    def again(self) -> None:
        self.server = self._start()

    @property
    def client(self) -> httpx.Client:
        return self.server.client

    def processes(self, victim: str) -> list[psutil.Process]:
        """Living ones of that kind; the job's and the engine's own children with them."""
        found = {"server": [self.server.process.pid], "job": [], "engine": []}
        for process in psutil.process_iter(["pid", "cmdline", "environ"]):
            words = process.info["cmdline"] or []
            ours = (process.info["environ"] or {}).get("TANREN_HOME") == str(self.home)
            if ours and "run" in words and "tanren" in words:
                found["job"].append(process.pid)
            elif ours and any("tanren.engine" in word or word == "engine" for word in words):
                found["engine"].append(process.pid)
        kinds = list(found) if victim == "all" else victim.split(" and ")
        processes = []
        for kind in kinds:
            for pid in found[kind]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    processes.append(psutil.Process(pid))
        return processes


def _upload(running: Running) -> dict[str, str]:
    """Ids of the training and validation files."""
    rows = (report.REPOSITORY / "data" / "taro.jsonl").read_bytes()
    half = b"\n".join(rows.splitlines()[:12])
    made = {}
    for name, content in (("training_file", rows), ("validation_file", half)):
        answer = running.client.post(
            "/files", data={"purpose": "fine-tune"}, files={"file": (f"{name}.jsonl", content)}
        )
        made[name] = answer.raise_for_status().json()["id"]
    return made


def _create(running: Running, files: dict[str, str], options: argparse.Namespace, seed: int) -> str:
    body = {
        "model": "gpt-4o-mini",
        "training_file": files["training_file"],
        "seed": seed,
        "hyperparameters": {"n_epochs": options.epochs, "batch_size": 8},
        "metadata": {"number": str(seed)},
    }
    if seed % 2:
        body["validation_file"] = files["validation_file"]
    answer = running.client.post("/fine_tuning/jobs", json=body)
    return str(answer.raise_for_status().json()["id"])


def _chat_now_and_then(running: Running, dice: random.Random) -> None:
    """A client that is being answered when the blow comes. It may hear of it; nothing else may."""
    if dice.random() < 0.5:
        body = {
            "model": "gpt-4o-mini",
            "messages": [{"role": "user", "content": "太郎、傘を貸してくれる?"}],
            "max_tokens": 16,
        }
        with contextlib.suppress(httpx.HTTPError):
            running.client.post("/chat/completions", json=body, timeout=60)


def _kill(running: Running, dice: random.Random, jobs: list[str], began: float) -> Kill:
    victim = dice.choice(VICTIMS)
    states = [_job(running, job) for job in jobs]
    steps = [len(_steps(running, job)) for job in jobs]
    processes = running.processes(victim)
    if not processes:
        victim = "server"
        processes = running.processes(victim)
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    kill = Kill(
        round(time.monotonic() - began, 2),
        victim,
        len(processes),
        dict(Counter(state["status"] for state in states)),
        steps,
    )
    print(kill, file=sys.stderr, flush=True)
    if "server" in victim or victim == "all":
        running.server.process.wait()
        running.again()
    return kill


# --- what is there afterwards ---------------------------------------------------------------------


def _job(running: Running, job: str) -> dict[str, Any]:
    found: dict[str, Any] = running.client.get(f"/fine_tuning/jobs/{job}").raise_for_status().json()
    return found


def _all_ended(running: Running, jobs: list[str]) -> bool:
    ended = ("succeeded", "failed", "cancelled")
    return all(_job(running, job)["status"] in ended for job in jobs)


def _wait_for(running: Running, jobs: list[str]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not _all_ended(running, jobs):
        if time.monotonic() > deadline:
            states = [_job(running, job)["status"] for job in jobs]
            raise TimeoutError(f"jobs still {states} after {PATIENCE_SECONDS} s")
        time.sleep(0.5)


def _events(running: Running, job: str) -> list[dict[str, Any]]:
    """All of them, oldest first, page by page."""
    return list(reversed(list(_pages(running, f"/fine_tuning/jobs/{job}/events"))))


def _pages(running: Running, path: str) -> Iterator[dict[str, Any]]:
    after: str | None = None
    while True:
        page = running.client.get(
            path, params={"limit": 100, **({"after": after} if after else {})}
        )
        rows = page.raise_for_status().json()["data"]
        if not rows:
            return
        yield from rows
        after = rows[-1]["id"]


def _steps(running: Running, job: str) -> list[dict[str, Any]]:
    return [event for event in _events(running, job) if event["type"] == "metrics"]


def _look(running: Running, jobs: list[str], files: dict[str, str], seconds: float) -> Outcome:
    outcome = Outcome([], [], round(seconds, 1))
    say = outcome.problems.append
    for job in jobs:
        record = _job(running, job)
        if record["status"] != "succeeded":
            say(f"{job} {record['status']}: {record['error']}")
            continue
        events = _events(running, job)
        steps = [event["data"]["step"] for event in events if event["type"] == "metrics"]
        total = next(e["data"]["total_steps"] for e in events if e["type"] == "metrics")
        if steps != list(range(1, total + 1)):
            say(f"{job}: steps {steps} instead of 1 to {total}")
        if len({event["id"] for event in events}) != len(events):
            say(f"{job}: an event's id stands twice")
        for message in ("Fine-tuning job started", "The job has successfully completed"):
            count = sum(event["message"] == message for event in events)
            if count != 1:
                say(f"{job}: {message!r} {count} times")
        last = [event for event in events if event["type"] == "metrics"][-1]
        outcome.losses.append(last["data"]["train_loss"])
        outcome.events.append(len(events))
        _look_at_results(running, record, steps, say)
        answer = running.client.post(
            "/chat/completions",
            json={
                "model": record["fine_tuned_model"],
                "messages": [{"role": "user", "content": "元気?"}],
                "max_tokens": 8,
            },
            timeout=120,
        )
        if answer.status_code != 200:
            say(f"{record['fine_tuned_model']} does not answer: {answer.text[:200]}")
    for id in files.values():
        if running.client.get(f"/files/{id}/content").status_code != 200:
            say(f"{id} is gone")
    return outcome


def _look_at_results(running: Running, record: dict[str, Any], steps: list[int], say: Any) -> None:
    (id,) = record["result_files"]
    content = running.client.get(f"/files/{id}/content").raise_for_status().text
    told = [int(line.split(",")[0]) for line in content.splitlines()[1:]]
    if told != steps:
        say(f"{record['id']}: its result file has steps {told}")


def _look_at_folder(home: Path, outcome: Outcome) -> None:
    """After the server's end: nothing half-written lies there, and the database is sound."""
    left = [str(path.relative_to(home)) for path in home.rglob(".*.tmp")]
    if left:
        outcome.problems.append(f"half-written: {left}")
    for file in home.rglob("*.db"):
        with contextlib.closing(sqlite3.connect(file)) as database:
            (verdict,) = database.execute("PRAGMA integrity_check").fetchone()
            if verdict != "ok":
                outcome.problems.append(f"{file.name}: {verdict}")


# --- the page -------------------------------------------------------------------------------------


def markdown(result: dict[str, Any]) -> str:
    calm, rough, kills = result["undisturbed"], result["disturbed"], result["kills"]
    problems = calm["problems"] + rough["problems"]
    verdict = "Nothing was lost." if not problems else "**Lost:**\n\n- " + "\n- ".join(problems)
    rows = [
        [
            number,
            kill["seconds"],
            kill["victim"],
            kill["processes"],
            ", ".join(f"{count} {status}" for status, count in kill["statuses"].items()),
            " ".join(map(str, kill["steps"])),
        ]
        for number, kill in enumerate(kills, start=1)
    ]
    options = result["options"]
    return "\n\n".join(
        [
            "# The service under kill -9",
            report.footer(result).rstrip(".") + ".",
            f"{options['jobs']} jobs of {options['epochs']} epochs on data/taro.jsonl (every "
            f"second one with a validation file), {len(kills)} kills at random moments; "
            f"{calm['seconds']} s undisturbed, {rough['seconds']} s with the kills.",
            verdict,
            "Looked at afterwards: every job succeeded; the last training loss of each is the "
            "undisturbed one to the last digit; every step is told exactly once and in order, also "
            "in the result file; every tuned model answers; uploaded files are there; no "
            "half-written file; the database passes its integrity check.",
            report.table(
                ["job", "last loss", "undisturbed", "events", "undisturbed"],
                [
                    [number, *facts]
                    for number, facts in enumerate(
                        zip(
                            map(str, rough["losses"]),
                            map(str, calm["losses"]),
                            rough["events"],
                            calm["events"],
                            strict=False,
                        ),
                        start=1,
                    )
                ],
            ),
            report.table(
                ["kill", "after s", "what", "processes", "jobs then", "steps told then"], rows
            ),
        ]
    )


if __name__ == "__main__":
    raise SystemExit(main())
