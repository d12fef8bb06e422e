"""Laws of translation: what Ollama writes is what the model was trained on, or it is said (T1)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from export.ollama.stock import stock_families
from templates import families

from tanren.errors import ModelError, ProofError
from tanren.export.ollama import OllamaTemplate, prove, server, translate
from tanren.export.ollama.conversations import CONVERSATIONS
from tanren.export.ollama.go_template import GoTemplate
from tanren.export.ollama.go_tokens import GoTemplateError
from tanren.template import ChatRenderer

TINY_CHAT = Path(__file__).parents[3] / "data" / "tiny-chat"
DAY = "2026-01-31"

# The chat templates of these refuse system messages: seven of the ten conversations have one.
WITHOUT_SYSTEM = ("gemma", "mistral-v1")


def renderer_of(name: str, **settings: Any) -> ChatRenderer:
    return ChatRenderer(stock_families()[name].tokenizer(), date=DAY, **settings)


def prompt(template: OllamaTemplate, *turns: str, **settings: Any) -> str:
    """Ollama's prompt for alternating turns of user and assistant."""
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]
    return server.prompt(GoTemplate(template.text), messages, **settings)


def outcomes(template: OllamaTemplate) -> list[str]:
    return [row.outcome for row in template.proof.rows]


@pytest.mark.parametrize("thinking", [None, False])
@pytest.mark.parametrize("name", list(stock_families()))
def test_every_stock_template_is_translated_character_by_character(
    name: str, thinking: bool | None
) -> None:
    template = translate(renderer_of(name, thinking=thinking))
    template.proof.require(name)
    if name in WITHOUT_SYSTEM:
        assert outcomes(template).count("refused") == 7
    else:
        assert outcomes(template) == ["equal"] * 10


def test_the_project_s_own_model_is_translated() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(TINY_CHAT))
    assert outcomes(translate(ChatRenderer(tokenizer, date=DAY))) == ["equal"] * 10


# --- the proof has teeth --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["chatml", "llama3", "gemma3", "mistral-v3", "phi3"])
def test_one_changed_character_fails_the_proof(name: str) -> None:
    renderer = renderer_of(name)
    text = translate(renderer).text
    places = [i for i, c in enumerate(text) if c == "\n" and text[i - 1] not in "}\n"] or [
        text.rindex("]")
    ]
    for place in places:
        proof = prove(text[:place] + "~" + text[place + 1 :], renderer)
        assert not proof.passed
        with pytest.raises(ProofError, match="at character") as caught:
            proof.require("template")
        assert caught.value.faults


def test_a_template_that_go_cannot_run_fails_the_proof() -> None:
    renderer = renderer_of("chatml")
    with pytest.raises(ProofError, match="cannot be parsed"):
        prove("{{ range .Messages }}", renderer)
    proof = prove("{{ range .Messages }}{{ .Nonsense }}{{ end }}", renderer)
    assert {row.outcome for row in proof.rows} == {"different"}
    with pytest.raises(ProofError, match="Nonsense"):
        proof.require("template")


def test_ollamas_own_chatml_passes_only_where_nothing_is_special() -> None:
    """A hand-written template of the old kind, without .Messages, is proven in the same way."""
    old = (
        "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}"
        "{{ if .Prompt }}<|im_start|>user\n{{ .Prompt }}<|im_end|>\n{{ end }}"
        "<|im_start|>assistant\n{{ .Response }}<|im_end|>\n"
    )
    rows = {row.conversation: row for row in prove(old, renderer_of("chatml")).rows}
    assert rows["several turns"].outcome == "equal"
    assert rows["empty system"].outcome == "different"


def test_what_is_joined_is_marked() -> None:
    rows = translate(renderer_of("chatml")).proof.rows
    assert [row.conversation for row in rows if row.joined] == [
        "two questions in a row, ends with a reply"
    ]
    assert all(row.num_tokens > 0 for row in rows)


# --- single behaviours ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "bos"), [("llama3", "<|begin_of_text|>"), ("gemma3", "<bos>"), ("mistral", "<s>")]
)
def test_the_bos_is_written_by_the_server_or_by_the_template_never_by_both(
    name: str, bos: str
) -> None:
    """T17."""
    renderer = renderer_of(name)
    by_server = translate(renderer)
    assert by_server.adds_bos
    assert bos not in prompt(by_server, "Hello")
    by_template = translate(renderer, server_adds_bos=False)
    by_template.proof.require(name)
    assert prompt(by_template, "Hello").count(bos) == 1
    doubled = prove(by_template.text, renderer, server_adds_bos=True)
    assert not doubled.passed


def test_a_bos_that_only_the_server_writes_is_found_by_its_ids() -> None:
    """T17: the texts are equal, and yet the model would see another prompt."""
    renderer = renderer_of("chatml-llama2")
    text = translate(renderer).text
    assert prove(text, renderer).passed
    rows = prove(text, renderer, server_adds_bos=True).rows
    assert {row.outcome for row in rows} == {"different"}
    assert all("token ids from token 0" in row.detail for row in rows)


