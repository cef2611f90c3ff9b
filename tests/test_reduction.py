"""The reduction algebra against dense matrices."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenlab.functional import means
from tokenlab.reduction import Reduction


@st.composite
def reductions(draw, num_inputs: int | None = None) -> Reduction:
    """Any legal reduction: unique pruned anchors, merged slots with any members and weights."""
    n = num_inputs or draw(st.integers(1, 8))
    pruned = draw(st.lists(st.integers(0, n - 1), unique=True, max_size=n))
    merged = draw(st.lists(st.integers(0, n - 1), max_size=4, min_size=0 if pruned else 1))
    anchor = torch.tensor(pruned + merged)
    slots, members, weights = [], [], []
    for slot in range(len(pruned), len(anchor)):
        listed = draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=4))
        slots += [slot] * len(listed)
        members += listed
        weights += [draw(st.floats(-2, 2, width=32)) for _ in listed]
    return Reduction.merge(
        anchor,
        torch.tensor(slots, dtype=torch.long),
        torch.tensor(members, dtype=torch.long),
        torch.tensor(weights, dtype=torch.float32),
        n,
    ).check()


@st.composite
def chains(draw) -> tuple[Reduction, Reduction]:
    first = draw(reductions())
    return first, draw(reductions(first.num_outputs))


def matrix(reduction: Reduction) -> torch.Tensor:
    """The reduction as a dense matrix, filled entry by entry."""
    dense = torch.zeros(reduction.num_outputs, reduction.num_inputs, dtype=torch.float64)
    start = 0
    for slot, (anchor, length) in enumerate(zip(reduction.anchor.tolist(), reduction.lengths.tolist(), strict=True)):
        if length == 0:
            dense[slot, anchor] = 1
        for entry in range(start, start + length):
            dense[slot, reduction.member[entry]] += reduction.weight[entry].double()
        start += length
    return dense


@given(reductions())
def test_apply_is_the_matrix_product(reduction):
    values = torch.randn(reduction.num_inputs, 3, generator=torch.Generator().manual_seed(0))
    expected = matrix(reduction) @ values.double()
    assert torch.allclose(reduction.apply(values).double(), expected, atol=1e-5)


@given(chains())
def test_composition_is_the_product_of_matrices(chain):
    first, second = chain
    composed = first.then(second).check()
    assert torch.allclose(matrix(composed), matrix(second) @ matrix(first), atol=1e-4)
    assert torch.equal(composed.anchor, first.anchor[second.anchor])


@given(chains())
def test_pruned_tokens_keep_their_bits(chain):
    values = torch.randn(chain[0].num_inputs, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    for reduction in (chain[0], chain[0].then(chain[1])):
        untouched = reduction.lengths == 0
        assert torch.equal(reduction.apply(values)[untouched], values[reduction.anchor[untouched]])


@given(st.integers(1, 9))
def test_identity(n):
    identity = Reduction.identity(n)
    assert identity.is_identity
    assert not Reduction.keep(torch.arange(n), n).is_identity, "what goes through the full path does not know"
    assert identity.then(identity).is_identity
    values = torch.randn(n, 2)
    assert identity.apply(values) is values


def test_mean_and_sum_ignore_the_weights():
    merge = Reduction.merge(
        torch.tensor([0, 2]), torch.tensor([0, 0]), torch.tensor([0, 1]), torch.tensor([0.9, 0.3]), num_inputs=3
    )
    values = torch.tensor([2.0, 4.0, 7.0])
    assert merge.apply(values, "sum").tolist() == [6.0, 7.0]
    assert merge.apply(values, "mean").tolist() == [3.0, 7.0]
    assert merge.apply(values).tolist() == pytest.approx([3.0, 7.0])


@pytest.mark.parametrize(
    ("anchor", "lengths", "member", "message"),
    [
        ([0, 0], [0, 0], [], "twice"),
        ([3], [0], [], "names token 3"),
        ([0], [1], [5], "names token 5"),
        ([0], [2], [1], "do not fit"),
    ],
)
def test_illegal_reductions_are_refused(anchor, lengths, member, message):
    reduction = Reduction(
        3,
        torch.tensor(anchor, dtype=torch.long),
        torch.tensor(lengths, dtype=torch.long),
        torch.tensor(member, dtype=torch.long),
        torch.ones(len(member)),
    )
    with pytest.raises(ValueError, match=message):
        reduction.check()


def test_reductions_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="4 tokens expected"):
        Reduction.identity(3).then(Reduction.identity(4))


def test_a_hundred_thousand_tokens_fit():
    """Memory grows with what is merged: a dense matrix of this size would take 20 GB."""
    n, m = 100_000, 50_000
    merge = Reduction.merge(
        torch.arange(m) * 2, torch.arange(n) // 2, torch.arange(n), torch.full((n,), 0.5), num_inputs=n
    ).check()
    merged = merge.apply(torch.arange(n, dtype=torch.float32)[:, None])
    assert merged[:3, 0].tolist() == [0.5, 2.5, 4.5]
    assert merge.then(Reduction.keep(torch.arange(0, m, 2), m)).num_outputs == m // 2


@given(chains(), st.randoms())
def test_reordered_slots_keep_their_members(chain, random):
    reduction = chain[0]
    order = list(range(reduction.num_outputs))
    random.shuffle(order)
    moved = reduction.reorder(torch.tensor(order, dtype=torch.long)).check()
    assert torch.equal(moved.anchor, reduction.anchor[order])
    assert torch.equal(matrix(moved), matrix(reduction)[order])


@given(chains())
def test_in_place_sorts_by_anchor(chain):
    moved = chain[0].in_place()
    assert (moved.anchor.diff() >= 0).all()
    assert torch.equal(moved.anchor, chain[0].anchor.sort(stable=True).values)


@given(chains(), st.randoms())
def test_parts_decided_on_subsets_act_on_them_alone(chain, random):
    """Interleaved subsets: the whole's matrix has each part's rows in its own columns, and zeros elsewhere."""
    parts = [chain[0], chain[0]]
    total = sum(part.num_inputs for part in parts)
    shuffled = list(range(total))
    random.shuffle(shuffled)
    first, second = torch.tensor(shuffled).split([part.num_inputs for part in parts])
    whole = Reduction.cat([(parts[0], first), (parts[1], second)], total).check()
    dense = matrix(whole)
    rows = parts[0].num_outputs
    assert torch.equal(dense[:rows][:, first], matrix(parts[0]))
    assert torch.equal(dense[rows:][:, second], matrix(parts[1]))
    assert not dense[:rows][:, second].any()
    assert not dense[rows:][:, first].any()


def test_parts_are_all_tagged_or_none():
    index = torch.arange(2)
    tagged = Reduction.keep(index, 2, tag=index)
    assert Reduction.cat([(tagged, index), (tagged, index + 2)], 4).tag.tolist() == [0, 1, 0, 1]
    with pytest.raises(ValueError, match="1 of 2 reductions are tagged"):
        Reduction.cat([(tagged, index), (Reduction.identity(2), index + 2)], 4)


def test_nothing_may_be_left():
    empty = Reduction.keep(torch.empty(0, dtype=torch.long), 3).check()
    assert empty.apply(torch.ones(3, 2)).shape == (0, 2)
    assert Reduction.keep(torch.arange(3), 3).then(empty).num_outputs == 0


def test_values_without_width_are_reduced_by_several_threads():
    """Inside the LLM media carry none; torch's bags raise on them where threads share the work."""
    label = torch.arange(512) // 2
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert means(torch.arange(0, 512, 2), label).apply(torch.empty(512, 0)).shape == (256, 0)
    finally:
        torch.set_num_threads(threads)
