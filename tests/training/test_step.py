"""One optimizer step: its gradient is that of the mean loss over the labelled tokens, however rows
are spread over passes (T12), and no row sees another (T16)."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn
from training.rig import (
    build_trainer,
    give_weights_to_b,
    gradients,
    largest_difference,
    of_kind,
)
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    Lfm2Config,
    Lfm2ForCausalLM,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_layers import GradientCheckpointingLayer

from tanren.batches import Row, plan
from tanren.errors import WorkError
from tanren.model import base_of, recompute_layers
from tanren.pipeline import ISOLATION_TOLERANCE, execute
from tanren.rundir import RunDirectory
from tanren.schedule import factor
from tanren.sft import Step, Trainer

MakeRun = Callable[..., RunDirectory]
ROOM = 10**6


def rows_of(trainer: Trainer) -> list[Row]:
    return [row for step in trainer.step_loader for row in step]


def by_hand(model: nn.Module, rows: list[Row]) -> tuple[float, dict[str, Tensor]]:
    """The definition: each row alone through the plain model, full logits, cross-entropies summed,
    divided by the number of labelled tokens of all rows; then its gradient.
    """
    model.zero_grad(set_to_none=True)
    total = torch.zeros((), dtype=torch.float64)
    labelled = 0
    for row in rows:
        ids = torch.tensor(row.ids[None].tolist())
        probabilities = model(input_ids=ids, use_cache=False).logits[0].log_softmax(dim=-1)
        for position, target in enumerate(row.targets.tolist()):
            if target != -100:
                total = total - probabilities[position, target].double()
                labelled += 1
    loss = total / labelled
    loss.backward()
    found = gradients(model)
    model.zero_grad(set_to_none=True)
    return float(loss.detach()), found


def step_gradients(
    trainer: Trainer, rows: list[Row], shape: Step
) -> tuple[float, dict[str, Tensor]]:
    trainer.step = shape
    trainer.model.zero_grad(set_to_none=True)
    loss = float(trainer.training_step(trainer.model, rows))
    found = gradients(trainer.model)
    trainer.model.zero_grad(set_to_none=True)
    return loss, found


# --- T12 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lora", "dora", "full"])
@pytest.mark.parametrize("side_by_side", [False, True], ids=["padded", "side by side"])
def test_the_gradient_is_that_of_the_mean_over_the_steps_tokens(
    make_run: MakeRun, method: str, side_by_side: bool
) -> None:
    """T12: one pass of 8 rows, 8 passes of one row and anything between give the gradient and loss
    of the definition, written out with full logits, one row at a time.
    """
    run = make_run("training.batch_size=8", method=method, rows=8)
    trainer = build_trainer(run, prepare=give_weights_to_b)
    rows = rows_of(trainer)
    assert len({row.labelled for row in rows}) > 1, "equal rows would hide a wrong divisor"
    expected_loss, expected = by_hand(trainer.model, rows)
    scale = max(float(gradient.abs().max()) for gradient in expected.values())

    longest, passes_seen = max(map(len, rows)), set()
    for budget in (ROOM, 3 * longest, 2 * longest, longest):
        shape = Step(budget, side_by_side, trainer.step.pad_id)
        passes_seen.add(len(plan([len(r) for r in rows], budget, side_by_side=side_by_side)))
        loss, found = step_gradients(trainer, rows, shape)
        assert loss == pytest.approx(expected_loss, abs=1e-6), budget
        assert largest_difference(found, expected) <= 1e-6 * max(scale, 1.0), budget
    assert 1 in passes_seen and len(passes_seen) >= 3
    if not side_by_side:
        assert len(rows) in passes_seen or max(passes_seen) >= 5


def test_a_mean_of_pass_means_would_be_another_gradient(make_run: MakeRun) -> None:
    """T12, the other half: what averaging over passes instead of tokens would give is far outside
    the tolerance above, so the test above can tell them apart.
    """
    trainer = build_trainer(make_run(rows=8), prepare=give_weights_to_b)
    rows = rows_of(trainer)
    _, right = by_hand(trainer.model, rows)
    parts = [by_hand(trainer.model, [row])[1] for row in rows]
    wrong = {name: sum(part[name] for part in parts) / len(rows) for name in right}
    assert largest_difference(wrong, right) > 1e-3  # type: ignore[arg-type]


def test_a_partial_last_step_counts_its_own_tokens(make_run: MakeRun) -> None:
    """T12: the last step of an epoch has fewer rows; its gradient is the mean over those alone."""
    trainer = build_trainer(make_run("training.batch_size=5", rows=7), prepare=give_weights_to_b)
    steps = list(trainer.step_loader)
    assert [len(rows) for rows in steps] == [5, 2]
    expected_loss, expected = by_hand(trainer.model, steps[1])
    for budget in (ROOM, max(map(len, steps[1]))):
        shape = Step(budget, True, trainer.step.pad_id)
        loss, found = step_gradients(trainer, steps[1], shape)
        assert loss == pytest.approx(expected_loss, abs=1e-6)
        assert largest_difference(found, expected) <= 1e-6


def test_whole_runs_do_not_depend_on_the_micro_batch(make_run: MakeRun) -> None:
    """T12 over a whole run: losses and weights of 8x1 and 1x8 agree, last partial step included."""
    results = []
    for tokens in (ROOM, 8):
        run = make_run(
            "training.batch_size=8",
            "training.num_epochs=2",
            f"training.micro_batch_tokens={tokens}",
            rows=13,
            name=f"tokens-{tokens}",
        )
        trainer = build_trainer(run, side_by_side=True)
        trainer.fit()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        weights = {n: p.detach() for n, p in trainer.model.named_parameters() if p.requires_grad}
        results.append((trainer.step.micro_batch_tokens, losses, weights))
    (much, losses, weights), (little, other_losses, other_weights) = results
    assert much == ROOM and little < 100
    assert len(losses) == 4
    assert losses == pytest.approx(other_losses, abs=1e-6)
    # AdamW divides by the gradient's own size: rounding of 1e-7 grows in its first steps.
    assert largest_difference(weights, other_weights) < 1e-5


# --- T16 ------------------------------------------------------------------------------------------


def test_rows_laid_side_by_side_do_not_see_each_other(make_run: MakeRun) -> None:
    """T16: the proof at start finds nothing but rounding, and the run says that it packs."""
    run = make_run("training.max_steps=1")
    trainer = build_trainer(run, side_by_side=True, prepare=give_weights_to_b)
    first, second = rows_of(trainer)[:2]
    assert trainer.prove_isolation(first, second) < 1e-5

    losses = []
    for neighbour in (first, Row(first.ids[::-1].copy(), first.targets), None):
        rows = [second] if neighbour is None else [neighbour, second]
        losses.append(_second_rows_loss(trainer, rows))
    assert losses == pytest.approx([losses[0]] * 3, abs=1e-6)


def _second_rows_loss(trainer: Trainer, rows: list[Row]) -> float:
    """Summed loss of the last of `rows`, laid side by side behind the others."""
    silent = [Row(row.ids, row.targets * 0 - 100) for row in rows[:-1]]
    with torch.no_grad():
        found = trainer._loss(trainer.model, trainer._assemble([*silent, rows[-1]]))
    return float(found.total)


def _blind(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention over the whole sequence, wherever rows begin."""
    return sdpa_attention_forward(module, query, key, value, None, scaling=scaling, is_causal=True)


