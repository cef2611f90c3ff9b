"""Drift of answers, worked out by hand."""

import pytest

from tokenlab.metrics.drift import AnswerShare, drift_of
from tokenlab.metrics.record import Record


def record(answer, choice=None, tokens=1):
    return Record("q", "v", "a", "a", "", "?", ["A"], answer=answer, choice=choice, generated_tokens=tokens)


def test_shares_of_letters():
    pairs = [(record("A", "A"), record("B", "B")), (record("A", "A"), record("A", "A"))]
    found = drift_of(pairs)
    assert found.shares == (AnswerShare("A", 1.0, 0.5), AnswerShare("B", 0.0, 0.5))
    assert found.distance == 0.5


def test_the_same_words_do_not_drift():
    found = drift_of([(record("Yes."), record("yes")), (record("no"), record("No"))])
    assert (found.distance, found.parting) == (0, None)
    assert [each.answer for each in found.shares] == ["no", "yes"]


def test_long_answers_part_somewhere():
    pairs = [
        (record("a red ring moves left", tokens=5), record("a red ring moves right", tokens=5)),
        (record("a red", tokens=2), record("a red ring", tokens=3)),
        (record("blue", tokens=1), record("red", tokens=1)),
        (record("same", tokens=1), record("same", tokens=1)),
    ]
    found = drift_of(pairs)
    assert found.parting == 2
    assert found.length_ratio == pytest.approx(9 / 10)


def test_many_different_answers_have_a_distance_alone():
    pairs = [(record(f"answer {k}"), record(f"answer {k + 1}")) for k in range(20)]
    found = drift_of(pairs)
    assert found.shares == ()
    assert found.distance == pytest.approx(1 / 20)
    assert drift_of([]) is None
