"""What the library's trainers get from us, whatever is optimised: the step, its evaluation, and
checkpoints that are whole or absent.

`Stepwise` stands in front of a trainer of TRL; a subclass of both says what a row and its loss are.
What is ours and why:

- A batch is one optimizer step's rows. `training_step` spreads them over forward passes, so the
  effective batch, the row order and the schedule never depend on memory (T12, T28), and resuming
  needs no replay (T6).
- The loss is over labelled positions only, with the gradient made in the forward pass (`loss.py`).
- Evaluation sums over the whole set and never gathers logits (T13, T31).
- Checkpoints are written aside, sealed and renamed (T14, T34).
"""

from __future__ import annotations

import contextlib
import gc
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tanren import loss as losses
from tanren import privacy
from tanren.adapter import load_weights
from tanren.batches import (
    Pass,
    Row,
    Rows,
    Step,
    StepLoader,
    StepOrder,
    as_they_are,
    assemble,
    plan,
    share,
)
from tanren.checkpoint import save_checkpoint, trained_weights
from tanren.config import RunConfig
from tanren.costs import Costs, Tally
from tanren.encode import Encoded
from tanren.errors import DivergenceError, Fault, OutOfMemoryError, WorkError
from tanren.methods import Group, Method
from tanren.model import assert_not_repacked, base_of
from tanren.rundir import RunDirectory
from tanren.schedule import factor
from tanren.verdict import evaluations, judge

privacy.apply()

from datasets import Dataset, disable_progress_bars  # noqa: E402 - telemetry must be off before
from transformers import (  # noqa: E402
    PreTrainedTokenizerFast,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)
from transformers import Trainer as HFTrainer  # noqa: E402
from transformers.trainer_callback import PrinterCallback  # noqa: E402

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel
    from transformers.trainer_utils import TrainOutput

    from tanren.evaluate.while_training import AnswerMetrics, Measured

disable_progress_bars()

WorkT = TypeVar("WorkT")


