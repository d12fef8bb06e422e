"""Laws of generation: one answer whichever way it is written, and nothing left behind."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    Lfm2Config,
    Lfm2ForCausalLM,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from tanren.errors import ConfigError, DivergenceError, ModelError, OutOfMemoryError, UserError
from tanren.generate import Answer, Decoding, answer_all, stream_answer
from tanren.generate.choose import TokenChooser
from tanren.generate.pieces import REPLACEMENT, StopCut, TextPieces, decode_answer, decode_text
from tanren.template.renderer import ChatRenderer

# PEFT 0.21 asks transformers 5.23 for the old name whenever it wraps a model.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")

TINY_CHAT = Path(__file__).parent.parent / "data" / "tiny-chat"
CHATML = (
    "{%- for m in messages -%}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|im_start|>assistant\n{%- endif -%}"
)
SPECIAL = ["<|im_start|>", "<|im_end|>", "<unk>"]
LESSONS = {
    "空はなぜ青いの？": "青い光が空気でよくちらばるからだよ。",
    "Who are you?": "I am Taro, a small model.  Nice to meet you!",
    "絵文字で": "👩‍🚀🐈 ☕",
    "bye": "",
}
CORPUS = [*LESSONS, *LESSONS.values(), "system user assistant\n", "the cat sat on the mat"]


def byte_level() -> PreTrainedTokenizerFast:
    """GPT-2's manner: every byte is a letter of the alphabet; tokens may split characters."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    return fast(backend)


def byte_fallback() -> PreTrainedTokenizerFast:
    """SentencePiece's manner: ▁ for spaces, bytes for rare characters, the first space dropped."""
    vocabulary = [
        *SPECIAL,
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        *"abcdefghiklmnorstuwyTN",
    ]
    vocabulary += [*"空青い光気でよくちらばるからだのはぜ。", "▁a", "▁am", "am", "me", "▁me", "oo"]
    ids = {token: index for index, token in enumerate(dict.fromkeys(vocabulary))}
    merges = [("▁", "a"), ("a", "m"), ("▁a", "m"), ("m", "e"), ("▁", "me"), ("o", "o")]
    backend = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.add_special_tokens(SPECIAL)
    return fast(backend)


def fast(backend: Tokenizer) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|im_end|>", unk_token="<unk>"
    )
    tokenizer.chat_template = CHATML
    return tokenizer


@pytest.fixture(scope="module", params=[byte_level, byte_fallback])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    make: Callable[[], PreTrainedTokenizerFast] = request.param
    return make()


def tiny_config(vocabulary: int, **changes: Any) -> Qwen3Config:
    values: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "max_position_embeddings": 256,
        "tie_word_embeddings": False,
        "eos_token_id": None,
        "bos_token_id": None,
        "initializer_range": 0.2,
    }
    return Qwen3Config(**(values | changes))


def untrained(tokenizer: PreTrainedTokenizerFast, **changes: Any) -> Qwen3ForCausalLM:
    torch.manual_seed(1)
    return Qwen3ForCausalLM(tiny_config(len(tokenizer), **changes)).eval()


