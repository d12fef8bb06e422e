"""Damaged, half and hostile inputs: each ends in faults that say where and what to do."""

from __future__ import annotations

import copy
import json
import os
import resource
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from export.adapted import adapt, nudge
from export.exporting import Heard, as_if_trained, exported
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from tanren.config import ModelConfig
from tanren.errors import ModelError, StorageError, UserError
from tanren.export.exports import Request, export
from tanren.export.merge.adapter_file import AdapterFile
from tanren.export.merge.checkpoint import INDEX, Checkpoint
from tanren.export.request import require_free
from tanren.export.tuned import open_tuned
from tanren.model import known_architecture, load_tokenizer_from, locate, locate_base
from tanren.rundir import RunDirectory

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Path:
    """One for all tests here, which copy what they change."""
    return adapt(tiny_model(), tmp_path_factory.mktemp("adapter"), "lora").folder


@pytest.fixture
def mine(adapter: Path, tmp_path: Path) -> Path:
    return shutil.copytree(adapter, tmp_path / "adapter")


@pytest.fixture
def base(tiny_model: Callable[..., Path], tmp_path: Path) -> Path:
    return shutil.copytree(tiny_model(), tmp_path / "base")


@pytest.fixture
def run(make_config: Callable[..., Any], tmp_path: Path) -> RunDirectory:
    return as_if_trained(make_config(), tmp_path / "run")


def change(file: Path, **values: Any) -> None:
    known = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**known, **values}), encoding="utf-8")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def outline(base: Path) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))


# --- where an export may lie ----------------------------------------------------------------------


@pytest.mark.parametrize("place", ["run", "adapter", "base", "above"])
def test_overwriting_spares_what_the_export_is_made_from(
    place: str, base: Path, tmp_path: Path
) -> None:
    train = tiny.write_rows(tmp_path / "train.jsonl")
    run = as_if_trained(tiny.settings(base, train), tmp_path / "run")
    out = {"run": run.path, "adapter": run.adapter, "base": base, "above": tmp_path}[place]
    before = contents(tmp_path)
    with pytest.raises(UserError, match="a folder in which the") as caught:
        exported(run, out=out, overwrite=True, prompts=1)
    assert caught.value.faults[0].remedy == "choose another --out"
    assert contents(tmp_path) == before


