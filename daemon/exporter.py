"""Serves the engine's metrics over HTTP in the text format of Prometheus, for `mount --metrics`.

Reading them costs the mount nothing until somebody asks; the server answers each request on a thread of its own.
"""

import logging
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from cairnfs.daemon.mount_options import Address
from cairnfs.errors import MountError
from cairnfs.metrics import BUCKETS_US, Distribution, Family, Metrics

log = logging.getLogger(__name__)


class EngineCollector(Collector):
    """The engine's families as Prometheus knows them, each sample with the same further labels."""

    def __init__(self, metrics: Metrics, labels: Mapping[str, str]) -> None:
        self._metrics = metrics
        self._names = list(labels)
        self._values = list(labels.values())

    def collect(self) -> Iterator[Metric]:
        for family in self._metrics.families:
            yield self._translated(family)

    def _translated(self, family: Family) -> Metric:
        names = [*self._names, family.label] if family.label else self._names
        if family.kind == "histogram":
            histogram = HistogramMetricFamily(family.name, family.help, labels=names)
            for label, value in family.read():
                if isinstance(value, Distribution):
                    histogram.add_metric(self._labels(family, label), _buckets(value), value.sum_s)
            return histogram
        kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
        plain = kind(family.name, family.help, labels=names)
        for label, value in family.read():
            if isinstance(value, int):
                plain.add_metric(self._labels(family, label), value)
        return plain

    def _labels(self, family: Family, label: str) -> list[str]:
        return [*self._values, label] if family.label else self._values


def _buckets(value: Distribution) -> list[tuple[str, float]]:
    """Upper bounds in seconds with how many events lie at or below them."""
    found: list[tuple[str, float]] = []
    n = 0
    for bound_us, count in zip(BUCKETS_US, value.counts, strict=False):
        n += count
        found.append((repr(bound_us / 1e6), n))
    return [*found, ("+Inf", value.n)]


class Exporter:
    """The server, from its making to `close`."""

    def __init__(self, address: Address, metrics: Metrics, labels: Mapping[str, str]) -> None:
        """MountError when the address cannot be listened on."""
        registry = CollectorRegistry()
        registry.register(EngineCollector(metrics, labels))
        ProcessCollector(registry=registry)
        try:
            self._server, self._thread = start_http_server(address.port, address.host, registry)
        except OSError as error:
            raise MountError(f"cannot serve metrics on {address}: {error.strerror}", error.errno) from error
        self.address = Address(address.host, self._server.server_port)
        log.info("metrics: http://%s/metrics", self.address)

    def close(self) -> None:
        """Answer nobody any more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