def ask(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


RAGGED = [
    ask(text)
    for text in ("a", "the cat sat on the mat " * 3, "空", "Who are you?", "青い光", "a b c d e")
]


@pytest.fixture(scope="module")
def renderer(tokenizer: PreTrainedTokenizerFast) -> ChatRenderer:
    return ChatRenderer(tokenizer)


@pytest.fixture(scope="module")
def taught(tokenizer: PreTrainedTokenizerFast, renderer: ChatRenderer) -> Qwen3ForCausalLM:
    """A model that knows `LESSONS` by heart, end of turn included; its padding token is its eos."""
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(tiny_config(len(tokenizer), initializer_range=0.05))
    prompts = [renderer.prompt_ids(ask(question)) for question in LESSONS]
    eos = tokenizer.eos_token_id
    rows = [
        (prompt, [*tokenizer.encode(answer, add_special_tokens=False), eos])
        for prompt, answer in zip(prompts, LESSONS.values(), strict=True)
    ]
    width = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.tensor([p + a + [eos] * (width - len(p + a)) for p, a in rows])
    labels = torch.tensor([[-100] * len(p) + a + [-100] * (width - len(p + a)) for p, a in rows])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(150):
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if loss < 0.01:
            break
    assert loss < 0.05
    return model.eval()


def texts(answers: list[Answer]) -> list[str]:
    return [answer.text for answer in answers]


def same(answer: Answer) -> tuple[Any, ...]:
    """Everything of an answer but the time it took."""
    return answer.text, answer.token_ids, answer.prompt_tokens, answer.finish_reason


# --- one answer, whichever way it is written


def test_t1_greedy_answers_are_those_of_transformers_one_by_one(tokenizer, renderer) -> None:
    model = untrained(tokenizer)
    (eos,) = renderer.facts.stop_ids
    config = GenerationConfig(
        max_new_tokens=20, do_sample=False, eos_token_id=eos, pad_token_id=eos
    )
    answers = answer_all(model, tokenizer, renderer, RAGGED, Decoding(max_new_tokens=20))
    for messages, answer in zip(RAGGED, answers, strict=True):
        prompt = torch.tensor([renderer.prompt_ids(messages)])
        mask = torch.ones_like(prompt)
        (whole,) = model.generate(prompt, attention_mask=mask, generation_config=config).tolist()
        written = [token for token in whole[prompt.shape[1] :] if token != eos]
        assert answer.token_ids == tuple(written)
        assert answer.prompt_tokens == prompt.shape[1]


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_answers_do_not_depend_on_the_batch_or_on_streaming(
    tokenizer, renderer, temperature
) -> None:
    model = untrained(tokenizer)
    decoding = Decoding(max_new_tokens=24, temperature=temperature, top_p=0.95, top_k=60, seed=3)
    together = answer_all(model, tokenizer, renderer, RAGGED, decoding)
    alone = answer_all(model, tokenizer, renderer, RAGGED, decoding, batch_tokens=1)
    in_twos = answer_all(model, tokenizer, renderer, RAGGED, decoding, batch_tokens=150)
    assert list(map(same, together)) == list(map(same, alone)) == list(map(same, in_twos))
    stream = stream_answer(model, tokenizer, renderer, RAGGED[0], decoding)
    assert "".join(stream) == together[0].text
    assert same(stream.answer) == same(together[0])


def sliding(vocabulary: int) -> PreTrainedModel:
    return Gemma3ForCausalLM(
        Gemma3TextConfig(
            vocab_size=vocabulary,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            layer_types=["sliding_attention", "sliding_attention", "full_attention"],
            sliding_window=8,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            max_position_embeddings=256,
            initializer_range=0.2,
            tie_word_embeddings=False,
            eos_token_id=None,
        )
    )


def convolutional(vocabulary: int) -> PreTrainedModel:
    return Lfm2ForCausalLM(
        Lfm2Config(
            vocab_size=vocabulary,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            layer_types=["conv", "full_attention", "conv"],
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=256,
            initializer_range=0.2,
            tie_word_embeddings=False,
            eos_token_id=None,
        )
    )


def learned_positions(vocabulary: int) -> PreTrainedModel:
    """Unlike rotated positions, these feel it when a row's first token does not stand at 0."""
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocabulary,
            n_embd=32,
            n_layer=2,
            n_head=2,
            n_positions=256,
            initializer_range=0.3,
            tie_word_embeddings=False,
            eos_token_id=None,
            bos_token_id=None,
        )
    )