def test_a_link_to_the_run_is_the_run(run: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(run.path)
    with pytest.raises(UserError, match="a folder in which the run lies"):
        exported(run, out=tmp_path / "link", overwrite=True, prompts=1)
    assert run.adapter.is_dir()


def test_only_an_earlier_export_is_overwritten(run: RunDirectory, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(UserError, match="something that no export made"):
        exported(run, out=out, overwrite=True, prompts=1)
    (out / "thesis.txt").unlink()
    exported(run, out=out, prompts=1)
    with pytest.raises(UserError, match=r"or add --overwrite"):
        exported(run, out=out, prompts=1)
    (out / "notes").mkdir()
    (out / "notes" / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match=r"1 files .* notes/mine\.txt"):
        exported(run, out=out, overwrite=True, prompts=1)
    shutil.rmtree(out / "notes")
    (out / "README.md").write_text("edited", encoding="utf-8")
    before = (out / "COMPLETE.json").stat().st_ino
    assert exported(run, out=out, overwrite=True, prompts=1).folder == out
    assert (out / "COMPLETE.json").stat().st_ino != before


def test_the_folder_one_stands_in(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    done = exported(run, out=Path("."), prompts=1)
    assert done.folder == tmp_path / "empty" and (done.folder / "model.safetensors").is_file()
    assert done.bytes > 100_000


def test_a_link_stays_and_what_it_leads_to_is_written(run: RunDirectory, tmp_path: Path) -> None:
    target, link = tmp_path / "disk" / "model", tmp_path / "link"
    link.symlink_to(target)
    for overwrite in (False, True):
        exported(run, out=link, overwrite=overwrite, prompts=1)
        assert link.is_symlink() and (target / "model.safetensors").is_file()
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_is_no_folder(run: RunDirectory, tmp_path: Path, overwrite: bool) -> None:
    file = tmp_path / "file"
    file.write_text("x", encoding="utf-8")
    with pytest.raises(UserError, match="found a file, expected a new or empty folder"):
        exported(run, out=file, overwrite=overwrite, prompts=1)
    with pytest.raises(StorageError, match="a file where a folder is needed"):
        exported(run, out=file / "x", overwrite=overwrite, prompts=1)
    assert file.read_text(encoding="utf-8") == "x" and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("length", [250, 260])
def test_a_name_that_is_too_long_is_refused_before_any_work(
    run: RunDirectory, tmp_path: Path, length: int
) -> None:
    heard = Heard()
    with pytest.raises(StorageError, match="choose a shorter --out"):
        exported(run, heard, out=tmp_path / "new" / ("x" * length), prompts=1)
    assert heard.stages == [] and not (tmp_path / "new").exists()


@pytest.fixture
def ordinary_user() -> Iterator[Path]:
    """A folder that everybody may enter; whoever runs the tests is root no longer, if they were."""
    place = Path(tempfile.mkdtemp(prefix="tanren-ordinary-user-"))
    place.chmod(0o755)
    before = os.geteuid()
    try:
        yield place
    finally:
        os.seteuid(before)
        shutil.rmtree(place)


def step_down() -> None:
    if os.geteuid() == 0:
        os.seteuid(65534)


def test_a_parent_that_cannot_be_written_is_refused(run: RunDirectory, ordinary_user: Path) -> None:
    tuned = open_tuned(str(run.path))
    out = ordinary_user / "locked" / "new" / "x"
    (ordinary_user / "locked").mkdir(mode=0o555)
    step_down()
    with pytest.raises(StorageError, match="cannot be written"):
        require_free(tuned, out, Request(out=out))


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file above 100 kB, as `ulimit -f` would have it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("run", "small_files")
def test_a_limit_on_the_size_of_files_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="larger than may be written here"):
        exported(tmp_path / "run", out=tmp_path / "new" / "out", prompts=1)
    assert not (tmp_path / "new").exists(), "nothing is left, not even the folder above"


# --- adapter_config.json --------------------------------------------------------------------------

WRONG: dict[str, list[Any]] = {
    "r": [None, "8", 0, 4.0, True, [4]],
    "lora_alpha": [None, "16", float("nan"), [1]],
    "rank_pattern": [[1], {"(": 3}, {"q_proj": "a"}, {"q_proj": 0}],
    "alpha_pattern": [[1], {"(": 3}, {"q_proj": "a"}, {"q_proj": float("inf")}],
    "target_modules": [5, "(", [1]],
    "target_parameters": [5, "mlp", [None]],
    "modules_to_save": ["lm_head", {}],
    "layers_to_transform": ["1", [-1]],
    "trainable_token_indices": [7, ["a"], {"embed_tokens": 3}],
    "use_dora": ["yes"],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_setting_of_a_wrong_type_is_named(mine: Path, name: str) -> None:
    for value in WRONG[name]:
        change(mine / CONFIG, **{name: value})
        with pytest.raises(ModelError) as caught:
            AdapterFile.read(mine)
        assert [f.where for f in caught.value.faults] == [f"{mine / CONFIG} {name}"], value


def test_all_faults_of_an_adapter_come_at_once(mine: Path) -> None:
    settings = json.loads((mine / CONFIG).read_text(encoding="utf-8"))
    del settings["r"], settings["lora_alpha"]
    settings |= {"init_lora_weights": "OLoRA", "use_qalora": True, "alpha_pattern": {"(": 1}}
    (mine / CONFIG).write_text(json.dumps(settings), encoding="utf-8")
    tensors = load_file(mine / WEIGHTS)
    first = next(iter(tensors))
    save_file({**tensors, first: tensors[first].reshape(-1), "x": torch.ones(1)}, mine / WEIGHTS)
    with pytest.raises(ModelError) as caught:
        AdapterFile.read(mine)
    assert len(caught.value.faults) == 7
    assert {"nothing"} == {f.found for f in caught.value.faults[:2]}


@pytest.mark.parametrize(
    "start", ["pissa", "PiSSA_niter_4", "OLoRA", "CorDA", "LoftQ", "lora_ga", "LoRA-GA"]
)
def test_a_start_that_changes_the_base_is_refused_however_it_is_written(
    mine: Path, start: str
) -> None:
    change(mine / CONFIG, init_lora_weights=start)
    with pytest.raises(ModelError, match="convert it"):
        AdapterFile.read(mine)


@pytest.mark.parametrize("start", ["eva", "gaussian", "orthogonal", True, False])
def test_a_start_that_leaves_the_base_alone_is_merged(mine: Path, start: object) -> None:
    change(mine / CONFIG, init_lora_weights=start)
    assert AdapterFile.read(mine).layers


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe{}", b"\xef\xbb\xbf{}", b"[" * 100_000])
def test_an_unreadable_configuration_is_named(mine: Path, text: bytes) -> None:
    (mine / CONFIG).write_bytes(text)
    with pytest.raises(ModelError, match=r"adapter_config\.json: found no readable file"):
        AdapterFile.read(mine)


# --- the adapter's tensors ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda t: t.reshape(-1), "no matrix of numbers"),
        (lambda t: t[None], "no matrix of numbers"),
        (lambda t: t.int(), "no matrix of numbers"),
    ],
)
def test_tensors_that_are_no_matrices_are_refused(
    mine: Path, spoil: Callable[[torch.Tensor], torch.Tensor], words: str
) -> None:
    tensors = load_file(mine / WEIGHTS)
    save_file(
        {name: spoil(tensor).contiguous() for name, tensor in tensors.items()}, mine / WEIGHTS
    )
    with pytest.raises(ModelError, match=words):
        AdapterFile.read(mine)


def test_an_adapter_without_tensors_is_refused(mine: Path) -> None:
    save_file({}, mine / WEIGHTS)
    with pytest.raises(ModelError, match="found no tensors"):
        AdapterFile.read(mine)


def test_a_pickled_adapter_says_how_to_convert_it(mine: Path) -> None:
    (mine / WEIGHTS).rename(mine / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"pickled .* save_pretrained, which writes safetensors"):
        AdapterFile.read(mine)


PEFT: list[dict[str, Any]] = [
    {"layers_to_transform": [1]},
    {"exclude_modules": ["layers.0.mlp.down_proj"]},
    {"target_modules": "all-linear"},
    {"target_modules": r".*\.1\..*q_proj"},
    {"rank_pattern": {"q_proj": 2}, "use_dora": True},
    {"trainable_token_indices": [3, 7]},
    {"modules_to_save": ["norm"]},
]
RUNS: list[tuple[str, str, dict[str, Any]]] = [
    ("qwen3", "eva", {}),
    ("qwen3", "pissa", {}),
    ("llama-tied", "lora", {"modules_to_save": ["embed_tokens"]}),
    ("llama-tied", "lora", {"modules_to_save": ["lm_head"]}),
    ("mixtral", "lora", {"target_parameters": ["experts.down_proj", "experts.gate_up_proj"]}),
]


def require_nothing_can_be_lost(folder: Path, base: Path) -> None:
    """The adapter is complete as it is; without any one of its parts it is not."""
    whole, model = AdapterFile.read(folder), outline(base)
    whole.require_all(model)
    for part in ("layers", "whole", "token_rows"):
        for key in getattr(whole, part):
            half = copy.copy(whole)
            setattr(half, part, {k: v for k, v in getattr(whole, part).items() if k != key})
            with pytest.raises(ModelError, match="found nothing for"):
                half.require_all(model)


@pytest.mark.parametrize("settings", PEFT, ids=str)
def test_half_an_adapter_is_refused_and_a_whole_one_is_not(
    tiny_model: Callable[..., Path], tmp_path: Path, settings: dict[str, Any]
) -> None:
    base = tiny_model()
    model = AutoModelForCausalLM.from_pretrained(base)
    chosen = {"r": 4, "target_modules": ["q_proj", "down_proj"], **settings}
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **chosen))
    nudge(adapted)
    adapted.save_pretrained(str(tmp_path), save_embedding_layers=False)
    require_nothing_can_be_lost(tmp_path, base)


