"""The network's answer to marks on an image, with a second look at small objects."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from backend.click.scene import Scene
from backend.process.services import Services
from backend.process.supersede import Turn
from backend.request.prompts import Mark, prompt_of
from backend.request.session import Probability
from model.errors import ImageError
from model.inference import second_look
from model.network.embedding import Embedding
from model.network.prediction import Prediction, Window
from model.network.prompts import Prompt
from pipeline.errors import StoreError

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Decoder:
    """Decodes for one request until a newer click replaces it."""

    services: Services
    scene: Scene
    turn: Turn

    def decode(self, marks: Sequence[Mark], mask: Probability | None) -> Prediction:
        """The model's answer, after a second look if the settings allow it and the object is small.

        If the model knows no words, words next to other marks are left out.

        Args:
            marks: in pixels of the image.
            mask: the previous answer, float32 [h, w] in [0, 1] at any resolution; None: no answer.

        Raises:
            SupersededError: a newer click of the same annotator has arrived.
            PromptError: the marks make no prompt, or are only words and the model knows none.
        """
        if not self.scene.knows_words and any(mark.kind != "text" for mark in marks):
            marks = [mark for mark in marks if mark.kind != "text"]
        prompt, model = prompt_of(marks, mask), self.scene.model
        wanted = self.services.settings.model.second_look
        if wanted == "off" or (wanted == "auto" and not second_look.is_quick(model)):
            return self._decode(self.scene.embedding, prompt)
        try:
            return second_look.answer(
                model, prompt, self.scene.embedding, self._look_at, self._decode
            )
        except (StoreError, ImageError) as error:  # The embedding is still there.
            log.warning("Answered without a second look: %s", error)
            return self._decode(self.scene.embedding, prompt)

    def _decode(self, embedding: Embedding, prompt: Prompt) -> Prediction:
        return self.services.network.decode(self.scene.model, embedding, prompt, self.turn.is_over)

    def _look_at(self, window: Window) -> Embedding:
        self.turn.check()
        with self.services.metrics.window_seconds.time():
            return self.services.runtime.embeddings.get(
                self.scene.image.id, self.scene.model, window
            )
