"""Numbers for Prometheus, in a registry of our own: `/metrics`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_METHODS = frozenset(("GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH"))


@dataclass(frozen=True, slots=True)
class Gauge:
    """A number as it stands when somebody asks, by the values of one label (or none: "")."""

    name: str
    meaning: str
    label: str
    read: Callable[[], Mapping[str, float]]


class Metrics:
    """Counts what passes, and asks others for what stands."""

    def __init__(self, gauges: Iterable[Gauge] = ()) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Standing(tuple(gauges)))
        self._requests = Counter(
            "tanren_requests", "Requests.", ("method", "route", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "tanren_request_seconds",
            "Time from the request's first byte to the answer's last.",
            ("method", "route"),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._tokens = Counter(
            "tanren_tokens", "Tokens of prompts and answers.", ("kind",), registry=self._registry
        )

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """`route` is the template, such as `/v1/files/{file_id}`: few, whatever is asked for."""
        known = method if method in _METHODS else "other"
        self._requests.labels(known, route, str(status)).inc()
        self._seconds.labels(known, route).observe(seconds)

    def tokens(self, *, prompt: int = 0, completion: int = 0) -> None:
        self._tokens.labels("prompt").inc(prompt)
        self._tokens.labels("completion").inc(completion)

    def text(self) -> bytes:
        return generate_latest(self._registry)


class _Standing(Collector):
    def __init__(self, gauges: tuple[Gauge, ...]) -> None:
        self._gauges = gauges

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        for gauge in self._gauges:
            labels = [gauge.label] if gauge.label else []
            family = GaugeMetricFamily(gauge.name, gauge.meaning, labels=labels)
            for value, number in gauge.read().items():
                family.add_metric([value] if gauge.label else [], number)
            yield family