@pytest.mark.parametrize(("family", "method", "settings"), RUNS, ids=str)
def test_half_of_what_training_leaves_is_refused_and_the_whole_is_not(
    tiny_model: Callable[..., Path],
    tmp_path: Path,
    family: str,
    method: str,
    settings: dict[str, Any],
) -> None:
    base = tiny_model(family)
    adapted = adapt(base, tmp_path, method, **settings)
    if family == "llama-tied":  # either of the tied ends is enough
        AdapterFile.read(adapted.folder).require_all(outline(base))
    else:
        require_nothing_can_be_lost(adapted.folder, base)


@pytest.mark.parametrize("end", ["model.embed_tokens", "lm_head"])
def test_one_of_two_tied_ends_is_enough(
    tiny_model: Callable[..., Path], tmp_path: Path, end: str
) -> None:
    """Which of them is saved depends on the version of PEFT."""
    base = tiny_model("llama-tied")
    folder = adapt(base, tmp_path, "lora", modules_to_save=["embed_tokens"]).folder
    whole = AdapterFile.read(folder)
    assert len(whole.whole) == 2
    whole.whole = {f"{end}.weight": whole.whole[f"{end}.weight"]}
    whole.require_all(outline(base))
    whole.whole = {}
    with pytest.raises(ModelError, match="found nothing for"):
        whole.require_all(outline(base))


