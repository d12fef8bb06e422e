"""Laws of exporting: what appears under its name is whole and proven, and everything else leaves
nothing behind.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from export.adapted import adapt
from export.exporting import Heard, as_if_trained, exported
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tanren.artefact import CARD
from tanren.errors import ModelError, ProofError, RunError, StorageError, TanrenError, UserError
from tanren.export.exports import Request, export, proven_before
from tanren.export.tuned import open_tuned
from tanren.generate import Decoding
from tanren.rundir import RunDirectory, missing_files
from tanren.session import open_session

QUESTION = [{"role": "user", "content": "空はなぜ青いの？"}]


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text(encoding="utf-8"))


@pytest.fixture
def make_tuned(make_config: Callable[..., Any], tmp_path: Path) -> Callable[..., RunDirectory]:
    """`make_tuned("data.thinking=false", method="dora")`: a run with a result, as if trained."""

    def make(*overrides: str, amount: float = 0.05, **options: Any) -> RunDirectory:
        config = make_config(*overrides, **options)
        return as_if_trained(config, tmp_path / "runs" / "mine", amount=amount)

    return make


# --- what is written ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lora", "qlora", "dora", "full"])
def test_a_merged_folder_answers_like_the_run_in_plain_transformers(
    method: str, make_tuned: Callable[..., RunDirectory]
) -> None:
    run = make_tuned(method=method)
    done = exported(run)
    assert done.folder == run.path / "merged"
    assert missing_files(done.folder) == []
    tokenizer = AutoTokenizer.from_pretrained(done.folder)
    model = AutoModelForCausalLM.from_pretrained(done.folder)
    ids = tokenizer.apply_chat_template(
        QUESTION, add_generation_prompt=True, return_tensors="pt", return_dict=False
    )
    found = model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    stops = set(model.generation_config.eos_token_id)
    ours = next((i for i, token in enumerate(found.tolist()) if token in stops), len(found))
    with open_session(str(run.path)).stream(QUESTION, Decoding(max_new_tokens=12)) as stream:
        "".join(stream)
        assert tuple(found.tolist()[:ours]) == stream.answer.token_ids


def test_a_merged_folder_has_all_that_others_need_and_nothing_of_this_machine(
    make_tuned: Callable[..., RunDirectory], tmp_path: Path
) -> None:
    done = exported(make_tuned(method="qlora"))
    names = {file.name for file in done.folder.iterdir()}
    assert names >= {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
                     "tokenizer_config.json", "chat_template.jinja", "README.md", "proof.json",
                     CARD}  # fmt: skip
    assert "quantization_config" not in read(done.folder, "config.json")
    for file in done.folder.iterdir():
        if file.suffix in (".json", ".md", ".jinja") and file.name != "COMPLETE.json":
            assert str(tmp_path) not in file.read_text(encoding="utf-8"), file.name


def test_t10_the_template_is_inline_and_a_file_and_the_one_of_training(
    make_tuned: Callable[..., RunDirectory],
) -> None:
    run = make_tuned()
    folder = exported(run).folder
    inline = read(folder, "tokenizer_config.json")["chat_template"]
    assert inline == (folder / "chat_template.jinja").read_text(encoding="utf-8")
    assert inline == AutoTokenizer.from_pretrained(run.adapter).chat_template


def test_older_readers_find_the_keys_they_know(make_tuned: Callable[..., RunDirectory]) -> None:
    """transformers 4 reads rope_theta and PreTrainedTokenizerFast, and guesses where they lack."""
    folder = exported(make_tuned("model.name=" + str(_tiny_chat()))).folder
    settings = read(folder, "config.json")
    assert settings["rope_theta"] == settings["rope_parameters"]["rope_theta"]
    assert settings["torch_dtype"] == settings["dtype"] == "bfloat16"
    tokens = read(folder, "tokenizer_config.json")
    assert tokens["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert isinstance(tokens["additional_special_tokens"], list)
    assert "extra_special_tokens" not in tokens


def _tiny_chat() -> Path:
    import tiny

    return tiny.TINY_CHAT


def test_t4_what_ends_a_reply_stands_in_the_export(
    make_tuned: Callable[..., RunDirectory],
) -> None:
    run = make_tuned()
    stops = read(run.adapter, CARD)["stop_ids"]
    done = exported(run)
    assert set(stops) <= set(read(done.folder, "generation_config.json")["eos_token_id"])
    assert done.proof["stop_ids"]["export"] == done.proof["stop_ids"]["tuned"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_type_is_the_one_asked_for_and_the_proof_knows_it(
    dtype: str, make_tuned: Callable[..., RunDirectory]
) -> None:
    done = exported(make_tuned(), dtype=dtype)
    found = load_file(done.folder / "model.safetensors")
    assert {tensor.dtype for tensor in found.values()} == {getattr(torch, dtype)}
    assert read(done.folder, "config.json")["dtype"] == dtype == done.proof["dtype"]


def test_an_exported_adapter_is_the_run_s_own_with_card_and_proof(
    make_tuned: Callable[..., RunDirectory],
) -> None:
    run = make_tuned()
    done = exported(run, to="adapter", base_name="somebody/base")
    weights = "adapter_model.safetensors"
    assert (done.folder / weights).read_bytes() == (run.adapter / weights).read_bytes()
    assert done.proof["distance"]["max_logit_difference"] == 0
    assert read(done.folder, "adapter_config.json")["base_model_name_or_path"] == "somebody/base"
    assert (done.folder / "README.md").is_file()


def test_a_session_opens_a_merged_folder_without_its_base(
    make_tuned: Callable[..., RunDirectory], tmp_path: Path
) -> None:
    run = make_tuned()
    folder = exported(run, out=tmp_path / "elsewhere").folder
    session = open_session(str(folder))
    assert not session.has_base
    with session.stream(QUESTION, Decoding(max_new_tokens=8)) as stream:
        "".join(stream)
        answer = stream.answer
    with open_session(str(run.path)).stream(QUESTION, Decoding(max_new_tokens=8)) as stream:
        "".join(stream)
        assert answer.token_ids == stream.answer.token_ids


def test_an_adapter_from_elsewhere_is_exported_too(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    """Plain PEFT, no card: the base is named by the adapter, the tokenizer is the base's."""
    adapted = adapt(tiny_model("qwen3"), tmp_path, "lora")
    done = exported(adapted.folder, out=tmp_path / "merged")
    assert done.proof["passed"]
    assert done.proof["prompts_from"] == "conversations that are built in"


