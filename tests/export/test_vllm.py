"""The served copy of an adapter is the adapter, also for a server that reads only `lora_alpha / r`
(T15).
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from assembled import assemble_model, logits
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tanren import adapter as adapters
from tanren.artefact import CARD, Prompting, save_artefact
from tanren.errors import ModelError, RunError
from tanren.export.serve_commands import merged_commands, vllm_rank
from tanren.export.vllm import default_name, write_served_adapter
from tanren.rundir import RunDirectory
from tanren.serving import VLLM_RANKS

PATTERNS = {
    "rank_pattern": {"v_proj": 2, r"layers.1.self_attn.q_proj": 7},
    "alpha_pattern": {"v_proj": 5, r"layers.0.mlp.down_proj": 31},
}


@pytest.fixture
def trained(make_run: Callable[..., RunDirectory]) -> Callable[..., Path]:
    """`trained(method, family="qwen3", **peft)`: an artefact whose A and B are random, as after
    training. `peft` goes into the adapter's settings.
    """

    def make(method: Any = "lora", *, family: str = "qwen3", **peft: Any) -> Path:
        run = make_run(method=method, family=family)
        parts = assemble_model(run.config())
        model = parts.model
        if peft:
            base = AutoModelForCausalLM.from_pretrained(parts.gate.source.path)
            config: Any = parts.gate.config.method.peft_config()
            for key, value in peft.items():
                setattr(config, key, value)
            config.base_model_name_or_path = str(parts.gate.source.path)
            model = get_peft_model(base, config)
        initial = None
        if parts.gate.config.method.initialisation in ("pissa", "olora"):
            initial = run.path / "initial"
            adapters.save_initial(model, parts.gate.config.method, initial)
        torch.manual_seed(3)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data += 0.05 * torch.randn_like(parameter)
        return save_artefact(run, model, parts.gate, initial=initial)

    return make


def loaded(folder: Path) -> torch.Tensor:
    """Logits of the adapter on its base, through nothing but transformers and PEFT."""
    base_path = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    base = AutoModelForCausalLM.from_pretrained(base_path["base_model_name_or_path"])
    return logits(PeftModel.from_pretrained(base, str(folder)).eval())


def settings_of(folder: Path) -> dict[str, Any]:
    values = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert isinstance(values, dict)
    return values


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "lora": ("lora", {}),
    "rslora": ({"name": "rslora", "rank": 6}, {}),
    "pissa": ("pissa", {}),
    "eva": ("eva", {}),
    "patterns": ("lora", PATTERNS),
    "rslora with patterns": ("rslora", PATTERNS),
    "a pattern of names": (
        {"name": "lora", "target_modules": r".*layers\.1\.self_attn\.[qv]_proj"},
        {},
    ),
    "an embedding": (
        {"name": "rslora", "target_modules": ["q_proj", "v_proj", "embed_tokens"]},
        {},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_t15_the_copy_gives_the_logits_of_the_adapter(
    trained: Callable[..., Path], tmp_path: Path, case: str
) -> None:
    method, peft = CASES[case]
    original = trained(method, **peft)
    served = write_served_adapter(original, tmp_path / "served", server="sglang")
    wanted, got = loaded(original), loaded(served.folder)
    assert (wanted - got).abs().max() < 1e-5
    base = AutoModelForCausalLM.from_pretrained(served.base)
    assert (wanted - logits(base)).abs().max() > 0.01  # the adapter does something


@pytest.mark.parametrize("case", CASES)
def test_t15_the_copy_is_right_for_a_server_that_knows_only_alpha_and_r(
    trained: Callable[..., Path], tmp_path: Path, case: str
) -> None:
    """SGLang's rule: scale = lora_alpha / r, every A of shape (r, in), target modules by name."""
    method, peft = CASES[case]
    original = trained(method, **peft)
    served = write_served_adapter(original, tmp_path / "served", server="sglang")
    written = settings_of(served.folder)
    flags = [written[key] for key in ("use_rslora", "use_dora", "modules_to_save")]
    assert not any(flags) and written["init_lora_weights"] is True
    assert not written.get("rank_pattern") and not written.get("alpha_pattern")
    assert isinstance(written["target_modules"], list)
    base = AutoModelForCausalLM.from_pretrained(served.base)
    model = PeftModel.from_pretrained(base, str(original))
    tensors = load_file(served.folder / "adapter_model.safetensors")
    layers = [n for n, m in model.named_modules() if isinstance(getattr(m, "scaling", None), dict)]
    assert len(tensors) == 2 * len(layers) > 0
    for layer in layers:
        embedding = layer.endswith("embed_tokens")
        ends = (
            (".lora_embedding_A", ".lora_embedding_B")
            if embedding
            else (
                ".lora_A.weight",
                ".lora_B.weight",
            )
        )
        a, b = (tensors[layer + end] for end in ends)
        assert a.shape[0] == b.shape[1] == written["r"]
        update = written["lora_alpha"] / written["r"] * (b @ a)
        wanted = model.get_submodule(layer).get_delta_weight("default")
        assert torch.allclose(update.T if embedding else update, wanted, atol=1e-6), layer


