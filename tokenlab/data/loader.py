"""Clips decoded ahead in processes: one that a file kills is a failed clip, not a failed run."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol, runtime_checkable

from torch.utils.data import DataLoader

from tokenlab.data.samples import Clip

AHEAD = 2
"""Batches that each process may be ahead."""


@runtime_checkable
class Clips(Protocol):
    """Decodes clips by their numbers."""

    def __getitem__(self, index: int) -> Clip:
        """Decodes one."""
        ...

    def failed(self, index: int, error: str) -> Clip:
        """Says that one cannot be decoded, and why."""
        ...


class ClipLoader(DataLoader[Clip]):
    """Decodes batches of clips in order; with `num_workers=0` in the main process, which a broken decoder then ends."""

    def __iter__(self) -> Iterator[Any]:
        """Yields lists of clips."""
        if not self.num_workers:
            yield from super().__iter__()
            return
        dataset: Any = self.dataset
        decoders = _Decoders(dataset, self.num_workers)
        try:
            yield from self._in_order(decoders)
        finally:
            decoders.close()

    def _in_order(self, decoders: _Decoders) -> Iterator[list[Clip]]:
        waiting: deque[list[tuple[int, Future[Clip]]]] = deque()
        batches: Any = self.batch_sampler
        for indices in batches:
            waiting.append([(index, decoders.submit(index)) for index in indices])
            if len(waiting) > AHEAD * self.num_workers:
                yield decoders.clips(waiting.popleft())
        while waiting:
            yield decoders.clips(waiting.popleft())


def decoded_in_turn(clips: Clips, number: int, in_process: bool) -> Iterator[Clip]:
    """Decodes clips one by one, none ahead, so that nothing else runs meanwhile.

    Args:
        clips: What there is to decode.
        number: How many there are.
        in_process: Whether this process decodes, which a broken decoder then ends.
    """
    if in_process:
        yield from (clips[index] for index in range(number))
        return
    decoders = _Decoders(clips, 1)
    try:
        for index in range(number):
            yield from decoders.clips([(index, decoders.submit(index))])
    finally:
        decoders.close()


class _Decoders:
    """Processes that decode; a new set of them where one is killed."""

    def __init__(self, dataset: Clips, number: int) -> None:
        self.dataset, self.number = dataset, number
        self.pool = self._new_pool(number)

    def close(self) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)

    def submit(self, index: int) -> Future[Clip]:
        try:
            return self.pool.submit(_decode, index)
        except BrokenProcessPool:
            self.pool = self._new_pool(self.number)
            return self.pool.submit(_decode, index)

    def clips(self, batch: Sequence[tuple[int, Future[Clip]]]) -> list[Clip]:
        """Waits for a batch; what went down together with another process's file is decoded by itself."""
        found = []
        for index, future in batch:
            try:
                found.append(future.result())
            except BrokenProcessPool:
                found.append(self._alone(index))
        return found

    def _alone(self, index: int) -> Clip:
        with self._new_pool(1) as pool:
            try:
                return pool.submit(_decode, index).result()
            except BrokenProcessPool:
                return self.dataset.failed(index, "the decoder of its media crashed, with its process")

    def _new_pool(self, number: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(number, initializer=_begin, initargs=(self.dataset,))


_dataset: Clips  # of a decoding process


def _begin(dataset: Clips) -> None:
    """Begins a decoding process: it heeds no signal that is meant for the run, and does not outlive it."""
    global _dataset
    _dataset = dataset
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _decode(index: int) -> Clip:
    return _dataset[index]
