"""How the service chats under load, and how fast its lists are.

    python scripts/bench_serve.py           64 streaming chats at once, beside `transformers serve`
    python scripts/bench_serve.py --tiny      checks the script itself in about a minute

Three parts in one run:

- The same 64 questions at once to `tanren serve`, to plain `transformers serve` and to
  `transformers serve --continuous-batching`, in turns; ratios of medians over the rounds.
- The same chats to tanren while a job trains beside them, half of them to a tuned model.
- 1,000 queued jobs listed, and 100,000 events of one job read page by page.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2 as httpx
from bench import report, service
from bench.children import environment

OWN = "tanren serve"
PLAIN = "transformers serve"
CONTINUOUS = "transformers serve --continuous-batching"
LIST_LIMIT_SECONDS = 0.050


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    result: dict[str, Any] = {"options": vars(options).copy(), **report.circumstances()}
    with tempfile.TemporaryDirectory(prefix="serve-") as folder:
        questions = Path(folder) / "questions.json"
        texts = _questions(options.chats)
        questions.write_text(json.dumps(texts, ensure_ascii=False), encoding="utf-8")
        result["side_by_side"] = side_by_side(options, Path(folder), questions)
        result["beside_training"] = beside_training(options, Path(folder), questions)
        result["lists"] = lists(options, Path(folder))
    report.write(report.output_folder(options.out), "bench_serve", result, markdown(result))
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default=str(report.REPOSITORY / "data" / "tiny-chat"))
    add("--chats", type=int, default=64, help="at the same time")
    add("--new-tokens", type=int, default=64, help="most tokens of an answer")
    add("--rounds", type=int, default=5)
    add("--threads", type=int, default=2)
    add("--jobs", type=int, default=1000)
    add("--events", type=int, default=100_000)
    add("--out", type=Path, default=Path("docs/measured"))
    add("--tiny", action="store_true", help="tiny sizes")
    options = parser.parse_args(arguments)
    if options.tiny:
        options.chats, options.new_tokens, options.rounds = 4, 8, 1
        options.jobs, options.events = 20, 500
    return options


def _questions(count: int) -> list[str]:
    from bench_eval import prompts

    return prompts(count)


# --- servers side by side -------------------------------------------------------------------------


def side_by_side(
    options: argparse.Namespace, folder: Path, questions: Path
) -> dict[str, dict[str, Any]]:
    """Every server warmed up with one whole load, then all in turns."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(service.serving(folder / "own", threads=options.threads))
        contestants = {
            OWN: (f"{server.address}/v1", "tiny-chat"),
            PLAIN: (stack.enter_context(_transformers(options, folder)), options.model),
            CONTINUOUS: (
                stack.enter_context(_transformers(options, folder, "--continuous-batching")),
                options.model,
            ),
        }
        rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in contestants}
        for number in range(options.rounds + 1):
            for name, (address, model) in contestants.items():
                measured = _load(options, address, [model], questions)
                if number > 0:  # the first one warms up
                    rounds[name].append(measured)
    return {name: _medians(found) for name, found in rounds.items()}


@contextlib.contextmanager
def _transformers(options: argparse.Namespace, folder: Path, *more: str) -> Iterator[str]:
    """The library's own server with the model loaded, in float32 as ours on a processor."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["serve", options.model, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    log = folder / f"transformers-{port}.log"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [
                str(Path(sys.executable).with_name("transformers")),
                *words,
                "--dtype",
                "float32",
                *more,
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(options.threads),
        )
    try:
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(log.read_text(encoding="utf-8", errors="replace")[-2000:])
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def _load(
    options: argparse.Namespace, address: str, models: Sequence[str], questions: Path
) -> dict[str, Any]:
    """One load from a process of its own."""
    done = subprocess.run(
        [
            sys.executable, "-m", "bench.chat_load", address, *models,
            "--chats", str(options.chats), "--new-tokens", str(options.new_tokens),
            "--questions", str(questions),
        ],
        check=True,
        capture_output=True,
        env={**os.environ, **environment(1)},
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    chats = found["chats"]
    firsts = sorted(chat["first"] for chat in chats if chat["first"] is not None)
    alls = sorted(chat["seconds"] for chat in chats)
    return {
        "seconds": found["seconds"],
        "errors": [chat["error"] for chat in chats if chat["error"]],
        "tokens_per_second": _tokens(options, [c["text"] for c in chats]) / found["seconds"],
        "first_p50": statistics.median(firsts),
        "first_p95": firsts[int(0.95 * (len(firsts) - 1))],
        "p50": statistics.median(alls),
        "p95": alls[int(0.95 * (len(alls) - 1))],
        "texts": [chat["text"] for chat in chats],
    }


def _tokens(options: argparse.Namespace, texts: Sequence[str]) -> int:
    """Counted from the texts, so that it is the same count for every server."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(options.model) / "tokenizer.json"))
    return sum(len(encoded.ids) for encoded in tokenizer.encode_batch(list(texts)))


