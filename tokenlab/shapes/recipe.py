"""Trains the embedded model from nothing: python -m tokenlab.shapes.recipe --output DIR.

Videos are rendered and sent through H.264, a CLIP learns from their frames, and a LLaVA on its frozen tower learns to
answer. Everything follows from the seed; an interrupted run goes on with --resume. Where other programs want the same
cores, set OMP_WAIT_POLICY=PASSIVE.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress
from transformers import CLIPModel, LlavaForConditionalGeneration

from tokenlab.shapes import caches, clip_training, llava_training, network
from tokenlab.shapes.llava_training import Phase
from tokenlab.shapes.measure import Run, measure, summary, write_cards
from tokenlab.shapes.questions import sample_questions
from tokenlab.shapes.splits import seeds
from tokenlab.shapes.training import Schedule, progress_bar, step_generator, train
from tokenlab.shapes.world import NUM_FRAMES, Scene


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
    validation_videos=220,
    questions_per_video=5,
    clip=Schedule(1800, 1.5e-3),
    clip_frames=64,
    llava=Schedule(3000, 1.5e-3, warmup=100),
    phases=(
        Phase(300, 1, 1, 1.0, 24),
        Phase(700, 2, 8, 0.0, 64),
        Phase(3000, 2, NUM_FRAMES, 0.45, 96),
    ),
    validate_every=250,
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


def train_clip(
    clip: CLIPModel, videos: np.ndarray, scenes: Sequence[Scene], plan: Plan, seed: int, work: Path, progress: Progress
) -> float:
    """First stage; returns its seconds."""
    # Short sequences: on a CPU plain attention is a third faster than the fused kernel.
    clip.set_attn_implementation("eager")
    tokenizer = network.tokenizer(for_clip=True)

    def loss_at(step: int) -> torch.Tensor:
        rng = step_generator(seed, "clip", step)
        return clip_training.clip_loss(clip, clip_training.clip_batch(videos, scenes, tokenizer, rng, plan.clip_frames))

    seconds = train("clip", clip.train(), loss_at, plan.clip, work, progress)
    clip.eval().set_attn_implementation("sdpa")
    return seconds


def train_llava(
    llava: LlavaForConditionalGeneration,
    features: np.ndarray,
    scenes: Sequence[Scene],
    validation: tuple[np.ndarray, list],
    plan: Plan,
    seed: int,
    work: Path,
    progress: Progress,
) -> float:
    """Second stage, all but the tower; returns its seconds."""
    llava.model.vision_tower.requires_grad_(False)

    def loss_at(step: int) -> torch.Tensor:
        phase = next(phase for phase in plan.phases if step < phase.until)
        rng = step_generator(seed, "llava", step)
        return llava_training.llava_loss(llava, llava_training.llava_batch(features, scenes, phase, rng))

    def watch(step: int) -> None:
        if step % plan.validate_every == 0:
            progress.console.print(f"step {step}: {summary(llava_training.packed_correct(llava, *validation))}")

    return train("llava", llava, loss_at, plan.llava, work, progress, watch)


def run(output: Path, plan: Plan, seed: int, command: str) -> None:
    """All stages, each from where an earlier run left it."""
    started = time.monotonic()
    work = output / "work"
    work.mkdir(parents=True, exist_ok=True)
    clip, llava = network.new_models(seed)
    scenes = [Scene.from_seed(s) for s in seeds("train", plan.videos)]
    held_out = [Scene.from_seed(s) for s in seeds("validation", plan.validation_videos)]
    asked = sample_questions(held_out, plan.questions_per_video)
    with progress_bar() as progress:
        videos = caches.video_cache(work / "videos.npy", seeds("train", plan.videos), progress)
        validation_seeds = seeds("validation", plan.validation_videos)
        validation_videos = caches.video_cache(work / "validation.npy", validation_seeds, progress)
        clip_seconds = train_clip(clip, videos, scenes, plan, seed, work, progress)
        network.share_tower(clip, llava)
        features = caches.feature_cache(work / "features.npy", clip, videos, progress)
        validation = (caches.tower_features(clip, validation_videos), asked)
        llava_seconds = train_llava(llava, features, scenes, validation, plan, seed, work, progress)
        network.save(clip, llava, output)
        accuracy, blind = (measure(output / "llava", validation_videos, asked, progress, shift) for shift in (0, 1))
    total = time.monotonic() - started
    write_cards(output, accuracy, blind, asked, Run(command, seed, clip_seconds, llava_seconds, total, plan.videos))


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tokenlab.shapes.recipe", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder for llava/, clip/ and work/")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --output")
    parser.add_argument("--smoke", action="store_true", help="a run of seconds which teaches nothing")
    args = parser.parse_args(arguments)
    if (args.output / "work").exists() and not args.resume:
        parser.error(f"{args.output} holds an earlier run: add --resume to go on with it, or name another folder")
    given = sys.argv[1:] if arguments is None else arguments
    command = shlex.join(["python", "-m", "tokenlab.shapes.recipe", *map(str, given)])
    run(args.output, SMOKE if args.smoke else FULL, args.seed, command)


if __name__ == "__main__":
    main()
