"""Nobody is ever answered by somebody else's adapter (T8), whatever kinds are in memory."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from engine.answering import Asking, alone, make_tuned, request, session_of, target

from tanren.engine.models import Models
from tanren.engine.wire import Target
from tanren.generate.forward import PaddedBatch

Tuned = Callable[..., Path]
TEXTS = ("Who are you?", "月はなぜ光るの？", "the cat sat on the mat " * 4)
PROMPTS = [
    [5, 9, 13, 2, 7, 21],
    [3, 3, 3, 11, 30, 12, 6, 22, 19],
    [40, 17],
    [8, 1, 4, 33, 2, 2, 6],
    [50, 60, 70],
    [99, 98, 97, 96],
]


def open_logits(to: Target, prompt: list[int]) -> torch.Tensor:
    """(vocab,) of that model loaded alone by the session that `tanren chat` uses."""
    session = session_of(to.folder or to.base)
    with torch.no_grad():
        return session.model(torch.tensor([prompt])).logits[0, -1].float()


def test_three_adapters_and_the_base_in_one_batch_each_as_alone(
    tiny_model: Callable[..., Path], tuned: Tuned
) -> None:
    """Logits within 1e-5, of prompts and of the step after them."""
    base = tiny_model()
    one, two = tuned(seed=1), tuned("rslora", seed=2, rank=8)
    folders = [None, one, two, tuned("lora_plus", seed=3), one, None]
    targets = [target(base, folder) for folder in folders]
    models = Models(max_bases=1, max_adapters=4)
    served = [models.open(to) for to in targets]
    assert len({id(each.base) for each in served}) == 1, "one base for all"
    assert not any(each.alone for each in served)
    batch = PaddedBatch.of(PROMPTS, served[0].base.device)
    names = [each.adapter for each in served]
    first = served[0].base.next_logits(batch, names, alone=False)
    batch.append(torch.tensor([9] * len(PROMPTS)))
    second = served[0].base.next_logits(batch, names, alone=False)
    for row, to in enumerate(targets):
        for found, prompt in ((first, PROMPTS[row]), (second, [*PROMPTS[row], 9])):
            expected = open_logits(to, prompt)
            assert (found[row] - expected).abs().max() < 1e-5
    moved = (first[0] - open_logits(targets[1], PROMPTS[0])).abs().max()
    assert moved > 1e-2, "adapters that change nothing prove nothing"


def test_every_kind_beside_every_other_is_answered_by_its_own_weights(
    tiny_model: Callable[..., Path], tuned: Tuned, ask: Callable[..., Asking]
) -> None:
    """Plain ones share a batch; DoRA, saved modules and whole models keep to themselves."""
    base = tiny_model()
    folders = {
        "base": None,
        "lora": tuned(seed=1),
        "rslora": tuned("rslora", seed=2, rank=8),
        "dora": tuned("dora", seed=4),
        "head": tuned(seed=5, modules_to_save=("lm_head",)),
        "embedding": tuned(seed=6, target_modules=("q_proj", "embed_tokens")),
        "full": tuned("full", seed=7),
    }
    asking = ask(max_bases=2)
    for text in TEXTS:
        for name, folder in folders.items():
            asking.submit(request(f"{name} {text}", target(base, folder), text))
            asking.step()
    told = asking.finish()
    answers = set()
    for name, folder in folders.items():
        for text in TEXTS:
            expected = alone(target(base, folder), text)
            assert told[f"{name} {text}"].text == expected, name
            answers.add(expected)
    assert len(answers) > 12, "models that answer alike prove nothing"
    assert len(asking.engine.state().adapters) == 5


def test_which_kinds_share_a_batch(tiny_model: Callable[..., Path], tuned: Tuned) -> None:
    models = Models(max_bases=1, max_adapters=8)
    kinds = {
        "lora": tuned(seed=1),
        "dora": tuned("dora", seed=4),
        "head": tuned(seed=5, modules_to_save=("lm_head",)),
        "embedding": tuned(seed=6, target_modules=("q_proj", "embed_tokens")),
    }
    opened = {name: models.open(target(tiny_model(), folder)) for name, folder in kinds.items()}
    assert {name for name, served in opened.items() if served.alone} == {
        "dora",
        "head",
        "embedding",
    }


def test_stacked_experts_and_routers_keep_to_themselves(
    tiny_model: Callable[..., Path], tuned: Tuned, ask: Callable[..., Asking]
) -> None:
    base = tiny_model("qwen3_moe")
    stacks = tuned(
        family="qwen3_moe", seed=8, target_parameters=("experts.gate_up_proj", "experts.down_proj")
    )
    plain = tuned(family="qwen3_moe", seed=9)
    asking = ask()
    targets = {"stacks": target(base, stacks), "plain": target(base, plain), "base": target(base)}
    for name, to in targets.items():
        asking.submit(request(name, to))
        asking.step()
    told = asking.finish()
    for name, to in targets.items():
        assert told[name].text == alone(to, "Who are you?"), name
    assert len({each.text for each in told.values()}) == 3


def test_the_one_used_longest_ago_makes_room_and_never_one_in_use(
    tiny_model: Callable[..., Path], tuned: Tuned, ask: Callable[..., Asking]
) -> None:
    base = tiny_model()
    first, second, third = (tuned(seed=seed) for seed in (1, 2, 3))
    asking = ask(max_adapters=2)

    def loaded() -> set[str]:
        return set(asking.engine.state().adapters)

    for name, folder in (("a", first), ("b", second), ("c", first), ("d", third)):
        asking.submit(request(name, target(base, folder), max_tokens=1))
        asking.finish()
    assert loaded() == {str(first), str(third)}
    long = {"max_tokens": 60, "logit_bias": {2: -100.0}}
    asking.submit(request("x", target(base, first), **long))
    asking.submit(request("y", target(base, third), **long))
    asking.step(3)
    asking.submit(request("z", target(base, second), max_tokens=1))
    asking.step(20)
    assert loaded() == {str(first), str(third)} and asking.engine.state().waiting == 1
    told = asking.finish()
    assert told["x"].ends[0].completion_tokens == told["y"].ends[0].completion_tokens == 60
    assert str(second) in loaded() and told["z"].text == alone(
        target(base, second), "Who are you?", 1
    )


def test_a_base_makes_room_for_another_and_comes_back(
    tiny_model: Callable[..., Path], ask: Callable[..., Asking]
) -> None:
    one, other = tiny_model(), tiny_model("llama-tied")
    asking = ask(max_bases=1)
    for number, base in enumerate((one, other, one, other)):
        asking.submit(request(str(number), target(base)))
    told = asking.finish()
    assert [told[str(n)].text for n in range(4)] == 2 * [
        alone(target(base), "Who are you?") for base in (one, other)
    ]
    assert asking.engine.state().bases == (str(other),)


def test_other_weights_under_the_same_name_are_noticed(
    tiny_model: Callable[..., Path], tuned: Tuned, tmp_path: Path, ask: Callable[..., Asking]
) -> None:
    base, folder = tiny_model(), tmp_path / "tuned"
    shutil.copytree(tuned(seed=1), folder)
    asking = ask()
    asking.submit(request("before", target(base, folder)))
    asking.finish()
    asking.submit(request("during", target(base, folder), max_tokens=40))
    asking.step(3)
    shutil.rmtree(folder)
    shutil.copytree(tuned(seed=2), folder)
    asking.submit(request("after", target(base, folder)))
    told = asking.finish()
    assert told["before"].text == alone(target(base, tuned(seed=1)), "Who are you?")
    assert told["during"].text == alone(target(base, tuned(seed=1)), "Who are you?", 40)
    assert told["after"].text == alone(target(base, tuned(seed=2)), "Who are you?")
    assert told["before"].accepted.fingerprint != told["after"].accepted.fingerprint
    assert asking.engine.state().adapters == (str(folder),), "the old one is gone"


def test_an_adapter_that_cannot_be_loaded_harms_nobody(
    tiny_model: Callable[..., Path], tuned: Tuned, tmp_path: Path, ask: Callable[..., Asking]
) -> None:
    """Wrong shapes (of another base with a forged card), missing tensors (T8), no folder at all."""
    base = tiny_model()
    other = tiny_model("qwen3", hidden_size=32)
    forged = make_tuned(other, tmp_path / "forged", seed=1)
    card = (tuned(seed=1) / "tanren.json").read_text(encoding="utf-8")
    (forged / "tanren.json").write_text(card, encoding="utf-8")
    foreign = make_tuned(other, tmp_path / "foreign", seed=1)
    asking = ask()
    for name, folder in (("forged", forged), ("foreign", foreign), ("none", tmp_path / "none")):
        asking.submit(request(name, target(base, folder)))
    asking.submit(request("base", target(base)), request("good", target(base, tuned(seed=1))))
    told = asking.finish()
    for name in ("forged", "foreign", "none"):
        assert told[name].failed is not None and told[name].failed.kind == "model"
    assert "fingerprint" in told["foreign"].failed.message
    assert told["base"].text == alone(target(base), "Who are you?")
    assert told["good"].text == alone(target(base, tuned(seed=1)), "Who are you?")
    asking.submit(request("again", target(base, forged)), request("base again", target(base)))
    told = asking.finish()
    assert told["again"].failed is not None and told["base again"].text == told["base"].text


def test_missing_tensors_are_an_error(
    tiny_model: Callable[..., Path], tuned: Tuned, tmp_path: Path, ask: Callable[..., Asking]
) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "cut"
    shutil.copytree(tuned(seed=1), folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors.pop(next(name for name in tensors if "lora_B" in name))
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    asking = ask()
    asking.submit(request("cut", target(tiny_model(), folder)))
    failed = asking.finish()["cut"].failed
    assert failed is not None and failed.kind == "model" and "tensors" in failed.message
    assert asking.engine.state().adapters == ()


@pytest.mark.parametrize("folder", [None, "adapter"])
def test_unloading_waits_for_answers_and_frees(
    tiny_model: Callable[..., Path], tuned: Tuned, ask: Callable[..., Asking], folder: str | None
) -> None:
    asking = ask()
    used = tuned(seed=1)
    asking.submit(request("long", target(tiny_model(), used), max_tokens=20))
    asking.step(3)
    asking.engine.unload(None if folder is None else str(used))
    asking.step()
    assert asking.engine.state().adapters == (str(used),)
    told = asking.finish()
    assert told["long"].ends[0].completion_tokens == 20
    state = asking.engine.state()
    assert state.adapters == () and len(state.bases) == (1 if folder else 0)
    for name, own in (("base", None), ("other", tuned(seed=2)), ("same", used)):
        asking.submit(request(name, target(tiny_model(), own)))
        found = asking.finish()[name].text
        assert found == alone(target(tiny_model(), own), "Who are you?"), "after the last one left"
