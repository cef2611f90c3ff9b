"""Blocks of `tokenlab.compress` in threads, in one another, and left in any order."""

import contextvars
import copy
import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
import torch

import tokenlab
from tests.models.harness import WHOLE, Harness
from tests.models.prompts import SMALL, WIDE, media_clips
from tokenlab.errors import UserError
from tokenlab.models.compress import _SHARED, _check_threads
from tokenlab.models.hooks import Counted
from tokenlab.testing import ANSWER_TOKENS

CALLS = 50
METHODS = ("random@0.5", "fastv@0.5", "dycoke@0.5", "tome@0.5")


@pytest.fixture(scope="module", params=[name for name in WHOLE if name != "llava_onevision"])
def family(request, checkpoints) -> Harness:
    return Harness.of(str(checkpoints[request.param]), media_clips(request.param))


class Model:
    """A family's model, prompts for it, and what it answers by itself."""

    def __init__(self, harness: Harness) -> None:
        self.model, self.processor = harness.reference.model, harness.loaded.processor
        self.inputs = [dict(harness.reference.inputs(image, "what is there ?")) for image in (WIDE, SMALL)]
        self.plain = [self.answer(number) for number in range(2)]

    def answer(self, number: int) -> list[int]:
        output = self.model.generate(**self.inputs[number], max_new_tokens=ANSWER_TOKENS, do_sample=False)
        return output[0, self.inputs[number]["input_ids"].shape[1] :].tolist()

    def reduced(self, pipeline: str) -> list[list[int]]:
        with self.block(pipeline):
            return [self.answer(number) for number in range(2)]

    def block(self, pipeline: str, **more):
        return tokenlab.compress(self.model, self.processor, pipeline, **more)

    def state(self):
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in self.model.modules()]
        return hooks, [id(m.config) for m in self.model.modules() if hasattr(m, "config")], sorted(vars(self.model))


@pytest.fixture(scope="module")
def whose(family) -> Model:
    return Model(family)


def possible(whose: Model) -> list[str]:
    def can(pipeline: str) -> bool:
        try:
            with whose.block(pipeline):
                return True
        except UserError:
            return False

    return [pipeline for pipeline in METHODS if can(pipeline)]


def in_threads(*functions, times: int):
    """Each function's results, all run at once, so many times each."""
    start = threading.Barrier(len(functions))

    def run(function):
        start.wait()
        return [function() for _ in range(times)]

    with ThreadPoolExecutor(len(functions)) as pool:
        return [future.result() for future in [pool.submit(run, function) for function in functions]]


