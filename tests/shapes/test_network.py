from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, CLIPModel

import tokenlab.shapes
from tokenlab.shapes import network
from tokenlab.shapes.world import Scene, render
from tokenlab.training.clip import to_pixels
from tokenlab.training.evaluate import messages
from tokenlab.training.feature_cache import tower_features
from tokenlab.training.llava import OPENING, WORD_IDS, ids
from tokenlab.training.sequence_packing import PackedText, packed_hidden, prompt_length, readout

SHIPPED = Path(tokenlab.shapes.__file__).parent / "checkpoint"
QUESTION = "what colour is the circle ?"


@pytest.fixture(scope="module")
def video() -> "torch.Tensor":
    return render(Scene.from_seed(8))


def prompt(processor: object, video: object, frames: list[int]) -> dict:
    text = processor.apply_chat_template(messages(QUESTION, frames), add_generation_prompt=True, tokenize=False)
    return processor(text=text, images=[video[frame - 1] for frame in frames], return_tensors="pt")


def test_shipped_llava_loads_and_answers_with_plain_classes(video: object) -> None:
    processor = AutoProcessor.from_pretrained(SHIPPED / "llava")
    llava = AutoModelForImageTextToText.from_pretrained(SHIPPED / "llava")
    assert llava.dtype == torch.float32
    assert llava.config.frame_text == "f{number}"
    inputs = prompt(processor, video, list(range(1, 17)))
    with torch.inference_mode():
        tokens = llava.generate(**inputs, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert processor.decode(tokens, skip_special_tokens=True)


def test_shipped_clip_loads_and_shares_its_tower() -> None:
    clip = CLIPModel.from_pretrained(SHIPPED / "clip")
    llava = AutoModelForImageTextToText.from_pretrained(SHIPPED / "llava")
    tower = llava.model.vision_tower.state_dict()
    assert all(torch.equal(weight, tower[name]) for name, weight in clip.vision_model.state_dict().items())
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED / "clip")
    assert tokenizer.decode(tokenizer("A red circle?")["input_ids"]) == "<bos> a red circle ? <eos>"
    pixels = AutoProcessor.from_pretrained(SHIPPED / "clip")(
        images=[render(Scene.from_seed(0))[0]], return_tensors="pt"
    )
    assert clip.get_image_features(**pixels).pooler_output.shape == (1, 128)


def test_shipped_checkpoint_is_small() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) < 25e6


def test_prompt_reads_as_promised(video: object) -> None:
    inputs = prompt(network.llava_processor(), video, [2, 9])
    words = network.tokenizer().convert_ids_to_tokens(inputs["input_ids"][0])
    image = ["<image>"] * 64
    assert words == ["<bos>", "user", "f2", *image, "f9", *image, *QUESTION.split(), "assistant"]
    assert torch.allclose(inputs["pixel_values"], to_pixels(video[[1, 8]]), atol=1e-6)


def test_chat_goes_on_after_an_answer() -> None:
    chat = [*messages("who ?", [1]), {"role": "assistant", "content": "red"}, {"role": "user", "content": "why ?"}]
    text = network.llava_processor().apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert text == "<bos> user f1 <image> who ? assistant red <eos> user why ? assistant"


def test_untrained_checkpoint_follows_from_the_seed(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder, seed in zip(folders, (0, 0, 1), strict=True):
        network.untrained(folder, seed)
    a, b, c = ((folder / "llava" / "model.safetensors").read_bytes() for folder in folders)
    assert a == b != c


def test_packed_questions_get_the_logits_of_single_prompts(video: object) -> None:
    clip, llava = network.new_models(0)
    frames = [1, 4, 9]
    shown = video[[frame - 1 for frame in frames]][None]
    texts = [ids(f"{text} assistant") for text in ("what shape is that ?", "what colour")]
    text = PackedText(
        torch.tensor([texts[0] + texts[1]]),
        torch.tensor([[0] * len(texts[0]) + [1] * len(texts[1])]),
        torch.tensor([[*range(len(texts[0])), *range(len(texts[1]))]]),
    )
    with torch.inference_mode():
        hidden = packed_hidden(
            llava,
            torch.from_numpy(tower_features(clip, shown)).float(),
            OPENING,
            torch.tensor([[WORD_IDS[f"f{frame}"] for frame in frames]]),
            text,
        )
        packed = readout(llava, hidden[-1])
        for words, logits in zip(texts, packed[0].split([len(words) for words in texts]), strict=True):
            inputs = prompt(network.llava_processor(), video, frames)
            start = prompt_length(len(frames))
            inputs["input_ids"] = torch.cat([inputs["input_ids"][:, :start], torch.tensor([words])], 1)
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            single = llava(**inputs).logits[0, start:]
            # Cached features are rounded to half precision on the way.
            assert torch.allclose(logits, single, atol=0.02)
            assert logits.std() > 0.5
