"""Changes of limits as control files, and what an update makes of a request; pure."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from shoal.errors import FailedPrecondition, InvalidArgument
from shoald.containers.changing import changed_spec
from shoald.host.cgroups import Cgroups, Hierarchy, Mode
from shoald.host.limits import LimitFile, set_limits
from shoald.model.change import ContainerChange
from shoald.model.container import ContainerSpec, Resources, RestartPolicy, RestartPolicyName
from shoald.runtime.limitfiles import limit_files
from shoald.runtime.resources import HostLimits

MIB = 1 << 20
V1 = HostLimits(swap=True, blkio_weight=True)
V2 = HostLimits(swap=True, unified=True, blkio_weight=True)
NONE = Resources()


def written(before: Resources, after: Resources, host: HostLimits) -> dict[str, str]:
    return {each.name: each.value for each in limit_files(before, after, host)}


@pytest.mark.parametrize(
    ("after", "v1", "v2"),
    [
        (
            Resources(memory_bytes=64 * MIB),
            {
                "memory.limit_in_bytes": str(64 * MIB),
                "memory.memsw.limit_in_bytes": str(128 * MIB),
                "memory.soft_limit_in_bytes": "-1",
            },
            {"memory.max": str(64 * MIB), "memory.low": "0", "memory.swap.max": str(64 * MIB)},
        ),
        (
            Resources(memory_bytes=64 * MIB, memory_swap_bytes=-1, memory_reservation_bytes=32 * MIB),
            {
                "memory.limit_in_bytes": str(64 * MIB),
                "memory.memsw.limit_in_bytes": "-1",
                "memory.soft_limit_in_bytes": str(32 * MIB),
            },
            {"memory.max": str(64 * MIB), "memory.low": str(32 * MIB), "memory.swap.max": "max"},
        ),
        (
            Resources(nano_cpus=1_500_000_000),
            {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "150000"},
            {"cpu.max": "150000 100000"},
        ),
        (
            Resources(cpu_quota=-1, cpu_period=50_000),
            {"cpu.cfs_period_us": "50000", "cpu.cfs_quota_us": "-1"},
            {"cpu.max": "max 50000"},
        ),
        (Resources(cpu_shares=2), {"cpu.shares": "2"}, {"cpu.weight": "1"}),
        (Resources(cpu_shares=1 << 20), {"cpu.shares": "262144"}, {"cpu.weight": "10000"}),
        (Resources(cpuset_cpus="0-1"), {"cpuset.cpus": "0-1"}, {"cpuset.cpus": "0-1"}),
        (Resources(pids_limit=-1), {"pids.max": "max"}, {"pids.max": "max"}),
        (Resources(pids_limit=7), {"pids.max": "7"}, {"pids.max": "7"}),
        (
            Resources(blkio_weight=1000),
            {"blkio.weight": "1000", "blkio.bfq.weight": "1000"},
            {"io.bfq.weight": "1000", "io.weight": "10000"},
        ),
        (NONE, {}, {}),
    ],
)
def test_control_files(after: Resources, v1: dict[str, str], v2: dict[str, str]) -> None:
    assert written(NONE, after, V1) == v1
    assert written(NONE, after, V2) == v2


def test_what_is_taken_away() -> None:
    before = Resources(memory_bytes=64 * MIB, nano_cpus=10**9, cpu_shares=7, cpuset_cpus="0", pids_limit=5)
    assert written(before, NONE, V2) == {
        "memory.max": "max",
        "memory.low": "0",
        "memory.swap.max": "max",
        "cpu.max": "max 100000",
        "cpu.weight": "100",
        "cpuset.cpus": "",
        "pids.max": "4096",
    }
    assert written(before, NONE, V1)["cpu.shares"] == "1024"


class Files:
    """Directories in place of a hierarchy."""

    def __init__(self, root: Path) -> None:
        self.directory = root / "c"
        self.directory.mkdir()
        self.cgroups = Cgroups(Mode.LEGACY, (Hierarchy(root, 1, frozenset({"memory", "cpuset"})),))
        for name in ("limit", "swap", "cpuset.cpus"):
            (self.directory / name).write_text("1")
        (root / "cpuset.cpus").write_text("0-3")

    def read(self) -> list[str]:
        return [(self.directory / name).read_text() for name in ("limit", "swap", "cpuset.cpus")]


def test_all_files_are_written(tmp_path: Path) -> None:
    files = Files(tmp_path)
    values = [LimitFile("memory", "limit", "5"), LimitFile("cpuset", "cpuset.cpus", ""), LimitFile("pids", "max", "1")]
    set_limits(files.cgroups, "/c", [*values, LimitFile("memory", "absent", "7")])
    assert files.read() == ["5", "1", "0-3"]


def test_after_a_refusal_all_is_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = Files(tmp_path)
    write = Path.write_text

    def refuse(path: Path, text: str) -> int:
        if text == "bad":
            raise OSError(22, "Invalid argument")
        return write(path, text)

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(FailedPrecondition) as caught:
        set_limits(files.cgroups, "/c", [LimitFile("memory", "limit", "5"), LimitFile("memory", "swap", "bad")])
    assert caught.value.reason == "LIMIT_REFUSED"
    assert files.read() == ["1", "1", "1"]


def test_limits_that_depend_on_each_other_are_written_in_either_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = Files(tmp_path)
    write = Path.write_text

    def kernel(path: Path, text: str) -> int:
        limit, swap = (files.directory / "limit").read_text(), (files.directory / "swap").read_text()
        if int(text if path.name == "limit" else limit) > int(text if path.name == "swap" else swap):
            raise OSError(22, "Invalid argument")
        return write(path, text)

    monkeypatch.setattr(Path, "write_text", kernel)
    for value in ("9", "2"):
        set_limits(files.cgroups, "/c", [LimitFile("memory", "limit", value), LimitFile("memory", "swap", value)])
        assert files.read()[:2] == [value, value]


def test_a_container_that_is_gone(tmp_path: Path) -> None:
    files = Files(tmp_path)
    with pytest.raises(FailedPrecondition) as caught:
        set_limits(files.cgroups, "/other", [LimitFile("memory", "limit", "5")])
    assert caught.value.reason == "NOT_RUNNING"


SPEC = ContainerSpec(image="x", resources=Resources(memory_bytes=64 * MIB, nano_cpus=10**9, memory_swap_bytes=-1))


@pytest.mark.parametrize(
    ("change", "after"),
    [
        (ContainerChange(memory_bytes=-1), {"memory_bytes": 0, "memory_swap_bytes": 0}),
        (ContainerChange(memory_bytes=32 * MIB), {"memory_bytes": 32 * MIB}),
        (ContainerChange(nano_cpus=-1, cpu_quota=5000), {"nano_cpus": 0, "cpu_quota": 5000}),
        (ContainerChange(pids_limit=-1), {"pids_limit": -1}),
        (ContainerChange(cpuset_cpus="0"), {"cpuset_cpus": "0"}),
    ],
)
def test_what_a_change_makes_of_the_request(change: ContainerChange, after: dict[str, object]) -> None:
    assert changed_spec(SPEC, change).resources == replace(SPEC.resources, **after)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (ContainerChange(memory_bytes=MIB), "INVALID_MEMORY"),
        (ContainerChange(memory_swap_bytes=8 * MIB), "INVALID_MEMORY"),
        (ContainerChange(cpu_quota=5000), "INVALID_CPUS"),
        (ContainerChange(cpuset_cpus="x"), "INVALID_CPUSET"),
        (ContainerChange(blkio_weight=5), "INVALID_BLKIO"),
        (ContainerChange(restart_policy=RestartPolicy(RestartPolicyName.ALWAYS, 2)), "INVALID_RESTART_POLICY"),
    ],
)
def test_refused(change: ContainerChange, reason: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        changed_spec(SPEC, change)
    assert caught.value.reason == reason


def test_no_policy_for_what_is_removed_at_its_end() -> None:
    with pytest.raises(InvalidArgument):
        changed_spec(
            replace(SPEC, auto_remove=True), ContainerChange(restart_policy=RestartPolicy(RestartPolicyName.ALWAYS))
        )
