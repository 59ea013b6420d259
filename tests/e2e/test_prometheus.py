"""Debian's Prometheus scrapes a real daemon."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Fleet, until
from tests.support.docker_registry import free_port

pytestmark = pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")


class Prometheus:
    """A running server."""

    def __init__(self, address: str) -> None:
        self._base = f"http://{address}/api/v1"
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get(self, path: str, **query: str) -> Any:
        with self._opener.open(f"{self._base}/{path}?{urllib.parse.urlencode(query)}", timeout=10) as answer:
            return json.load(answer)["data"]

    def ready(self) -> bool:
        try:
            self.get("status/buildinfo")
        except OSError:
            return False
        return True

    def value(self, query: str) -> float | None:
        """Of the first series, or None."""
        found = self.get("query", query=query)["result"]
        return float(found[0]["value"][1]) if found else None


@pytest.fixture
def prometheus(host: Fleet, tmp_path: Path) -> Iterator[Prometheus]:
    config = tmp_path / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s, scrape_timeout: 1s}\n"
        f'scrape_configs: [{{job_name: shoald, static_configs: [{{targets: ["{host.first.metrics_address}"]}}]}}]\n'
    )
    address = f"127.0.0.1:{free_port()}"
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={tmp_path / 'tsdb'}",
                f"--web.listen-address={address}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        server = Prometheus(address)
        until(server.ready, 30, "Prometheus")
        yield server
    finally:
        process.terminate()
        process.wait(20)


def test_scrapes_and_counts(prometheus: Prometheus, host: Fleet, busybox: str) -> None:
    until(lambda: prometheus.value('up{job="shoald"}') == 1.0, what="the first scrape")
    [target] = prometheus.get("targets")["activeTargets"]
    assert target["lastError"] == ""
    host.shoal("run", "-d", "--name", "counted", busybox, "sleep", "1000")
    try:
        until(lambda: prometheus.value('shoald_containers{state="running"}') == 1.0, what="a running container")
        run = 'shoald_rpcs_total{method=~".*ContainerService/Run",code="OK"}'
        until(lambda: (prometheus.value(run) or 0) >= 1, what="a counted call")
    finally:
        host.remove_containers()
    until(lambda: (prometheus.value('shoald_containers{state="running"}') or 0) == 0, what="none running")