def _medians(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    numbers = ("seconds", "tokens_per_second", "first_p50", "first_p95", "p50", "p95")
    return {
        **{name: statistics.median(found[name] for found in rounds) for name in numbers},
        "spread": max(f["seconds"] for f in rounds) / min(f["seconds"] for f in rounds),
        "errors": sum(len(found["errors"]) for found in rounds),
        "first_error": next((e for found in rounds for e in found["errors"]), None),
        "texts": rounds[-1]["texts"],
    }


# --- beside a training job ------------------------------------------------------------------------


def beside_training(options: argparse.Namespace, folder: Path, questions: Path) -> dict[str, Any]:
    """The chats again and again from a job's first step to its last; half of them are answered by a
    model that was tuned before.
    """
    with service.serving(folder / "training", threads=options.threads) as server:
        tuned = _train(server, epochs=2)["fine_tuned_model"]
        models = ["tiny-chat", tuned]
        _load(options, f"{server.address}/v1", models, questions)  # warms up
        job = _begin(server, epochs=6 if options.tiny else 60)
        rounds = []
        while not rounds or _status(server, job) == "running":
            while _status(server, job) in ("validating_files", "queued"):
                time.sleep(0.2)
            rounds.append(_load(options, f"{server.address}/v1", models, questions))
        ended = _ended(server, job)
    measured = _medians(rounds)
    del measured["texts"]
    return {**measured, "rounds": len(rounds), "job": ended["status"]}


def _begin(server: service.Server, *, epochs: int) -> str:
    content = (report.REPOSITORY / "data" / "taro.jsonl").read_bytes()
    upload = server.client.post(
        "/files", data={"purpose": "fine-tune"}, files={"file": ("taro.jsonl", content)}
    )
    body = {
        "model": "tiny-chat",
        "training_file": upload.raise_for_status().json()["id"],
        "seed": 1,
        "hyperparameters": {"n_epochs": min(epochs, 50), "batch_size": 4},
    }
    answer = server.client.post("/fine_tuning/jobs", json=body)
    return str(answer.raise_for_status().json()["id"])


def _status(server: service.Server, job: str) -> str:
    found = server.client.get(f"/fine_tuning/jobs/{job}").raise_for_status().json()
    return str(found["status"])


def _ended(server: service.Server, job: str) -> dict[str, Any]:
    while _status(server, job) not in ("succeeded", "failed", "cancelled"):
        time.sleep(0.5)
    found: dict[str, Any] = server.client.get(f"/fine_tuning/jobs/{job}").json()
    return found


def _train(server: service.Server, *, epochs: int) -> dict[str, Any]:
    found = _ended(server, _begin(server, epochs=epochs))
    if found["status"] != "succeeded":
        raise RuntimeError(str(found["error"]))
    return found


# --- lists ----------------------------------------------------------------------------------------


def lists(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Rows are laid into the database by themselves; what is measured goes through the API."""
    home = folder / "lists"
    job = _fill(home, options.jobs, options.events)
    with service.serving(home, threads=options.threads) as server:
        for _ in range(3):
            server.client.get("/fine_tuning/jobs", params={"limit": options.jobs})
        listed = [
            _timed(server, "/fine_tuning/jobs", {"limit": options.jobs}, options.jobs)
            for _ in range(15)
        ]
        firsts = [_timed(server, "/fine_tuning/jobs", {}, min(20, options.jobs)) for _ in range(15)]
        began = time.perf_counter()
        pages = []
        after: str | None = None
        seen: set[str] = set()
        while True:
            asked = {"limit": 100, **({"after": after} if after else {})}
            page_began = time.perf_counter()
            answer = server.client.get(f"/fine_tuning/jobs/{job}/events", params=asked)
            rows = answer.raise_for_status().json()["data"]
            pages.append(time.perf_counter() - page_began)
            if not rows:
                break
            seen |= {row["id"] for row in rows}
            after = rows[-1]["id"]
        all_seconds = time.perf_counter() - began
    tenth = max(1, len(pages) // 10)
    return {
        "jobs_seconds": statistics.median(listed),
        "first_page_seconds": statistics.median(firsts),
        "events_seen": len(seen),
        "events_seconds": all_seconds,
        "pages": len(pages),
        "first_pages_seconds": statistics.median(pages[:tenth]),
        "last_pages_seconds": statistics.median(pages[-tenth - 1 : -1] or pages),
    }


def _timed(server: service.Server, path: str, asked: dict[str, Any], expected: int) -> float:
    began = time.perf_counter()
    answer = server.client.get(path, params=asked)
    seconds = time.perf_counter() - began
    found = len(answer.raise_for_status().json()["data"])
    if found != expected:
        raise RuntimeError(f"{path}: {found} rows instead of {expected}")
    return seconds


def _fill(home: Path, jobs: int, events: int) -> str:
    """Paused jobs (so that no dispatcher starts them), and events of the first one."""
    from sqlalchemy import insert

    from tanren.jobs.service import JobService
    from tanren.store.settings import load_service
    from tanren.store.tables import EventRow, FileRow, JobRow

    config = load_service(
        report.REPOSITORY / "configs" / "serve.yaml", [f"folder={home / 'service'}"]
    )
    opened = JobService(config)
    now = int(time.time())
    base = config.models[0].id
    with opened.database.session() as session:
        session.execute(
            insert(FileRow),
            [
                {
                    "id": "file-" + "a" * 24, "filename": "a.jsonl", "purpose": "fine-tune",
                    "bytes": 0, "sha256": "0" * 64, "created_at": now, "status": "processed",
                }
            ],
        )  # fmt: skip
        session.execute(
            insert(JobRow),
            [
                {
                    "id": f"ftjob-{number:024d}", "request_sha256": "0" * 64, "status": "paused",
                    "priority": 0, "place": float(number), "created_at": now, "model": base,
                    "base": base, "training_file": "file-" + "a" * 24, "result_files": [],
                    "method": "supervised", "seed": 1, "tanren": {}, "organization": "personal",
                    "hyperparameters": {"n_epochs": 3, "batch_size": 1,
                                        "learning_rate_multiplier": 1.0},
                    "integrations": [], "metadata_": {"番号": str(number)}, "read_until": 0,
                }
                for number in range(jobs)
            ],
        )  # fmt: skip
        job = f"ftjob-{0:024d}"
        session.execute(
            insert(EventRow),
            [
                {
                    "id": f"ftevent-{number:024d}", "job": job, "key": f"step:{number}",
                    "created_at": now, "level": "info", "type": "metrics",
                    "message": f"Step {number}/{events}: training loss=1.00",
                    "data": {"step": number, "total_steps": events, "train_loss": 1.0},
                }
                for number in range(1, events + 1)
            ],
        )  # fmt: skip
    opened.close()
    return job


# --- the page -------------------------------------------------------------------------------------


def markdown(result: dict[str, Any]) -> str:
    options, sides = result["options"], result["side_by_side"]
    beside, found = result["beside_training"], result["lists"]
    own = sides[OWN]
    head = ["server", "all chats s", "ours / theirs", "tokens/s", "first text p50 s", "p95 s",
            "whole answer p50 s", "p95 s", "errors", "answers as ours"]  # fmt: skip
    rows = [
        [
            name, side["seconds"], own["seconds"] / side["seconds"], side["tokens_per_second"],
            side["first_p50"], side["first_p95"], side["p50"], side["p95"], side["errors"],
            sum(mine == theirs for mine, theirs in zip(own["texts"], side["texts"], strict=True)),
        ]
        for name, side in sides.items()
    ]  # fmt: skip
    limits = [
        ["beside a training job without error", beside["errors"], 0, beside["errors"] == 0],
        [
            f"ahead of {PLAIN}, ratio", own["seconds"] / sides[PLAIN]["seconds"], "< 1",
            own["seconds"] < sides[PLAIN]["seconds"],
        ],
        [
            f"{options['jobs']:,} jobs listed, s", found["jobs_seconds"], LIST_LIMIT_SECONDS,
            found["jobs_seconds"] < LIST_LIMIT_SECONDS,
        ],
        [
            f"{options['events']:,} events paged, each once", found["events_seen"],
            options["events"], found["events_seen"] == options["events"],
        ],
    ]  # fmt: skip
    return "\n\n".join(
        [
            "# Service measurements",
            report.footer(result).rstrip(".") + ".",
            f"{options['chats']} streaming chats at once on {Path(options['model']).name} "
            f"(float32), at most {options['new_tokens']} tokens each, greedy; {options['threads']} "
            f"threads; medians of {options['rounds']} rounds in which all take turns.",
            report.table(["what", "measured", "limit", "holds"], limits),
            "## Side by side",
            report.table(head, rows),
            "Tokens are counted from the texts in the same way for all. `transformers serve` "
            "without its flag writes one answer after the other.",
            "## Beside a training job",
            f"{beside['rounds']} rounds of the same chats while a job trained (it "
            f"{beside['job']}); half of them to a tuned model: p50 {beside['p50']:.2f} s, p95 "
            f"{beside['p95']:.2f} s, first text p50 {beside['first_p50']:.2f} s, "
            f"{beside['tokens_per_second']:,.0f} tokens/s, {beside['errors']} errors.",
            "## Lists",
            f"{options['jobs']:,} jobs in one page: {1000 * found['jobs_seconds']:.1f} ms; the "
            f"first 20: {1000 * found['first_page_seconds']:.1f} ms. {options['events']:,} events "
            f"in {found['pages']:,} pages: {found['events_seconds']:.1f} s; a page takes "
            f"{1000 * found['first_pages_seconds']:.1f} ms at the beginning and "
            f"{1000 * found['last_pages_seconds']:.1f} ms at the end. Through HTTP, the client's "
            "time with it.",
        ]
    )


if __name__ == "__main__":
    raise SystemExit(main())
