import pytest
import torch

from tokenlab.reduction import Reduction
from tokenlab.tokens import Evidence, VisualTokens


def test_tokens_carry_places_tags_and_evidence():
    attention = type("Attention", (Evidence,), {"combine": "sum"})()
    tokens = VisualTokens.from_grid(torch.arange(8.0).reshape(2, 2, 2, 1), {attention: torch.arange(8.0)})
    merge = Reduction.merge(
        torch.tensor([1, 4]),
        torch.tensor([0, 0]),
        torch.tensor([1, 2]),
        torch.tensor([0.5, 0.5]),
        8,
        tag=torch.tensor([7, 9]),
    )
    reduced = tokens.reduce(merge)
    assert reduced.places.tolist() == [[0, 0, 1], [1, 0, 0]]
    assert reduced.evidence[attention].tolist() == [3.0, 4.0]
    assert reduced.values.flatten().tolist() == [1.5, 4.0]
    assert reduced.tag.tolist() == [7, 9]
    assert reduced.reduce(Reduction.keep(torch.tensor([1]), 2)).tag.tolist() == [9]


def test_whole_frames_are_told_from_ragged_ones():
    tokens = VisualTokens.from_grid(torch.arange(8.0).reshape(2, 2, 2, 1))
    assert tokens.as_frames().shape == (2, 4, 1)
    assert tokens.reduce(Reduction.keep(torch.arange(4, 8), 8)).as_frames().shape == (1, 4, 1)
    for index in ([0, 1, 2], [0, 1, 4, 5]):
        with pytest.raises(ValueError, match="ragged"):
            tokens.reduce(Reduction.keep(torch.tensor(index), 8)).as_frames()


def test_evidence_that_is_the_tokens_is_reduced_with_them():
    key = type("Same", (Evidence,), {})()
    tokens = VisualTokens.from_grid(torch.arange(8.0).reshape(2, 2, 2, 1))
    tokens = VisualTokens(tokens.values, tokens.places, tokens.grid, {key: tokens.values})
    reduced = tokens.reduce(Reduction.keep(torch.tensor([1, 4]), 8))
    assert reduced.evidence[key] is reduced.values
    assert tokens.reduce(Reduction.identity(8)) is tokens
