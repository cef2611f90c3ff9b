"""The tiny checkpoints behave like real ones: every kind of prompt goes through, and the answers hang on the pixels."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel

from tokenlab.testing import ANSWER_TOKENS, SAVERS
from tokenlab.testing.prompts import Item, noise, process

IMAGES_ONLY = {"llava", "llava_next"}
ONE_KIND_A_CALL = {"smolvlm": "transformers writes the video's pixels over the image's"}
QUESTION = "what colour is the circle ?"


@dataclass
class Checkpoint:
    """A loaded checkpoint."""

    name: str
    processor: Any
    model: PreTrainedModel

    @torch.no_grad()
    def ask(self, *rows: list[Item]) -> list[list[int]]:
        """Greedy answers, cut after their end."""
        inputs = process(self.processor, *rows)
        output = self.model.generate(**inputs, max_new_tokens=ANSWER_TOKENS, do_sample=False)
        answers = output[:, inputs["input_ids"].shape[1] :].tolist()
        return [answer[: answer.index(3) + 1] if 3 in answer else answer for answer in answers]

    @property
    def kinds(self) -> list[str]:
        """What it can look at."""
        return ["image"] if self.name in IMAGES_ONLY else ["image", "video"]


@pytest.fixture(scope="module", params=sorted(SAVERS))
def checkpoint(request: pytest.FixtureRequest, checkpoints: dict[str, Path]) -> Checkpoint:
    folder = checkpoints[request.param]
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    return Checkpoint(request.param, AutoProcessor.from_pretrained(folder), model)


def medium(kind: str, seed: int = 0):
    return noise(seed, 64, 80) if kind == "image" else noise(seed, 6, 64, 80)


def test_is_small_and_shaped_like_a_real_one(checkpoint):
    config = checkpoint.model.config
    text = config.get_text_config()
    assert config.model_type == checkpoint.name
    assert checkpoint.model.num_parameters() < 400_000
    assert text.num_key_value_heads < text.num_attention_heads
    assert text.num_hidden_layers in (3, 4)
    assert checkpoint.model.generation_config.eos_token_id == 3
    assert len(checkpoint.processor.tokenizer) == text.vocab_size


@pytest.mark.parametrize("kind", ["image", "video"])
def test_answers_depend_on_the_pixels(checkpoint, kind):
    if kind not in checkpoint.kinds:
        pytest.skip("images only")
    answers = [checkpoint.ask([medium(kind, seed), QUESTION])[0] for seed in range(5)]
    assert len({tuple(answer) for answer in answers}) >= 4
    assert sum(len(set(answer)) for answer in answers) >= 3 * len(answers)  # no endless repetition


def test_answers_depend_on_every_frame(checkpoint):
    if "video" not in checkpoint.kinds:
        pytest.skip("images only")
    video = medium("video")
    plain = checkpoint.ask([video, QUESTION])
    changed = 0
    for frame in range(len(video)):
        other = video.copy()
        other[frame] = noise(9, 64, 80)
        changed += checkpoint.ask([other, QUESTION]) != plain
    assert changed >= 4


def test_batches_change_no_answer(checkpoint):
    rows = [[medium(kind, seed), "how many ?" if seed else QUESTION] for kind in checkpoint.kinds for seed in (0, 1)]
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        assert checkpoint.ask(first, second) == [*checkpoint.ask(first), *checkpoint.ask(second)]


def test_text_alone_and_beside_media(checkpoint):
    (alone,) = checkpoint.ask([QUESTION])
    (seen,) = checkpoint.ask([medium("image"), QUESTION])
    assert alone != seen
    if checkpoint.name not in ONE_KIND_A_CALL:
        assert checkpoint.ask([medium("image"), QUESTION], [QUESTION]) == [seen, alone]


def test_several_images_in_their_order(checkpoint):
    first, second = noise(1, 64, 64), noise(2, 40, 90)
    one = checkpoint.ask([first, "and", second, QUESTION])
    other = checkpoint.ask([second, "and", first, QUESTION])
    assert one != other


def test_image_and_video_in_one_prompt(checkpoint):
    if "video" not in checkpoint.kinds:
        pytest.skip("images only")
    if checkpoint.name in ONE_KIND_A_CALL:
        pytest.skip(ONE_KIND_A_CALL[checkpoint.name])
    image, video = noise(1, 64, 64), noise(2, 4, 64, 64)
    both = checkpoint.ask([image, "and", video, QUESTION])
    assert both != checkpoint.ask([noise(3, 64, 64), "and", video, QUESTION])
    assert both != checkpoint.ask([image, "and", noise(3, 4, 64, 64), QUESTION])
    rows = [[image, "and", video, QUESTION], [noise(4, 6, 64, 64), QUESTION]]
    if checkpoint.name.startswith("qwen"):  # the others' processors stack videos, which must be of one length
        assert checkpoint.ask(*rows) == [*both, *checkpoint.ask(rows[1])]


def test_two_videos_in_one_prompt(checkpoint):
    if "video" not in checkpoint.kinds:
        pytest.skip("images only")
    first, second = noise(1, 4, 64, 64), noise(2, 4, 64, 64)
    assert checkpoint.ask([first, second, QUESTION]) != checkpoint.ask([second, first, QUESTION])


def test_qwen_towers_have_what_makes_them_special(checkpoints):
    configs = {
        name: AutoModelForImageTextToText.from_pretrained(checkpoints[name]).config.vision_config
        for name in ("qwen2_5_vl", "qwen3_vl")
    }
    windowed = configs["qwen2_5_vl"]
    assert 0 < len(windowed.fullatt_block_indexes) < windowed.depth
    assert len(configs["qwen3_vl"].deepstack_visual_indexes) == 2
