"""Places, limits, cancelling, what cannot be answered, and memory that runs out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from engine.answering import Asking, alone, request, target
from torch import nn

from tanren.engine.resident import ResidentBase
from tanren.engine.wire import Constraint
from tanren.template import ChatRenderer

Models = Callable[..., Path]
Ask = Callable[..., Asking]
NEVER_ENDS = {"max_tokens": 150, "logit_bias": {2: -100.0}}
END_ID = 2


def test_the_end_token_is_the_one_that_tests_forbid() -> None:
    assert tiny.build_tokenizer().convert_tokens_to_ids(tiny.END) == END_ID


def test_a_full_line_is_told_so_and_the_others_are_answered(tiny_model: Models, ask: Ask) -> None:
    asking = ask(max_batch=2, max_waiting=3)
    to = target(tiny_model())
    asking.submit(*(request(f"first {n}", to) for n in range(2)))
    asking.step()
    asking.submit(*(request(f"wait {n}", to) for n in range(4)))
    failed = asking.told["wait 3"].failed
    assert failed is not None and (failed.kind, failed.code) == ("busy", "rate_limit_exceeded")
    assert asking.engine.state().running == 2 and asking.engine.state().waiting == 3
    told = asking.finish()
    assert [name for name in told if told[name].failed] == ["wait 3"]


def test_a_cancelled_answer_frees_its_place_at_the_next_step(tiny_model: Models, ask: Ask) -> None:
    asking = ask(max_batch=2)
    to = target(tiny_model())
    asking.submit(request("gone", to, **NEVER_ENDS), request("stays", to, **NEVER_ENDS))
    asking.submit(request("next", to))
    asking.step(5)
    assert asking.engine.state().running == 2 and asking.engine.state().waiting == 1
    said = len(asking.told["gone"].pieces)
    asking.engine.cancel("gone")
    asking.engine.cancel("never heard of")
    asking.step()
    assert asking.told["next"].pieces and asking.engine.state().waiting == 0
    told = asking.finish()
    assert len(told["gone"].pieces) == said and not told["gone"].ends
    assert told["stays"].ends[0].completion_tokens == 150
    assert told["next"].text == alone(to, "Who are you?")


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_cancelling_at_any_stage_leaves_nothing(tiny_model: Models, ask: Ask, steps: int) -> None:
    asking = ask(max_batch=3)
    asking.submit(*(request(str(n), target(tiny_model()), choices=2) for n in range(3)))
    asking.step(steps)
    for name in "012":
        asking.engine.cancel(name)
    asking.step()
    assert asking.engine.idle and asking.engine.state().running == 0


def test_positions_of_all_answers_stay_within_the_limit(tiny_model: Models, ask: Ask) -> None:
    """Rows times the longest of them; who needs more than all is answered when nobody else is."""
    asking = ask(batch_tokens=256)
    to = target(tiny_model())
    length = len(_prompt("Who are you?"))
    room = 64 - length
    for number in range(6):
        asking.submit(request(str(number), to, max_tokens=room, logit_bias={2: -100.0}))
    asking.step(3)
    assert asking.engine.state().running == 4
    asking.submit(request("long", to, "the cat sat on the mat " * 5, max_tokens=300))
    told = asking.finish()
    assert told["long"].failed is None and len(told["long"].ends) == 1


def test_a_prompt_beyond_the_context_is_refused_with_both_numbers(
    tiny_model: Models, ask: Ask
) -> None:
    text = "the cat sat on the mat " * 60
    asking = ask()
    asking.submit(request("long", target(tiny_model()), text))
    failed = asking.finish()["long"].failed
    assert failed is not None
    assert (failed.kind, failed.param) == ("request", "messages")
    assert failed.code == "context_length_exceeded"
    assert failed.message == (
        "This model's maximum context length is 256 tokens. However, your messages resulted in "
        f"{len(_prompt(text))} tokens. Please reduce the length of the messages."
    )


def test_limits_of_answers(tiny_model: Models, ask: Ask) -> None:
    """The request's own, the service's where it names none, and the model's context."""
    asking = ask(max_tokens=9)
    to = target(tiny_model())
    endless = {"logit_bias": {2: -100.0}}
    asking.submit(request("own", to, max_tokens=4, **endless))
    asking.submit(request("service", to, max_tokens=None, **endless))
    asking.submit(request("context", to, "the cat " * 50, max_tokens=10_000, **endless))
    told = asking.finish()
    ends = {name: told[name].ends[0] for name in told}
    assert {end.reason for end in ends.values()} == {"length"}
    assert ends["own"].completion_tokens == 4 and ends["service"].completion_tokens == 9
    accepted = told["context"].accepted
    assert accepted is not None
    assert accepted.prompt_tokens + ends["context"].completion_tokens == 256


