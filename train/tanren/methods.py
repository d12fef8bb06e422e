"""The adapter methods. Each answers three questions and knows nothing else:

1. How is the base stored?              `storage`
2. What is the PEFT configuration?      `peft_config()`
3. What are the optimizer groups?       `optimizer_groups()`

`Method` is the union of all of them, told apart by `name`; the config file, the command line, the
documentation and the contract tests are made from it. A new method is one class here and one line
in the union.

This module imports no torch: PEFT is imported when a configuration is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn

Storage = Literal["dtype", "nf4"]
Initialisation = Literal["zero", "pissa", "olora", "eva"]


@dataclass(frozen=True, slots=True)
class Group:
    """One optimizer group: parameters that share a learning rate and a weight decay.

    `name` is printed at start (`A`, `B`, `magnitude`, `embedding`, `saved modules`, `all`).
    `learning_rate` is the peak rate; the schedule multiplies every group by the same factor.
    """

    name: str
    parameters: tuple[tuple[str, nn.Parameter], ...]
    learning_rate: float
    weight_decay: float

    @property
    def elements(self) -> int:
        return sum(parameter.numel() for _, parameter in self.parameters)

    def as_dict(self) -> dict[str, Any]:
        """Plain values: name, tensors, elements, learning_rate, weight_decay."""
        return {
            "name": self.name,
            "tensors": len(self.parameters),
            "elements": self.elements,
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
        }


Name = Annotated[str, Field(min_length=1)]
Names = Annotated[tuple[Name, ...], Field(strict=False)]  # YAML has lists, no tuples


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class _Adapter(_Strict):
    """What all low-rank methods share. `W' = W + (alpha / rank) * B @ A`, A (rank, in), B (out,
    rank).
    """

    storage: ClassVar[Storage] = "dtype"
    initialisation: ClassVar[Initialisation] = "zero"
    title: ClassVar[str]
    paper: ClassVar[str]
    rate_factor: ClassVar[float] = 1.0
    adapts_stacks: ClassVar[bool] = True

    rank: int = Field(16, ge=1, le=1024, description="Rank of the update (dimensions).")
    alpha: float = Field(
        32.0,
        gt=0,
        description="Scale of the update: it is multiplied by alpha / rank (alpha / sqrt(rank) for "
        "rsLoRA).",
    )
    dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of adapter inputs dropped in training. 0 is faster (DoRA halves its "
        "matrix products) and "
        "was no worse in published comparisons at these sizes.",
    )
    target_modules: Name | Annotated[Names, Field(min_length=1)] = Field(
        "all-linear",
        description="Layers to adapt: 'all-linear' (every linear layer but the head; adapting all "
        "layers "
        "matters more than rank: Schulman et al., LoRA Without Regret, 2025), or a list of name "
        "endings. In a mixture of experts 'all-linear' is the attention alone.",
    )
    target_parameters: Names = Field(
        (),
        description="Stacked expert weights to adapt besides, by name endings: "
        "[experts.gate_up_proj, experts.down_proj] in mixtures such as Qwen3-MoE and Mixtral. Each "
        "expert gets an A and a B. Needs dropout 0; not with DoRA, PiSSA, OLoRA or EVA.",
    )
    modules_to_save: Names = Field(
        (), description="Modules trained whole and saved beside the adapter, e.g. ['lm_head']."
    )
    lr_ratio: float = Field(
        1.0,
        gt=0,
        le=1024,
        description="Learning rate of B divided by that of A (LoRA+, Hayou et al. 2024). 1 is "
        "plain LoRA; the paper "
        "uses 16. May be set for any low-rank method.",
    )
    embedding_learning_rate: float | None = Field(
        None,
        gt=0,
        description="Own peak rate for adapters on embedding layers; null: the rate of A. (LoRA+ "
        "uses 1e-6.)",
    )

    @field_validator("target_parameters")
    @classmethod
    def _fits_stacks(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        """PEFT adds the update to the stack itself: no layer's input to drop, no norm, no SVD."""
        against = []
        if info.data.get("dropout"):
            against.append("with method.dropout above 0")
        if not cls.adapts_stacks:
            against.append(f"with {cls.title}")
        if names and against:
            raise ValueError(f"no stacked weights {' and '.join(against)}")
        return names

    @property
    def use_dora(self) -> bool:
        return False

    @property
    def use_rslora(self) -> bool:
        return False

    @property
    def scaling(self) -> float:
        """Factor on B @ A."""
        return self.alpha / (self.rank**0.5 if self.use_rslora else self.rank)

    def peft_config(self) -> PeftConfig | None:
        from peft import EvaConfig, LoraConfig

        return LoraConfig(
            task_type="CAUSAL_LM",
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]
            lora_dropout=self.dropout,
            target_modules=self.target_modules
            if isinstance(self.target_modules, str)
            else list(self.target_modules),
            target_parameters=list(self.target_parameters) or None,
            modules_to_save=list(self.modules_to_save) or None,
            use_dora=self.use_dora,
            use_rslora=self.use_rslora,
            init_lora_weights=True if self.initialisation == "zero" else self.initialisation,
            eva_config=EvaConfig() if self.initialisation == "eva" else None,
            bias="none",
        )

    def auto_learning_rate(self, hidden_size: int) -> float:
        """Peak rate when the user says `auto`.

        `5e-5 * 10 * (2000 / hidden)^0.781`: ten times a full fine-tuning rate, growing as models
        get narrower (Schulman et al., LoRA Without Regret, 2025, with the exponent its authors
        publish for Llama models; it does not depend on rank). `rate_factor` divides out what a
        method does to the size of the first steps.
        """
        rate = 5e-5 * 10 * (2000 / hidden_size) ** 0.781
        if self.lr_ratio != 1.0:
            rate /= (
                self.lr_ratio**0.5
            )  # keeps rate_A * rate_B, so the product B @ A moves as fast as with LoRA
        return _two_digits(rate * self.rate_factor)

    def optimizer_groups(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        *,
        learning_rate: float,
        weight_decay: float,
    ) -> list[Group]:
        """Every trainable parameter in exactly one group (T20).

        A: `learning_rate`. B: `learning_rate * lr_ratio`. Adapters on embeddings: their own rate.
        DoRA magnitudes and other vectors: the rate of A and no decay. Modules trained whole: the
        rate of A, with decay.
        """
        kinds: dict[str, list[tuple[str, nn.Parameter]]] = {}
        for name, parameter in parameters:
            if parameter.requires_grad:
                kinds.setdefault(_kind(name, parameter), []).append((name, parameter))
        rates: Mapping[str, tuple[float, float]] = {
            "A": (learning_rate, weight_decay),
            "B": (learning_rate * self.lr_ratio, weight_decay),
            "embedding": (self.embedding_learning_rate or learning_rate, weight_decay),
            "magnitude": (learning_rate, 0.0),
            "vectors": (learning_rate, 0.0),
            "saved modules": (learning_rate, weight_decay),
        }
        return [Group(kind, tuple(kinds[kind]), *rates[kind]) for kind in rates if kind in kinds]


