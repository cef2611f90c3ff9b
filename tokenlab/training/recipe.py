"""Trains the embedded model from nothing: `tokenlab shapes --output DIR`.

Videos are rendered and sent through H.264, a CLIP learns from their frames, and a LLaVA on its frozen tower learns to
answer. Everything follows from the seed; an interrupted run goes on with --resume. Where other programs want the same
cores, set OMP_WAIT_POLICY=PASSIVE; MALLOC_TRIM_THRESHOLD_ and MALLOC_MMAP_THRESHOLD_ of some 4000000000 keep the C
library from giving memory back at every step.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float16, UInt8
from rich.progress import Progress
from torch import Tensor
from transformers import CLIPModel, LlavaForConditionalGeneration

from tokenlab.shapes import network
from tokenlab.shapes.questions import sample_questions
from tokenlab.shapes.splits import seeds
from tokenlab.shapes.world import NUM_FRAMES, Scene
from tokenlab.training import feature_cache
from tokenlab.training.clip import clip_batch, clip_loss
from tokenlab.training.evaluate import Correct, Run, evaluate_model, summary, write_cards
from tokenlab.training.llava import Phase, llava_batch, llava_loss, packed_correct
from tokenlab.training.training import Schedule, progress_bar, step_generator, train


@dataclass(frozen=True)
class Plan:
    """Sizes of everything.

    Args:
        videos: number of training videos.
        validation_videos: watched while training, and measured for the model card.
        questions_per_video: asked about each of those.
        clip: length and learning rate of the first stage.
        clip_frames: frames of a batch of the first stage.
        llava: length and learning rate of the second stage.
        phases: curriculum of the second stage.
        validate_every: steps of the second stage between two looks at the validation videos.
    """

    videos: int
    validation_videos: int
    questions_per_video: int
    clip: Schedule
    clip_frames: int
    llava: Schedule
    phases: tuple[Phase, ...]
    validate_every: int


FULL = Plan(
    videos=10_000,
    validation_videos=300,
    questions_per_video=3,
    clip=Schedule(1600, 1.5e-3),
    clip_frames=64,
    llava=Schedule(3600, 1.5e-3),
    phases=(
        Phase(250, 1, 1, 1.0, 24, lists=2.0),
        Phase(500, 2, 4, 0.0, 48),
        Phase(900, 2, 8, 0.0, 72),
        Phase(3600, 2, NUM_FRAMES, 0.5, 80),
    ),
    validate_every=300,
)

SMOKE = Plan(
    videos=24,
    validation_videos=4,
    questions_per_video=3,
    clip=Schedule(3, 1e-3),
    clip_frames=8,
    llava=Schedule(4, 1e-3),
    phases=(Phase(2, 1, 1, 1.0, 4), Phase(4, 2, NUM_FRAMES, 0.5, 16)),
    validate_every=2,
)


@dataclass(frozen=True)
class Job:
    """One run of a plan: its seed, its folder for caches and checkpoints, and the bars that show how far it is."""

    plan: Plan
    seed: int
    work: Path
    progress: Progress

    def videos(self, split: str, number: int) -> UInt8[np.ndarray, "videos 16 64 64 3"]:
        """Decoded videos of a split."""
        return feature_cache.video_cache(self.work / f"{split}.npy", seeds(split, number), self.progress)

    def features(
        self, split: str, clip: CLIPModel, videos: UInt8[np.ndarray, "videos 16 64 64 3"]
    ) -> Float16[np.ndarray, "videos 16 patches width"]:
        """What the trained tower makes of them."""
        return feature_cache.feature_cache(self.work / f"{split}_features.npy", clip, videos, self.progress)

    def train_clip(
        self, clip: CLIPModel, videos: UInt8[np.ndarray, "videos 16 64 64 3"], scenes: Sequence[Scene]
    ) -> float:
        """First stage; returns its seconds."""
        # Short sequences: on a CPU plain attention is a third faster than the fused kernel.
        clip.set_attn_implementation("eager")
        tokenizer = network.tokenizer(for_clip=True)

        def loss_at(step: int) -> Tensor:
            rng = step_generator(self.seed, "clip", step)
            return clip_loss(clip, clip_batch(videos, scenes, tokenizer, rng, self.plan.clip_frames))

        seconds = train("clip", clip.train(), loss_at, self.plan.clip, self.work, self.progress)
        clip.eval().set_attn_implementation("sdpa")
        return seconds

    def train_llava(
        self,
        llava: LlavaForConditionalGeneration,
        features: Float16[np.ndarray, "videos 16 patches width"],
        scenes: Sequence[Scene],
        correct: Callable[[], Correct],
    ) -> float:
        """Second stage, all but the tower, with a line on the validation videos now and then; returns its seconds."""
        llava.model.vision_tower.requires_grad_(False)

        def loss_at(step: int) -> Tensor:
            phase = next(phase for phase in self.plan.phases if step < phase.until)
            return llava_loss(llava, llava_batch(features, scenes, phase, step_generator(self.seed, "llava", step)))

        def watch(step: int) -> None:
            if step % self.plan.validate_every == 0:
                self.progress.console.print(f"step {step}: {summary(correct())}")

        return train("llava", llava, loss_at, self.plan.llava, self.work, self.progress, watch)


def run(output: Path, plan: Plan, seed: int, command: str) -> None:
    """All stages, each from where an earlier run left it."""
    started = time.monotonic()
    clip, llava = network.new_models(seed)
    scenes, held_out = (
        [Scene.from_seed(s) for s in seeds(split, number)]
        for split, number in (("train", plan.videos), ("validation", plan.validation_videos))
    )
    questions = sample_questions(held_out, plan.questions_per_video)
    with progress_bar() as progress:
        job = Job(plan, seed, output / "work", progress)
        videos, unseen = job.videos("train", plan.videos), job.videos("validation", plan.validation_videos)
        clip_seconds = job.train_clip(clip, videos, scenes)
        network.share_tower(clip, llava)
        features, unseen_features = job.features("train", clip, videos), job.features("validation", clip, unseen)
        watched = partial(packed_correct, llava, unseen_features, questions)
        llava_seconds = job.train_llava(llava, features, scenes, watched)
        network.save(clip, llava, output)
        accuracy, blind = (evaluate_model(output / "llava", unseen, questions, progress, shift) for shift in (0, 1))
    total = time.monotonic() - started
    write_cards(output, accuracy, blind, questions, Run(command, seed, clip_seconds, llava_seconds, total, plan.videos))