# --- the proof ------------------------------------------------------------------------------------


def test_the_proof_measures_both_ways_of_merging_a_4_bit_run_t5(
    make_tuned: Callable[..., RunDirectory], tmp_path: Path
) -> None:
    run = make_tuned(method="qlora")
    usual = exported(run, out=tmp_path / "a").proof
    assert usual["compared_with"] == "the tuned model"
    assert usual["distance"]["kl_mean"] < 1e-6
    assert usual["others"]["adapter on the original base"]["kl_mean"] > 1e-3
    by_choice = exported(run, out=tmp_path / "b", onto="original").proof
    assert by_choice["compared_with"] == "the adapter on the original base"
    assert by_choice["distance"]["kl_mean"] < 1e-6
    others = by_choice["others"]
    assert others["adapter on the original base"] == usual["others"]["adapter on the original base"]
    assert others["adapter on the dequantised base"]["kl_mean"] < 1e-6


@pytest.mark.parametrize("what", ["weights", "stops", "template", "nothing"])
def test_a_failed_proof_fails_and_keeps_nothing(
    what: str, make_tuned: Callable[..., RunDirectory]
) -> None:
    """Something goes wrong between writing and reading back, and the proof is what notices."""
    run = make_tuned()

    def spoil(stage: str) -> None:
        if stage != "prove":
            return
        (staged,) = run.path.glob(".merged.*.tmp")
        if what == "weights":
            tensors = load_file(staged / "model.safetensors")
            tensors["model.layers.1.mlp.down_proj.weight"] *= 1.01
            save_file(tensors, staged / "model.safetensors", metadata={"format": "pt"})
        elif what == "stops":
            _change(staged / "generation_config.json", eos_token_id=[1])
        elif what == "template":
            words = (staged / "chat_template.jinja").read_text(encoding="utf-8")
            (staged / "chat_template.jinja").write_text(words.replace("<|im_start|>", " "))
            _change(staged / "tokenizer_config.json", chat_template=words.replace("\n", ""))

    if what == "nothing":
        assert exported(run, Heard(spoil)).proof["passed"]
        return
    with pytest.raises(ProofError) as caught:
        exported(run, Heard(spoil))
    told = " ".join(fault.found for fault in caught.value.faults)
    assert {"weights": "logits", "stops": "stops", "template": "prompts"}[what] in told
    assert sorted(path.name for path in run.path.iterdir()) == [
        "adapter",
        "config.yaml",
        "events.jsonl",
    ]