@pytest.mark.parametrize("build", [sliding, convolutional, learned_positions])
def test_rows_that_finish_early_leave_the_others_alone_in_any_kind_of_model(
    tokenizer, renderer, build
) -> None:
    """Rows end at different steps, so the batch is narrowed several times while it runs."""
    torch.manual_seed(2)
    model = build(len(tokenizer)).eval()
    model.generation_config.eos_token_id = list(range(0, len(tokenizer), 24))
    decoding = Decoding(max_new_tokens=40, temperature=2.0, seed=1)
    together = answer_all(model, tokenizer, renderer, RAGGED, decoding)
    alone = answer_all(model, tokenizer, renderer, RAGGED, decoding, batch_tokens=1)
    assert len({len(answer.token_ids) for answer in together}) >= 4
    assert list(map(same, together)) == list(map(same, alone))


# --- the end of an answer


def test_t4_taught_answers_stop_by_themselves_where_padding_is_eos(
    taught, tokenizer, renderer
) -> None:
    answers = answer_all(taught, tokenizer, renderer, [*map(ask, LESSONS)], Decoding())
    assert texts(answers) == list(LESSONS.values())
    assert {answer.finish_reason for answer in answers} == {"stop"}
    assert all(tokenizer.eos_token_id not in answer.token_ids for answer in answers)


def test_stop_ids_of_the_template_and_of_the_model_both_end_an_answer(tokenizer, renderer) -> None:
    model = untrained(tokenizer)
    (free,) = answer_all(model, tokenizer, renderer, RAGGED[:1], Decoding(max_new_tokens=12))
    end = free.token_ids[5]
    for ids in (end, [end]):
        model.generation_config.eos_token_id = ids
        (ended,) = answer_all(model, tokenizer, renderer, RAGGED[:1], Decoding(max_new_tokens=12))
        assert ended.token_ids == free.token_ids[: free.token_ids.index(end)]
        assert ended.finish_reason == "stop"


def test_t26_a_limit_in_mid_character_shows_no_broken_character(
    taught, tokenizer, renderer
) -> None:
    question, whole = "絵文字で", LESSONS["絵文字で"]
    total = len(answer_all(taught, tokenizer, renderer, [ask(question)], Decoding())[0].token_ids)
    for limit in range(1, total + 1):
        decoding = Decoding(max_new_tokens=limit)
        stream = stream_answer(taught, tokenizer, renderer, ask(question), decoding)
        pieces = list(stream)
        assert not any(REPLACEMENT in piece for piece in pieces)
        assert whole.startswith("".join(pieces))
        (answer,) = answer_all(taught, tokenizer, renderer, [ask(question)], decoding)
        assert same(answer) == same(stream.answer)
        assert answer.finish_reason == "length" and len(answer.token_ids) == limit


def test_stop_texts_cut_exactly_wherever_tokens_begin(taught, tokenizer, renderer) -> None:
    question, whole = "Who are you?", LESSONS["Who are you?"]
    for start in range(0, len(whole) - 3, 4):
        stop = whole[start : start + 4]
        decoding = Decoding(stop=(stop, "never said"))
        (answer,) = answer_all(taught, tokenizer, renderer, [ask(question)], decoding)
        stream = stream_answer(taught, tokenizer, renderer, ask(question), decoding)
        assert "".join(stream) == answer.text == whole[: whole.index(stop)]
        assert answer.finish_reason == stream.answer.finish_reason == "stop"
    held = Decoding(stop=("you!!",))  # "you!" is held back until the end shows that it was no stop
    assert "".join(stream_answer(taught, tokenizer, renderer, ask(question), held)) == whole


def test_the_context_ends_an_answer_and_too_long_prompts_are_named_all_at_once(
    tokenizer, renderer
) -> None:
    lengths = [len(renderer.prompt_ids(messages)) for messages in RAGGED]
    context = sorted(lengths)[-2]
    model = untrained(tokenizer, max_position_embeddings=context)
    with pytest.raises(UserError) as caught:
        answer_all(model, tokenizer, renderer, RAGGED, Decoding(max_new_tokens=500))
    named = [fault.where for fault in caught.value.faults]
    assert named == [f"conversations[{i}]" for i, n in enumerate(lengths) if n >= context]
    assert len(named) >= 2
    fitting = [m for m, n in zip(RAGGED, lengths, strict=True) if n < context]
    for answer in answer_all(model, tokenizer, renderer, fitting, Decoding(max_new_tokens=500)):
        full = answer.prompt_tokens + len(answer.token_ids) == context
        assert full == (answer.finish_reason == "length")
    with pytest.raises(UserError):
        stream_answer(model, tokenizer, renderer, RAGGED[1], Decoding())