class Stepwise(HFTrainer, ABC):
    """Step, evaluation, groups and checkpoints described above, in front of a trainer of TRL."""

    def __init__(
        self,
        *,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerFast,
        method: Method,
        config: RunConfig,
        run: RunDirectory,
        train: Encoded,
        validation: Encoded | None,
        step: Step,
        learning_rate: float,
        dtype: torch.dtype,
        on_cpu: bool,
        save_weights: Callable[[Path], None],
        tell: Callable[..., None],
        answer_metrics: AnswerMetrics | None = None,
        costs: Costs | None = None,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        seed = config.seed if config.training.data_seed is None else config.training.data_seed
        rows = self._rows(train)
        self.step_loader = StepLoader(rows, StepOrder(len(rows), config.training.batch_size, seed))
        self.step = step
        self.method = method
        self.run = run
        self.run_config = config
        self.validation = validation
        self.save_weights = save_weights
        self.tell = tell
        self.answer_metrics = answer_metrics
        self.measured: Measured | None = None
        self.compute_dtype = dtype
        self.tokens_seen = 0
        self.tally = Tally()
        self.costs = costs or Costs()
        self.evaluation_seconds: list[float] = []
        self.stop_requested: str | None = None
        self.until_step: int | None = None
        self.stopped_early = False
        self.groups: list[Group] = []
        self._hidden: Tensor | None = None
        self._head_matches = False
        self._checked_gradients = False
        originals = {
            name: parameter.data
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }
        super().__init__(
            model=model,
            args=self._arguments(learning_rate=learning_rate, on_cpu=on_cpu),
            data_collator=as_they_are,
            train_dataset=_shown(rows),
            eval_dataset=_shown(self._rows(validation)) if validation is not None else None,
            processing_class=tokenizer,
            callbacks=list(callbacks),
        )
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:  # TRL rounds QLoRA adapters to bfloat16 (T33)
                parameter.data = originals[name]
        self.remove_callback(PrinterCallback)
        decoder = base_of(self.network).get_decoder()
        self._decoder_hook = decoder.register_forward_hook(self._keep_hidden)

    # --- what a subclass says ---------------------------------------------------------------------

    @abstractmethod
    def _arguments(self, *, learning_rate: float, on_cpu: bool) -> TrainingArguments:
        """Of the trainer that stands behind."""

    @abstractmethod
    def _rows(self, encoded: Encoded) -> Rows:
        """What a step is made of."""

    @abstractmethod
    def _weight(self, row: Any) -> int:
        """How much a row weighs in the mean that a step's loss is."""

    def _room(self, row: Any) -> int:
        """Tokens that a row takes in a pass."""
        return len(row)

    @abstractmethod
    def _pass_loss(
        self, model: nn.Module, rows: Sequence[Any], scale: float
    ) -> tuple[Tensor, dict[str, Tensor | float]]:
        """(loss of one pass, summed over its rows, times `scale`; sums for the tally)."""

    @abstractmethod
    def _said(self, sums: Mapping[str, float]) -> dict[str, float]:
        """What the tally's sums say of the steps since the last log line."""

    @abstractmethod
    def _summed(self, rows: Sequence[Any]) -> Tensor:
        """(n) float64: sums over these rows, of which the first is their loss."""

    @abstractmethod
    def _means(self, sums: Sequence[float]) -> dict[str, float]:
        """What an evaluation is told as, `loss` among it."""

    @property
    def network(self) -> nn.Module:
        """The model being trained, unwrapped."""
        assert isinstance(self.model, nn.Module)
        return self.model

    # --- data -------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader[list[Any]]:
        return self.step_loader

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], None]:
        """The step's rows; the loss divisor is counted in `training_step`, over all processes."""
        return [next(epoch_iterator)], None

    def floating_point_ops(self, inputs: Any) -> int:
        """Unused: the library's formula assumes full fine-tuning; `estimate` has ours."""
        return 0

    # --- optimizer --------------------------------------------------------------------------------

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Groups come from the method (T20); the class from `training.optimizer`."""
        if self.optimizer is None:
            kind, settings = self.get_optimizer_cls_and_kwargs(self.args)
            self.groups = self.method.optimizer_groups(
                self.network.named_parameters(),
                learning_rate=self.args.learning_rate,
                weight_decay=self.args.weight_decay,
            )
            if kind is torch.optim.AdamW and self.args.device.type == "cuda":
                settings["fused"] = True
            self.optimizer = kind(
                [
                    {
                        "params": [parameter for _, parameter in group.parameters],
                        "lr": group.learning_rate,
                        "weight_decay": group.weight_decay,
                        "name": group.name,
                    }
                    for group in self.groups
                ],
                **settings,
            )
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LambdaLR:
        """Our schedule: as the library's, but the first step has a rate."""
        if self.lr_scheduler is None:
            training = self.run_config.training
            rule = partial(
                factor,
                steps=num_training_steps,
                warmup_steps=math.ceil(training.warmup_fraction * num_training_steps),
                kind=training.schedule,
            )
            chosen = optimizer or self.optimizer
            assert chosen is not None
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(chosen, rule)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    # --- one optimizer step -----------------------------------------------------------------------

    def training_step(
        self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None
    ) -> Tensor:
        """Gradient of the mean loss over all the step's rows, on every process.

        When memory runs out, passes are halved and the step starts again: the effective batch stays
        (T28).
        """
        model.train()
        loss = self._with_room(inputs, lambda: self._accumulate(model, inputs))
        if self.args.world_size > 1:  # all see the same loss, so that all stop or none does
            dist.all_reduce(loss)
            loss /= self.args.world_size
        self.tokens_seen += sum(map(len, inputs))
        self.tally.keep()
        if not math.isfinite(float(loss)):
            self.diverged(f"a loss of {float(loss)}", step=self.state.global_step + 1)
        if not self._checked_gradients:
            self._check_gradients(model)
        return loss

    def _accumulate(self, model: nn.Module, rows: list[Any]) -> Tensor:
        ranks, rank = self.args.world_size, self.args.process_index
        divisor = max(sum(map(self._weight, rows)), 1)
        mine = (
            [rows[i] for i in share([len(row) for row in rows], ranks, rank)] if ranks > 1 else rows
        )
        # A process without a row joins the gradient exchange with a row that weighs nothing.
        weight = 1.0 if mine else 0.0
        mine = mine or rows[:1]
        passes = self._passes(mine)
        total = torch.zeros((), device=self.args.device)
        self.tally.drop()  # what a try that ran out of memory has counted
        for number, members in enumerate(passes, start=1):
            last = number == len(passes)
            with contextlib.nullcontext() if last else self.accelerator.no_sync(model):
                # DDP averages over processes; the divisor already counts all of them.
                scale = weight * ranks / divisor
                loss, sums = self._pass_loss(model, [mine[i] for i in members], scale)
                if weight:
                    self.tally.add(**sums)
                self.accelerator.backward(loss)
                total += loss.detach()
        return total

    def _passes(self, rows: Sequence[Any]) -> list[list[int]]:
        return plan(
            [self._room(row) for row in rows],
            self.step.micro_batch_tokens,
            side_by_side=self.step.side_by_side,
        )

    def _assemble(self, rows: Sequence[Row]) -> Pass:
        return assemble(
            rows,
            side_by_side=self.step.side_by_side,
            pad_id=self.step.pad_id,
            device=self.args.device,
        )

    def _keep_hidden(self, module: nn.Module, args: Any, output: Any) -> None:
        self._hidden = output[0] if isinstance(output, tuple) else output.last_hidden_state

    def _loss(self, model: nn.Module, batch: Pass, *, scale: float = 1.0) -> losses.Loss:
        """Summed loss of one pass, times `scale`. The head sees one position; the decoder's output
        goes to our own loss.
        """
        if not self._head_matches:
            return self._loss_from_logits(model, batch, scale)
        hidden, head = self._labelled_hidden(model, batch), output_head(base_of(self.network))
        return losses.linear_cross_entropy(
            hidden,
            head.weight,
            batch.targets,
            bias=head.bias,
            dtype=self._product_dtype(head.weight),
            scale=scale,
        )

    def _labelled_hidden(self, model: nn.Module, batch: Pass) -> Tensor:
        """(labelled positions, width): what the decoder hands to the head there."""
        model(**batch.model_inputs(), logits_to_keep=1)
        assert self._hidden is not None
        hidden = self._hidden.reshape(-1, self._hidden.shape[-1])[batch.labelled]
        self._hidden = None
        return hidden

    def _log_probs(self, model: nn.Module, batch: Pass) -> losses.LogProbs:
        """Of each labelled position of a pass, in the order of `batch.targets`."""
        if not self._head_matches:
            logits = model(**batch.model_inputs()).logits
            self._hidden = None
            wanted = logits.reshape(-1, logits.shape[-1])[batch.labelled].float()
            values = wanted.log_softmax(-1).gather(1, batch.targets.unsqueeze(1)).squeeze(1)
            return losses.LogProbs(values, wanted.detach().argmax(-1) == batch.targets)
        hidden, head = self._labelled_hidden(model, batch), output_head(base_of(self.network))
        return losses.linear_log_probs(
            hidden,
            head.weight,
            batch.targets,
            bias=head.bias,
            dtype=self._product_dtype(head.weight),
        )

    def _loss_from_logits(self, model: nn.Module, batch: Pass, scale: float) -> losses.Loss:
        """The model's own head, for architectures that scale or cap their logits."""
        logits = model(**batch.model_inputs()).logits
        self._hidden = None
        wanted = logits.reshape(-1, logits.shape[-1])[batch.labelled].float()
        total = nn.functional.cross_entropy(wanted, batch.targets, reduction="sum")
        return losses.Loss(total * scale, (wanted.detach().argmax(dim=-1) == batch.targets).sum())

    @property
    def _lower_precision(self) -> bool:
        return self.compute_dtype != torch.float32

    def _precision(self) -> torch.autocast:
        """Products in the compute type; what needs range (norms, softmax, loss) stays in
        float32.
        """
        kind = self.args.device.type
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=self._lower_precision)

    def _product_dtype(self, weight: Tensor) -> torch.dtype:
        return self.compute_dtype if self._lower_precision else weight.dtype

    def _with_room(self, rows: Sequence[Any], work: Callable[[], WorkT]) -> WorkT:
        """What `work` gives; done again with smaller passes for as long as memory runs out."""
        while True:
            try:
                return work()
            except torch.OutOfMemoryError as error:
                failed = str(error)  # not the error: its traceback holds the activations
            self._shrink(rows, failed)

    def _shrink(self, rows: Sequence[Any], error: str) -> None:
        longest = max(map(self._room, rows))
        budget = self.step.micro_batch_tokens
        self.network.zero_grad(set_to_none=True)
        self._hidden = None
        gc.collect()
        if self.args.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.args.world_size > 1 or budget <= longest:
            raise OutOfMemoryError(
                "out of memory",
                [
                    Fault(
                        "training.micro_batch_tokens",
                        f"{min(budget, longest)} tokens, which do not fit "
                        f"({error.splitlines()[0][:120]})",
                        "a pass that fits the memory",
                        f"set data.max_length below {longest}, "
                        "training.gradient_checkpointing=true, or use "
                        "method=qlora",
                    )
                ],
            )
        smaller = max(budget // 2, longest)
        self.step = Step(smaller, self.step.side_by_side, self.step.pad_id)
        self.tell(
            "out_of_memory", micro_batch_tokens=smaller, before=budget, step=self.state.global_step
        )

    def diverged(self, found: str, *, step: int | None = None) -> NoReturn:
        """Raise DivergenceError, naming the last good checkpoint.

        `step` counts from 1; None means the last finished one.
        """
        kept = self.run.complete_checkpoints()
        remedy = "lower training.learning_rate, or look at the rows of this step"
        if kept:
            remedy += f"; the last good checkpoint is {kept[-1].path}"
        raise DivergenceError(
            "training diverged",
            [Fault(f"step {step or self.state.global_step}", found, "finite numbers", remedy)],
        )

    def _check_gradients(self, model: nn.Module) -> None:
        """After the first step every trained tensor has a gradient (T22)."""
        self._checked_gradients = True
        without = [
            n for n, p in self.network.named_parameters() if p.requires_grad and p.grad is None
        ]
        if not without and any(
            bool(p.grad.any())
            for p in self.network.parameters()
            if p.requires_grad and p.grad is not None
        ):
            return
        names = ", ".join(without[:3]) or "all of them are zero"
        raise WorkError(
            "no gradient",
            [
                Fault(
                    "first step",
                    f"{len(without)} trained tensors without a gradient ({names})",
                    "a gradient for every trained tensor",
                    "set training.gradient_checkpointing=false and report this",
                )
            ],
        )

    # --- proofs before the first step -------------------------------------------------------------

    def prove_loss(self, rows: Sequence[Row]) -> float:
        """Compare our loss with the model's own logits; on a mismatch the model's head is used.
        Relative difference.
        """
        batch = assemble(
            list(rows), side_by_side=False, pad_id=self.step.pad_id, device=self.args.device
        )
        with evaluating(self.network), torch.no_grad(), self._precision():
            self._head_matches = False
            theirs = float(self._loss(self.network, batch).total)
            self._head_matches = output_head_is_linear(base_of(self.network))
            ours = float(self._loss(self.network, batch).total)
        difference = abs(ours - theirs) / max(abs(theirs), 1e-6)
        self._head_matches = self._head_matches and difference < (
            2e-2 if self.compute_dtype == torch.bfloat16 else 1e-4
        )
        return difference

    def prove_isolation(self, first: Row, second: Row) -> float:
        """How far one row's hidden states move when its neighbour changes, or from standing alone
        (T16). A value near rounding means that rows laid side by side do not see each other.

        The larger of two: the largest move when the neighbour changes, in units of the states' root
        mean square (same shapes, so it is 0 without a leak); and the relative distance (Euclidean
        norm) between standing beside it and standing alone.
        """
        changed = Row((first.ids[::-1] + 1) % max(int(first.ids.max()), 2), first.targets)
        with evaluating(self.network), torch.no_grad(), self._precision():
            alone = self._row_hidden([second], 0)
            beside = self._row_hidden([first, second], len(first))
            moved = self._row_hidden([changed, second], len(first))
        leak = (beside - moved).abs().max() / alone.pow(2).mean().sqrt()
        distance = (alone - beside).norm() / alone.norm()
        return float(torch.maximum(leak, distance))

    def _row_hidden(self, rows: list[Row], start: int) -> Tensor:
        batch = assemble(rows, side_by_side=True, pad_id=self.step.pad_id, device=self.args.device)
        self.network(**batch.model_inputs(), logits_to_keep=1)
        assert self._hidden is not None
        hidden = self._hidden[0, start : start + len(rows[-1])].float()
        self._hidden = None
        return hidden

    def probe(self, rows: Sequence[Any]) -> None:
        """One forward and backward pass over the longest rows, so that memory runs out now or never
        (T28).
        """
        states = torch.get_rng_state()
        cuda = torch.cuda.get_rng_state() if self.args.device.type == "cuda" else None
        self.training_step(self.network, list(rows))
        self.network.zero_grad(set_to_none=True)
        self.tokens_seen = 0
        self.tally = Tally()
        torch.set_rng_state(states)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda)

    @property
    def uses_own_loss(self) -> bool:
        """Whether the chunked loss was shown to be the model's own."""
        return self._head_matches

    def release(self) -> None:
        """Let go of model and optimizer, so that a fresh copy has room."""
        self._decoder_hook.remove()
        self._hidden = None
        self.groups = []
        del self.save_weights  # it holds the model too
        self.model = self.model_wrapped = self.optimizer = self.lr_scheduler = None  # type: ignore[assignment]
        self.callback_handler.model = self.callback_handler.optimizer = None
        self.accelerator.free_memory()

    # --- evaluation -------------------------------------------------------------------------------

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """What is measured over the whole validation set, whatever a pass holds (T31); and the
        metrics of answers that were asked for.
        """
        assert self.validation is not None
        began = time.monotonic()
        with self.costs.paused():
            found = {**self.measure(self.validation), **self._measure_answers()}
            self.evaluation_seconds.append(time.monotonic() - began)
            metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
            self.log(dict(metrics))
            self.control = self.callback_handler.on_evaluate(
                self.args, self.state, self.control, metrics
            )
        return metrics

    def measure(self, encoded: Encoded) -> dict[str, float]:
        """Means over any encoded rows."""
        everything = self._rows(encoded)
        rows = [everything[i] for i in range(len(everything))]
        rows = [
            rows[i]
            for i in share([len(r) for r in rows], self.args.world_size, self.args.process_index)
        ]
        sums = self._with_room(rows, lambda: self._summed(rows))
        if self.args.world_size > 1:
            dist.all_reduce(sums)
        assert_not_repacked(self.network)
        values: list[float] = sums.tolist()
        if not math.isfinite(values[0]):
            self.diverged(f"a validation loss of {values[0]}")
        return self._means(values)

    def _measure_answers(self) -> dict[str, float]:
        """Values of `evaluation.metrics`, without those that say nothing of these answers."""
        if self.answer_metrics is None:
            return {}
        self.measured = self.answer_metrics.measure(
            self.network, processes=self.args.world_size, process=self.args.process_index
        )
        self._hidden = None
        assert_not_repacked(self.network)
        return {name: value for name, value in self.measured.values.items() if value is not None}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Callbacks get what was measured, under the library's names; with a loss of training also
        what else was measured over the same steps.
        """
        if "loss" in logs:
            logs |= self._said(self.tally.take(self.args.world_size))
        HFTrainer.log(self, logs, start_time)

    # --- checkpoints ------------------------------------------------------------------------------

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """All that resuming needs, in a folder that is whole or absent; the newest K stay."""
        with self.costs.paused():
            save_checkpoint(self)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        """The library's own loader skips names it does not know with a remark in a log."""
        load_weights(self.network, trained_weights(Path(resume_from_checkpoint)))

    def fit(self, resume_from: Path | None = None) -> TrainOutput | None:
        """Train, from the start or from a complete checkpoint; None when nothing was left to do."""
        if resume_from is not None:
            self.step, saved = self.step.as_saved(resume_from)
            self.tokens_seen = int(saved["tokens_seen"])
            self.costs.go_on(saved)
            if self._was_over(resume_from):
                return None
        return self.train(resume_from_checkpoint=str(resume_from) if resume_from else None)

    def _was_over(self, checkpoint: Path) -> bool:
        """Whether training had ended at this checkpoint, by its steps or by early stopping.

        The library would take one step more. Then weights and history are all there is to load.
        """
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        rules = self.run_config.evaluation
        history = evaluations(state, rules.metric)
        patience = rules.early_stopping_patience
        stopped = bool(history and patience and judge(history, rules)[2] >= patience)
        if state.global_step < self.args.max_steps and not stopped:
            return False
        self.state = state
        self.stopped_early = stopped
        load_weights(self.network, trained_weights(checkpoint))
        self.create_optimizer()
        return True


def output_head(model: nn.Module) -> nn.Linear:
    """The head in use; inside PEFT's wrapper when it is trained whole."""
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    saved = getattr(head, "modules_to_save", None)
    return saved[head.active_adapters[0]] if saved is not None else head


def output_head_is_linear(model: nn.Module) -> bool:
    """Whether logits are the head's product alone: no scale, no cap on top of it."""
    text = model.config.get_text_config().to_dict()  # type: ignore[union-attr, operator]
    special = ("final_logit_softcapping", "logit_scale", "logits_scaling", "output_multiplier")
    plain = all(text.get(name) in (None, 1, 1.0) for name in special)
    return plain and isinstance(output_head(model), nn.Linear)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    before = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(before)


def _shown(rows: Rows) -> Dataset:
    """As many rows as there are, for the library to count; our loader reads them itself."""
    import pyarrow as pa

    return Dataset(pa.table({"input_ids": pa.array(range(len(rows)))}))
