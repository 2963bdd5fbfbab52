"""Serves the engine's metrics over HTTP in the text format of Prometheus, for `mount --metrics`.

Reading them costs the mount nothing until somebody asks; the server answers each request on a thread of its own.
"""

import logging
import threading
from collections.abc import Iterator, Mapping
from socket import socket
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from cairnfs.daemon.mount_options import Address
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


class _Server(ThreadingMixIn, WSGIServer):
    """Answers at a socket that listens already, which is its own from then on."""

    daemon_threads = True

    def __init__(self, listening: socket) -> None:
        super().__init__(("", 0), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.server_address = listening.getsockname()
        self.server_name, self.server_port, *_ = listening.getsockname()
        self.setup_environ()


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Requests are in no log."""


class Exporter:
    """The server, from its making to `close`."""

    def __init__(self, listening: socket, metrics: Metrics, labels: Mapping[str, str]) -> None:
        """`listening` (`metrics_socket`) is closed with it."""
        registry = CollectorRegistry()
        registry.register(EngineCollector(metrics, labels))
        ProcessCollector(registry=registry)
        self._server = _Server(listening)
        self._server.set_app(make_wsgi_app(registry))
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)

    def start(self) -> None:
        """Answer; until then whoever asks waits."""
        self._thread.start()
        log.info("metrics: http://%s/metrics", Address(self._server.server_name, self._server.server_port))

    def close(self) -> None:
        """Answer nobody any more."""
        if self._thread.ident is not None:
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