def test_conversations_that_the_template_refuses_are_named_all_at_once(tokenizer) -> None:
    refusing = "{{ raise_exception('no') if messages[0].content == 'bad' }}" + CHATML
    renderer = ChatRenderer(tokenizer, template=refusing)
    conversations = [ask("bad"), ask("good"), ask("bad")]
    with pytest.raises(UserError) as caught:
        answer_all(untrained(tokenizer), tokenizer, renderer, conversations, Decoding())
    places = [fault.where for fault in caught.value.faults]
    assert [place[:16] for place in places] == ["conversations[0]", "conversations[2]"]


# --- text from tokens


SENTENCES = [
    *LESSONS.values(),
    "  two  spaces ",
    " a am me",
    "日本語と English が混ざる、👨‍👩‍👧‍👦 と ﷽ と 𠮷野家。\n\n次の行\t!",
    "é é ñ",
    "�という字",
]


@pytest.mark.parametrize("sentence", SENTENCES)
def test_t26_pieces_are_whole_characters_and_join_to_the_decoded_text(tokenizer, sentence) -> None:
    ids = tokenizer.encode(sentence, add_special_tokens=False)
    pieces = TextPieces(tokenizer)
    parts = [pieces.push(token) for token in ids]
    if REPLACEMENT not in sentence:
        assert not any(REPLACEMENT in part for part in parts)
    assert "".join([*parts, pieces.rest(cut=False)]) == decode_text(tokenizer, ids) == sentence


def test_t26_pieces_of_arbitrary_tokens_join_to_the_decoded_text(tokenizer) -> None:
    chance = random.Random(5)
    letters = [i for i in range(len(tokenizer)) if REPLACEMENT not in tokenizer.decode([i])]
    for _ in range(300):
        ids = chance.choices(letters, k=chance.randint(1, 12))
        for sentence in chance.sample(["猫", "🐈", " ", "  x"], 2):
            at = chance.randint(0, len(ids))
            ids[at:at] = tokenizer.encode(sentence, add_special_tokens=False)
        text = decode_text(tokenizer, ids)
        pieces = TextPieces(tokenizer)
        joined = "".join([*map(pieces.push, ids), pieces.rest(cut=False)])
        assert joined == decode_answer(tokenizer, ids, cut=False)
        if REPLACEMENT not in text:
            assert joined == text


def test_t26_a_broken_byte_costs_no_character_beside_it(tokenizer) -> None:
    """A byte-fallback decoder alone turns the good character before a bad byte into U+FFFD too."""
    cat, broken = (tokenizer.encode(c, add_special_tokens=False) for c in ("猫", "🐈"))
    assert len(cat) == 3 or decode_text(tokenizer, cat) == "猫"
    text = decode_answer(tokenizer, [*cat, *broken[:-1], *cat], cut=False)
    assert text.strip().startswith("猫") and text.endswith("猫") and REPLACEMENT in text
    assert decode_answer(tokenizer, [*cat, *broken[:-1]], cut=True).strip() == "猫"
    assert REPLACEMENT in decode_answer(tokenizer, [*cat, *broken[:-1]], cut=False)


def test_stop_texts_do_not_depend_on_how_the_text_is_cut() -> None:
    chance = random.Random(7)
    for _ in range(500):
        text = "".join(chance.choices("aab\n", k=12))
        stops = ["".join(chance.choices("aab\n", k=chance.randint(1, 4))) for _ in range(2)]
        # By definition: the first end of a stop text in reading order; the longer one of a tie.
        ends = [(e, -len(s)) for s in stops for e in range(13) if text[:e].endswith(s)]
        end, length = min(ends, default=(len(text), 0))
        cut = StopCut(stops)
        shown, rest = "", text
        while rest and not cut.hit:
            size = chance.randint(1, 4)
            shown += cut.push(rest[:size])
            assert text.startswith(shown)
            rest = rest[size:]
        assert shown + cut.rest() == text[: end + length]
        assert cut.hit == bool(ends)


