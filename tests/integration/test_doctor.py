"""The doctor on this very machine, and on machines that lack something."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from msgspec.structs import replace

from shoald import doctor, main
from shoald.config import Config, Runtime
from shoald.doctor import Finding, Status
from shoald.host import kernel
from shoald.host.kernel import Probe
from shoald.host.mountinfo import MountPoint, mount_points

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="probes need root")


def _config(tmp_path: Path) -> Config:
    return Config(root=tmp_path / "root", run_dir=tmp_path / "run", metrics_listen="")


def _named(findings: list[Finding], name: str) -> Finding:
    (found,) = [each for each in findings if each.name == name]
    return found


async def test_this_machine_runs_containers_and_the_doctor_changes_nothing(tmp_path: Path) -> None:
    def mounted() -> list[MountPoint]:
        return [*mount_points("/sys"), *mount_points(tmp_path)]

    before = mounted()
    findings = await doctor.examine(_config(tmp_path))
    assert mounted() == before
    assert list(tmp_path.iterdir()) == []
    assert not doctor.fatal(findings)
    wanted = {"runtime", "conmon", "cgroups", "overlay", "idmapped mounts", "nftables", "seccomp", "user namespaces"}
    wanted |= {"user", "kernel", "bridge netfilter", "ip forwarding", "init program", "name server", "disk"}
    assert wanted == {each.name for each in findings}


@pytest.mark.parametrize(
    ("missing", "vital"),
    [
        ("overlay", True),
        ("kernel", True),
        ("idmapped mounts", False),
        ("user namespaces", False),
        ("cgroups", False),
        ("seccomp", True),
        ("nftables", False),
    ],
)
async def test_what_the_kernel_lacks_has_a_consequence_and_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, vital: bool
) -> None:
    async def probes(directory: Path, profile: Path) -> list[Probe]:
        return [Probe(missing, False, "not there", "this and that does not work")]

    monkeypatch.setattr(kernel, "probe_all", probes)
    findings = await doctor.examine(_config(tmp_path))
    found = _named(findings, missing)
    assert found.status is (Status.FAIL if vital else Status.WARN)
    assert found.consequence == "this and that does not work"
    assert found.remedy
    assert doctor.fatal(findings) is vital


async def test_missing_programs_are_named_with_their_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    findings = await doctor.examine(_config(tmp_path))
    for name, package in (("runtime", "crun"), ("conmon", "conmon"), ("init program", "catatonit")):
        found = _named(findings, name)
        assert found.status is (Status.WARN if name == "init program" else Status.FAIL)
        assert f"apt-get install {package}" in found.remedy
    assert doctor.fatal(findings)


async def test_a_port_that_another_program_has_is_fatal(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        findings = await doctor.examine(replace(_config(tmp_path), metrics_listen=address))
    found = _named(findings, f"port {address}")
    assert found.status is Status.FAIL
    assert "another program" in found.value


async def test_seccomp_that_was_switched_off_is_a_warning(tmp_path: Path) -> None:
    for profile, status in (("unconfined", Status.WARN), ("/nonexistent.json", Status.FAIL)):
        config = replace(_config(tmp_path), runtime=Runtime(seccomp_profile=profile))
        found = _named(await doctor.examine(config), "seccomp")
        assert found.status is status
        assert found.consequence == "containers may use every system call"


async def test_init_program_that_can_not_run(tmp_path: Path) -> None:
    config = replace(_config(tmp_path), runtime=Runtime(init_path="/etc/passwd"))
    assert "can't be executed" in _named(await doctor.examine(config), "init program").value


def test_the_command_prints_a_table_or_json_and_exits_with_one_for_something_vital(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["doctor", "--root", str(tmp_path / "r"), "--run-dir", str(tmp_path / "s"), "--metrics-listen", ""]
    assert main.main(flags) == 0
    assert "shoald can run here" in capsys.readouterr().out
    assert main.main([*flags, "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {"name", "status", "value"} <= rows[0].keys()
    monkeypatch.setenv("SHOALD_RUNTIME_CONMON", "/nonexistent/conmon")
    assert main.main(flags) == 1
    out = capsys.readouterr().out
    assert "fail  conmon" in out
    assert "shoald can't run here" in out
