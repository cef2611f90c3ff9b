"""Text as the judge: *SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model Inference*.

ICML 2025, arXiv 2410.04417; the first version, which recycles what it drops.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float, Int
from torch import Tensor

from tokenlab.compressors import (
    Evidence,
    LayerAttention,
    LayerReduction,
    LayerView,
    Moment,
    Preference,
    Reduction,
    ReductionKind,
    Separators,
    State,
    budget,
    cluster,
    means,
    rest_of,
    scaled_layer,
    top,
)

PRESETS = {192: (300, 200, 110), 128: (303, 110, 36), 96: (238, 48, 26), 64: (66, 30, 17)}
"""By the mean over all layers: what each cut keeps of 576 tokens."""
AUTHORS_TOKENS = 576


@dataclass(frozen=True, kw_only=True)
class SparseVlm(LayerReduction, name="sparsevlm"):
    """Keeps the visual tokens that matter to the question's visual words, and sums up the best of the others.

    Args:
        retention_ratio: Left behind the last cut, the sums included; cuts keep the proportions of `tokens`.
        layers: Behind which of 32 layers tokens go, by that layer's attention.
        tokens: The authors' budget, where `retention_ratio` is `null`: one of their presets (192, 128, 96, 64), or what
            each cut keeps of 576 tokens.
        recycled: The share of the dropped tokens that is summed up, a cluster for every ten of them.
        noise: Added to densities at most.
    """

    retention_ratio: float | None = None
    positions: Literal["keep", "renumber"] = "renumber"
    separators: Separators = "keep"
    layers: Sequence[int] = (2, 6, 15)
    tokens: int | Sequence[int] = 192
    recycled: float = 0.3
    noise: float = 1e-6
    paper: ClassVar[str] = "arXiv 2410.04417"
    venue: ClassVar[str] = "ICML 2025"
    licence: ClassVar[str] = "Apache-2.0"
    prefers: ClassVar[tuple[Preference, ...]] = ("attention",)
    kind: ClassVar[ReductionKind] = "both"
    order: ClassVar[Literal["raster", "rank"]] = "rank"
    has_native_budget: ClassVar[bool] = True
    all_pairs: ClassVar[bool] = True
    attention: ClassVar[Evidence] = LayerAttention()

    def __post_init__(self) -> None:
        """Refuses an unknown preset, and cuts without a budget."""
        super().__post_init__()
        if isinstance(self.tokens, int) and self.tokens not in PRESETS:
            raise ValueError(f"tokens is {self.tokens}, but must be one of {list(PRESETS)}, or a number for each cut")
        if len(self._of_authors) != len(self.layers):
            raise ValueError(f"tokens is {self.tokens}, but must have a number for each of the {len(self.layers)} cuts")

    def points(self, num_layers: int) -> Sequence[tuple[int, Moment]]:
        """Before the first layer, to choose the raters, and behind each layer; in a shallow model cuts become one."""
        return [(0, "before_attention"), *((layer, "before_attention") for layer in self._cuts(num_layers))]

    def kept(self, frame_sizes: Sequence[int]) -> int | None:
        """Each cut's own tokens and the sums of what it drops; counted for a model deep enough for all cuts."""
        left = initial = sum(frame_sizes)
        if self.is_off:
            return initial
        for cut in range(len(self.layers)):
            left = sum(self._split(cut, left, initial))
        return left

    def reduce_layer(self, view: LayerView, state: State) -> tuple[Reduction, State]:
        """Chooses raters first, then cuts; the state says which words of the text rate."""
        total = len(view.visual)
        if view.layer == 0:
            rates = visual_words(view.hidden[view.visual].float(), view.hidden[view.question].float())
            return Reduction.identity(total, view.visual.device), rates
        attention = view.evidence[self.attention].received(view.question[state])[view.visual]
        keep, count = self._split(self._cuts(view.num_layers)[view.layer], total, view.initial)
        stays = top(attention, keep)
        kept = Reduction.keep(stays, total)
        if not count:
            return kept, state
        dropped = rest_of(stays, total)
        # Released code, which we follow, recycles one token more than the share says
        best = dropped[attention[dropped].topk(int(self.recycled * len(dropped)) + 1).indices]
        centres, label = cluster(view.hidden[view.visual[best]], count, count, self.noise, view.generator)
        sums = means(centres, label)
        return Reduction.cat([(kept, None), (sums, best)], total), state

    @property
    def _of_authors(self) -> tuple[int, ...]:
        return PRESETS[self.tokens] if isinstance(self.tokens, int) else tuple(self.tokens)

    def _cuts(self, num_layers: int) -> dict[int, int]:
        """By layer at whose entry it is, the number of a cut."""
        return {scaled_layer(layer + 1, 32, num_layers): cut for cut, layer in enumerate(self.layers)}

    def _sums(self, dropped: int) -> int:
        return (int(self.recycled * dropped) + 1) // 10 + 1 if dropped else 0

    def _split(self, cut: int, left: int, initial: int) -> tuple[int, int]:
        """How many of the tokens that are left a cut keeps as they are, and to how many it sums up the others."""
        share = self._of_authors[cut] / AUTHORS_TOKENS
        if self.retention_ratio is None:
            stays = max(1, min(round(share * initial), left - 1))
            return stays, self._sums(left - stays)
        wanted = budget(min(1.0, share * self.retention_ratio / (self._of_authors[-1] / AUTHORS_TOKENS)), initial)
        if left <= wanted:
            return left, 0
        fits = (stays for stays in range(wanted, 0, -1) if stays + self._sums(left - stays) <= wanted)
        stays = next(fits, 0)
        return stays, wanted - stays


def visual_words(visual: Float[Tensor, "n d"], text: Float[Tensor, "q d"]) -> Int[Tensor, " r"]:
    """Finds the words that visual tokens choose more than the average word, of all that they choose between."""
    chosen = (visual @ text.mT).softmax(dim=-1).mean(dim=0)
    return (chosen > chosen.mean()).nonzero()[:, 0]