def test_layers_to_which_eva_gave_no_rank_are_not_missed(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    """PEFT then takes them out of the targets, which it spells out."""
    base = tiny_model()
    adapted = adapt(base, tmp_path, "eva").folder
    kept = {n: t for n, t in load_file(adapted / WEIGHTS).items() if ".1.mlp.up_proj" not in n}
    save_file(kept, adapted / WEIGHTS)
    with pytest.raises(ModelError, match=r"nothing for model\.layers\.1\.mlp\.up_proj, expected"):
        AdapterFile.read(adapted).require_all(outline(base))
    names = sorted({n.split(".lora_")[0].removeprefix("base_model.model.") for n in kept})
    change(adapted / CONFIG, target_modules=names)
    AdapterFile.read(adapted).require_all(outline(base))


def test_lost_magnitudes_of_dora_are_missed(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    base = tiny_model()
    folder = adapt(base, tmp_path, "dora").folder
    kept = {n: t for n, t in load_file(folder / WEIGHTS).items() if "magnitude" not in n}
    save_file(kept, folder / WEIGHTS)
    with pytest.raises(ModelError, match=r"the magnitude of .* and 11 more"):
        AdapterFile.read(folder).require_all(outline(base))


def test_targets_that_the_base_does_not_have_are_named(mine: Path, base: Path) -> None:
    change(mine / CONFIG, target_modules=["c_attn"])
    with pytest.raises(ModelError, match="settings that PEFT cannot put on this base"):
        AdapterFile.read(mine).require_all(outline(base))


# --- the base's files -----------------------------------------------------------------------------


def write_header(file: Path, header: Any, data: bytes = b"") -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)


def described(**facts: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **facts}}