# --- sampling


def chooser(decoding: Decoding, rows: int, prompt: list[int] | None = None) -> TokenChooser:
    prompts = [prompt or [0]] * rows
    return TokenChooser(decoding, prompts, streams=range(rows), steps=4, device=torch.device("cpu"))


@pytest.mark.parametrize(
    "decoding",
    [
        Decoding(temperature=1.0, seed=1),
        Decoding(temperature=0.6, top_p=0.8, seed=1),
        Decoding(temperature=1.3, top_k=5, seed=1),
        Decoding(temperature=1.5, top_k=8, top_p=0.7, repetition_penalty=1.4, seed=1),
        Decoding(temperature=1.0, top_p=1e-6, seed=1),
    ],
)
def test_sampling_follows_the_distribution_of_transformers_warpers(decoding: Decoding) -> None:
    torch.manual_seed(0)
    logits, rows, prompt = torch.randn(1, 20) * 2, 20_000, [3, 7]
    processors = LogitsProcessorList()
    processors.append(RepetitionPenaltyLogitsProcessor(decoding.repetition_penalty))
    processors.append(TemperatureLogitsWarper(decoding.temperature))
    processors.append(TopKLogitsWarper(decoding.top_k or 20))
    processors.append(TopPLogitsWarper(decoding.top_p))
    expected = processors(torch.tensor([prompt]), logits).softmax(-1)[0]
    chosen = chooser(decoding, rows, prompt).choose(logits.expand(rows, -1))
    found = chosen.bincount(minlength=20) / rows
    assert set(found.nonzero().flatten().tolist()) <= set(expected.nonzero().flatten().tolist())
    assert (found - expected).abs().max() < 4 * (0.25 / rows) ** 0.5  # four standard errors


def test_the_repetition_penalty_counts_prompt_and_answer_but_no_padding(
    tokenizer, renderer
) -> None:
    decoding = Decoding(max_new_tokens=16, repetition_penalty=1.3)
    model = untrained(tokenizer)
    together = answer_all(model, tokenizer, renderer, RAGGED, decoding)
    plain = answer_all(model, tokenizer, renderer, RAGGED, Decoding(max_new_tokens=16))
    (eos,) = renderer.facts.stop_ids
    config = GenerationConfig(
        max_new_tokens=16,
        do_sample=False,
        repetition_penalty=1.3,
        eos_token_id=eos,
        pad_token_id=eos,
    )
    for messages, answer in zip(RAGGED, together, strict=True):
        prompt = torch.tensor([renderer.prompt_ids(messages)])
        mask = torch.ones_like(prompt)
        (whole,) = model.generate(prompt, attention_mask=mask, generation_config=config).tolist()
        written = [token for token in whole[prompt.shape[1] :] if token != eos]
        assert answer.token_ids == tuple(written)
    assert [a.token_ids for a in together] != [a.token_ids for a in plain]


def test_t23_a_seed_repeats_an_answer_and_leaves_the_global_random_state(
    tokenizer, renderer
) -> None:
    model = untrained(tokenizer)

    def answers(seed: int | None) -> list[str]:
        decoding = Decoding(max_new_tokens=16, temperature=1.0, seed=seed)
        return texts(answer_all(model, tokenizer, renderer, [RAGGED[0]] * 3, decoding))

    before = torch.get_rng_state()
    first = answers(7)
    assert first == answers(7)
    assert first != answers(8)
    assert answers(None) != answers(None)
    assert len(set(first)) == 3  # the same question thrice: three draws
    assert torch.equal(before, torch.get_rng_state())


