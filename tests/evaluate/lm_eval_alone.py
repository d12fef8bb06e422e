"""Runs lm-eval's tasks with the network closed, and tells what came out as JSON on stdout.

python -P lm_eval_alone.py BASE RUN TASKS   TASKS: an empty folder; tasks are written into it

A process of its own: lm-eval imports a package `evaluate`, which the tests' folder would shadow.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "training"))
import closed_network  # noqa: F401 - closes it

TEXTS = ["Why is the sky blue?", "空はなぜ青いの？", "What is 2+2?", "hello", "こんにちは", "Who?"]
CHOICES = ["Because light scatters.", "石だから。", "4", "I do not know that."]
TASK = """
task: {name}
dataset_path: {data}
test_split: test
output_type: {kind}
doc_to_text: "{{{{text}}}}"
doc_to_target: {target}
metadata: {{version: 3.5}}
"""


def main() -> None:
    base, run, folder = sys.argv[1:4]
    from tanren.evaluate.answering import LocalModel
    from tanren.generate import Decoding, answer_all
    from tanren.session import Session, open_session

    def local(session: Session, *, base_side: bool = False) -> LocalModel:
        return LocalModel(
            session.model, session.tokenizer, session.renderer, session.context_length, base_side
        )

    session = open_session(base)
    before = session.tokenizer.padding_side, session.tokenizer.pad_token
    asked = [[{"role": "user", "content": text}] for text in TEXTS]
    said = answer_all(
        session.model, session.tokenizer, session.renderer, asked, Decoding(max_new_tokens=12)
    )
    write_tasks(Path(folder), [answer.text for answer in said])
    plain, tuned = open_session(run, base=True), open_session(run)
    told = {
        "benchmarks": benchmarks(local(session), Path(folder)),
        "expected": by_hand(local(session)),
        "plain": likelihoods(local(plain)),
        "tuned": likelihoods(local(tuned)),
        "switched_off": likelihoods(local(tuned, base_side=True)),
        "reads": [
            perplexity(one, Path(folder))
            for one in (local(plain), local(tuned), local(tuned, base_side=True))
        ],
        "tokenizer_kept": before == (session.tokenizer.padding_side, session.tokenizer.pad_token),
        "faults": faults(local(session), Path(folder)),
    }
    json.dump(told, sys.stdout)


def write_tasks(folder: Path, said: list[str]) -> None:
    """`says` expects the model's own words in every second document."""
    rows = [
        {"text": text, "choices": CHOICES, "label": i % 4, "said": said[i] if i % 2 else "never so"}
        for i, text in enumerate(TEXTS)
    ]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "rows.json").write_text(lines, encoding="utf-8")
    long = {**rows[0], "text": "so " * 3000}
    (folder / "long.json").write_text(json.dumps(long) + "\n", encoding="utf-8")

    def task(name: str, data: str, kind: str, target: str, more: str) -> None:
        text = TASK.format(name=name, data=data, kind=kind, target=target) + more
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")

    def files(name: str) -> str:
        return f"dataset_kwargs: {{data_files: {{test: {folder / name}}}}}\n"

    choose = 'doc_to_choice: "{{choices}}"\nmetric_list: [{metric: acc}, {metric: acc_norm}]\n'
    write = (
        'generation_kwargs: {until: ["<never>"], max_gen_toks: 12, do_sample: false}\n'
        "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
    )
    said_so = '"{{said}}"'
    task("picks", "json", "multiple_choice", "label", files("rows.json") + choose)
    task("picks_long", "json", "multiple_choice", "label", files("long.json") + choose)
    task("says", "json", "generate_until", said_so, files("rows.json") + write)
    perplexity = 'doc_to_text: ""\nmetric_list: [{metric: word_perplexity}]\n'
    words = '"{{text}}"'
    task("reads", "json", "loglikelihood_rolling", words, files("rows.json") + perplexity)
    endless = write.replace("max_gen_toks: 12", "max_gen_toks: 5000")
    task("endless", "json", "generate_until", said_so, files("rows.json") + endless)
    task("gone", "json", "multiple_choice", "label", files("nowhere.json") + choose)
    task("hub", "someone/benchmark", "multiple_choice", "label", choose)
    runs_code = f"unsafe_code: true\n{files('rows.json')}{write}"
    task("unsafe", "json", "generate_until", said_so, runs_code)


def benchmarks(local: Any, folder: Path) -> dict[str, Any]:
    from tanren.evaluate.benchmarks import Benchmarks, run_benchmarks

    found = {}
    for name, limit in (("picks", None), ("says", None), ("picks_long", None), ("picks", 2)):
        ticks: list[tuple[int, int]] = []

        def tick(done: int, total: int, ticks: list[tuple[int, int]] = ticks) -> None:
            ticks.append((done, total))

        done = run_benchmarks(
            local, [name], limit=limit, batch_size=4, include_path=folder, on_progress=tick
        )
        assert Benchmarks.of(json.loads(json.dumps(done.as_dict()))) == done
        found[f"{name} {limit}"] = {**done.as_dict(), "progress": ticks}
    return found


def perplexity(local: Any, folder: Path) -> float:
    from tanren.evaluate.benchmarks import run_benchmarks

    (one,) = run_benchmarks(local, ["reads"], include_path=folder, chat=False).results
    return one.value


def likelihoods(local: Any) -> list[float]:
    """As lm-eval's model tells them: every text with every choice, in padded batches."""
    from lm_eval.api.instance import Instance

    from tanren.evaluate.benchmark_model import ChatModel

    with local.active() as model:
        asked = ChatModel(model, local, chat=True, batch_size=3)
        pairs = [
            (asked.apply_chat_template([{"role": "user", "content": text}]), choice)
            for text in TEXTS
            for choice in CHOICES
        ]
        requests = [
            Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=i)
            for i, pair in enumerate(pairs)
        ]
        return [value for value, _ in asked.loglikelihood(requests)]


def by_hand(local: Any) -> dict[str, Any]:
    """The same from the logits of single rows, with prompts as `tanren chat` has them."""
    import torch

    sums = []
    for text in TEXTS:
        prompt = local.renderer.prompt_ids([{"role": "user", "content": text}])
        for choice in CHOICES:
            reply = local.renderer.token_ids(choice)
            with torch.no_grad():
                logits = local.model(torch.tensor([prompt + reply])).logits[0].float()
            logs = logits[len(prompt) - 1 : -1].log_softmax(-1)
            sums.append(float(logs.gather(1, torch.tensor(reply)[:, None]).sum()))
    rows = [sums[i : i + len(CHOICES)] for i in range(0, len(sums), len(CHOICES))]
    hits = [row.index(max(row)) == i % 4 for i, row in enumerate(rows)]
    return {"likelihoods": sums, "acc": sum(hits) / len(hits), "measured": likelihoods(local)}


def faults(local: Any, folder: Path) -> dict[str, list[str]]:
    from tanren.errors import ConfigError
    from tanren.evaluate.benchmarks import ensure_benchmarks, run_benchmarks
    from tanren.evaluate.settings import BenchmarkConfig

    found = {}
    for names in (("gone", "hub"), ("unsafe",)):
        try:
            ensure_benchmarks(BenchmarkConfig(tasks=names, include=str(folder)))
        except ConfigError as error:
            found[" ".join(names)] = [str(fault) for fault in error.faults]
    try:
        run_benchmarks(local, ["endless"], include_path=folder)
    except ConfigError as error:
        found["endless"] = [str(fault) for fault in error.faults]
    return found


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "0"  # what keeps them from the network is their own
    main()
