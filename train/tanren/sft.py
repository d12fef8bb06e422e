"""TRL's SFTTrainer on our rows: the mean loss over every labelled token of a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tanren import privacy
from tanren.arguments import common_arguments, on_one_device
from tanren.batches import EncodedRows, Row, Step
from tanren.encode import Encoded
from tanren.stepwise import Stepwise, evaluating

privacy.apply()

from trl import SFTConfig, SFTTrainer  # noqa: E402 - telemetry must be off before


class Trainer(Stepwise, SFTTrainer):
    """SFTTrainer with our step, loss, evaluation, groups and checkpoints. A row is a `Row`."""

    def _arguments(self, *, learning_rate: float, on_cpu: bool) -> SFTConfig:
        common = common_arguments(
            self.run_config,
            self.run,
            SFTConfig,
            learning_rate=learning_rate,
            steps_per_epoch=len(self.step_loader),
            on_cpu=on_cpu,
        )
        prepared = {"skip_prepare_dataset": True}
        return on_one_device(SFTConfig(**common, packing=False, dataset_kwargs=prepared))

    def _rows(self, encoded: Encoded) -> EncodedRows:
        return EncodedRows(encoded)

    def _weight(self, row: Row) -> int:
        return row.labelled

    def _pass_loss(
        self, model: nn.Module, rows: Sequence[Row], scale: float
    ) -> tuple[Tensor, dict[str, Tensor | float]]:
        batch = self._assemble(rows)
        with self._precision():
            found = self._loss(model, batch, scale=scale)
        return found.total, {"correct": found.correct, "labelled": len(batch.targets)}

    def _said(self, sums: Mapping[str, float]) -> dict[str, float]:
        """The share of labelled tokens that were the most likely ones."""
        return {"token_accuracy": sums.get("correct", 0.0) / max(sums.get("labelled", 0.0), 1.0)}

    def _summed(self, rows: Sequence[Row]) -> Tensor:
        """(3) float64: summed loss, correct tokens and labelled tokens of these rows."""
        sums = torch.zeros(3, dtype=torch.float64, device=self.args.device)
        with evaluating(self.network), torch.no_grad():
            for members in self._passes(rows):
                batch = self._assemble([rows[i] for i in members])
                with self._precision():
                    found = self._loss(self.network, batch)
                tokens = sums.new_tensor(len(batch.targets))
                sums += torch.stack([found.total.double(), found.correct.double(), tokens])
        return sums

    def _means(self, sums: Sequence[float]) -> dict[str, float]:
        """Loss (nats per labelled token), token accuracy and token count."""
        total, correct, tokens = sums
        return {"loss": total / tokens, "token_accuracy": correct / tokens, "tokens": tokens}


__all__ = ["Step", "Trainer"]