def _kind(name: str, parameter: nn.Parameter) -> str:
    if "lora_embedding_" in name:
        return "embedding"
    if "lora_magnitude_vector" in name:
        return "magnitude"
    if "lora_A" in name:
        return "A"
    if "lora_B" in name:
        return "B"
    return "vectors" if parameter.ndim < 2 else "saved modules"


def _two_digits(rate: float) -> float:
    return float(f"{rate:.2g}")


class Lora(_Adapter):
    """LoRA: a low-rank update beside every linear layer; the base stays as it is."""

    title: ClassVar[str] = "LoRA"
    paper: ClassVar[str] = "Hu et al. 2021, arXiv:2106.09685"
    name: Literal["lora"] = "lora"


class QLora(_Adapter):
    """QLoRA: LoRA on a base stored in 4 bits (NF4, double quantisation) with a paged 8-bit
    optimizer.
    """

    title: ClassVar[str] = "QLoRA"
    paper: ClassVar[str] = "Dettmers et al. 2023, arXiv:2305.14314"
    storage: ClassVar[Storage] = "nf4"
    name: Literal["qlora"] = "qlora"
    dora: bool = Field(False, description="Decompose the update as DoRA does (QDoRA).")

    @field_validator("dora")
    @classmethod
    def _fits_parameters(cls, dora: bool, info: ValidationInfo) -> bool:
        if dora and info.data.get("target_parameters"):
            raise ValueError("false, for method.target_parameters names stacked weights")
        return dora

    @property
    def use_dora(self) -> bool:
        return self.dora


class Dora(_Adapter):
    """DoRA: the weight is split into magnitude and direction; LoRA moves the direction, a vector
    the magnitude.
    """

    title: ClassVar[str] = "DoRA"
    adapts_stacks: ClassVar[bool] = False
    paper: ClassVar[str] = "Liu et al. 2024, arXiv:2402.09353"
    name: Literal["dora"] = "dora"

    @property
    def use_dora(self) -> bool:
        return True