def test_two_threads_share_one_block(whose):
    before = whose.state()
    for pipeline in possible(whose):
        expected = whose.reduced(pipeline)
        with whose.block(pipeline) as traces:
            found = in_threads(lambda: whose.answer(0), lambda: whose.answer(1), times=CALLS // 5)
        assert found == [[each] * (CALLS // 5) for each in expected]
        assert len(traces) == 2 * (CALLS // 5)
    assert whose.state() == before
    assert [whose.answer(number) for number in range(2)] == whose.plain


@pytest.mark.slow
def test_two_threads_share_one_block_at_length(whose):
    for pipeline in possible(whose):
        expected = whose.reduced(pipeline)
        with whose.block(pipeline):
            found = in_threads(lambda: whose.answer(0), lambda: whose.answer(1), times=CALLS)
        assert found == [[each] * CALLS for each in expected]


def test_each_thread_has_a_block_of_its_own_and_one_beside_is_plain(whose):
    methods = possible(whose)[-2:]
    expected = [whose.reduced(pipeline)[number] for number, pipeline in enumerate(methods)]
    assert expected[0] != whose.plain[0] or expected[1] != whose.plain[1]

    def inside(number):
        with whose.block(methods[number]):
            return whose.answer(number)

    found = in_threads(lambda: inside(0), lambda: inside(1), lambda: whose.answer(0), times=10)
    assert found == [[expected[0]] * 10, [expected[1]] * 10, [whose.plain[0]] * 10]
    assert "generate" not in vars(whose.model)


def test_a_block_closed_by_garbage_collection_does_not_wait_for_the_one_being_opened():
    changes, module = Counted(), torch.nn.Identity()
    abandoned = changes.use(module, "abandoned", lambda: lambda: None)
    abandoned.__enter__()

    def change():  # collection comes at any allocation, also here, and closes what nobody refers to
        abandoned.__exit__(None, None, None)
        return lambda: None

    def open_another():
        with changes.use(module, "another", change):
            pass

    thread = threading.Thread(target=open_another, daemon=True)
    thread.start()
    thread.join(timeout=30)
    assert not thread.is_alive()


def test_a_thread_older_than_the_block_has_to_be_meant(whose):
    expected = whose.reduced("random@0.5")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()  # the thread is there
        with whose.block("random@0.5"), pytest.raises(UserError, match="threads='all' to reduce here too, or"):
            pool.submit(whose.answer, 0).result()
        with whose.block("random@0.5", threads="all"):
            assert pool.submit(whose.answer, 0).result() == expected[0]
        with whose.block("random@0.5", threads="own"):
            assert pool.submit(whose.answer, 0).result() == whose.plain[0]
        with whose.block("random@0.5", threads="own"):
            context = contextvars.copy_context()
            assert pool.submit(context.run, whose.answer, 0).result() == expected[0]
    with pytest.raises(UserError, match="threads='some': it is 'own', 'all' or left out"):
        _check_threads("some")


def test_blocks_are_left_in_any_order(whose):
    before = whose.state()
    tenth, half = whose.reduced("random@0.1"), whose.reduced("random@0.5")
    first, second = whose.block("random@0.1"), whose.block("random@0.5")
    first.__enter__()
    second.__enter__()
    assert whose.answer(0) == half[0]
    first.__exit__(None, None, None)
    assert whose.answer(0) == half[0]
    second.__exit__(None, None, None)
    assert whose.answer(0) == whose.plain[0]
    with ExitStack() as stack:
        stack.enter_context(whose.block("random@0.5"))
        with whose.block("random@0.1"):
            assert whose.answer(0) == tenth[0]
        assert whose.answer(0) == half[0]
    assert whose.state() == before
    assert not _SHARED.get(whose.model)


def test_a_block_may_be_left_by_another_thread(whose):
    block = whose.block("random@0.5")
    thread = threading.Thread(target=block.__enter__)
    thread.start()
    thread.join()
    block.__exit__(None, None, None)
    assert whose.answer(0) == whose.plain[0]
    assert "generate" not in vars(whose.model)


def test_a_generate_that_somebody_put_in_front_meanwhile_stays(whose):
    with whose.block("random@0.5"):
        ours = whose.model.generate
        whose.model.generate = lambda **inputs: ours(**inputs)
        assert whose.answer(0) == whose.reduced("random@0.5")[0]
    assert whose.model.generate is not ours
    assert whose.answer(0) == whose.plain[0]
    del whose.model.generate


def test_what_would_read_the_whole_prompt_is_refused(whose):
    bound = whose.model.generate
    with whose.block("random@0.5"):
        for call in (
            lambda: whose.model(**whose.inputs[0]),
            lambda: whose.model.model(**whose.inputs[0]),
            lambda: bound(**whose.inputs[0], max_new_tokens=2),
        ):
            with pytest.raises(UserError, match="inside the block only model"):
                call()
        assert whose.answer(0) == whose.reduced("random@0.5")[0]
    whose.model(**whose.inputs[0])


def test_a_deep_copy_is_plain_inside_and_afterwards(whose):
    with whose.block("fastv@0.5"):
        twin = copy.deepcopy(whose.model)
        for _ in range(2):
            output = twin.generate(**whose.inputs[0], max_new_tokens=ANSWER_TOKENS, do_sample=False)
            assert output[0, whose.inputs[0]["input_ids"].shape[1] :].tolist() == whose.plain[0]
        twin(**whose.inputs[0])


def tensors() -> int:
    gc.collect()
    return sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())


def test_a_server_loop_does_not_grow(whose):
    with whose.block("fastv@0.5", max_traces=3) as traces:
        for number in (0, 1, 0, 1, 0):
            whose.answer(number)
    assert len(traces) == 3
    handed = []
    with whose.block("fastv@0.5", on_trace=handed.append) as traces:
        whose.answer(0)
        whose.answer(1)
    assert not traces
    assert [trace.prompt_tokens for trace in handed] == [each["input_ids"].shape[1] for each in whose.inputs]
    with whose.block("fastv@0.5", max_traces=0):
        whose.answer(0)
        before = tensors()
        for _ in range(5):
            whose.answer(0)
        assert tensors() <= before
    with pytest.raises(UserError, match="max_traces is -1"):
        whose.block("fastv@0.5", max_traces=-1).__enter__()


def test_questions_come_with_the_block_or_with_the_call(whose):
    def ask(question, **more):
        arguments = {**whose.inputs[0], "max_new_tokens": ANSWER_TOKENS, "do_sample": False, **more}
        with whose.block("text@0.2", questions=question) as traces:
            whose.model.generate(**arguments)
        return traces[0].reductions[0].reduction.anchor.tolist()

    first, second = ask(["what is there ?"]), ask(["how many objects ?"])
    assert ask(["what is there ?"], questions=["how many objects ?"]) == second
    assert ask([], questions=["what is there ?"]) == first
    assert ask([], questions="what is there ?") == first
    assert first != second
    with pytest.raises(UserError, match="a method looks at the question: give questions="):
        ask([])


@pytest.mark.parametrize("pipeline", ["random@0.5", "random", "visionzip@0.5", "similarity@0.5+random@0.5"])
def test_pipelines_are_named(whose, pipeline):
    with whose.block(pipeline) as traces:
        whose.answer(0)
    assert traces[0].visual_tokens_out < traces[0].visual_tokens_in


def test_slips_are_one_line(whose):
    for pipeline, message in (
        ("rando", "no compressor is called 'rando'; did you mean 'random'"),
        ("random@much", "written NAME@RATIO"),
        ("random@0.5+similarity@0.5", "list it first"),
    ):
        with pytest.raises(UserError, match=message):
            whose.block(pipeline).__enter__()
