"""How fast an evaluation's answers are written, beside the best batch size found by hand.

    python scripts/bench_eval.py                 300 answers of data/tiny-chat
    python scripts/bench_eval.py --model NAME    another model: a folder, a run or a hub name
    python scripts/bench_eval.py --tiny          checks the script itself in seconds

Same prompts, greedy, in order of their length. By hand: transformers' generate with left padding in
batches of a fixed size, and our own loop in such batches. tanren chooses its batches itself. All
take turns; each ratio is the median over the rounds of our time / the best time by hand.
"""

from __future__ import annotations

import argparse
import csv
import gc
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench import report

TARGET = 1.5
"""Most that our time may be, as a multiple of the best by hand."""
SIZES = (1, 8, 16, 32, 64, 128)
OWN = "tanren"
Answers = list[tuple[int, ...]]
"""Token ids of every answer, in the order of the prompts, without the end of turn."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    result: dict[str, Any] = {"options": vars(options).copy(), **report.circumstances()}
    found = measure(options)
    result |= {**found, **judged(found["contestants"])}
    report.write(report.output_folder(options.out), "bench_eval", result, markdown(result))
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default=str(report.REPOSITORY / "data" / "tiny-chat"))
    add("--answers", type=int, default=300)
    add("--new-tokens", type=int, default=128, help="most tokens of an answer")
    add("--sizes", type=int, nargs="+", default=list(SIZES), help="batch sizes by hand")
    add("--rounds", type=int, default=5)
    add("--threads", type=int, default=2)
    add("--out", type=Path, default=Path("docs/measured"))
    add("--tiny", action="store_true", help="tiny sizes")
    options = parser.parse_args(arguments)
    if options.tiny:
        options.answers, options.new_tokens, options.sizes, options.rounds = 6, 8, [1, 4], 1
    return options


def prompts(count: int) -> list[str]:
    """Questions that people ask, Japanese and English: all of the retention set's, children's."""
    from tanren.evaluate.retention_set import RetentionSet

    general = [str(row.messages[-1]["content"]) for row in RetentionSet.read().rows]
    with open(report.REPOSITORY / "data" / "kids_why.csv", encoding="utf-8", newline="") as lines:
        children = [row["question"] for row in csv.DictReader(lines)]
    every = general + children
    repeated = every * (count // len(every) + 1)
    return repeated[:count]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of every contestant, round by round, and how many of its answers are tanren's."""
    import torch
    import transformers

    from tanren.session import open_session

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(options.threads)
    session = open_session(options.model)
    asked = [[{"role": "user", "content": text}] for text in prompts(options.answers)]
    asked.sort(key=lambda messages: len(session.renderer.prompt_ids(messages)), reverse=True)
    contestants = contestants_of(session, asked, options)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    answers: dict[str, Answers] = {}
    for number in range(options.rounds + 1):  # the first one warms up
        for name, work in contestants.items():
            print(f"... {time.strftime('%H:%M:%S')} {number}: {name}", file=sys.stderr)
            took, answers[name] = timed(work)
            if number:
                seconds[name].append(took)
    own = answers[OWN]
    return {
        "dtype": str(session.model.dtype).removeprefix("torch."),
        "device": str(session.model.device),
        "prompt_tokens": sum(len(session.renderer.prompt_ids(messages)) for messages in asked),
        "answer_tokens": sum(map(len, own)),
        "contestants": {
            name: {
                "seconds": seconds[name],
                "same": sum(a == b for a, b in zip(own, answers[name], strict=True)),
            }
            for name in contestants
        },
    }


def contestants_of(
    session: Any, asked: Sequence[Any], options: argparse.Namespace
) -> dict[str, Callable[[], Answers]]:
    def own(size: int | None) -> Callable[[], Answers]:
        return lambda: by_tanren(session, asked, options.new_tokens, size)

    def generate(size: int) -> Callable[[], Answers]:
        return lambda: by_generate(session, asked, options.new_tokens, size)

    return {
        OWN: own(None),
        **{f"{OWN}, {size} at once": own(size) for size in options.sizes},
        **{f"generate, {size} at once": generate(size) for size in options.sizes},
    }