class LoraPlus(_Adapter):
    """LoRA+: LoRA whose B learns `lr_ratio` times faster than its A."""

    title: ClassVar[str] = "LoRA+"
    paper: ClassVar[str] = "Hayou et al. 2024, arXiv:2402.12354"
    name: Literal["lora_plus"] = "lora_plus"
    lr_ratio: float = Field(
        16.0, gt=0, le=1024, description="Learning rate of B divided by that of A; the paper's 16."
    )
    embedding_learning_rate: float | None = Field(
        1e-6, gt=0, description="Peak rate for adapters on embedding layers; the paper's 1e-6."
    )


class RsLora(_Adapter):
    """rsLoRA: LoRA scaled by alpha / sqrt(rank), so that high ranks keep learning."""

    title: ClassVar[str] = "rsLoRA"
    paper: ClassVar[str] = "Kalajdzievski 2023, arXiv:2312.03732"
    name: Literal["rslora"] = "rslora"
    alpha: float = Field(
        8.0,
        gt=0,
        description="Scale: alpha / sqrt(rank). 8 at rank 16 equals LoRA's default of 32 / 16.",
    )

    @property
    def use_rslora(self) -> bool:
        return True


class Pissa(_Adapter):
    """PiSSA: A and B start as the principal singular vectors of the weight, the base keeps the
    rest.
    """

    title: ClassVar[str] = "PiSSA"
    adapts_stacks: ClassVar[bool] = False
    paper: ClassVar[str] = "Meng et al. 2024, arXiv:2404.02948"
    initialisation: ClassVar[Initialisation] = "pissa"
    rate_factor: ClassVar[float] = 0.2
    name: Literal["pissa"] = "pissa"
    alpha: float = Field(16.0, gt=0, description="Scale: alpha / rank; the paper keeps it at 1.")


class Olora(_Adapter):
    """OLoRA: A and B start from a QR decomposition of the weight, the base keeps the rest."""

    title: ClassVar[str] = "OLoRA"
    adapts_stacks: ClassVar[bool] = False
    paper: ClassVar[str] = "Büyükakyüz 2024, arXiv:2406.01775"
    initialisation: ClassVar[Initialisation] = "olora"
    rate_factor: ClassVar[float] = 0.2
    name: Literal["olora"] = "olora"
    alpha: float = Field(16.0, gt=0, description="Scale: alpha / rank.")


class Eva(_Adapter):
    """EVA: A starts from the singular vectors of the layer's own inputs; ranks go where the
    variance is.
    """

    title: ClassVar[str] = "EVA"
    adapts_stacks: ClassVar[bool] = False
    paper: ClassVar[str] = "Paischer et al. 2024, arXiv:2410.07170"
    initialisation: ClassVar[Initialisation] = "eva"
    name: Literal["eva"] = "eva"


class Full(_Strict):
    """Full fine-tuning: every weight moves. The reference that adapters are measured against."""

    title: ClassVar[str] = "full fine-tuning"
    paper: ClassVar[str] = ""
    storage: ClassVar[Storage] = "dtype"
    initialisation: ClassVar[Initialisation] = "zero"
    name: Literal["full"] = "full"

    @property
    def use_dora(self) -> bool:
        return False

    def peft_config(self) -> PeftConfig | None:
        return None

    def auto_learning_rate(self, hidden_size: int) -> float:
        """A tenth of LoRA's rate, capped at 1e-3: `5e-5 * (2000 / hidden)^0.781` (see
        `_Adapter.auto_learning_rate`).
        """
        return _two_digits(min(5e-5 * (2000 / hidden_size) ** 0.781, 1e-3))

    def optimizer_groups(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        *,
        learning_rate: float,
        weight_decay: float,
    ) -> list[Group]:
        """Matrices with decay, vectors (norms, biases) without."""
        trained = [(name, p) for name, p in parameters if p.requires_grad]
        matrices = tuple((name, p) for name, p in trained if p.ndim >= 2)
        vectors = tuple((name, p) for name, p in trained if p.ndim < 2)
        groups = [
            Group("all", matrices, learning_rate, weight_decay),
            Group("vectors", vectors, learning_rate, 0.0),
        ]
        return [group for group in groups if group.parameters]


Method = Annotated[
    Lora | QLora | Dora | LoraPlus | RsLora | Pissa | Olora | Eva | Full,
    Field(discriminator="name"),
]
METHODS: Mapping[str, type[Any]] = {
    cls.model_fields["name"].default: cls for cls in get_args(get_args(Method)[0])
}
