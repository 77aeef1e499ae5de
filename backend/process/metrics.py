"""The backend's metrics. Each process counts for itself; the scraper adds them up."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30, 100)  # buckets of histograms


class Metrics:
    """The metrics, on a registry of their own, so that two apps in one process do not collide."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.predict_seconds = Histogram(
            "maskloop_predict_seconds",
            "Time to answer /predict, by what was asked: click, stored or nothing.",
            ("asked",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.embedding_seconds = Histogram(
            "maskloop_embedding_seconds",
            "Time until a click had its image's embedding: from memory, the store, or encoded.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.window_seconds = Histogram(
            "maskloop_window_seconds",
            "Time until a second look had its window's embedding: from the same three places.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.errors = Counter(
            "maskloop_errors",
            "Requests answered with an error, by route and kind. Label Studio shows none of them.",
            ("route", "kind"),
            registry=self.registry,
        )
        self.marks = Counter(
            "maskloop_marks",
            "Marks answered, by kind and sign.",
            ("kind", "sign"),
            registry=self.registry,
        )
        self.smoothed = Counter(
            "maskloop_smoothed_replies",
            "Masks smoothed further because the reply would have been too large.",
            registry=self.registry,
        )
        self.superseded = Counter(
            "maskloop_superseded",
            "Clicks left unanswered because the annotator clicked again meanwhile.",
            registry=self.registry,
        )
        self.webhooks = Counter(
            "maskloop_webhooks",
            "Webhooks received, by action and whether they were new.",
            ("action", "new"),
            registry=self.registry,
        )
        self.not_enqueued = Counter(
            "maskloop_not_enqueued",
            "Tries to send an event's message that failed; it is tried again.",
            registry=self.registry,
        )
        self.silence = Gauge(
            "maskloop_silence_seconds",
            "Time since the last sign of life: of the schedule, of each worker, of reconcile.",
            ("part",),
            registry=self.registry,
        )
        self.unlogged = Counter(
            "maskloop_unlogged_clicks",
            "Clicks answered without a row in the log, which the database did not take.",
            registry=self.registry,
        )
        self.serving = Gauge(
            "maskloop_serving_version",
            "1 for the model version this process serves.",
            ("version",),
            registry=self.registry,
        )

    def note_silence(self, ages: Mapping[str, float]) -> None:
        """Set the seconds since the last sign of life of each part, by its name."""
        self.silence.clear()
        for part, seconds in ages.items():
            self.silence.labels(part=part).set(seconds)