def test_settings_out_of_bounds_are_named_all_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Decoding(0, -1.0, 0.0, 0, 0.0, None, ("",))
    assert [fault.where for fault in caught.value.faults] == [
        f"decoding.{name}"
        for name in (
            "max_new_tokens",
            "temperature",
            "top_p",
            "top_k",
            "repetition_penalty",
            "stop",
        )
    ]
    with pytest.raises(ConfigError):
        Decoding(temperature=float("nan"))


# --- nothing is left behind


def adapted(tokenizer: PreTrainedTokenizerFast, **changes: Any) -> Any:
    model = get_peft_model(
        untrained(tokenizer), LoraConfig(r=4, target_modules="all-linear", **changes)
    )
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    return model


# transformers 5.17 to 5.23 share only the old name.
@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable.:FutureWarning")
def test_t32_a_model_in_training_is_as_it_was_even_in_mid_stream(tokenizer, renderer) -> None:
    model = adapted(tokenizer, use_dora=True, lora_dropout=0.1).train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()
    base = model.get_base_model()
    base.config.use_cache = False
    base.generation_config.temperature = 0.3  # must not warn about sampling while greedy
    base.model.layers[0].eval()
    ids = torch.tensor([renderer.prompt_ids(RAGGED[1])])

    def state() -> tuple[Any, ...]:
        return (
            [module.training for module in model.modules()],
            base.config.to_dict(),
            base.generation_config.to_dict(),
            torch.is_grad_enabled(),
            tokenizer.pad_token,
            tokenizer.padding_side,
        )

    def gradients() -> list[torch.Tensor]:
        torch.manual_seed(9)
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        found = [p.grad for p in model.parameters() if p.grad is not None]
        model.zero_grad()
        return found

    before, expected = state(), gradients()
    graphs: list[bool] = []
    hook = base.register_forward_hook(lambda *_: graphs.append(torch.is_grad_enabled()))
    stream = stream_answer(model, tokenizer, renderer, RAGGED[0], Decoding(max_new_tokens=40))
    next(stream)
    hook.remove()
    assert graphs and not any(graphs)
    assert state() == before
    with pytest.raises(RuntimeError):
        _ = stream.answer
    stream.close()
    assert list(stream) == []
    answer_all(model, tokenizer, renderer, RAGGED, Decoding(max_new_tokens=4))
    assert state() == before
    assert all(map(torch.equal, gradients(), expected))


def test_dropout_has_no_say_in_an_answer(tokenizer, renderer) -> None:
    model = adapted(tokenizer, lora_dropout=0.5)
    decoding = Decoding(max_new_tokens=16)
    resting = answer_all(model.eval(), tokenizer, renderer, RAGGED, decoding)
    training = answer_all(model.train(), tokenizer, renderer, RAGGED, decoding)
    assert list(map(same, resting)) == list(map(same, training))


@pytest.mark.parametrize("use_dora", [False, True])
def test_adapters_answer_like_their_merged_model(tokenizer, renderer, use_dora) -> None:
    model = adapted(tokenizer, use_dora=use_dora).eval()
    decoding = Decoding(max_new_tokens=16)
    tuned = answer_all(model, tokenizer, renderer, RAGGED, decoding)
    with model.disable_adapter():
        base = answer_all(model, tokenizer, renderer, RAGGED, decoding)
    merged = copy.deepcopy(model).merge_and_unload()
    assert texts(tuned) == texts(answer_all(merged, tokenizer, renderer, RAGGED, decoding))
    plain = answer_all(untrained(tokenizer), tokenizer, renderer, RAGGED, decoding)
    assert texts(base) == texts(plain) != texts(tuned)