@pytest.mark.parametrize("family", ["qwen3", "gemma3"])
def test_an_attention_that_ignores_boundaries_is_found_out(make_run: MakeRun, family: str) -> None:
    """T16: under an attention that knows nothing of `cu_seq_lens_q` rows move each other far beyond
    the tolerance that decides.
    """
    AttentionInterface.register("blind", _blind)
    AttentionMaskInterface.register("blind", lambda *args, **kwargs: None)
    run = make_run("training.max_steps=1", family=family)
    leaking = build_trainer(run, attention_name="blind")
    first, second = rows_of(leaking)[:2]
    assert leaking.prove_isolation(first, second) > 100 * ISOLATION_TOLERANCE[torch.float32]


def test_a_model_whose_layers_mix_neighbours_trains_padded_and_says_so(
    make_run: MakeRun, tmp_path: Path
) -> None:
    """T16: LFM2's convolutions run over row boundaries, whatever the attention does. The pipeline
    finds that on the loaded model, notes it, and trains with padding: the same steps, the same loss
    as when told not to pack.
    """
    model = lfm2(tmp_path / "lfm2")
    outcomes = []
    for packing in ("auto", "false"):
        run = make_run(f"model.name={model}", f"training.packing={packing}", name=packing)
        execute(run)
        started = of_kind(run, "started")[0]
        notes = [event["text"] for event in of_kind(run, "note")]
        outcomes.append((started["side_by_side"], [e["loss"] for e in of_kind(run, "step")]))
        assert any("packing is off" in note for note in notes) == (packing == "auto"), notes
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][0] is False