def _change(file: Path, **values: Any) -> None:
    settings = json.loads(file.read_text(encoding="utf-8")) | values
    file.write_text(json.dumps(settings), encoding="utf-8")


def test_tuning_that_rounding_would_swallow_is_not_called_an_export(
    make_tuned: Callable[..., RunDirectory],
) -> None:
    run = make_tuned(amount=2e-4)
    with pytest.raises(ProofError, match="swallowed"):
        exported(run, dtype="bfloat16")
    assert exported(run, dtype="float32").proof["passed"]


@pytest.mark.parametrize(
    "wanted",
    [{"dtype": "bfloat16"}, {"dtype": "float16"}, {"dtype": "float32"}, {"to": "adapter"}],
    ids=str,
)
@pytest.mark.parametrize("family", ["qwen3", "gemma3"])
def test_a_run_in_bfloat16_passes_its_proof_whatever_is_written(
    family: str, wanted: dict[str, Any], make_tuned: Callable[..., RunDirectory]
) -> None:
    """The noise of bfloat16 products is on both sides: near ties are no disagreement, and a tensor
    that is off still is one.
    """
    run = make_tuned("model.dtype=bfloat16", family=family)
    assert exported(run, **wanted).proof["passed"]

    def spoil(stage: str) -> None:
        if stage == "prove":
            (file,) = run.path.glob(".spoiled.*.tmp/model.safetensors")
            tensors = load_file(file)
            tensors["model.layers.0.mlp.down_proj.weight"][::2] *= -1
            save_file(tensors, file, metadata={"format": "pt"})

    if wanted == {"dtype": "bfloat16"}:
        with pytest.raises(ProofError):
            exported(run, Heard(spoil), out=run.path / "spoiled", **wanted)


