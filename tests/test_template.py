"""One renderer: its text is transformers' text, its prompts are prefixes, its trained text is the
reply."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import jinja2
import pytest
from conversations import (
    TALKS,
    Message,
    answer,
    call,
    example,
    hostile_example,
    reasoned_talk,
    system,
    user,
    weather_talk,
)
from templates import (
    CHATML,
    CHATML_MARKED,
    PLAIN,
    TOOLS,
    Family,
    families,
    real_template,
    real_template_names,
)
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast

from tanren.chat import Example, render_ready
from tanren.errors import ConfigError, DataError, ModelError
from tanren.template import TANREN_DEFAULT, ChatRenderer, Rendered, has_reasoning

DAY = "2026-01-31"
FAMILIES = list(families())
# Their models see images, and their templates want content as a list of parts.
IMAGE_TEMPLATES = ("idefics3", "smolvlm", "llava_next")
TEXT_TEMPLATES = [n for n in real_template_names() if not n.startswith(IMAGE_TEMPLATES)]
REASONING_TEMPLATES = [
    n for n in TEXT_TEMPLATES if "think" in real_template(n) and not n.endswith("_training")
]
CONTROL = re.compile(r"<[|｜][^<>|｜\s]+[|｜]>|<turn\|>|<\|turn>|<(?:start|end)_of_turn>")


def renderer(name: str, **settings: Any) -> ChatRenderer:
    return ChatRenderer(families()[name].tokenizer(), date=DAY, **settings)


def with_template(source: str) -> PreTrainedTokenizerFast:
    """A ChatML tokenizer that carries `source`, with every control token of it."""
    family = families()["chatml"]
    special = tuple(dict.fromkeys([*family.special, *CONTROL.findall(source)]))
    made = Family("any", source, special, "<s>", "<|im_end|>", "", family.base).tokenizer()
    made.chat_template = source
    return made


def suits(family: Family, talk: str) -> bool:
    return family.system or talk != "system"


def by_us(chat: ChatRenderer, messages: list[Message], tools: Any, *, prompt: bool) -> str:
    return chat.prompt(messages, tools) if prompt else chat.conversation(messages, tools)


def by_transformers(
    chat: ChatRenderer, messages: list[Message], tools: Any, *, prompt: bool
) -> str:
    return chat.tokenizer.apply_chat_template(
        messages, tools=tools, tokenize=False, add_generation_prompt=prompt
    )


MATRIX = [
    (name, talk) for name, family in families().items() for talk in TALKS if suits(family, talk)
]


# --- the same text as transformers ----------------------------------------------------------------


@pytest.mark.parametrize("name", TEXT_TEMPLATES)
def test_every_real_template_renders_byte_for_byte_as_transformers_renders_it(name: str) -> None:
    chat = ChatRenderer(with_template(real_template(name)), date=DAY)
    if chat.facts.uses_date:
        pytest.skip("transformers tells today's date; the pinned date has its own test")
    rendered = 0
    for talk in [*TALKS.values(), weather_talk(), reasoned_talk()]:
        messages, tools = render_ready(talk)
        for count, prompt in ((1, True), (len(messages), False), (len(messages) - 1, True)):
            part = messages[:count]
            ours = text_or_refusal(by_us, chat, part, tools, prompt=prompt)
            theirs = text_or_refusal(by_transformers, chat, part, tools, prompt=prompt)
            if chat.facts.tool_arguments == "object" or tools is None:
                assert ours == theirs
            rendered += ours is not None
    assert rendered > 6


def text_or_refusal(
    render: Any, chat: ChatRenderer, messages: list[Message], tools: Any, *, prompt: bool
) -> str | None:
    try:
        return render(chat, messages, tools, prompt=prompt)
    except (DataError, jinja2.TemplateError, TypeError):
        return None


@pytest.mark.parametrize("name", IMAGE_TEMPLATES)
def test_templates_for_images_alone_are_refused_with_a_reason(name: str) -> None:
    with pytest.raises(ModelError, match="chat template"):
        ChatRenderer(with_template(real_template(name)))


@pytest.mark.parametrize(("name", "talk"), MATRIX)
def test_own_templates_render_as_transformers_renders_them(name: str, talk: str) -> None:
    chat = renderer(name)
    if chat.facts.origin == TANREN_DEFAULT:
        chat.tokenizer.chat_template = chat.template
    if chat.facts.uses_date:
        pytest.skip("transformers tells today's date; the pinned date has its own test")
    messages, tools = render_ready(TALKS[talk])
    assert chat.prompt(messages[:-1]) == by_transformers(chat, messages[:-1], tools, prompt=True)
    assert chat.conversation(messages) == by_transformers(chat, messages, tools, prompt=False)


# --- T1, T2: prompts are inference's, trained text is the reply -----------------------------------


@pytest.mark.parametrize(("name", "talk"), MATRIX)
def test_trained_text_is_reply_and_end_of_turn_and_nothing_else_t2(name: str, talk: str) -> None:
    family, chat = families()[name], renderer(name, thinking=False)
    conversation = TALKS[talk]
    found = [
        rendered.text[start:end]
        for rendered in chat.turns(conversation)
        for start, end in rendered.spans
    ]
    assert found == [
        family.before_reply + conversation.messages[turn]["content"] + family.end_of_turn
        for turn in conversation.trained_turns
    ]


@pytest.mark.parametrize(("name", "talk"), MATRIX)
def test_every_trained_turn_follows_the_prompt_that_inference_sees_t1(name: str, talk: str) -> None:
    chat = renderer(name, thinking=False)
    conversation = TALKS[talk]
    prompts = [
        rendered.text[:end] for rendered in chat.turns(conversation) for end in rendered.prompts
    ]
    assert prompts == [
        chat.prompt(conversation.messages[:turn]) for turn in conversation.trained_turns
    ]


@pytest.mark.parametrize("name", [name for name, family in families().items() if family.tools])
def test_tool_calls_are_trained_with_their_end_of_turn(name: str) -> None:
    chat = renderer(name, thinking=False)
    talk = weather_talk()
    spans = {
        turn: rendered.text[start:end]
        for turn, (rendered, (start, end)) in zip(
            talk.trained_turns,
            [(r, span) for r in chat.turns(talk) for span in r.spans],
            strict=True,
        )
    }
    assert "get_weather" in spans[1] and "東京" in spans[1]
    assert all(text.endswith(families()[name].end_of_turn) for text in spans.values())
    assert spans[3].strip().startswith("It is sunny.")
    assert not any("sunny" in spans[1] or "weather in" in text for text in spans.values())


def test_tool_arguments_stay_apart_and_gain_no_null_fields_t21() -> None:
    chat = renderer("qwen2.5")
    talks = [
        example(user("a"), answer("", tool_calls=[call("add", arguments)]), tools=TOOLS)
        for arguments in ('{"a": 1}', '{"b": [null, "x"], "c": {"d": 2.0}}')
    ]
    texts = [
        r.text[start:end] for talk in talks for r in chat.turns(talk) for start, end in r.spans
    ]
    assert '"arguments": {"a": 1}}' in texts[0]
    assert '"arguments": {"b": [null, "x"], "c": {"d": 2.0}}}' in texts[1]


def test_a_template_that_wants_arguments_as_text_gets_text() -> None:
    chat = ChatRenderer(with_template(real_template("deepseekv3")))
    assert chat.facts.tool_arguments == "text"
    assert '{"city": "東京"}' in chat.conversation(weather_talk().messages)


def test_a_template_that_prints_arguments_as_they_are_gets_text_and_not_python() -> None:
    source = CHATML.replace(
        "message['content']",
        "(message.content or '' if message.tool_calls is not defined else "
        "message.tool_calls[0].function.name ~ message.tool_calls[0].function.arguments)",
    )
    chat = ChatRenderer(with_template(source))
    assert chat.facts.tool_arguments == "text"
    (one, *_) = chat.turns(weather_talk())
    assert one.text[slice(*one.spans[0])] == 'get_weather{"city": "東京"}<|im_end|>'


def test_ids_of_tool_calls_are_shortened_where_a_template_demands_nine_letters() -> None:
    chat = renderer("mistral-tools")
    assert chat.facts.short_tool_ids
    found = re.findall(r'"id": "([^"]*)"', chat.conversation(weather_talk().messages))
    assert len(found) == 1 and re.fullmatch("[0-9a-z]{9}", found[0])


def test_parallel_calls_that_a_template_refuses_are_a_fault_with_file_and_line() -> None:
    calls = [call("add", "{}", number) for number in range(2)]
    talk = example(user("a"), answer("", tool_calls=calls), tools=TOOLS, line=17)
    with pytest.raises(DataError) as caught:
        renderer("llama3.1").turns(talk)
    (fault,) = caught.value.faults
    assert fault.where == "chat.jsonl:17 messages[1]"
    assert "only supports single tool-calls" in fault.found


def test_what_a_template_refuses_is_told_with_its_own_words() -> None:
    talk = example(user("a"), user("b"), answer("c"), line=3)
    with pytest.raises(DataError, match=r"chat.jsonl:3.*roles must alternate"):
        renderer("gemma3").turns(talk)


def test_weight_zero_and_train_on_last_choose_turns_t27() -> None:
    chat = renderer("chatml")
    talk = example(
        user("a"), answer("one"), user("b"), answer("two", weight=0), user("c"),
        answer("three", weight=1), user("d"), answer("four", weight=0),
    )  # fmt: skip

    def trained(how: Any) -> list[str]:
        return [r.text[s:e] for r in chat.turns(talk, how) for s, e in r.spans]

    assert trained("all") == ["one<|im_end|>", "three<|im_end|>"]
    assert trained("last") == ["three<|im_end|>"]
    (rendered,) = chat.turns(talk)
    assert rendered.last_turn == 5 and "four" not in rendered.text


def test_no_trained_reply_is_a_fault() -> None:
    with pytest.raises(DataError, match="no trained reply"):
        renderer("chatml").turns(example(user("a"), answer("b", weight=0)))


# --- templates that rewrite what came before ------------------------------------------------------


def check_laws(chat: ChatRenderer, talk: Example, sequences: list[Rendered]) -> None:
    prompts = [one.text[:end] for one in sequences for end in one.prompts]
    assert prompts == [chat.prompt(talk.messages[:turn], talk.tools) for turn in talk.trained_turns]


def test_qwen3_gets_one_sequence_per_turn_each_as_inference_renders_it_t9() -> None:
    chat = renderer("qwen3", thinking=False)
    sequences = chat.turns(TALKS["multi"])
    assert len(sequences) == 3 and all(one.split for one in sequences)
    check_laws(chat, TALKS["multi"], sequences)
    assert all(one.text.count("<think>") == 1 for one in sequences)


def test_boilerplate_of_reasoning_is_masked_without_reasoning_and_trained_with_it_t9() -> None:
    plain = example(user("a"), answer("b"))
    reasoned = example(user("a"), answer("b", reasoning_content="because"))
    inside = example(user("a"), answer("<think>\nbecause\n</think>\n\nb"))
    assert [has_reasoning(talk.messages) for talk in (plain, reasoned, inside)] == [
        False,
        True,
        True,
    ]

    (one,) = renderer("qwen3", thinking=False).turns(plain)
    assert one.text[: one.prompts[0]].endswith("<think>\n\n</think>\n\n")
    assert one.text[slice(*one.spans[0])] == "b<|im_end|>"
    for talk in (reasoned, inside):
        (one,) = renderer("qwen3", thinking=True).turns(talk)
        assert one.text[slice(*one.spans[0])] == "<think>\nbecause\n</think>\n\nb<|im_end|>"


def test_reasoning_that_a_template_removes_is_reported_t9() -> None:
    chat = renderer("qwen3", thinking=True)
    talk = example(
        user("a"), answer("b", reasoning_content="first thought"),
        user("c"), answer("d", reasoning_content="second thought"),
    )  # fmt: skip
    first, second = chat.turns(talk)
    assert first.lost_reasoning == () and second.lost_reasoning == ("first thought",)
    assert not first.own_lost_reasoning and not second.own_lost_reasoning
    check_laws(chat, talk, [first, second])

    (kept_apart,) = renderer("llama3").turns(
        example(user("a"), answer("b", reasoning_content="a thought"))
    )
    assert kept_apart.own_lost_reasoning == ("a thought",)


def test_reasoning_in_data_with_reasoning_switched_off_shows_both_ends() -> None:
    talk = example(user("a"), answer("b", reasoning_content="because"), line=9)
    with pytest.raises(DataError) as caught:
        renderer("qwen3", thinking=False).turns(talk)
    (fault,) = caught.value.faults
    assert fault.where.startswith("chat.jsonl:9") and "because" in fault.found
    assert "</think>" in fault.found and "data.thinking" in fault.remedy


@pytest.mark.parametrize("name", ["deepseek_r1_distill", "nemotron_3_nano"])
@pytest.mark.parametrize("reasoning", ["", "because"])
def test_reasoning_that_the_prompt_opens_is_written_back_into_the_reply(
    name: str, reasoning: str
) -> None:
    chat = ChatRenderer(with_template(real_template(name)))
    more = {"reasoning_content": reasoning} if reasoning else {}
    (one,) = chat.turns(example(user("a"), answer("b", **more)))
    assert one.text[: one.prompts[0]] == chat.prompt([user("a")])
    assert one.text[: one.prompts[0]].endswith("<think>\n")
    reply = one.text[slice(*one.spans[0])]
    assert re.fullmatch(rf"{reasoning}\n</think>\n*b{re.escape(chat.facts.end_of_turn)}", reply)


def test_a_system_text_in_the_last_user_message_splits_the_row() -> None:
    chat = renderer("mistral")
    sequences = chat.turns(TALKS["system"])
    assert [one.text.count("Answer briefly.") for one in sequences] == [1, 1]
    check_laws(chat, TALKS["system"], sequences)


def test_gpt_oss_ends_a_last_turn_otherwise_and_is_split() -> None:
    chat = ChatRenderer(with_template(real_template("gptoss")), date=DAY)
    assert chat.facts.end_of_turn == "<|return|>"
    sequences = chat.turns(TALKS["multi"])
    assert [one.text[slice(*one.spans[0])] for one in sequences] == [
        f"<|channel|>final<|message|>{reply}<|return|>" for reply in ("First.", "Second.", "3.")
    ]
    check_laws(chat, TALKS["multi"], sequences)
    (one,) = chat.turns(weather_talk())
    assert [one.text[:e].rpartition("<")[2] for _, e in one.spans] == ["|call|>", "|return|>"]
    assert chat.tokenizer.convert_tokens_to_ids("<|call|>") in chat.facts.stop_ids


def test_a_template_without_end_of_turn_gets_eos_appended_and_one_sequence_per_turn() -> None:
    chat = renderer("plain")
    assert chat.facts.end_of_turn_appended and chat.facts.stop_ids == (chat.tokenizer.eos_token_id,)
    first, second, _ = chat.turns(TALKS["multi"])
    assert first.text == "User: One?\nAssistant: First.</s>"
    assert second.text == "User: One?\nAssistant: First.\nUser: Two?\nAssistant: Second.</s>"


def test_the_stop_of_glm_in_the_next_role_is_replaced_by_eos() -> None:
    chat = ChatRenderer(with_template(real_template("glm4moe")), thinking=False)
    assert chat.facts.end_of_turn_appended
    sequences = chat.turns(TALKS["multi"])
    assert [one.text[slice(*one.spans[0])].strip() for one in sequences] == [
        f"{reply}<|im_end|>" for reply in ("First.", "Second.", "3.")
    ]


def test_an_end_of_turn_of_two_tokens_is_trained_whole() -> None:
    chat = ChatRenderer(with_template(real_template("cohere2")))
    assert chat.facts.end_of_turn == "<|END_OF_TURN_TOKEN|>"
    (one,) = chat.turns(TALKS["single"])
    assert one.text[slice(*one.spans[0])].endswith("<|END_RESPONSE|><|END_OF_TURN_TOKEN|>")


def test_phi3_trains_its_turn_end_but_not_the_end_of_text_behind_it() -> None:
    chat = renderer("phi3")
    assert chat.facts.reply_suffix == "<|end|>\n<|endoftext|>"
    (one,) = chat.turns(TALKS["multi"])
    assert one.text.endswith("3.<|end|>") and one.text.count("<|endoftext|>") == 0


# --- {% generation %} -----------------------------------------------------------------------------


def test_markers_give_the_same_spans_as_prefixes_do() -> None:
    for talk in TALKS.values():
        marked, plain = (renderer(name).turns(talk) for name in ("chatml-marked", "chatml"))
        assert marked == plain


def test_markers_can_leave_parts_of_a_reply_untrained() -> None:
    source = CHATML.replace(
        "message['content'] +",
        "'' }}{% if message.role == 'assistant' %}{{ 'Reply: ' }}{% generation %}"
        "{{ message.content }}{% endgeneration %}{% else %}{{ message.content }}{% endif %}{{",
    ).replace("'assistant\n'", "'assistant\nReply'")
    chat = ChatRenderer(with_template(source))
    (one,) = chat.turns(TALKS["multi"])
    assert [one.text[s:e] for s, e in one.spans] == [
        f"{reply}<|im_end|>" for reply in ("First.", "Second.", "3.")
    ]


@pytest.mark.parametrize("name", [n for n in TEXT_TEMPLATES if n.endswith("_training")])
def test_real_training_templates_train_only_what_follows_inferences_prompt(name: str) -> None:
    chat = ChatRenderer(with_template(real_template(name)), thinking=False)
    talk = TALKS["multi"]
    sequences = chat.turns(talk)
    check_laws(chat, talk, sequences)
    trained = ["".join(one.text[s:e] for s, e in one.spans) for one in sequences]
    joined = "".join(trained)
    for reply in ("First.", "Second.", "3."):
        assert reply in joined
    assert joined.count(chat.facts.end_of_turn) == 3
    assert "Two?" not in joined


def test_a_reply_outside_the_markers_is_a_fault() -> None:
    source = CHATML_MARKED.replace("message.role == 'assistant'", "message.name is defined")
    chat = ChatRenderer(with_template(source))
    with pytest.raises(DataError, match="generation"):
        chat.turns(TALKS["single"])
    (one,) = chat.turns(example(user("a"), answer("b", name="taro")))
    assert one.text[slice(*one.spans[0])] == "b<|im_end|>"


# --- what goes into the artefact ------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("thinking", [None, False, True])
def test_a_fresh_tokenizer_with_default_arguments_renders_the_same_prompt_ids_t1_t10(
    name: str, thinking: bool | None, tmp_path: Path
) -> None:
    family = families()[name]
    chat = renderer(name, thinking=thinking)
    saved = family.tokenizer()
    saved.chat_template = chat.artefact_template()
    saved.save_pretrained(tmp_path)
    fresh = AutoTokenizer.from_pretrained(tmp_path)
    for key, talk in TALKS.items():
        if suits(family, key):
            messages = list(talk.messages[:-1])
            theirs = fresh.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
            assert theirs == chat.prompt_ids(messages)
    if family.tools and not chat.facts.short_tool_ids:  # which the renderer rewrites
        messages, tools = render_ready(weather_talk())
        theirs = fresh.apply_chat_template(messages, tools=tools, tokenize=False)
        assert theirs == chat.conversation(messages, tools)


@pytest.mark.parametrize("name", REASONING_TEMPLATES)
@pytest.mark.parametrize("thinking", [None, False, True])
def test_the_artefact_of_every_reasoning_template_needs_no_arguments_t1(
    name: str, thinking: bool | None
) -> None:
    chat = ChatRenderer(with_template(real_template(name)), thinking=thinking, date=DAY)
    fresh = with_template(chat.artefact_template())
    messages = list(TALKS["multi"].messages[:-1])
    theirs = fresh.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert theirs == chat.prompt(messages)


def test_a_template_that_needs_no_default_is_saved_as_it_is() -> None:
    assert renderer("chatml", thinking=False).artefact_template() == CHATML
    qwen = families()["qwen3"].template
    assert renderer("qwen3", thinking=None).artefact_template() == qwen
    assert renderer("qwen3", thinking=True).artefact_template() == qwen
    assert renderer("qwen3", thinking=False).artefact_template() != qwen


def test_todays_date_is_pinned() -> None:
    chat = renderer("llama3.2")
    assert chat.facts.uses_date and chat.facts.date == DAY
    assert "Today Date: 31 Jan 2026\n" in chat.prompt([user("a")])
    assert "Today Date: 31 Jan 2026\n" in with_template(
        chat.artefact_template()
    ).apply_chat_template([user("a")], tokenize=False)
    assert not renderer("llama3").facts.uses_date
    with pytest.raises(ConfigError, match="2026-02-30"):
        ChatRenderer(families()["llama3.2"].tokenizer(), date="2026-02-30")


# --- no template, no eos, strange templates -------------------------------------------------------


@pytest.mark.parametrize(("name", "bos"), [("no-template", 1), ("no-template-bytes", 0)])
def test_a_base_model_gets_a_template_that_needs_no_new_tokens_t10(name: str, bos: int) -> None:
    chat = renderer(name)
    assert chat.facts.origin == TANREN_DEFAULT and chat.facts.adds_bos == bool(bos)
    assert not chat.facts.end_of_turn_appended
    (one,) = chat.turns(TALKS["multi"])
    ids = chat.token_ids(one.text)
    assert max(ids) < len(chat.tokenizer)
    assert ids.count(chat.tokenizer.eos_token_id) == 3
    if bos:
        assert ids.count(chat.tokenizer.bos_token_id) == 1
        without = families()[name].tokenizer()
        without.backend_tokenizer.post_processor = None  # a tokenizer that adds no BOS of its own
        assert not ChatRenderer(without).facts.adds_bos


def test_the_default_template_writes_tools_calls_and_results() -> None:
    (one,) = renderer("no-template").turns(weather_talk())
    assert [one.text[s:e] for s, e in one.spans] == [
        'Call: {"name": "get_weather", "arguments": {"city": "東京"}}</s>',
        "It is sunny.</s>",
    ]
    assert one.text.startswith('<s>Tools:\n{"type": "function"') and "Result:\nsunny" in one.text


def test_a_tokenizer_without_eos_is_refused_with_a_remedy() -> None:
    tokenizer = families()["chatml"].tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match=r"no end-of-sequence token.*set eos_token"):
        ChatRenderer(tokenizer)


def test_a_tokenizer_in_python_is_refused_with_a_remedy() -> None:
    with pytest.raises(ModelError, match="ByT5Tokenizer, which runs in Python"):
        ChatRenderer(ByT5Tokenizer(), template=PLAIN)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{% for %}", "line 1"),
        ("{{ raise_exception('not for chat') }}", "not for chat"),
        ("{{ messages[0].content }}", "without the assistant's reply"),
        (
            "{% for m in messages %}{{ m.role }}:{{ m.content }}<|im_end|>{% endfor %}"
            "{% if add_generation_prompt %}helper:{% endif %}",
            "helper:",
        ),
    ],
)
def test_templates_that_cannot_be_used_are_refused_before_any_row(source: str, said: str) -> None:
    with pytest.raises(ModelError) as caught:
        ChatRenderer(families()["chatml"].tokenizer(), template=source)
    assert said in str(caught.value)


def test_developer_becomes_system_where_a_template_drops_it() -> None:
    messages = [{"role": "developer", "content": "Be brief."}, user("a")]
    qwen, llama = renderer("qwen3"), renderer("llama3")
    assert qwen.facts.developer == "as system" and llama.facts.developer == "written"
    assert "<|im_start|>system\nBe brief.<|im_end|>" in qwen.prompt(messages)
    assert "<|start_header_id|>developer" in llama.prompt(messages)


def test_messages_that_would_be_lost_are_refused_and_lost_texts_are_noted() -> None:
    drops_tools = "{% for m in messages if m.role in ('user', 'assistant') %}" + CHATML.split(
        "%}", 1
    )[1].replace("message[", "m[")
    chat = ChatRenderer(with_template(drops_tools))
    result = {"role": "tool", "content": "result", "tool_call_id": "1"}
    talk = example(user("a"), answer("b"), result, answer("c"))
    with pytest.raises(
        DataError, match=r"messages\[2\]: found a tool message that the chat template"
    ):
        chat.turns(talk)
    with pytest.raises(DataError, match=r"messages\[1\]"):
        chat.turns(example(user("a"), answer("b", tool_calls=[call("add", "{}")])))
    (one,) = chat.turns(example(system("Be brief."), user("a"), answer("b")))
    assert one.left_out == (0,)


def test_a_template_may_change_white_space_of_messages() -> None:
    source = CHATML.replace("message['content']", "message['content'].split() | join(' ')")
    (one,) = ChatRenderer(with_template(source)).turns(example(user("a  b\nc"), answer("d")))
    assert "\na b c<|im_end|>" in one.text and one.left_out == ()


def test_keys_without_meaning_for_a_model_do_not_reach_the_template() -> None:
    source = CHATML.replace(
        "message['content']", "message.keys() | list | string + message['content']"
    )
    chat = ChatRenderer(with_template(source))
    messages = [user("a"), answer("b", weight=1, name=None, tool_calls=None)]
    assert "weight" not in chat.conversation(messages) and "name" not in chat.conversation(messages)
    assert chat.conversation(messages) == chat.conversation([user("a"), answer("b")])


def test_null_content_beside_tool_calls_is_accepted_as_the_api_sends_it() -> None:
    chat = renderer("qwen3")
    messages = [
        user("a"),
        {"role": "assistant", "content": None, "tool_calls": [call("add", "{}")]},
    ]
    assert chat.conversation(messages) == chat.conversation(
        [user("a"), answer("", tool_calls=[call("add", "{}")])]
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_laws_hold_for_hostile_text(name: str) -> None:
    """T1 on text level for 30 conversations of white space, joiners and half-tags."""
    chat, dice = renderer(name, thinking=False), random.Random(name)
    for line in range(30):
        talk = hostile_example(dice, line)
        sequences = chat.turns(talk)
        check_laws(chat, talk, sequences)
        for one in sequences:
            assert all(one.text[s:e].endswith(chat.facts.end_of_turn) for s, e in one.spans)


def test_rendering_changes_no_message() -> None:
    talk = weather_talk()
    before = repr(talk.messages)
    renderer("qwen3").turns(talk)
    assert repr(talk.messages) == before