def test_qwen3_without_thinking_opens_with_the_empty_block() -> None:
    empty = "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert prompt(translate(renderer_of("qwen3", thinking=False)), "Hello").endswith(empty)
    switching = translate(renderer_of("qwen3"))
    assert prompt(switching, "Hello").endswith("<|im_start|>assistant\n")
    assert prompt(switching, "Hello", think=True).endswith("<|im_start|>assistant\n")
    assert prompt(switching, "Hello", think=False).endswith(empty)


def test_reasoning_sent_back_apart_is_written_as_the_chat_template_does() -> None:
    messages = [
        {"role": "user", "content": "Count."},
        {"role": "assistant", "content": "One.", "reasoning_content": "\n\nCounting.\n"},
    ]
    for name in ("qwen3", "no-template"):
        renderer = renderer_of(name)
        for talk in (messages, [*messages, messages[0]]):
            text = server.prompt(GoTemplate(translate(renderer).text), talk)
            assert text == renderer.prompt(talk).removeprefix("<s>")


def test_the_date_of_training_stays() -> None:
    template = translate(renderer_of("llama3.2"))
    assert "31 Jan 2026" in prompt(template, "Hello")
    assert any(DAY in note for note in template.notes)


def test_a_refused_system_message_is_refused_by_ollama_too() -> None:
    template = translate(renderer_of("gemma"))
    assert not template.takes_system
    assert any("system" in note for note in template.notes)
    messages = [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}]
    with pytest.raises(GoTemplateError, match="system message"):
        server.prompt(GoTemplate(template.text), messages)


def test_a_role_that_the_chat_template_was_not_seen_with_is_refused() -> None:
    """Nothing that a client sends is left out without a word."""
    template = GoTemplate(translate(renderer_of("chatml")).text)
    for role in ("tool", "developer"):
        with pytest.raises(GoTemplateError, match="role"):
            server.prompt(template, [{"role": role, "content": "x"}])


def test_all_of_unicodes_white_space_is_trimmed_as_python_does() -> None:
    every = "".join(chr(c) for c in range(0x110000) if chr(c).isspace())
    renderer = renderer_of("llama3")
    template = translate(renderer)
    for text in (every + "middle" + every, every, "\u200bkept\u200b", "é\u00a0", "\u3000　水"):
        wanted = renderer.prompt([{"role": "user", "content": text}])
        assert "<|begin_of_text|>" + prompt(template, text) == wanted


def test_random_text_comes_out_the_same() -> None:
    """White space, braces and half-tags in any order, beyond the ten conversations."""
    import random

    from conversations import hostile_text

    dice = random.Random(7)
    for name in ("llama3.1", "qwen3", "gemma3", "mistral-v3", "strange", "no-template"):
        renderer = renderer_of(name)
        template = translate(renderer)
        bos = renderer.tokenizer.bos_token if renderer.facts.adds_bos else ""
        for _ in range(25):
            turns = [hostile_text(dice) for _ in range(dice.choice([1, 3, 5]))]
            messages = [
                {"role": ("user", "assistant")[i % 2], "content": text}
                for i, text in enumerate(turns)
            ]
            assert (bos or "") + prompt(template, *turns) == renderer.prompt(messages)


# --- what cannot be carried is said ---------------------------------------------------------------


def test_reasoning_inside_content_is_named_as_not_cut() -> None:
    assert any("cannot cut text" in note for note in translate(renderer_of("qwen3")).notes)
    assert not any("cannot cut text" in note for note in translate(renderer_of("chatml")).notes)


def test_joining_is_said_where_the_chat_template_would_write_apart() -> None:
    assert any("joins neighbouring" in note for note in translate(renderer_of("chatml")).notes)
    assert not any("joins neighbouring" in note for note in translate(renderer_of("gemma3")).notes)


def test_orders_of_roles_that_end_otherwise_are_counted() -> None:
    notes = translate(renderer_of("deepseek-r1")).notes
    assert any("orders tried" in note for note in notes)
    assert not any("orders tried" in note for note in translate(renderer_of("chatml")).notes)


def test_a_template_of_another_form_is_refused_with_a_way_out() -> None:
    twice = (
        "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content }}"
        "{% if message.role == 'user' %}{{ ' / ' + message.content }}{% endif %}"
        "{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    renderer = ChatRenderer(families()["chatml"].tokenizer(), template=twice)
    with pytest.raises(ModelError, match=r"repeats.*merged"):
        translate(renderer)


def test_the_ten_conversations_hold_what_they_promise() -> None:
    texts = [each["content"] for c in CONVERSATIONS for each in c.messages]
    assert len(CONVERSATIONS) == 10
    assert len({c.name for c in CONVERSATIONS}) == 10
    for needed in ("{{", '"""', "\n", "\t", "\u3000", "空", "```", "'", "\\"):
        assert any(needed in text for text in texts), needed
    assert "" in texts
    assert max(map(len, texts)) > 5000
