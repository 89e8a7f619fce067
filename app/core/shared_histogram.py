"""A histogram that other processes fill: workers have no `/metrics`, so every instance exports their observations."""

import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

from prometheus_client import REGISTRY
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

SUM = "sum"


class SharedHistogram(Collector):
    """Its values are a flat mapping, which can be added up in a hash of Redis.

    The key `<label values> <upper bound>` counts the observations of one bucket, without those of the buckets below. The key
    `<label values> sum` has the sum of the observations. Label values contain no spaces.
    """

    def __init__(self, name: str, documentation: str, labels: Sequence[str], buckets: Sequence[float]) -> None:
        self._name, self._documentation, self._labels = name, documentation, labels
        self._bounds = [*(str(float(bound)) for bound in buckets), "+Inf"]
        self._limits = buckets
        self._values: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()
        REGISTRY.register(self)

    def observe(self, seconds: float, *label_values: str) -> None:
        labels = " ".join(label_values)
        with self._lock:
            self._values[f"{labels} {self._bounds[bisect_left(self._limits, seconds)]}"] += 1
            self._values[f"{labels} {SUM}"] += seconds

    def take(self) -> dict[str, float]:
        """Return the observations since the last call, for `add` of this or another process."""
        with self._lock:
            taken = dict(self._values)
            self._values.clear()
        return taken

    def add(self, values: Mapping[str, float]) -> None:
        with self._lock:
            for key, value in values.items():
                self._values[key] += value

    def replace(self, values: Mapping[str, float]) -> None:
        """Export these values from now on."""
        with self._lock:
            self._values = defaultdict(float, values)

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        with self._lock:
            values = dict(self._values)
        for labels in sorted({key.rpartition(" ")[0] for key in values}):
            counts = accumulate(values.get(f"{labels} {bound}", 0.0) for bound in self._bounds)
            family.add_metric(labels.split(" "), list(zip(self._bounds, counts, strict=True)), values.get(f"{labels} {SUM}", 0.0))
        yield family
