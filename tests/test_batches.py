"""Rows, passes, shares and orders: every row once, nothing predicted across rows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from tanren.batches import IGNORED, Row, StepOrder, assemble, plan, share

LENGTHS = [
    [5],
    [8, 8, 8, 8],
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
    [100, 1, 1, 1, 50, 50, 3],
    np.random.default_rng(0).integers(1, 200, 300).tolist(),
]


def cost(members: list[int], lengths: list[int], *, side_by_side: bool) -> int:
    """Tokens of a pass, padding counted."""
    chosen = [lengths[i] for i in members]
    return sum(chosen) if side_by_side else max(chosen) * len(chosen)


@pytest.mark.parametrize("lengths", LENGTHS, ids=range(len(LENGTHS)))
@pytest.mark.parametrize("budget", [1, 16, 128, 10_000])
@pytest.mark.parametrize("side_by_side", [True, False])
def test_a_plan_holds_every_row_once_within_the_budget(
    lengths: list[int], budget: int, side_by_side: bool
) -> None:
    passes = plan(lengths, budget, side_by_side=side_by_side)
    assert sorted(itertools.chain.from_iterable(passes)) == list(range(len(lengths)))
    for members in passes:
        assert members
        assert cost(members, lengths, side_by_side=side_by_side) <= budget or len(members) == 1
    assert passes == plan(list(lengths), budget, side_by_side=side_by_side)


@pytest.mark.parametrize("side_by_side", [True, False])
def test_a_plan_starts_with_the_longest_row(side_by_side: bool) -> None:
    """T28: memory runs out in the first pass of a step or not at all."""
    for lengths in LENGTHS:
        first = plan(lengths, 256, side_by_side=side_by_side)[0]
        assert max(lengths) == lengths[first[0]]


@pytest.mark.parametrize("side_by_side", [True, False])
def test_a_plan_needs_few_passes(side_by_side: bool) -> None:
    lengths = LENGTHS[-1]
    passes = plan(lengths, 1000, side_by_side=side_by_side)
    fewest = -(-sum(lengths) // 1000)
    assert len(passes) <= fewest * (1.03 if side_by_side else 1.35)
    padding = sum(cost(p, lengths, side_by_side=False) for p in passes) / sum(lengths)
    if not side_by_side:
        assert padding < 1.05, "rows of like length go together"


def test_no_rows_are_no_passes() -> None:
    assert plan([], 10, side_by_side=True) == [] == plan([], 10, side_by_side=False)


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("lengths", LENGTHS, ids=range(len(LENGTHS)))
def test_shares_partition_the_rows(lengths: list[int], ranks: int) -> None:
    shares = [share(lengths, ranks, rank) for rank in range(ranks)]
    assert sorted(itertools.chain.from_iterable(shares)) == list(range(len(lengths)))
    counts = [len(mine) for mine in shares]
    assert max(counts) - min(counts) <= 1
    assert all(mine == sorted(mine) for mine in shares)


def test_shares_are_even_in_tokens() -> None:
    lengths = LENGTHS[-1]
    loads = [sum(lengths[i] for i in share(lengths, 4, rank)) for rank in range(4)]
    assert max(loads) / min(loads) < 1.02


# --- rows -----------------------------------------------------------------------------------------


def row(*ids: int, trained: int = 0) -> Row:
    """The last `trained` tokens carry labels."""
    array = np.array(ids, dtype=np.int32)
    labels = np.where(np.arange(len(ids)) >= len(ids) - trained, array, IGNORED).astype(np.int32)
    return Row.of(array, labels)


def test_a_target_is_the_next_token_where_that_is_labelled() -> None:
    found = row(10, 11, 12, 13, trained=2)
    assert found.targets.tolist() == [IGNORED, 12, 13, IGNORED]
    assert found.labelled == 2 and len(found) == 4


def test_a_label_on_the_first_token_has_nothing_to_predict_it_from() -> None:
    found = row(10, 11, trained=2)
    assert found.targets.tolist() == [11, IGNORED] and found.labelled == 1
    assert row(10, trained=1).labelled == 0


def test_no_row_predicts_into_its_neighbour() -> None:
    """T16: the last position of a row never carries a target, in whatever pass."""
    rows = [row(1, 2, 3, trained=3), row(4, 5, trained=2), row(6, 7, 8, 9, trained=4)]
    batch = assemble(rows, side_by_side=True, pad_id=0)
    ends = (batch.boundaries[1:] - 1).tolist()
    assert not set(ends) & set(batch.labelled.tolist())
    assert batch.targets.tolist() == [2, 3, 5, 7, 8, 9]
    assert batch.labelled.tolist() == [0, 1, 3, 5, 6, 7]


# --- passes ---------------------------------------------------------------------------------------


def test_side_by_side_tensors() -> None:
    rows = [row(1, 2, 3, trained=1), row(4, 5, trained=1)]
    batch = assemble(rows, side_by_side=True, pad_id=0)
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 5]]
    assert batch.position_ids is not None and batch.position_ids.tolist() == [[0, 1, 2, 0, 1]]
    assert batch.boundaries is not None and batch.boundaries.tolist() == [0, 3, 5]
    assert batch.boundaries.dtype == torch.int32
    assert (batch.longest, batch.tokens, batch.attention_mask) == (3, 5, None)
    assert batch.model_inputs().keys() == {
        "input_ids", "use_cache", "position_ids",
        "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k",
    }  # fmt: skip
    assert batch.model_inputs()["use_cache"] is False, "a cache would let rows see each other"


def test_padded_tensors() -> None:
    rows = [row(4, 5, trained=1), row(1, 2, 3, trained=1)]
    batch = assemble(rows, side_by_side=False, pad_id=99)
    assert batch.input_ids.tolist() == [[4, 5, 99], [1, 2, 3]]
    assert batch.attention_mask is not None
    assert batch.attention_mask.tolist() == [[1, 1, 0], [1, 1, 1]]
    assert (batch.position_ids, batch.boundaries) == (None, None)
    assert batch.tokens == 5, "padding is no token"
    assert batch.labelled.tolist() == [0, 4] and batch.targets.tolist() == [5, 3]


def test_rows_of_one_length_need_no_mask() -> None:
    batch = assemble([row(1, 2, trained=1)] * 2, side_by_side=False, pad_id=0)
    assert batch.attention_mask is None and "attention_mask" not in batch.model_inputs()


def test_both_ways_carry_the_same_labels() -> None:
    generator = np.random.default_rng(3)
    rows = [
        row(*generator.integers(1, 90, n).tolist(), trained=int(generator.integers(0, n)))
        for n in generator.integers(2, 30, 20)
    ]
    beside = assemble(rows, side_by_side=True, pad_id=0)
    padded = assemble(rows, side_by_side=False, pad_id=0)
    assert beside.targets.tolist() == padded.targets.tolist()
    assert beside.tokens == padded.tokens
    for batch in (beside, padded):
        flat = batch.input_ids.reshape(-1)
        assert flat[batch.labelled + 1].tolist() == batch.targets.tolist()
        assert sum(r.labelled for r in rows) == len(batch.labelled)


# --- order ----------------------------------------------------------------------------------------


def epochs(order: StepOrder, count: int) -> list[list[list[int]]]:
    found = []
    for epoch in range(count):
        order.set_epoch(epoch)
        found.append(list(order))
    return found


@pytest.mark.parametrize(("rows", "batch"), [(10, 4), (12, 4), (3, 8), (1, 1), (101, 7)])
def test_each_epoch_is_a_permutation_with_the_rest_in_its_last_step(rows: int, batch: int) -> None:
    order = StepOrder(rows, batch, seed=5)
    for steps in epochs(order, 3):
        assert sorted(itertools.chain.from_iterable(steps)) == list(range(rows))
        assert len(steps) == len(order) == -(-rows // batch)
        assert [len(s) for s in steps[:-1]] == [batch] * (len(steps) - 1)
        assert len(steps[-1]) == rows - batch * (len(steps) - 1)


def test_epochs_and_seeds_differ() -> None:
    first, second = epochs(StepOrder(50, 8, seed=5), 2)
    assert first != second
    assert epochs(StepOrder(50, 8, seed=6), 1)[0] != first


def test_the_order_is_a_function_of_seed_and_epoch_alone() -> None:
    """T6: not of what was drawn before, of global generators, or of reading the epoch twice."""
    wanted = epochs(StepOrder(50, 8, seed=5), 4)
    torch.manual_seed(1)
    np.random.seed(1)
    fresh = StepOrder(50, 8, seed=5)
    fresh.set_epoch(3)
    assert list(fresh) == wanted[3] == list(fresh)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    list(fresh)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()


def test_the_batch_size_cuts_the_same_order() -> None:
    flat = {
        size: list(itertools.chain.from_iterable(epochs(StepOrder(50, size, seed=5), 1)[0]))
        for size in (1, 8, 50)
    }
    assert flat[1] == flat[8] == flat[50]