def lfm2(folder: Path) -> Path:
    """A tiny model of convolutions and attention."""
    tokenizer = tiny.build_tokenizer()
    config = Lfm2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        layer_types=["conv", "full_attention"],
        max_position_embeddings=256,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    torch.manual_seed(3)
    Lfm2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# --- rates ----------------------------------------------------------------------------------------


class _Rates(TrainerCallback):
    """The rate of each optimizer group at the moment it is used."""

    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        groups = kwargs["optimizer"].param_groups
        self.seen.append({group["name"]: group["lr"] for group in groups})


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_each_groups_rate_is_its_peak_times_the_schedule(make_run: MakeRun, schedule: str) -> None:
    """T20: B learns `lr_ratio` times as fast as A at every step, both follow the schedule, and the
    first step already has a rate.
    """
    run = make_run(
        f"training.schedule={schedule}",
        "training.max_steps=7",
        "training.num_epochs=9",
        "training.warmup_fraction=0.4",
        method={"name": "dora", "lr_ratio": 4},
    )
    rates = _Rates()
    build_trainer(run, callbacks=[rates]).fit()
    peaks = {"A": 1e-3, "B": 4e-3, "magnitude": 1e-3}
    expected = [
        {
            name: peak * factor(step, steps=7, warmup_steps=math.ceil(0.4 * 7), kind=schedule)  # type: ignore[arg-type]
            for name, peak in peaks.items()
        }
        for step in range(7)
    ]
    assert rates.seen == [pytest.approx(rate) for rate in expected]
    assert all(rate > 0 for rate in rates.seen[0].values())
    assert rates.seen[2] == pytest.approx(peaks), "the peak is reached where warm-up ends"


def test_the_logged_rate_is_the_one_that_was_used(make_run: MakeRun) -> None:
    """A step's event shows the rate of that step, not of the next."""
    run = make_run("training.warmup_fraction=1.0", "training.num_epochs=2", rows=6)
    execute(run)
    logged = [event["learning_rate"] for event in of_kind(run, "step")]
    assert logged == pytest.approx([1e-3 * (step + 1) / 6 for step in range(6)])


# --- gradient checkpointing -----------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_recomputing_activations_changes_no_gradient(make_run: MakeRun, method: str) -> None:
    """T22: with every layer recomputed, and with the first alone, gradients are what they are
    without; every trained tensor has one.
    """
    found = []
    for layers in (0, 1, 2):

        def prepare(model: nn.Module, layers: int = layers) -> None:
            give_weights_to_b(model)
            recompute_layers(base_of(model), layers)

        run = make_run("training.batch_size=6", method=method, rows=6, name=f"layers-{layers}")
        trainer = build_trainer(run, side_by_side=True, prepare=prepare)
        recomputed = [
            layer
            for layer in trainer.model.modules()
            if isinstance(layer, GradientCheckpointingLayer) and layer.gradient_checkpointing
        ]
        assert len(recomputed) == layers
        found.append(step_gradients(trainer, rows_of(trainer), trainer.step))
    for loss, gradient in found[1:]:
        assert loss == found[0][0]
        assert largest_difference(gradient, found[0][1]) <= 1e-7
    assert all(bool(gradient.any()) for gradient in found[2][1].values())


class _Detached(nn.Module):
    """A layer through which no gradient passes, as when checkpointing loses it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        out = self.layer(*args, **kwargs)
        return out.detach()


def test_a_trained_tensor_without_gradient_ends_the_run(make_run: MakeRun) -> None:
    """T22: the first step shows that the layers below the cut learn nothing; the error says how
    many tensors and names some.
    """

    def cut(model: nn.Module) -> None:
        layers = base_of(model).get_decoder().layers
        layers[0] = _Detached(layers[0])

    trainer = build_trainer(make_run(), prepare=cut)
    with pytest.raises(WorkError, match="without a gradient") as raised:
        trainer.fit()
    assert trainer.state.global_step == 0
    names = [
        n for n, p in trainer.model.named_parameters() if p.requires_grad and ".layers.0." in n
    ]
    assert f"{len(names)} trained tensors" in raised.value.faults[0].found
    assert raised.value.exit_code == 1


def test_a_gradient_of_zero_everywhere_ends_the_run(make_run: MakeRun) -> None:
    """T22: a gradient that exists and is zero learns as little."""

    def silence(model: nn.Module) -> None:
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.register_hook(torch.zeros_like)

    trainer = build_trainer(make_run(), prepare=silence)
    with pytest.raises(WorkError, match="zero"):
        trainer.fit()
