"""How each family reads a video, restated without `tokenlab.models`: prompt, features, grid and attention maps."""

import sys
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.vision_utils import get_vision_window_index

from tokenlab.compressors.evidence import TowerAttention, TowerKeys, TowerLogits

AS_IMAGES = ("llava", "internvl", "smolvlm")
"""Families whose frames stand in the prompt as image placeholders."""

CLOSING = {"qwen3_vl": 1, "internvl": 1, "smolvlm": 1}
"""Tokens after a frame that close it, such as <|vision_end|>."""

FOLLOWING = {"internvl": 1}
"""Tokens before a frame that only stand behind another one: InternVL's line break."""

BLOCKS = {
    "video_llava": "video_tower.encoder.layers",
    "internvl": "vision_tower.encoder.layer",
    "smolvlm": "vision_model.encoder.layers",
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl"), "visual.blocks"),
}


@dataclass
class Seen:
    """What a family makes of one video.

    Attributes:
        features: One row a placeholder, in prompt order.
        on_grid: Which of them lie on the token grid; the others are newlines and class tokens.
        places: Frame, row and column of those on it.
        deep: What later layers of the LLM add to them.
    """

    features: Tensor
    on_grid: Tensor
    places: Tensor
    deep: list[Tensor]

    @property
    def grid(self) -> tuple[int, int, int]:
        """Frames, rows, columns."""
        frames, rows, columns = (self.places.amax(0) + 1).tolist()
        return frames, rows, columns


def mosaic(on_grid: Tensor, vision) -> Tensor:
    """Places of an image's tokens: a small picture, then a mosaic with a newline behind every row."""
    side = vision.image_size // vision.patch_size
    base = torch.cartesian_prod(torch.zeros(1, dtype=torch.long), torch.arange(side), torch.arange(side))
    ends = [index for index, inside in enumerate(on_grid.tolist()) if not inside]
    if len(ends) == 1:  # there is only the small picture
        return base
    columns = ends[1] - ends[0] - 1
    tiles = torch.cartesian_prod(torch.ones(1, dtype=torch.long), torch.arange(len(ends)), torch.arange(columns))
    return torch.cat([base, tiles])


TOKEN_WISE = ("llava", "llava_next", "llava_next_video", "video_llava")
"""Families whose projector makes each token by itself."""