def test_stop_texts_end_an_answer_and_are_not_shown(tiny_model: Models, ask: Ask) -> None:
    to = target(tiny_model())
    whole = alone(to, "月はなぜ光るの？", 40)
    stop = whole[5:8]
    asking = ask()
    asking.submit(request("s", to, "月はなぜ光るの？", max_tokens=40, stop=(stop,)))
    told = asking.finish()["s"]
    assert told.text == whole[: whole.index(stop)] and told.ends[0].reason == "stop"


def test_logprobs_belong_to_the_tokens_of_the_text(tiny_model: Models, ask: Ask) -> None:
    """Their bytes joined are the text; each is at most the first of its top."""
    asking = ask()
    options = {"temperature": 1.0, "seed": 2, "max_tokens": 60, "logprobs": 3}
    asking.submit(request("p", target(tiny_model()), "空はなぜ青いの？", **options))
    told = asking.finish()["p"]
    tokens = told.logprobs
    assert len(tokens) == told.ends[0].completion_tokens > 10
    joined = b"".join(bytes(token.bytes) for token in tokens)
    written = joined.decode("utf-8", errors="replace")
    for special in (tiny.PAD, tiny.START):
        written = written.replace(special, "")
    assert written.rstrip("\ufffd") == told.text.rstrip("\ufffd")
    for token in tokens:
        assert len(token.top) == 3 and token.logprob <= token.top[0][1] <= 0
        assert [number for _, number, _ in token.top] == sorted(
            (number for _, number, _ in token.top), reverse=True
        )


def test_broken_numbers_end_one_request_alone(tiny_model: Models, ask: Ask) -> None:
    """NaN in a row's second token, and then in its keys and values: the others go on, and so does
    who takes its place.
    """
    asking = ask(max_batch=3)
    to = target(tiny_model())
    texts = ("Who are you?", "犬はなぜほえるの？")
    expected = {text: alone(to, text, 40) for text in texts}
    asking.submit(*(request(text, to, text, max_tokens=40, logprobs=0) for text in texts))
    seen = tiny.build_tokenizer().encode("".join([*texts, *expected.values()]))
    poisoned = next(token for token in range(5, 390) if token not in seen)
    told = asking.finish()
    model = asking.engine.models
    embeddings = next(iter(model._bases.values()))._model.get_input_embeddings()

    def poison(module: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        return output.masked_fill((inputs[0] == poisoned)[..., None], float("nan"))

    handle = embeddings.register_forward_hook(poison)
    asking.submit(request("one", to, "Who are you?", max_tokens=40))
    bias = {poisoned: 100.0}
    asking.submit(request("bad", to, "月 " * 30, max_tokens=40, logit_bias=bias))
    asking.submit(request("two", to, "犬はなぜほえるの？", max_tokens=40))
    asking.submit(request("later", to, "Who are you?", max_tokens=40))
    told = asking.finish()
    handle.remove()
    failed = told["bad"].failed
    assert failed is not None and failed.kind == "engine" and "finite" in failed.message
    assert told["bad"].accepted is not None
    assert told["one"].text == told["later"].text == expected["Who are you?"]
    assert told["two"].text == expected["犬はなぜほえるの？"]


# --- forms ----------------------------------------------------------------------------------------


def test_json_answers_are_json(ask: Ask) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"enum": [1, 22, 333]}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    asking = ask()
    for seed in range(6):
        asking.submit(
            request(
                str(seed),
                target(tiny.TINY_CHAT),
                max_tokens=200,
                temperature=1.5,
                seed=seed,
                constraint=Constraint("json", schema) if seed % 2 else None,
            )
        )
    told = asking.finish()
    for seed in (1, 3, 5):
        answer = json.loads(told[str(seed)].text)
        assert answer.keys() == {"name", "age"} and answer["age"] in (1, 22, 333)
        assert told[str(seed)].ends[0].reason == "stop"


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 6}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def test_calls_come_out_as_calls_or_stay_text(ask: Ask) -> None:
    asking = ask()
    options = {
        "tools": (WEATHER,),
        "max_tokens": 120,
        "temperature": 1.0,
        "constraint": Constraint("tools", tools=("weather",), parallel=False),
    }
    for seed in range(3):
        asking.submit(request(f"call {seed}", target(tiny.TINY_CHAT), seed=seed, **options))
    asking.submit(request("text", target(tiny.TINY_CHAT), seed=0, read_tools=False, **options))
    told = asking.finish()
    for seed in range(3):
        (call,) = told[f"call {seed}"].calls
        assert call.name == "weather" and json.loads(call.arguments).keys() == {"city"}
        assert told[f"call {seed}"].ends[0].reason == "tool_calls"
        assert told[f"call {seed}"].text == ""
    assert not told["text"].calls and "<tool_call>" in told["text"].text
    assert told["text"].ends[0].reason == "stop"


