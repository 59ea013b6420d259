"""Paths that depend on the host."""

from __future__ import annotations

from pathlib import Path

from shoald.runtime.masked import cgroup_paths, thermal_paths


def test_each_controller_of_cgroup_v1_is_named_and_links_are_not(tmp_path: Path) -> None:
    for name in ("cpu,cpuacct", "memory"):
        (tmp_path / name).mkdir()
    (tmp_path / "cpu").symlink_to("cpu,cpuacct")
    (tmp_path / "file").touch()
    assert cgroup_paths(tmp_path) == (f"{tmp_path}/cpu,cpuacct", f"{tmp_path}/memory")


def test_cgroup_v2_has_one_hierarchy(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").touch()
    (tmp_path / "init.scope").mkdir()
    assert cgroup_paths(tmp_path) == ()
    assert cgroup_paths(tmp_path / "missing") == ()


def test_thermal_counters_of_each_processor(tmp_path: Path) -> None:
    for cpu in ("cpu0", "cpu11", "cpufreq"):
        (tmp_path / cpu / "thermal_throttle").mkdir(parents=True)
    assert thermal_paths(tmp_path) == (f"{tmp_path}/cpu0/thermal_throttle", f"{tmp_path}/cpu11/thermal_throttle")