class Checkpoint:
    """A checkpoint and its processor, in stock classes."""

    def __init__(self, folder: str) -> None:
        self.processor = AutoProcessor.from_pretrained(folder)
        self.model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
        self.eager = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        self.kind = self.model.config.model_type
        config = self.model.config
        self.image, self.video = config.image_token_id, getattr(config, "video_token_id", None)
        if self.kind in AS_IMAGES:
            self.video = self.image
        self.closing, self.following = CLOSING.get(self.kind, 0), FOLLOWING.get(self.kind, 0)

    def inputs(self, *parts) -> dict[str, Tensor]:
        """Processor output for a whole prompt of texts and media."""
        content, images, videos, metadata = [], [], [], []
        for part in parts:
            if isinstance(part, str):
                content.append({"type": "text", "text": part})
            elif part.is_image:
                content.append({"type": "image"})
                images.append(part.pixels[0])
            elif self.kind == "llava":
                for number, pixels in zip(part.numbers, part.pixels, strict=True):
                    marker = self.model.config.frame_text.format(number=number + 1)
                    content += [{"type": "text", "text": marker}, {"type": "image"}]
                    images.append(pixels)
            else:
                pixels, numbers = part.pixels, list(part.numbers)
                if self.kind == "qwen3_vl" and len(numbers) == 1:  # its processor refuses one frame
                    pixels, numbers = pixels[[0, 0]], numbers * 2
                content.append({"type": "video"})
                videos.append(pixels)
                metadata.append(self.metadata(numbers, part.seconds))
        messages = [{"role": "user", "content": content}]
        text = self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        media = {"images": [images] if self.kind == "smolvlm" else images} if images else {}
        if videos:
            media |= {"videos": videos, "video_metadata": metadata, "do_sample_frames": False}
        return self.processor(text=[text], **media, return_tensors="pt")

    @staticmethod
    def metadata(numbers: list[int], seconds) -> dict:
        """Rate and length such that frames keep their times, and the mean gap between them is the true one."""
        if numbers[0] == numbers[-1]:
            rate, gap = 24.0, 1 / 24 if len(numbers) == 1 else 0.0
        else:
            rate = (numbers[-1] - numbers[0]) / float(seconds[-1] - seconds[0])
            gap = float(seconds[-1] - seconds[0]) / (len(numbers) - 1)
        total = max(1, round(rate * gap * len(numbers)))
        return {"total_num_frames": total, "fps": rate, "duration": total / rate, "frames_indices": list(numbers)}

    def look(self, inputs) -> Seen:
        """Tower and projector."""
        core = self.model.model
        names = ("video_grid_thw", "image_grid_thw", "pixel_attention_mask", "image_sizes")
        asked = {name: inputs[name] for name in names if name in inputs}
        if "pixel_values_videos" in inputs:
            output = core.get_video_features(inputs["pixel_values_videos"], **asked, return_dict=True)
        elif "pixel_values_images" in inputs:
            output = core.get_image_features(pixel_values_images=inputs["pixel_values_images"], return_dict=True)
        else:
            output = core.get_image_features(inputs["pixel_values"], **asked, return_dict=True)
        pooled = output.pooler_output
        pooled = pooled if isinstance(pooled, Tensor) else torch.cat(list(pooled))
        features = pooled.reshape(-1, pooled.shape[-1])
        deep = [layer[0] for layer in getattr(output, "deepstack_features", None) or []]
        frames = self.frames_in(inputs)
        on_grid = torch.ones(len(features), dtype=torch.bool)
        if self.kind == "llava_onevision" or "image_sizes" in inputs:
            on_grid = (features != core.image_newline).any(-1)
        if self.kind == "video_llava" and "pixel_values_videos" in inputs:
            on_grid[:: len(features) // frames] = False  # a class token before each frame
        if "image_sizes" in inputs:
            return Seen(features, on_grid, mosaic(on_grid, self.model.config.vision_config), deep)
        per_frame = int(on_grid.sum()) // frames
        side = round(per_frame**0.5)
        rows, columns = side, side
        for name in ("video_grid_thw", "image_grid_thw"):
            if name in inputs:
                rows, columns = (size // 2 for size in inputs[name][0, 1:].tolist())
        return Seen(features, on_grid, torch.cartesian_prod(*map(torch.arange, (frames, rows, columns))), deep)

    def tower(self, inputs) -> tuple[torch.nn.Module, Tensor]:
        """The CLIP tower that reads these inputs, and the pictures it reads."""
        own = {"pixel_values_videos": "video_tower", "pixel_values_images": "image_tower"}
        (name,) = {"pixel_values", *own} & inputs.keys()
        tower = own[name] if self.kind == "video_llava" else "vision_tower"
        return getattr(self.model.model, tower), inputs[name].flatten(0, -4)

    @property
    def projector(self) -> torch.nn.Module | None:
        """The projector, if it makes each token by itself."""
        return self.model.model.multi_modal_projector if self.kind in TOKEN_WISE else None

    def before_projector(self, inputs) -> Tensor:
        """What that projector reads of each grid token."""
        tower, pixels = self.tower(inputs)
        layers = tower(pixels, output_hidden_states=True).hidden_states
        hidden = layers[self.model.config.vision_feature_layer][:, 1:]
        return (self.model.model.vision_resampler(hidden) if self.kind == "llava_next_video" else hidden).flatten(0, 1)

    def frames_in(self, inputs) -> int:
        """Time steps of the token grid."""
        for name in ("video_grid_thw", "image_grid_thw"):
            if name in inputs:
                return int(inputs[name][0, 0])
        (pixels,) = (value for name, value in inputs.items() if name.startswith("pixel_values"))
        return pixels.flatten(0, -4).shape[0]

    def positions(self, inputs) -> Tensor:
        """Of the untouched prompt: one row, or three under M-RoPE."""
        if not self.kind.startswith("qwen"):
            return torch.arange(inputs["input_ids"].shape[1])[None]
        names = ("mm_token_type_ids", "video_grid_thw", "image_grid_thw", "second_per_grid_ts", "attention_mask")
        asked = {name: inputs[name] for name in names if name in inputs}
        positions, _ = self.model.model.get_rope_index(inputs["input_ids"], **asked)
        return positions[:, 0]

    def attention(self, inputs, need: TowerAttention | TowerLogits, grid: tuple[int, int, int]) -> Tensor:
        """What [CLS] pays each grid token, or where there is none, what it receives in the mean: by eager maps."""
        recorded = self.recorded(inputs, need.layer)
        if isinstance(need, TowerLogits):
            logits = [(query[:, :, :1] @ key.mT / query.shape[-1] ** 0.5).mean(1)[:, 0] for query, key, _ in recorded]
            return self.on_grid([each[..., None] for each in logits], inputs, grid)[:, 0]
        maps = [weights.mean(1) for _, _, weights in recorded]  # queries, keys
        if need.heads == "one":
            wide = [(side_by_side(query), side_by_side(key)) for query, key, _ in recorded]
            maps = [(query @ key.mT / query.shape[-1] ** 0.5).softmax(-1) for query, key in wide]
        has_cls = self.kind not in ("llava_onevision", "smolvlm") and not self.kind.startswith("qwen")
        received = [weights[:, 0] if has_cls and need.query != "mean" else weights.mean(1) for weights in maps]
        if need.over == "sum":
            received = [weights.sum(1) for weights in maps]
        return self.on_grid([each[..., None] for each in received], inputs, grid)[:, 0]

    def keys(self, inputs, need: TowerKeys, grid: tuple[int, int, int]) -> Tensor:
        """Keys of one layer on the grid, mean over heads or side by side."""
        keys = [key for _, key, _ in self.recorded(inputs, need.layer)]
        return self.on_grid([key.mean(1) if need.heads == "mean" else side_by_side(key) for key in keys], inputs, grid)

    def pixel_change(self, inputs) -> Tensor:
        """Differences of whole pictures, put together patch by patch, averaged over what each token covers."""
        vision, part = self.model.config.vision_config, self.processor.video_processor
        (patches,) = (value for name, value in inputs.items() if name.startswith("pixel_values"))
        (grid,) = (value[0].tolist() for name, value in inputs.items() if name.endswith("grid_thw"))
        (steps, rows, columns), side, merge = grid, vision.patch_size, vision.spatial_merge_size
        pictures = torch.empty(steps, 2, 3, rows * side, columns * side)
        for number, patch in enumerate(patches):
            step, rest = divmod(number, rows * columns)
            block, inside = divmod(rest, merge**2)
            y = (block // (columns // merge) * merge + inside // merge) * side
            x = (block % (columns // merge) * merge + inside % merge) * side
            pictures[step, :, :, y : y + side, x : x + side] = patch.reshape(3, 2, side, side).transpose(0, 1)
        mean, std = (torch.tensor(each)[:, None, None] for each in (part.image_mean, part.image_std))
        pictures = pictures * std + mean
        change = (pictures[1:, 1] - pictures[:-1, 0]).abs().mean(1)
        tokens = avg_pool2d(change[:, None], merge * side).flatten(1)
        return torch.cat([torch.full((1, rows * columns // merge**2), torch.inf), tokens]).flatten()

    def features(self, inputs, layer: int, grid: tuple[int, int, int]) -> Tensor:
        """What a layer of the tower gives back, on the grid."""
        found = []
        block = self.blocks(self.model.model, inputs)[layer]
        handle = block.register_forward_hook(lambda _, __, output: found.append(output))
        self.look(inputs)
        handle.remove()
        return self.on_grid([each if each.ndim == 3 else each[None] for each in found], inputs, grid)

    def blocks(self, core, inputs):
        """The layers of the tower that reads these inputs."""
        path = BLOCKS.get(self.kind, "vision_tower.encoder.layers")
        if "pixel_values_images" in inputs:
            path = "image_tower.encoder.layers"
        for name in path.split("."):
            core = getattr(core, name)
        return core

    def on_grid(self, calls: list[Tensor], inputs, grid: tuple[int, int, int]) -> Tensor:
        """From the tower's rows to grid tokens."""
        if self.kind.startswith("qwen"):  # segment after segment, four patches a token
            rows = torch.cat([call[0] for call in calls])
            merged = rows.reshape(-1, 4, rows.shape[-1]).mean(1)
            if self.kind != "qwen2_5_vl":
                return merged
            vision = self.eager.config.vision_config  # window by window
            (grid_thw,) = (value for name, value in inputs.items() if name.endswith("grid_thw"))
            order, _ = get_vision_window_index(grid_thw, 2, vision.window_size, vision.patch_size)
            return merged[torch.argsort(order)]
        rows = torch.cat(calls)  # frames, patches, values
        if self.kind not in ("llava_onevision", "smolvlm"):
            rows = rows[:, 1:]
        if self.kind in ("llava", "video_llava"):
            return rows.flatten(0, 1)
        if self.kind == "llava_onevision":
            return self.eager.model.apply_pooling(rows).flatten(0, 1)
        side = round(rows.shape[1] ** 0.5)  # two by two patches are a token
        return rows.reshape(grid[0], side // 2, 2, side // 2, 2, -1).mean((2, 4)).flatten(0, 2)

    def recorded(self, inputs, layer: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Queries, keys and the eager kernel's weights in one layer of the tower, call by call."""
        blocks = self.blocks(self.eager.model, inputs)
        watched = [m for m in blocks[layer].modules() if type(m).__name__.endswith("Attention")]
        module = sys.modules[type(watched[0]).__module__]
        kernel, received = module.eager_attention_forward, []

        def recording(attention, query, key, *args, **kwargs):
            output, weights = kernel(attention, query, key, *args, **kwargs)
            if attention is watched[0]:
                received.append((query, key, weights))
            return output, weights

        module.eager_attention_forward = recording
        try:
            model, self.model = self.model, self.eager
            self.look(inputs)
        finally:
            self.model = model
            module.eager_attention_forward = kernel
        return received


def side_by_side(heads: Tensor) -> Tensor:
    """Heads as one wide vector a token."""
    return torch.cat(list(heads.unbind(1)), dim=-1)