def test_dora_is_cached_while_writing_and_never_stale(tokenizer, renderer) -> None:
    model = adapted(tokenizer, use_dora=True).eval()
    decoding = Decoding(max_new_tokens=16)

    def cached() -> int:
        layers = [m for m in model.modules() if type(m).__name__ == "DoraLinearLayer"]
        return sum(bool(layer._dora_cache) for layer in layers)

    first = answer_all(model, tokenizer, renderer, RAGGED, decoding)
    assert cached() == 0
    stream = stream_answer(model, tokenizer, renderer, RAGGED[0], decoding)
    next(stream)
    assert cached() == 2 * 7  # two layers of seven linear maps
    stream.close()
    assert cached() == 0
    model(torch.tensor([[1, 2]]))
    assert cached() == 0  # the switch for everybody is off again
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.mul_(-2)
    changed = answer_all(model, tokenizer, renderer, RAGGED, decoding)
    merged = answer_all(model.merge_and_unload(), tokenizer, renderer, RAGGED, decoding)
    assert texts(changed) == texts(merged) != texts(first)


def test_virtual_tokens_are_refused(tokenizer, renderer) -> None:
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    model = get_peft_model(untrained(tokenizer), config)
    with pytest.raises(ModelError, match="virtual tokens"):
        answer_all(model, tokenizer, renderer, RAGGED, Decoding())


# --- when it cannot be done


class Cramped(Qwen3ForCausalLM):
    """Runs out of memory with more than `rows` rows, or after `tokens` cached positions of one."""

    rows = 2

    def forward(self, input_ids: torch.Tensor, **inputs: Any) -> Any:
        if input_ids.shape[0] > self.rows:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(input_ids=input_ids, **inputs)


def test_t28_a_batch_out_of_memory_is_split_and_answers_stay_the_same(tokenizer, renderer) -> None:
    decoding = Decoding(max_new_tokens=12)
    torch.manual_seed(1)
    model = Cramped(tiny_config(len(tokenizer))).eval()
    progress: list[tuple[int, int]] = []
    answers = answer_all(
        model, tokenizer, renderer, RAGGED, decoding, on_progress=lambda *at: progress.append(at)
    )
    roomy = answer_all(untrained(tokenizer), tokenizer, renderer, RAGGED, decoding)
    assert list(map(same, answers)) == list(map(same, roomy))
    done = [count for count, _ in progress]
    assert done == sorted(set(done)) and progress[-1] == (len(RAGGED), len(RAGGED))
    model.rows = 0
    with pytest.raises(OutOfMemoryError, match=r"conversations\[1\]"):  # the longest goes first
        answer_all(model, tokenizer, renderer, RAGGED, decoding)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_diverged_weights_are_an_error_not_an_answer(tokenizer, renderer, temperature) -> None:
    model = untrained(tokenizer)
    with torch.no_grad():
        model.model.norm.weight[0] = torch.nan
    with pytest.raises(DivergenceError, match="not finite"):
        answer_all(model, tokenizer, renderer, RAGGED, Decoding(temperature=temperature))


def test_no_conversations_no_answers(tokenizer, renderer) -> None:
    assert answer_all(untrained(tokenizer), tokenizer, renderer, [], Decoding()) == []


def test_t1_the_tiny_chat_model_answers_alike_streamed_and_in_a_batch() -> None:
    tokenizer = AutoTokenizer.from_pretrained(TINY_CHAT)
    model = AutoModelForCausalLM.from_pretrained(TINY_CHAT, dtype=torch.float32)
    renderer = ChatRenderer(tokenizer)
    conversations = [ask(text) for text in ("こんにちは", "Who are you?", "空はなぜ青いの？")]
    answers = answer_all(model, tokenizer, renderer, conversations, Decoding(max_new_tokens=48))
    for messages, answer in zip(conversations, answers, strict=True):
        decoding = Decoding(max_new_tokens=48)
        stream = stream_answer(model, tokenizer, renderer, messages, decoding)
        pieces = list(stream)
        assert "".join(pieces) == answer.text and len(pieces) > 3
        assert answer.finish_reason == "stop"


@pytest.fixture(autouse=True)
def _single_thread() -> Iterator[None]:
    """One thread: bitwise the same sums whatever else the machine does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