def by_tanren(session: Any, asked: Sequence[Any], new_tokens: int, size: int | None) -> Answers:
    """As `tanren eval` does it, or in batches of a fixed size."""
    from tanren.generate import Decoding, answer_all

    parts = [asked] if size is None else [asked[i : i + size] for i in range(0, len(asked), size)]
    room = {} if size is None else {"batch_tokens": sys.maxsize}
    found: Answers = []
    for part in parts:
        answers = answer_all(
            session.model,
            session.tokenizer,
            session.renderer,
            part,
            Decoding(max_new_tokens=new_tokens),
            **room,
        )
        found += [answer.token_ids for answer in answers]
    return found


def by_generate(session: Any, asked: Sequence[Any], new_tokens: int, size: int) -> Answers:
    """As a careful person writes it with transformers alone."""
    import torch

    stops = set(session.renderer.facts.stop_ids)
    pad = session.tokenizer.pad_token_id
    found: Answers = []
    for start in range(0, len(asked), size):
        rows = [session.renderer.prompt_ids(messages) for messages in asked[start : start + size]]
        width = max(map(len, rows))
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        with torch.inference_mode():
            made = session.model.generate(
                input_ids=ids.to(session.model.device),
                attention_mask=mask.to(session.model.device),
                max_new_tokens=new_tokens,
                do_sample=False,
                eos_token_id=sorted(stops),
                pad_token_id=pad,
            )
        found += [up_to(row[width:], stops) for row in made.tolist()]
        session.tokenizer.batch_decode(made[:, width:], skip_special_tokens=True)  # texts, as ours
    return found


def up_to(ids: Sequence[int], stops: set[int]) -> tuple[int, ...]:
    """The tokens before the end of turn."""
    end = next((place for place, token in enumerate(ids) if token in stops), len(ids))
    return tuple(ids[:end])


def timed(work: Callable[[], Answers]) -> tuple[float, Answers]:
    gc.collect()
    began = time.perf_counter()
    answers = work()
    return time.perf_counter() - began, answers


def judged(contestants: dict[str, Any]) -> dict[str, Any]:
    """The fastest by hand, by its median, and the median of our time / its time."""
    by_hand = {name: one for name, one in contestants.items() if name != OWN}
    best = min(by_hand, key=lambda name: statistics.median(by_hand[name]["seconds"]))
    pairs = zip(contestants[OWN]["seconds"], by_hand[best]["seconds"], strict=True)
    ratio = statistics.median(ours / theirs for ours, theirs in pairs)
    return {"best": best, "ratio": ratio, "reached": ratio <= TARGET}


def markdown(result: dict[str, Any]) -> str:
    options, count = result["options"], result["options"]["answers"]
    rows = []
    for name, one in result["contestants"].items():
        middle = statistics.median(one["seconds"])
        spread = max(one["seconds"]) / min(one["seconds"])
        rows.append([name, middle, spread, result["answer_tokens"] / middle, one["same"]])
    header = [
        "who", "seconds", "slowest / fastest round", "new tokens/s", f"of {count} answers alike",
    ]  # fmt: skip
    verdict = report.table(
        ["best by hand", "our time / its time", f"≤ {TARGET}"],
        [[result["best"], result["ratio"], result["reached"]]],
    )
    return (
        f"# Evaluation measurements\n\n{report.footer(result)}.\n\n"
        f"{count} greedy answers of {Path(options['model']).name} ({result['dtype']} on "
        f"{result['device']}), {result['prompt_tokens']:,} tokens of prompts and "
        f"{result['answer_tokens']:,} of answers, at most {options['new_tokens']} each; "
        f"{options['threads']} threads; medians of {options['rounds']} rounds in which all take "
        f"turns.\n\n{verdict}\n\n{report.table(header, rows)}"
    )


if __name__ == "__main__":
    sys.exit(main())
