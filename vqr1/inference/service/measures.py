"""What the service counts, in Prometheus' text form at `/metrics`."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Upper bounds of the latency histogram's bins."""

IMAGES = (1, 2, 4, 8, 16, 32, 64)
"""Upper bounds of the batch size histogram's bins."""


class Measures:
    """Counters of one service, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "vqr1_requests",
            "Requests answered.",
            ("endpoint", "status"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "vqr1_request_seconds",
            "Seconds from a request's arrival to the end of its answer.",
            ("endpoint",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.images = Counter(
            "vqr1_images",
            "Images by what came of them: valid, invalid (no score in the answer), refused.",
            ("outcome",),
            registry=self.registry,
        )
        self.queue_length = Gauge(
            "vqr1_queue_length", "Images that wait for the model.", registry=self.registry
        )
        self.under_way = Gauge(
            "vqr1_images_under_way",
            "Images accepted and not yet answered.",
            registry=self.registry,
        )
        self.batch_size = Histogram(
            "vqr1_batch_size",
            "Images computed together.",
            buckets=IMAGES,
            registry=self.registry,
        )

        self.abandoned = Counter(
            "vqr1_batches_abandoned",
            "Batches that ended early: nobody waited for them any more.",
            registry=self.registry,
        )
        self.bytes_under_way = Gauge(
            "vqr1_bytes_under_way",
            "Bytes of bodies and images that are accepted and not yet answered.",
            registry=self.registry,
        )

    def text(self) -> bytes:
        """All of it in Prometheus' text form."""
        return generate_latest(self.registry)