def test_tools_are_refused_where_the_model_knows_none(tiny_model: Models, ask: Ask) -> None:
    asking = ask()
    constraint = Constraint("tools", tools=("weather",))
    asking.submit(
        request("t", target(tiny_model()), tools=(WEATHER,), constraint=constraint),
        request("auto", target(tiny_model()), tools=(WEATHER,)),
        request("none", target(tiny_model()), tools=(WEATHER,), read_tools=False),
        request("next", target(tiny_model())),
    )
    told = asking.finish()
    for name in ("t", "auto"):
        failed = told[name].failed
        assert failed is not None and (failed.kind, failed.param) == ("request", "tools")
    assert told["none"].ends
    assert told["next"].ends


# --- memory ---------------------------------------------------------------------------------------


@contextmanager
def little_memory(asking: Asking, base: Path, rows: int, width: int = 10_000) -> Iterator[None]:
    """The real model, with an accelerator's error for more than `rows` rows or `width` tokens."""
    asking.submit(request("warm-up", target(base), max_tokens=1))
    asking.finish()
    (resident,) = asking.engine.models._bases.values()
    assert isinstance(resident, ResidentBase)
    last = resident._model.get_decoder().layers[-1]  # the first layer has written its keys by then

    def refuse(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0].shape[0] > rows or inputs[0].shape[1] > width:
            raise torch.OutOfMemoryError("no memory left")

    handle = last.register_forward_pre_hook(refuse)
    yield
    handle.remove()


def test_out_of_memory_puts_the_newest_back_and_nothing_is_said_twice(
    tiny_model: Models, ask: Ask
) -> None:
    """Prompts of unlike length are read apart, so the fourth row comes while three are written."""
    base = tiny_model()
    to = target(base)
    texts = ["月", "the cat sat on the mat " * 3, "犬は" * 20, "Who are you? " * 12, "Where"]
    asking = ask()
    with little_memory(asking, base, rows=3):
        for number, text in enumerate(texts):
            asking.submit(request(str(number), to, text, max_tokens=30))
            asking.step()
        told = asking.finish()
    failed = {name for name, each in told.items() if each.failed}
    for number, text in enumerate(texts):
        if str(number) not in failed:
            assert told[str(number)].text == alone(to, text, 30)
    assert "0" not in failed and len(failed) <= 2
    for name in failed:
        assert told[name].pieces, "only who had been shown something fails"
        assert "out of memory" in told[name].failed.message


def test_prompts_too_large_together_are_read_one_by_one(tiny_model: Models, ask: Ask) -> None:
    base = tiny_model()
    asking = ask()
    with little_memory(asking, base, rows=1):
        asking.submit(*(request(str(number), target(base)) for number in range(4)))
        told = asking.finish()
    expected = alone(target(base), "Who are you?")
    assert [told[str(n)].text for n in range(4)] == [expected] * 4


def test_one_that_never_fits_is_told_so(tiny_model: Models, ask: Ask) -> None:
    base = tiny_model()
    asking = ask()
    with little_memory(asking, base, rows=0):
        asking.submit(request("big", target(base)))
        failed = asking.finish()["big"].failed
    assert failed is not None and failed.kind == "engine" and "too little memory" in failed.message
    asking.submit(request("after", target(base)))
    assert asking.finish()["after"].text == alone(target(base), "Who are you?")


def _prompt(text: str) -> list[int]:
    renderer = ChatRenderer(tiny.build_tokenizer())
    return renderer.prompt_ids([{"role": "user", "content": text}])
