"""Counts of a model's parts, and the polynomials that a few of its counts determine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import torch
from torch import nn

from tokenlab.models.counter import flop_counter


def count(run: Callable[[], object], modules: Sequence[nn.Module] = ()) -> tuple[int, list[int]]:
    """Counts the FLOPs of a call, and how many of them were spent inside each of some modules."""
    spent = [0] * len(modules)
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        flops = stack.enter_context(flop_counter())
        for number, module in enumerate(modules):

            def begin(*_: object, number: int = number) -> None:
                spent[number] -= flops.get_total_flops()

            def end(*_: object, number: int = number) -> None:
                spent[number] += flops.get_total_flops()

            stack.callback(module.register_forward_pre_hook(begin).remove)
            stack.callback(module.register_forward_hook(end).remove)
        run()
    return flops.get_total_flops(), spent


@dataclass(frozen=True)
class Bilinear:
    """The cost of `q` tokens that look at `k` tokens: constant + per_query q + per_key k + per_pair q k."""

    constant: int
    per_query: int
    per_key: int
    per_pair: int

    @classmethod
    def fit(cls, values: Sequence[int]) -> Bilinear:
        """Finds the one that takes these values at `SAMPLE_POINTS`."""
        one_one, one_two, two_two, two_three = values
        per_pair = (two_three - two_two) - (one_two - one_one)
        per_key = one_two - one_one - per_pair
        per_query = two_two - one_two - 2 * per_pair
        return cls(one_one - per_query - per_key - per_pair, per_query, per_key, per_pair)

    def __call__(self, queries: int, keys: int) -> int:
        """Its value."""
        return self.constant + self.per_query * queries + self.per_key * keys + self.per_pair * queries * keys


SAMPLE_POINTS = ((1, 1), (1, 2), (2, 2), (2, 3))
"""Where a decoder is counted: new tokens, and all tokens they look at, the cached ones included."""


@dataclass(frozen=True)
class Polynomial:
    """A polynomial of one length, through values at 1, 2, ...; exact, by Newton's divided differences."""

    coefficients: tuple[Fraction, ...]

    @classmethod
    def fit(cls, values: Sequence[int]) -> Polynomial:
        """Finds the coefficients of 1, (n-1), (n-1)(n-2), ..."""
        differences = [Fraction(value) for value in values]
        coefficients = [differences[0]]
        for order in range(1, len(values)):
            differences = [(later - earlier) / order for earlier, later in pairwise(differences)]
            coefficients.append(differences[0])
        return cls(tuple(coefficients))

    def __call__(self, length: int) -> int:
        """Its value."""
        total, product = Fraction(0), Fraction(1)
        for order, coefficient in enumerate(self.coefficients):
            total += coefficient * product
            product *= length - 1 - order
        return int(total)
