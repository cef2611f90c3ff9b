"""Answers of reduced prompts equal those of a reference that edits by hand."""

import pytest

from tests.models.pipelines import PIPELINES, SUBSET, build, tiers
from tokenlab.testing import ANSWER_TOKENS

BUILT = {name: build(methods) for name, methods in PIPELINES.items()}


@pytest.mark.parametrize(("harness", "name"), tiers(BUILT, everywhere=SUBSET), indirect=["harness"])
def test_reduced_equals_the_reference(harness, baseline, name):
    pipeline = BUILT[name]
    expected = {
        sample.uid: tuple(harness.reference.reduced([frames, sample.question], sample, pipeline, ANSWER_TOKENS))
        for frames, sample in harness.samples()
    }
    assert harness.ask(pipeline) == expected
    assert harness.ask(pipeline, batch_size=4) == expected
    assert harness.ask(pipeline, clips=harness.clips[::-1], batch_size=9) == expected


@pytest.mark.parametrize(("harness", "name"), tiers({name: BUILT[name] for name in SUBSET}), indirect=["harness"])
def test_answers_do_change_when_tokens_go(harness, baseline, name):
    """Otherwise the tests above would prove nothing."""
    assert harness.ask(BUILT[name]) != baseline
