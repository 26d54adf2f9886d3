"""What the gateway measures, in Prometheus' text format. Knows no route; labels are given to it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Final

_US: Final = 1_000_000
BUCKETS_US: Final = (
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
)


class _Histogram:
    __slots__ = ("counts", "sum_us")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_US) + 1)
        self.sum_us = 0


class GatewayMetrics:
    def __init__(self) -> None:
        self.connections = 0
        self.handed_over_total = 0
        self.given_way_total = 0
        self.streams = 0
        self.starts_total = 0
        self._requests: dict[tuple[str, int], int] = {}
        self._durations: dict[str, _Histogram] = {}

    def observe(self, route: str, status: int, duration_us: int) -> None:
        key = (route, status)
        self._requests[key] = self._requests.get(key, 0) + 1
        histogram = self._durations.get(route)
        if histogram is None:
            histogram = self._durations[route] = _Histogram()
        histogram.counts[bisect_left(BUCKETS_US, duration_us)] += 1
        histogram.sum_us += duration_us

    def text(self) -> str:
        return "".join(f"{line}\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        yield "# HELP engine_http_requests_total Requests answered."
        yield "# TYPE engine_http_requests_total counter"
        for (route, status), count in sorted(self._requests.items()):
            labels = f'route="{route}",status="{status}"'
            yield f"engine_http_requests_total{{{labels}}} {count}"
        yield "# HELP engine_http_request_seconds Time to the answer, or to a stream's end."
        yield "# TYPE engine_http_request_seconds histogram"
        for route, histogram in sorted(self._durations.items()):
            yield from _histogram_lines(route, histogram)
        for name, kind, text, value in (
            ("connections", "gauge", "Open connections.", self.connections),
            ("streams", "gauge", "Event streams being read.", self.streams),
            ("starts_total", "counter", "Runs started over HTTP.", self.starts_total),
            (
                "handed_over_total",
                "counter",
                "Connections that spoke something other than plain HTTP/1.1.",
                self.handed_over_total,
            ),
            (
                "given_way_total",
                "counter",
                "Connections closed with nothing to answer on them, to make room for others.",
                self.given_way_total,
            ),
        ):
            yield f"# HELP engine_http_{name} {text}"
            yield f"# TYPE engine_http_{name} {kind}"
            yield f"engine_http_{name} {value}"


def _histogram_lines(route: str, histogram: _Histogram) -> Iterator[str]:
    name = "engine_http_request_seconds"
    below = 0
    for bound_us, count in zip(BUCKETS_US, histogram.counts, strict=False):
        below += count
        yield f'{name}_bucket{{route="{route}",le="{bound_us / _US:g}"}} {below}'
    total = sum(histogram.counts)
    yield f'{name}_bucket{{route="{route}",le="+Inf"}} {total}'
    yield f'{name}_sum{{route="{route}"}} {histogram.sum_us / _US:g}'
    yield f'{name}_count{{route="{route}"}} {total}'
