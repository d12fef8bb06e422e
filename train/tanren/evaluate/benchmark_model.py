"""A model in memory as lm-eval asks it. Imported only where lm-eval is installed."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable
from typing import Any

import lm_eval
import torch
from lm_eval.api.model import CacheHook
from lm_eval.models.huggingface import HFLM
from torch import nn

from tanren.errors import ConfigError, Fault, OutOfMemoryError
from tanren.evaluate.answering import LocalModel, OnProgress
from tanren.evaluate.benchmark_tasks import quiet
from tanren.template import ChatRenderer

FEW_SHOT_SEED = 1234
"""lm-eval's own, so that the same examples stand before the questions."""
BOOTSTRAP = 1000
"""Resamples for standard errors that have no formula."""
_THOUGHTS_END = "</think>"

os.environ.setdefault("DISABLE_MULTIPROC", "1")  # no forks of a process that holds a model


class ChatModel(HFLM):
    """lm-eval's own scoring, with prompts from the one renderer (T1).

    `chat`: the renderer has written every special token, and none is added. `shortened` counts
    requests whose beginning was cut.
    """

    def __init__(
        self,
        model: nn.Module,
        local: LocalModel,
        *,
        chat: bool,
        batch_size: int,
        on_progress: OnProgress | None = None,
    ) -> None:
        # lm-eval sets a padding token and side: on a copy.
        super().__init__(
            pretrained=model,
            backend="causal",
            tokenizer=copy.deepcopy(local.tokenizer),
            max_length=local.context,
            batch_size=batch_size,
            add_bos_token=False if chat else None,
            think_end_token=_THOUGHTS_END,
        )
        self._renderer: ChatRenderer = local.renderer
        self.shortened = 0
        self._asked = self._done = 0
        self._on_progress = on_progress
        self.set_cache_hook(_Finished(self._count))

    def _begin(self, requests: list[Any]) -> None:
        self._asked, self._done = len(requests), 0

    def _count(self) -> None:
        self._done += 1
        if self._on_progress is not None:
            self._on_progress(self._done, self._asked)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """`add_generation_prompt=False`: the last message is the beginning of the answer."""
        if add_generation_prompt:
            return self._renderer.prompt(chat_history)
        *before, begun = chat_history
        return self._renderer.prompt(before) + begun["content"]

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> Any:
        self._begin(requests)
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> Any:
        self._begin(requests)
        return super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> Any:
        self._begin(requests)
        return super().generate_until(requests, disable_tqdm=disable_tqdm)

    def _loglikelihood_tokens(self, requests: list[Any], **settings: Any) -> Any:
        sizes = [len(before) + len(after) for _, before, after in requests]
        self.shortened += sum(size > self.max_length + 1 for size in sizes)
        return super()._loglikelihood_tokens(requests, **{**settings, "disable_tqdm": True})

    def tok_batch_encode(
        self,
        strings: list[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> Any:
        if left_truncate_len:
            sizes = [len(self.tok_encode(string)) for string in strings]
            self.shortened += sum(size > left_truncate_len for size in sizes)
        return super().tok_batch_encode(strings, padding_side, left_truncate_len, truncation)


class _Finished(CacheHook):
    """lm-eval offers each finished request to a cache; here it is only counted."""

    def __init__(self, count: Callable[[], None]) -> None:
        super().__init__(None)
        self._count = count

    def add_partial(self, attr: str, req: Any, res: Any) -> None:
        self._count()


def answered(
    local: LocalModel,
    loaded: dict[str, Any],
    *,
    limit: int | None,
    few_shot: int | None,
    chat: bool,
    batch_size: int,
    on_progress: OnProgress | None = None,
) -> tuple[dict[str, Any], int]:
    """lm-eval's results of the loaded tasks, and how many requests were shortened."""
    tasks = loaded["tasks"]
    _set_examples(tasks.values(), few_shot)
    _require_room(tasks, local.context)
    with local.active() as model, quiet():
        asked = ChatModel(model, local, chat=chat, batch_size=batch_size, on_progress=on_progress)
        try:
            done = lm_eval.evaluate(
                asked,
                loaded,
                limit=limit,
                bootstrap_iters=BOOTSTRAP,
                log_samples=False,
                apply_chat_template=chat,
                fewshot_as_multiturn=chat,
            )
        except torch.OutOfMemoryError:
            done = None  # past the handler: inside, the traceback would hold the memory
    if done is None:
        found, remedy = f"too little memory for batches of {batch_size}", "lower lm_eval.batch_size"
        raise OutOfMemoryError.of(Fault("--lm-eval", found, "memory for a batch", remedy))
    return done, asked.shortened


def _set_examples(tasks: Iterable[Any], few_shot: int | None) -> None:
    """As lm-eval's command does: a task that fixes none at all keeps none."""
    for task in tasks:
        fixed = task.get_config("num_fewshot")
        if few_shot is not None and fixed != 0:
            task.set_config(key="num_fewshot", value=few_shot)
        elif fixed is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=FEW_SHOT_SEED)


def _require_room(tasks: dict[str, Any], context: int) -> None:
    """ConfigError for tasks whose answers alone fill the model's context."""
    faults = []
    for name, task in tasks.items():
        if task.OUTPUT_TYPE != "generate_until":
            continue
        asked = (task.get_config("generation_kwargs") or {}).get("max_gen_toks", 256)
        if asked >= context:
            expected = f"fewer than the model's context of {context}"
            remedy = "lower max_gen_toks in the task, or leave it"
            faults.append(Fault(f"--lm-eval {name}", f"{asked} new tokens", expected, remedy))
    if faults:
        raise ConfigError.of(*faults)
