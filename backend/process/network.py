"""The network of one process, run by a thread of its own.

Each thread that ever calls torch keeps scratch memory of its own: gigabytes for sixteen threads.
Several at the same time only compete for the cores. So the threads that answer requests pass their
work to this one thread. Prompts that wait at the same time are decoded together; images are encoded
when no prompt waits.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from backend.process.supersede import SupersededError
from model.network.embedding import Embedding
from model.network.prediction import Prediction
from model.network.prompts import Prompt
from model.network.segnext import SegNext

MOST = 16  # prompts that are decoded together


@dataclass(frozen=True, eq=False)
class _Decode:
    model: SegNext
    embedding: Embedding
    prompt: Prompt
    stale: Callable[[], bool]
    answer: Future[Prediction] = field(default_factory=Future)


@dataclass(frozen=True, eq=False)
class _Encode:
    model: SegNext
    pixels: npt.NDArray[np.uint8]
    answer: Future[Embedding] = field(default_factory=Future)


class Network:
    """Takes work from many threads. Its own thread runs from the first work until ``close``."""

    def __init__(self) -> None:
        self._decodes: deque[_Decode] = deque()
        self._encodes: deque[_Encode] = deque()
        self._work = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def decode(
        self,
        model: SegNext,
        embedding: Embedding,
        prompt: Prompt,
        stale: Callable[[], bool] = lambda: False,
    ) -> Prediction:
        """The answer of ``model.decode``.

        Args:
            stale: returns True when the answer is no longer needed.

        Raises:
            SupersededError: ``stale()`` was true when the prompt's turn came.
            PromptError, CheckpointError: as ``model.decode``.
        """
        wanted = _Decode(model, embedding, prompt, stale)
        with self._work:
            self._decodes.append(wanted)
            self._wake()
        return wanted.answer.result()

    def encode(self, model: SegNext, pixels: npt.NDArray[np.uint8]) -> Embedding:
        """The embedding of ``model.encode``. Raises ImageError as that does.

        Args:
            pixels: uint8 [H, W, 3], RGB.
        """
        wanted = _Encode(model, pixels)
        with self._work:
            self._encodes.append(wanted)
            self._wake()
        return wanted.answer.result()

    @property
    def waiting(self) -> int:
        """Decodes and encodes that have not begun."""
        with self._work:
            return len(self._decodes) + len(self._encodes)

    def close(self) -> None:
        """Do the work that waits, then end the thread."""
        with self._work:
            self._closed = True
            self._work.notify()
        if self._thread is not None:
            self._thread.join()

    def _wake(self) -> None:
        if self._closed:
            raise RuntimeError("The network was closed; open the services again.")
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="network", daemon=True)
            self._thread.start()
        self._work.notify()

    def _run(self) -> None:
        while True:
            with self._work:
                while not (self._decodes or self._encodes or self._closed):
                    self._work.wait()
                if self._decodes:
                    some, wanted = self._alike(), None
                elif self._encodes:
                    some, wanted = [], self._encodes.popleft()
                else:
                    return
            if wanted is not None:
                _encode(wanted)
            else:
                _decode(some)

    def _alike(self) -> list[_Decode]:
        """The decode that has waited longest, and others of its model: at most ``MOST`` in all."""
        model = self._decodes[0].model
        some = [each for each in self._decodes if each.model is model][:MOST]
        self._decodes = deque(each for each in self._decodes if each not in some)
        return some


def _encode(wanted: _Encode) -> None:
    try:
        wanted.answer.set_result(wanted.model.encode(wanted.pixels))
    except BaseException as error:  # A thread waits for the answer, and must not wait for ever.
        wanted.answer.set_exception(error)


def _decode(some: list[_Decode]) -> None:
    fresh = []
    for each in some:
        if each.stale():
            each.answer.set_exception(SupersededError())
        else:
            fresh.append(each)
    if not fresh:
        return
    try:
        found = fresh[0].model.decode_batch(
            [each.embedding for each in fresh], [each.prompt for each in fresh]
        )
        pairs = list(zip(fresh, found, strict=True))
    except BaseException as error:
        if len(fresh) == 1:
            fresh[0].answer.set_exception(error)
        else:  # Decode each alone, so that only the prompt at fault fails.
            for each in fresh:
                _decode([each])
        return
    for each, answer in pairs:
        each.answer.set_result(answer)
