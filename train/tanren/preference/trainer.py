"""TRL's DPOTrainer on our pairs (Rafailov et al. 2023, arXiv:2305.18290).

    loss = -log sigmoid(beta * ((pc - rc) - (pr - rr)))

with pc, pr the summed log-probabilities of the preferred and the rejected answer, and rc, rr those
of the reference, which is the model before training. They never change, so they are computed once
(`reference.py`) and no second model is held: not while training adapters, and not while training
every weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tanren import privacy
from tanren.arguments import common_arguments, on_one_device
from tanren.batches import Row
from tanren.encode import Encoded
from tanren.preference.pairs import Pair, Pairs
from tanren.stepwise import Stepwise, evaluating

privacy.apply()

from trl import DPOConfig, DPOTrainer  # noqa: E402 - telemetry must be off before

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from numpy.typing import NDArray
    from transformers import PretrainedConfig

    from tanren.preference.reference import References

SUMS = ("loss", "chosen", "rejected", "accurate", "pairs", "correct", "labelled")


class _NoReference(nn.Module):
    """Stands where the library would put a second model or a second adapter."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self) -> None:
        raise AssertionError("reference log-probabilities are computed once, by ourselves")


class _WithoutReference(DPOTrainer):
    """DPOTrainer as it is, with neither a reference model nor changes to the model's forward."""

    def __init__(self, *, model: Any, args: DPOConfig, **others: Any) -> None:
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        before = vars(base).get("forward")
        nobody: Any = _NoReference(base.config)
        super().__init__(model=model, ref_model=nobody, args=args, **others)
        self.ref_model = None
        if before is None:  # the library's head, which our loss does without
            vars(base).pop("forward", None)
        else:
            base.forward = before

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        """Our rows are encoded already."""
        return dataset


class PreferenceTrainer(Stepwise, _WithoutReference):
    """DPOTrainer with our step, evaluation, groups and checkpoints. A row is a `Pair`, and a pass
    holds both halves of its pairs.
    """

    references: References | None = None
    """Set before the first step."""

    def _arguments(self, *, learning_rate: float, on_cpu: bool) -> DPOConfig:
        common = common_arguments(
            self.run_config,
            self.run,
            DPOConfig,
            learning_rate=learning_rate,
            steps_per_epoch=len(self.step_loader),
            on_cpu=on_cpu,
        )
        beta = self.run_config.objective.beta
        return on_one_device(DPOConfig(**common, beta=beta, disable_dropout=False))

    def _rows(self, encoded: Encoded) -> Pairs:
        known = self.references.of(encoded) if self.references is not None else None
        return Pairs(encoded, known)

    def use(self, references: References, train: Encoded) -> None:
        """What the step and evaluations compare with from now on."""
        self.references = references
        pairs = self.step_loader.dataset
        assert isinstance(pairs, Pairs)
        pairs.reference = references.of(train)

    def _weight(self, row: Pair) -> int:
        return 1

    def _room(self, row: Pair) -> int:
        if self.step.side_by_side:
            return len(row)
        return 2 * max(len(row.preferred), len(row.rejected))

    # --- the loss ---------------------------------------------------------------------------------

    def _pass_loss(
        self, model: nn.Module, rows: Sequence[Pair], scale: float
    ) -> tuple[Tensor, dict[str, Tensor | float]]:
        losses, sums = self._compared(model, rows)
        return losses.sum() * scale, dict(zip(SUMS[1:], sums[1:].unbind(), strict=True))

    def _compared(self, model: nn.Module, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
        """((pairs) losses with gradient, (7) sums as `SUMS` names them)."""
        answers, correct, labelled = self._answers(model, pairs)
        reference = answers.new_tensor([pair.reference for pair in pairs])
        rewards = self.run_config.objective.beta * (answers - reference)
        margins = rewards[:, 0] - rewards[:, 1]
        losses = -nn.functional.logsigmoid(margins)
        with torch.no_grad():
            sums = torch.stack(
                [
                    losses.sum(),
                    *rewards.sum(dim=0),
                    (margins > 0).sum(),
                    margins.new_tensor(len(pairs)),
                    correct,
                    margins.new_tensor(labelled),
                ]
            ).double()
        return losses, sums

    def _answers(self, model: nn.Module, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor, int]:
        """((pairs, 2) summed log-probabilities with gradient; how many tokens of the preferred
        answers were the most likely ones; how many they have).
        """
        rows: list[Row] = [half for pair in pairs for half in (pair.preferred, pair.rejected)]
        batch = self._assemble(rows)
        with self._precision():
            found = self._log_probs(model, batch)
        counts = [row.labelled for row in rows]
        sums = torch.stack([part.sum() for part in found.values.split(counts)])
        preferred = torch.stack([part.sum() for part in found.correct.split(counts)])[::2].sum()
        return sums.reshape(-1, 2), preferred, sum(counts[::2])

    def answer_log_probs(self, encoded: Encoded) -> NDArray[np.float32]:
        """(pairs, 2) of the model as it is now, in evaluation mode."""
        import numpy as np

        pairs = Pairs(encoded)
        rows = [pairs[i] for i in range(len(pairs))]
        found = np.empty((len(rows), 2), dtype=np.float32)

        def ask() -> None:
            with evaluating(self.network), torch.no_grad():
                for members in self._passes(rows):
                    answers, _, _ = self._answers(self.network, [rows[i] for i in members])
                    found[members] = answers.cpu().numpy()

        self._with_room(rows, ask)
        return found

    # --- what is told -----------------------------------------------------------------------------

    def _said(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Means over the pairs of the steps. A reward is beta times the log-probability that an
        answer gained over the reference; `token_accuracy` is of the preferred answers.
        """
        pairs = max(sums.get("pairs", 0.0), 1.0)
        chosen, rejected = (sums.get(name, 0.0) / pairs for name in ("chosen", "rejected"))
        return {
            "rewards_chosen": chosen,
            "rewards_rejected": rejected,
            "reward_accuracy": sums.get("accurate", 0.0) / pairs,
            "reward_margin": chosen - rejected,
            "token_accuracy": sums.get("correct", 0.0) / max(sums.get("labelled", 0.0), 1.0),
        }

    def _summed(self, rows: Sequence[Pair]) -> Tensor:
        """(7) float64, as `SUMS` names them."""
        sums = torch.zeros(len(SUMS), dtype=torch.float64, device=self.args.device)
        with evaluating(self.network), torch.no_grad():
            for members in self._passes(rows):
                sums += self._compared(self.network, [rows[i] for i in members])[1]
        return sums

    def _means(self, sums: Sequence[float]) -> dict[str, float]:
        named = dict(zip(SUMS, sums, strict=True))
        return {
            "loss": named["loss"] / named["pairs"],
            "pairs": named["pairs"],
            **self._said(named),
        }
