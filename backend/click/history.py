"""The masks of earlier replies and of regions on the page, read when a click needs them."""

from __future__ import annotations

import numpy as np

from backend.click.reply import reply_region
from backend.click.scene import Scene
from backend.process.services import Services
from backend.request.session import OpenRegion, Probability, Reply
from model.masks import Mask
from pipeline.labelstudio.regions import same_drawing
from pipeline.labelstudio.types import RegionJson
from pipeline.masks.coded import CodedMask
from pipeline.masks.ops import probability_from_png
from pipeline.record import interactions
from pipeline.record.tables import Interaction


class History:
    """What the log and the annotator's page hold about one scene."""

    def __init__(self, services: Services, scene: Scene) -> None:
        self._services = services
        self._scene = scene

    def uses(self) -> dict[str, set[str]]:
        """The ids of the regions that each mark was ever used for, by the mark's id.

        This asks the database, because the scene's log holds the newest replies only.
        """
        with self._services.runtime.sessions() as session:
            return interactions.regions_by_prompt(
                session, self._scene.task.id, self._scene.image.id
            )

    def row(self, reply: Reply) -> Interaction:
        """The row of a reply, with its pixels."""
        with self._services.runtime.sessions() as session:
            return interactions.get(session, reply.id)

    def probability(self, reply: Reply) -> Probability:
        """The mask of a reply, float32 [h, w] in [0, 1].

        It is what the model answered then, or the annotator's edit of it if the draft has one.
        """
        row = self.row(reply)
        kept = self._scene.view.kept.get(reply.region_id)
        if kept is not None and not same_drawing(kept, self._sent(reply, row)):
            edited = self.shown(reply.region_id)
            if edited is not None:
                return edited.astype(np.float32)
        return probability_from_png(row.probability)

    def shown(self, region_id: str) -> Mask | None:
        """The mask of a region on the page, bool [h, w]; None if it is not there or has no mask."""
        region = self._scene.view.kept.get(region_id)
        return None if region is None else self._services.region_masks.mask(region)

    def previous_mask(self, region: OpenRegion, before: Reply | None) -> Probability | None:
        """The mask that the marks of a request correct, float32 [h, w] in [0, 1]; None: no mask.

        Args:
            before: the reply to most of the marks. None: the log has no such reply, so the mask is
                taken from the page if the region is there.
        """
        if before is not None:
            return self.probability(before)
        shown = self.shown(region.region_id)
        return None if shown is None else shown.astype(np.float32)

    def _sent(self, reply: Reply, row: Interaction) -> RegionJson:
        mask = CodedMask.of_rle(row.rle, *self._scene.size)
        tolerance = self._services.settings.label_studio.outline_tolerance
        return self._services.sent_regions.region(
            reply.id,
            self._scene.config,
            lambda: reply_region(self._scene.config, reply, mask, tolerance=tolerance),
            scored=False,
        )
