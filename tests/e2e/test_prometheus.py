"""Debian's Prometheus scrapes a real daemon with deploy/prometheus.yml, and the dashboard asks for what it finds."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.daemon import Fleet
from tests.support.docker_registry import free_port

DEPLOY = Path(__file__).parents[2] / "deploy"
SERIES = re.compile(r"\b(shoald_[a-z_]+|process_resident_memory_bytes)\b")

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="needs Prometheus (apt-get install prometheus)"
)


@contextmanager
def prometheus(directory: Path, target: str) -> Iterator[str]:
    """A Prometheus that scrapes one daemon every second; its address."""
    text = (DEPLOY / "prometheus.yml").read_text()
    assert '"127.0.0.1:9469"' in text
    file = directory / "prometheus.yml"
    file.write_text(text.replace("127.0.0.1:9469", target).replace("15s", "1s"))
    checked = subprocess.run(["promtool", "check", "config", file], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    address = f"127.0.0.1:{free_port()}"
    command = ["prometheus", f"--config.file={file}", f"--storage.tsdb.path={directory / 'data'}"]
    with (directory / "log").open("wb") as log:
        child = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)
    try:
        yield address
    finally:
        child.terminate()
        child.wait(30)


def _query(address: str, expression: str) -> list[dict[str, object]]:
    url = f"http://{address}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        result = json.load(answer)["data"]["result"]
    assert isinstance(result, list)
    return result


def _eventually(address: str, expression: str) -> list[dict[str, object]]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if found := _query(address, expression):
                return found
        except OSError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"{expression} stays empty")


def test_prometheus_sees_containers_calls_and_pulled_bytes(fleet: Fleet, busybox: str, tmp_path: Path) -> None:
    fleet.shoal("run", "-d", "--name", "seen", busybox, "sleep", "600")
    with prometheus(tmp_path, fleet.first.metrics_address) as address:
        assert _eventually(address, 'up{job="shoald"} == 1')
        assert _eventually(address, 'shoald_containers{state="running"} == 1')
        assert _eventually(address, "shoald_images == 1")
        assert _eventually(address, 'shoald_rpcs_total{method="/shoal.v1.ContainerService/Run",code="OK"} >= 1')
        assert _eventually(address, "shoald_pulled_bytes_total > 100000")
        assert _eventually(address, 'shoald_operation_seconds_count{kind="run",result="ok"} >= 1')
    fleet.shoal("rm", "-f", "seen")


def test_every_series_of_the_dashboard_exists(fleet: Fleet, busybox: str) -> None:
    fleet.shoal("run", "--rm", busybox, "true")
    with urllib.request.urlopen(f"http://{fleet.first.metrics_address}/metrics", timeout=10) as answer:
        given = set(re.findall(r"^# TYPE (\S+)", answer.read().decode(), re.MULTILINE))
    given |= {f"{name}_{suffix}" for name in given for suffix in ("bucket", "count")}
    dashboard = json.loads((DEPLOY / "grafana" / "shoal-fleet.json").read_text())
    asked = {name for panel in dashboard["panels"] for t in panel["targets"] for name in SERIES.findall(t["expr"])}
    assert len(asked) > 8
    assert asked <= given