def test_what_was_rewritten_and_left_out_is_told_and_recorded(
    trained: Callable[..., Path], tmp_path: Path
) -> None:
    served = write_served_adapter(trained("rslora", **PATTERNS), tmp_path / "x", server="vllm")
    assert len(served.folded) == 3 and "rsLoRA" in served.folded[0]
    assert served.rank == 7
    assert served.left_out == ("alpha_pattern", "rank_pattern")
    record = json.loads((served.folder / "serving.json").read_text(encoding="utf-8"))
    assert record == json.loads(json.dumps(served.as_dict()))
    assert 0 <= served.difference < 1e-6


def test_plain_lora_is_copied_bit_for_bit(trained: Callable[..., Path], tmp_path: Path) -> None:
    original = trained()
    before = {file.name: file.read_bytes() for file in original.iterdir()}
    served = write_served_adapter(original, tmp_path / "served", server="vllm")
    assert served.folded == () and served.left_out == () and served.difference == 0
    old, new = (load_file(f / "adapter_model.safetensors") for f in (original, served.folder))
    assert old.keys() == new.keys() and all(torch.equal(old[k], new[k]) for k in old)
    for name in ("chat_template.jinja", "tokenizer.json", "generation_config.json", CARD):
        assert (served.folder / name).read_bytes() == before[name]  # T1, T4, T10
    assert {file.name: file.read_bytes() for file in original.iterdir()} == before


# --- what must be merged --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("dora", ["use_dora"]),
        ({"name": "lora", "modules_to_save": ["lm_head"]}, ["modules_to_save"]),
        ({"name": "lora", "rank": 600}, ["r"]),
        (
            {"name": "dora", "rank": 600, "modules_to_save": ["lm_head"]},
            ["use_dora", "modules_to_save", "r"],
        ),
    ],
)
def test_t15_what_vllm_cannot_read_is_refused_with_every_reason(
    trained: Callable[..., Path], tmp_path: Path, method: Any, settings: list[str]
) -> None:
    with pytest.raises(ModelError) as caught:
        write_served_adapter(trained(method), tmp_path / "served", server="vllm")
    assert [fault.where.rsplit(" ", 1)[1] for fault in caught.value.faults] == settings
    assert all("tanren export RUN --to merged" in f.remedy for f in caught.value.faults)
    assert not (tmp_path / "served").exists()


def test_t15_sglang_has_reasons_of_its_own(trained: Callable[..., Path], tmp_path: Path) -> None:
    lonely = trained({"name": "lora", "target_modules": ["q_proj"]})
    with pytest.raises(ModelError, match="q_proj without v_proj"):
        write_served_adapter(lonely, tmp_path / "served", server="sglang")
    served = write_served_adapter(lonely, tmp_path / "served", server="vllm")
    assert any("SGLang" in note and "q_proj" in note for note in served.notes)
    assert not any("sglang.launch_server" in command.words for command in served.commands)


def test_damaged_files_are_refused_and_leave_nothing(
    trained: Callable[..., Path], tmp_path: Path
) -> None:
    original = tmp_path / "copy"
    shutil.copytree(trained(), original)
    weights = original / "adapter_model.safetensors"
    tensors = load_file(weights)
    name = next(iter(tensors))
    save_file({k: v for k, v in tensors.items() if k != name}, weights)
    with pytest.raises(ModelError, match="only one of A and B"):
        write_served_adapter(original, tmp_path / "served", server="vllm")
    weights.write_bytes(b"\x00" * 40)
    with pytest.raises(ModelError, match="no readable file"):
        write_served_adapter(original, tmp_path / "served", server="vllm")
    (original / CARD).unlink()
    with pytest.raises(RunError, match=CARD):
        write_served_adapter(original, tmp_path / "served", server="vllm")
    assert [path.name for path in tmp_path.iterdir() if "served" in path.name] == []


def test_the_adapter_itself_is_never_written_over(trained: Callable[..., Path]) -> None:
    original = trained()
    before = (original / "adapter_model.safetensors").read_bytes()
    with pytest.raises(ModelError, match="another folder"):
        write_served_adapter(original, original, server="vllm")
    assert (original / "adapter_model.safetensors").read_bytes() == before


# --- commands -------------------------------------------------------------------------------------


def flag(words: tuple[str, ...], name: str) -> str:
    return words[words.index(name) + 1]


