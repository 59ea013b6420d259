"""Paths that depend on the host."""

from __future__ import annotations

from pathlib import Path

from shoald.runtime.masked import thermal_paths


def test_thermal_counters_of_each_processor(tmp_path: Path) -> None:
    for cpu in ("cpu0", "cpu11", "cpufreq"):
        (tmp_path / cpu / "thermal_throttle").mkdir(parents=True)
    assert thermal_paths(tmp_path) == (f"{tmp_path}/cpu0/thermal_throttle", f"{tmp_path}/cpu11/thermal_throttle")
