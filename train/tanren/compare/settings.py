"""What is compared: strict, documented per field, the same for YAML and command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from tanren.endpoint.checked import Strict, checked

Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class SearchConfig(Strict):
    """Learning rates are searched for each arm before arms are compared: at one common rate the
    method that this rate suits wins. Arms that name their own `training.learning_rate` keep it.
    """

    trials: Annotated[int, Field(ge=0, le=64)] = Field(
        5, description="Runs an arm has to find its rate; 0: no search, every arm's own auto rate."
    )
    factor: Annotated[float, Field(gt=1, le=100)] = Field(
        3.0, description="Ratio of neighbouring rates that are tried first; auto is the middle one."
    )
    span: Annotated[float, Field(gt=1, le=10_000)] = Field(
        9.0,
        description="Rates from auto / span to auto x span are tried, and beyond by factor up "
        "to twice while the outermost one is the best.",
    )
    steps_share: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0,
        description="Length of a trial as a share of a run's steps. Below 1 it is cheaper, and "
        "favours rates that are too high for whole runs.",
    )
    seed: Seed | None = Field(
        None,
        description="Seed of all trials; null: one that no compared run has, so that the chosen "
        "rate was not chosen on their luck.",
    )


class HalvingConfig(Strict):
    """Successive halving: arms that are behind after a part of the steps are ended early."""

    eta: Annotated[int, Field(ge=2, le=16)] = Field(
        3, description="One of so many arms goes on at every rung; rungs are so many times apart."
    )
    min_steps: Positive | None = Field(
        None, description="Optimizer steps of the first rung; null: from eta and number of arms."
    )


class TestConfig(Strict):
    """Each arm's finished runs and their base are evaluated as `tanren eval` does it."""

    data: str = Field(description="Chat-format JSONL that no arm was trained on.")
    metrics: Annotated[tuple[str | dict[str, Any], ...], Field(strict=False)] | None = Field(
        None, description="As in tanren eval; the first one decides. null: chosen from the data."
    )
    limit: Positive | None = Field(None, description="Only the first rows; null: all.")
    max_new_tokens: Positive = Field(256, description="Most tokens of an answer.")
    retention: bool = Field(True, description="Ask general questions too: what was forgotten?")
    batch_tokens: Annotated[int, Field(ge=256)] = Field(
        16_384, description="Positions that a batch of answers may fill."
    )


class CompareConfig(Strict):
    """One comparison. Arms are `arms`, or every combination of `grid`, or both multiplied."""

    base: str | dict[str, Any] = Field(
        description="Settings all arms share: a run's YAML file, or the settings themselves."
    )
    arms: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="Name of an arm -> what it changes: {dora: {method: dora}, small: "
        "{method.rank: 4}}.",
    )
    grid: dict[str, Annotated[tuple[Any, ...], Field(strict=False)]] = Field(
        default_factory=dict,
        description="Setting -> values; every combination is an arm: {method.rank: [8, 16], "
        "training.learning_rate: [1e-4, 3e-4], data.rows: [100, 1000]}. data.rows trains on so "
        "many rows, the smaller ones among the larger.",
    )
    reference: str | None = Field(
        None, description="Arm that the others are compared with; null: the first."
    )
    seeds: Annotated[tuple[Seed, ...], Field(strict=False)] = Field(
        (1, 2, 3),
        description="A list of seeds, or how many. Each seed is a run of every arm: adapter "
        "initialisation and row order, the same order for all arms.",
    )
    equal: Literal["steps", "epochs"] = Field(
        "steps",
        description="What arms with different numbers of rows have in common: optimizer steps, or "
        "passes over their own rows.",
    )
    evaluations: Annotated[int, Field(ge=1, le=1000)] = Field(
        12,
        description="Evaluations on the validation rows in a run, evenly spread, where the base "
        "does not set evaluation.every.",
    )
    search: SearchConfig = Field(
        default_factory=SearchConfig, description="Of each arm's learning rate."
    )
    halving: HalvingConfig | None = Field(None, description="null: every arm runs to its end.")
    test: TestConfig | None = Field(
        None, description="What the finished runs are asked; null: validation loss alone decides."
    )
    main: str | None = Field(
        None,
        description="Measure that decides: validation_loss or one of the test's metrics; null: the "
        "test's first metric, else validation_loss.",
    )
    parallel: Positive | None = Field(
        None,
        description="Runs side by side; null: one a GPU, one on a CPU. Runs that share a CPU slow "
        "each other down: their times are then comparable only among themselves.",
    )

    @field_validator("seeds", mode="before")
    @classmethod
    def _counted(cls, value: Any) -> Any:
        """`seeds: 3` means 1, 2, 3."""
        if isinstance(value, int) and not isinstance(value, bool):
            if not 1 <= value <= 1000:
                raise ValueError("1 to 1000 seeds, or a list of them")
            return tuple(range(1, value + 1))
        return value

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if not seeds or len(set(seeds)) < len(seeds):
            raise ValueError("at least one seed, every one once")
        return seeds

    @field_validator("grid")
    @classmethod
    def _several(cls, grid: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
        for key, values in grid.items():
            if not values:
                raise ValueError(f"values for {key}")
            if len({repr(value) for value in values}) < len(values):
                raise ValueError(f"every value of {key} once")
        return grid

    @model_validator(mode="after")
    def _something_to_compare(self) -> CompareConfig:
        if not self.arms and not self.grid:
            raise ValueError("arms or a grid: something to compare")
        if self.search.seed in self.seeds:
            raise ValueError("a search.seed that is not among seeds")
        return self

    @property
    def search_seed(self) -> int:
        return self.search.seed if self.search.seed is not None else max(self.seeds) + 1


def load_comparison(values: Mapping[str, Any], *, source: str = "comparison") -> CompareConfig:
    """Plain values as settings. ConfigError with every fault."""
    return checked(CompareConfig, values, source=source)