@pytest.mark.parametrize("what", ["stops", "template", "config"])
def test_a_proof_of_numbers_looks_at_everything_around_them_too(
    what: str, make_tuned: Callable[..., RunDirectory]
) -> None:
    run = make_tuned()

    def spoil(stage: str) -> None:
        if stage != "prove":
            return
        (staged,) = run.path.glob(".merged.*.tmp")
        if what == "stops":
            _change(staged / "generation_config.json", eos_token_id=[1])
        elif what == "template":
            (staged / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
            _change(staged / "tokenizer_config.json", chat_template="{{ messages }}")
        else:
            _change(staged / "config.json", intermediate_size=96)

    with pytest.raises(ProofError) as caught:
        exported(run, Heard(spoil), proof="numbers")
    told = str(caught.value)
    assert {"stops": "stops at", "template": "prompts get", "config": "config.json"}[what] in told


def test_an_adapter_from_the_hub_has_no_seal_and_is_exported(
    make_tuned: Callable[..., RunDirectory], tmp_path: Path
) -> None:
    fetched = tmp_path / "fetched"
    shutil.copytree(make_tuned().adapter, fetched, ignore=shutil.ignore_patterns("COMPLETE.json"))
    assert exported(fetched, out=tmp_path / "merged").proof["passed"]


def test_a_plain_adapter_gets_the_tokenizer_of_its_base(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    adapted = adapt(tiny_model("qwen3"), tmp_path, "lora")
    done = exported(adapted.folder, to="adapter", out=tmp_path / "out")
    assert done.proof["passed"]
    assert (done.folder / "tokenizer.json").is_file()


def test_a_run_that_was_trained_on_is_not_taken_for_exported(
    make_tuned: Callable[..., RunDirectory],
) -> None:
    run = make_tuned()
    exported(run)
    assert proven_before(open_tuned(str(run.path)), Request()) is not None
    file = run.adapter / "adapter_model.safetensors"
    tensors = {name: tensor + 0.01 for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    assert proven_before(open_tuned(str(run.path)), Request()) is None


# --- nothing half-written -------------------------------------------------------------------------


def left_over(run: RunDirectory) -> list[str]:
    return sorted(p.name for p in run.path.iterdir() if p.name.endswith(".tmp"))


def test_a_full_disk_is_told_and_leaves_nothing_t14(
    make_tuned: Callable[..., RunDirectory],
) -> None:
    run = make_tuned()

    def fill(stage: str) -> None:
        if stage == "merge":
            (staged,) = run.path.glob(".merged.*.tmp")
            (staged / "model.safetensors").symlink_to("/dev/full")

    with pytest.raises(StorageError, match="full disk"):
        exported(run, Heard(fill))
    assert not (run.path / "merged").exists()
    assert left_over(run) == []


def test_a_disk_that_is_too_small_is_told_before_any_work(
    make_tuned: Callable[..., RunDirectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_tuned()
    usage = shutil.disk_usage(run.path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    heard = Heard()
    with pytest.raises(StorageError, match="does not fit"):
        exported(run, heard)
    assert heard.stages == ["plan"]


KILLED = """
import os, signal, sys
from pathlib import Path
from tanren.export.exports import Request, export
from tanren.export.tuned import open_tuned

def tell(event, /, **fields):
    if event == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)

export(open_tuned(sys.argv[1]), Request(), tell)
"""


def test_a_killed_export_leaves_no_folder_and_the_next_one_cleans_up_t14(
    make_tuned: Callable[..., RunDirectory],
) -> None:
    run = make_tuned()
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(run.path), "progress"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert killed.returncode == -signal.SIGKILL
    assert not (run.path / "merged").exists()
    assert len(left_over(run)) == 1
    assert exported(run).proof["passed"]
    assert left_over(run) == []


def test_what_is_there_stays_until_the_new_one_is_proven(
    make_tuned: Callable[..., RunDirectory],
) -> None:
    run = make_tuned()
    done = exported(run)
    before = (done.folder / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match="--overwrite"):
        exported(run, dtype="float16")

    def spoil(stage: str) -> None:
        if stage == "prove":
            (staged,) = run.path.glob(".merged.*.tmp")
            _change(staged / "generation_config.json", eos_token_id=[1])

    with pytest.raises(ProofError):
        exported(run, Heard(spoil), dtype="float16", overwrite=True)
    assert (done.folder / "model.safetensors").read_bytes() == before
    exported(run, dtype="float16", overwrite=True)
    assert (done.folder / "model.safetensors").read_bytes() != before


def test_an_export_is_known_again_only_while_it_is_whole_and_as_asked(
    make_tuned: Callable[..., RunDirectory],
) -> None:
    run = make_tuned()
    tuned = open_tuned(str(run.path))
    assert proven_before(tuned, Request()) is None
    done = exported(run)
    assert proven_before(tuned, Request()).folder == done.folder  # type: ignore[union-attr]
    for other in ({"dtype": "float16"}, {"onto": "original"}, {"base_name": "a/b"}):
        assert proven_before(tuned, Request(**other)) is None  # type: ignore[arg-type]
    (done.folder / "model.safetensors").unlink()
    assert proven_before(tuned, Request()) is None


# --- what cannot be exported ----------------------------------------------------------------------


def refused(target: Path, **options: Any) -> TanrenError:
    with pytest.raises(UserError) as caught:
        open_tuned(str(target), **options)
    return caught.value


def test_a_changed_base_is_found_by_its_fingerprint(
    make_tuned: Callable[..., RunDirectory], tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_model("qwen3"), base)
    run = make_tuned(f"model.name={base}")
    tensors = load_file(base / "model.safetensors")
    tensors["model.norm.weight"][3] += 1
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    assert "fingerprint" in str(refused(run.path))
    shutil.copytree(tiny_model("qwen3"), tmp_path / "moved")
    assert open_tuned(str(run.path), base=str(tmp_path / "moved")).source is not None


def test_another_base_is_refused_with_every_misfit(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    adapted = adapt(tiny_model("qwen3"), tmp_path, "lora")
    other = tiny_model("qwen3", hidden_size=32)
    tuned = open_tuned(str(adapted.folder), base=str(other))
    with pytest.raises(ModelError) as caught:
        export(tuned, Request(out=tmp_path / "merged"), Heard())
    assert len(caught.value.faults) > 3
    assert not (tmp_path / "merged").exists()


def test_a_missing_file_of_weights_is_named(
    make_tuned: Callable[..., RunDirectory], tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    base = tmp_path / "base"
    whole = AutoModelForCausalLM.from_pretrained(tiny_model("qwen3"))
    shutil.copytree(tiny_model("qwen3"), base, ignore=shutil.ignore_patterns("*.safetensors"))
    whole.save_pretrained(base, max_shard_size="60KB")
    adapted = adapt(base, tmp_path, "lora")
    gone = sorted(base.glob("*.safetensors"))[1]
    gone.unlink()
    error = refused(adapted.folder)
    assert any(str(gone.name) in str(fault) for fault in error.faults)


def test_an_adapter_that_lost_a_file_is_refused(make_tuned: Callable[..., RunDirectory]) -> None:
    run = make_tuned()
    (run.adapter / "adapter_model.safetensors").unlink()
    assert "adapter_model.safetensors is missing" in str(refused(run.path))


def test_a_run_without_a_result_says_how_to_go_on(make_run: Callable[..., RunDirectory]) -> None:
    with pytest.raises(RunError, match="--resume"):
        open_tuned(str(make_run().path))


@pytest.mark.parametrize("target", ["nowhere", "."])
def test_what_is_neither_run_nor_adapter_is_refused(target: str, tmp_path: Path) -> None:
    assert "neither a run nor an adapter" in str(refused(tmp_path / target))


def test_a_whole_model_has_no_adapter_to_export(make_tuned: Callable[..., RunDirectory]) -> None:
    with pytest.raises(UserError, match="trained whole"):
        exported(make_tuned(method="full"), to="adapter")


def test_a_base_that_is_quantised_on_disk_is_refused(
    make_tuned: Callable[..., RunDirectory], tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    adapted = adapt(tiny_model("qwen3"), tmp_path, "lora")
    packed = tmp_path / "packed"
    shutil.copytree(adapted.base, packed)
    _change(packed / "config.json", quantization_config={"quant_method": "bitsandbytes"})
    assert "quantised" in str(refused(adapted.folder, base=str(packed)))


def test_a_context_without_room_for_a_conversation_is_told(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    adapted = adapt(tiny_model("qwen3", max_position_embeddings=12), tmp_path, "lora")
    with pytest.raises(ModelError, match="--proof numbers"):
        exported(adapted.folder, out=tmp_path / "merged")
