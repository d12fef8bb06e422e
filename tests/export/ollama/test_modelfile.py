"""Laws of the Modelfile: what is written is what Ollama's reader reads, or it is refused."""

from __future__ import annotations

import re
import unicodedata

import pytest
from export.ollama.stock import stock_families

from tanren.errors import ConfigError
from tanren.export.ollama import check_name, modelfile, sampling_of, translate
from tanren.template import ChatRenderer


def read(text: str) -> list[tuple[str, str]]:
    """(command, value) as Ollama's reader finds them.

    It collects a value character by character, dropping what Go does not call printable, and ends
    it at the first line break where the quotes that were opened are closed.
    """
    commands: list[tuple[str, str]] = []
    name, value = "", ""
    in_value = False
    for character in text:
        if not in_value:
            if name and character in " \t":
                if name.lower() == "parameter":
                    name = ""
                    continue
                in_value = True
            elif not character.isspace():
                name += character
            continue
        if character in "\r\n":
            closed, found = unquoted(value.strip())
            if closed:
                commands.append((name.lower(), found))
                name, value, in_value = "", "", False
                continue
        kept = character in "\r\n\t " or unicodedata.category(character)[0] in "LMNPS"
        value += character if kept else ""
    assert not in_value, "the file ends inside a value"
    return commands


def unquoted(value: str) -> tuple[bool, str]:
    if value.startswith('"""'):
        return len(value) >= 6 and value.endswith('"""'), value[3:-3]
    if value.startswith('"'):
        return len(value) >= 2 and value.endswith('"'), value[1:-1]
    return True, value


@pytest.mark.parametrize("name", list(stock_families()))
def test_every_translation_survives_the_reader(name: str) -> None:
    template = translate(ChatRenderer(stock_families()[name].tokenizer(), date="2026-01-31")).text
    text = modelfile(source="./model.gguf", template=template, stops=["<|im_end|>", "</s>"])
    commands = read(text)
    assert commands == [
        ("from", "./model.gguf"),
        ("template", template),
        ("stop", "<|im_end|>"),
        ("stop", "</s>"),
    ]


def test_every_command_reaches_the_reader() -> None:
    text = modelfile(
        source="./my model.gguf",
        template='{{ range .Messages }}"{{ .Content }}"{{ end }}"',
        system=' Say "hi".\n\n  Be brief. "quoted"',
        stops=["<|end|>", 'a "quoted" one', "two words", "<|end|>"],
        context_length=4096,
        sampling={"temperature": 0.7, "top_k": 20, "repeat_penalty": 1.05},
        adapter="./adapter.gguf",
    )
    assert read(text) == [
        ("from", "./my model.gguf"),
        ("adapter", "./adapter.gguf"),
        ("template", '{{ range .Messages }}"{{ .Content }}"{{ end }}"'),
        ("system", ' Say "hi".\n\n  Be brief. "quoted"'),
        ("num_ctx", "4096"),
        ("stop", "<|end|>"),
        ("stop", 'a "quoted" one'),
        ("stop", "two words"),
        ("temperature", "0.7"),
        ("top_k", "20"),
        ("repeat_penalty", "1.05"),
    ]


def test_what_is_not_given_is_left_to_ollama() -> None:
    commands = dict(read(modelfile(source="llama3.2", template="{{ .Prompt }}", system="")))
    assert set(commands) == {"from", "template"}


def test_everything_that_would_not_arrive_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        modelfile(
            source="./a\nb.gguf",
            template="{{ .Prompt }}",
            system='やさしく。\u3000\u200b\n"""\nend',
            stops=["\x00"],
        )
    faults = [str(fault) for fault in caught.value.faults]
    assert len(faults) == 4
    assert re.search(r"SYSTEM.*U\+200B, U\+3000", "\n".join(faults))
    assert any('"""' in fault for fault in faults)


def test_sampling_is_taken_from_what_is_stated() -> None:
    stated = {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 20, "eos_token_id": 2}
    assert sampling_of(stated) == {"temperature": 0.6, "top_p": 0.95, "top_k": 20}
    assert sampling_of({"repetition_penalty": 1.1, "min_p": 0.05}) == {
        "repeat_penalty": 1.1,
        "min_p": 0.05,
    }
    assert sampling_of({"do_sample": False, "temperature": 0.6}) == {"temperature": 0}
    assert sampling_of({"eos_token_id": 2, "temperature": None}) == {}


@pytest.mark.parametrize("name", ["taro", "me/taro-v1:q8_0", "host:5000/me/taro:a", "_Taro_1.5"])
def test_names_that_ollama_takes(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize("name", ["", "a b", "-a", "a:", "a/b/c/d", "水", "a;b", "../up", "a.b/c"])
def test_names_that_ollama_refuses(name: str) -> None:
    with pytest.raises(ConfigError):
        check_name(name)