@pytest.mark.parametrize(
    "header",
    [
        [],
        "abc",
        {},
        {"__metadata__": {}},
        {"a": None},
        {"a": 5},
        b'{"a":' + b"[" * 100_000,
        b'{"\xff": 1}',
        described(shape="ab"),
        described(shape=[-1], data_offsets=[4, 0]),
        described(shape=[1.0]),
        described(data_offsets=[-4, 0]),
        described(data_offsets=[0, 4, 8]),
        described(data_offsets=[4, 8]),
        described(dtype=["F32"]),
        described(dtype="F3"),
    ],
    ids=lambda header: str(header)[:60],
)
def test_a_header_that_makes_no_sense_is_a_damaged_file(tmp_path: Path, header: Any) -> None:
    write_header(tmp_path / "model.safetensors", header, b"0000")
    with pytest.raises(ModelError, match=r"model\.safetensors: found a damaged file"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize(
    "index",
    ["{", "[]", "[" * 100_000]
    + [
        json.dumps({"weight_map": names})
        for names in (None, {}, {"a": 3}, {"a": ["x"]}, {"a": "x", "b": 3}, {"a": "../x"})
    ],
    ids=lambda index: index[:40],
)
def test_an_index_that_makes_no_sense_is_damaged(tmp_path: Path, index: str) -> None:
    (tmp_path / INDEX).write_text(index, encoding="utf-8")
    with pytest.raises(ModelError, match="found a damaged index"):
        Checkpoint(tmp_path)


def test_of_a_single_file_and_an_index_transformers_reads_the_single_file(base: Path) -> None:
    tensors = load_file(base / "model.safetensors")
    shard = "model-00001-of-00001.safetensors"
    save_file({n: 1.5 * t for n, t in tensors.items()}, base / shard, metadata={"format": "pt"})
    names = dict.fromkeys(tensors, shard)
    (base / INDEX).write_text(json.dumps({"weight_map": names}), encoding="utf-8")
    name = "model.norm.weight"
    loaded = AutoModelForCausalLM.from_pretrained(base).get_parameter(name)
    assert torch.equal(Checkpoint(base).read(name), loaded)
    assert torch.equal(loaded, tensors[name])


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_that_may_not_be_read_is_named(
    tiny_model: Callable[..., Path], ordinary_user: Path, name: str
) -> None:
    base = shutil.copytree(tiny_model(), ordinary_user / "base")
    base.chmod(0o755)
    for file in base.iterdir():
        file.chmod(0 if file.name == name else 0o644)
    step_down()
    with pytest.raises(ModelError, match=rf"{name}: found .*Permission denied"):
        locate(ModelConfig(name=str(base)))
    if name == "model.safetensors":
        with pytest.raises(ModelError, match=rf"{name}: found .*Permission denied"):
            Checkpoint(base)


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("config.json", "{", "JSON object"),
        ("config.json", "[" * 100_000, "JSON object"),
        ("generation_config.json", "{", "JSON object"),
        ("generation_config.json", "[]", "JSON object"),
        ("generation_config.json", '{"eos_token_id": "x"}', "token ids"),
        ("tokenizer_config.json", "[]", "JSON object"),
    ],
)
def test_broken_settings_of_a_base_are_named(base: Path, file: str, text: str, words: str) -> None:
    (base / file).write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match=words) as caught:
        locate(ModelConfig(name=str(base)))
    (fault,) = caught.value.faults
    assert fault.where.startswith(f"{base}/{file}")


@pytest.mark.parametrize(
    "values",
    [{"num_hidden_layers": 3}, {"hidden_size": "x"}, {"dtype": "float99"}, {"model_type": "zzz"}],
    ids=str,
)
def test_a_configuration_that_transformers_refuses_is_named(
    base: Path, values: dict[str, Any]
) -> None:
    change(base / "config.json", **values)
    with pytest.raises(ModelError, match=r"config\.json: found"):
        known_architecture(locate(ModelConfig(name=str(base))))


def test_a_model_that_writes_no_text_is_refused(base: Path) -> None:
    (base / "config.json").write_text('{"model_type": "t5"}', encoding="utf-8")
    with pytest.raises(ModelError, match="'t5', expected a causal language model"):
        known_architecture(locate(ModelConfig(name=str(base))))


@pytest.mark.parametrize("text", ["{}", "{", "[]"])
def test_a_damaged_tokenizer_is_named(base: Path, text: str) -> None:
    (base / "tokenizer.json").write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match="no usable tokenizer"):
        load_tokenizer_from(base)


def test_a_configuration_of_another_shape_is_named(mine: Path, base: Path, tmp_path: Path) -> None:
    change(base / "config.json", vocab_size=7)
    tuned = open_tuned(str(mine), base=str(base))
    with pytest.raises(ModelError, match="could not be loaded"):
        export(tuned, Request(out=tmp_path / "out", prompts=1), Heard())


@pytest.mark.parametrize("name", ["/nowhere/base", "./nowhere"])
def test_a_base_that_was_moved_is_asked_for(name: str) -> None:
    with pytest.raises(ModelError) as caught:
        locate_base(name, None)
    assert "--base FOLDER" in caught.value.faults[0].remedy
    with pytest.raises(ModelError) as caught:
        locate(ModelConfig(name=name))
    assert "--base" not in caught.value.faults[0].remedy, "training has no such option"
