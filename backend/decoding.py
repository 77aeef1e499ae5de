"""Decodes of one process: those that wait at a time go through the network together."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from model.embedding import Embedding
from model.errors import MaskloopError
from model.prediction import Prediction
from model.prompts import Prompt
from model.segnext import SegNext

MOST = 16  # prompts decoded together


class SupersededError(MaskloopError):
    """Nobody waits for the answer any more: the annotator clicked again meanwhile."""

    def __init__(self) -> None:
        super().__init__("A newer click took the place of this one; its answer follows.")


@dataclass(frozen=True, eq=False)
class _Wanted:
    model: SegNext
    embedding: Embedding
    prompt: Prompt
    stale: Callable[[], bool]
    answer: Future[Prediction] = field(default_factory=Future)


class Decoding:
    """Takes decodes from many threads. One thread at a time decodes all that wait for the model it
    wants, since prompts decoded at once share the cores better than prompts that compete."""

    def __init__(self) -> None:
        self._waiting: list[_Wanted] = []
        self._list = threading.Lock()
        self._turn = threading.Lock()

    def decode(
        self,
        model: SegNext,
        embedding: Embedding,
        prompt: Prompt,
        stale: Callable[[], bool] = lambda: False,
    ) -> Prediction:
        """What ``model.decode`` answers.

        Raises:
            SupersededError: ``stale()`` held when its turn came.
            PromptError, CheckpointError: as ``model.decode``.
        """
        mine = _Wanted(model, embedding, prompt, stale)
        with self._list:
            self._waiting.append(mine)
        with self._turn:
            if not mine.answer.done():  # else another thread took it along
                self._decode(self._take(mine))
        return mine.answer.result()

    def _take(self, mine: _Wanted) -> list[_Wanted]:
        """``mine`` and those that may go along, the longest waiting first."""
        with self._list:
            alike = [each for each in self._waiting if each.model is mine.model]
            some = alike[:MOST]
            if mine not in some:
                some[-1] = mine
            self._waiting = [each for each in self._waiting if each not in some]
        return some

    def _decode(self, some: list[_Wanted]) -> None:
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
        except Exception as error:
            if len(fresh) == 1:
                fresh[0].answer.set_exception(error)
            else:  # whoever caused it gets it, and nobody else
                for each in fresh:
                    self._decode([each])
            return
        for each, answer in zip(fresh, found, strict=True):
            each.answer.set_result(answer)