def test_the_commands_say_everything_that_the_servers_need(
    trained: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "with space" / "served"
    served = write_served_adapter(
        trained("rslora"), folder, server="vllm", name="taro", max_model_len=4096
    )
    vllm, ask_vllm, sglang, ask_sglang = served.commands
    assert tuple(shlex.split(vllm.line)) == vllm.words and vllm.words[:2] == ("vllm", "serve")
    assert vllm.words[2] == served.base == flag(sglang.words, "--model-path")
    assert flag(vllm.words, "--max-lora-rank") == "8" and "--enable-lora" in vllm.words  # 4, up
    assert flag(sglang.words, "--max-lora-rank") == "4"
    module = f"taro={folder}"
    assert flag(vllm.words, "--lora-modules") == module == flag(sglang.words, "--lora-paths")
    assert flag(vllm.words, "--max-model-len") == flag(sglang.words, "--context-length") == "4096"
    for words in (vllm.words, sglang.words):
        assert Path(flag(words, "--chat-template")).read_text(encoding="utf-8")  # T1
    stops = Prompting.read(folder).stop_ids
    generation = Path(flag(vllm.words, "--generation-config")) / "generation_config.json"
    ends = json.loads(generation.read_text(encoding="utf-8"))["eos_token_id"]
    assert set(stops) <= set(ends if isinstance(ends, list) else [ends])  # T4
    asked = json.loads(flag(ask_sglang.words, "-d"))
    assert asked["model"] == f"{served.base}:taro" and asked["stop_token_ids"] == list(stops)
    assert json.loads(flag(ask_vllm.words, "-d"))["model"] == "taro"


def test_a_comma_in_the_path_is_written_as_vllm_reads_it(
    trained: Callable[..., Path], tmp_path: Path
) -> None:
    """`name=path` with a comma is taken for JSON (LoRAParserAction)."""
    served = write_served_adapter(trained(), tmp_path / "a,b", server="vllm", name="n")
    module = flag(served.commands[0].words, "--lora-modules")
    assert json.loads(module) == {"name": "n", "path": str(tmp_path / "a,b")}


def test_t1_a_template_that_sglang_would_change_is_read_from_the_tokenizer(
    trained: Callable[..., Path], tmp_path: Path
) -> None:
    original = tmp_path / "copy"
    shutil.copytree(trained(), original)
    template = "{{ messages[0].content.replace('\\\\n', ' ') }}"
    (original / "chat_template.jinja").write_text(template, encoding="utf-8")
    served = write_served_adapter(original, tmp_path / "served", server="sglang")
    words = served.commands[0].words
    assert flag(words, "--tokenizer-path") == str(served.folder) and "--chat-template" not in words


@pytest.mark.parametrize("rank", [1, 2, 8, 9, 64, 65, 257, 320, 321, 512])
def test_the_rank_is_rounded_up_to_one_that_vllm_takes(rank: int) -> None:
    taken = vllm_rank(rank)
    assert taken in VLLM_RANKS and taken >= rank
    assert not [other for other in VLLM_RANKS if rank <= other < taken]


def test_a_rank_beyond_the_largest_is_refused() -> None:
    with pytest.raises(ModelError, match="512"):
        vllm_rank(513)


def test_t5_a_base_in_four_bits_is_noted_with_the_remedy(
    trained: Callable[..., Path], tmp_path: Path
) -> None:
    original = tmp_path / "copy"
    shutil.copytree(trained(), original)
    card = json.loads((original / CARD).read_text(encoding="utf-8"))
    (original / CARD).write_text(json.dumps({**card, "storage": "nf4"}), encoding="utf-8")
    served = write_served_adapter(original, tmp_path / "served", server="vllm")
    (note,) = [note for note in served.notes if "4 bits" in note]
    assert "--to merged" in note


def test_a_merged_folder_needs_no_flags_but_its_name(
    trained: Callable[..., Path], tmp_path: Path
) -> None:
    original = trained("dora")
    folder = tmp_path / "merged"
    shutil.copytree(Prompting.read(original).base, folder)
    with pytest.raises(ModelError, match=CARD):
        merged_commands(folder)
    shutil.copyfile(original / CARD, folder / CARD)
    vllm, ask, sglang, _ = merged_commands(folder, name="taro", max_model_len=2048)
    assert vllm.words == (
        *("vllm", "serve", str(folder), "--served-model-name", "taro"),
        *("--max-model-len", "2048"),
    )
    assert flag(sglang.words, "--model-path") == str(folder)
    assert json.loads(flag(ask.words, "-d"))["model"] == "taro"


def test_the_name_is_the_runs() -> None:
    assert default_name(Path("runs/20261122-taro/adapter")) == "20261122-taro"
    assert default_name(Path("somewhere/my adapter, new")) == "my-adapter-new"
