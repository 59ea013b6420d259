"""The house rules that no linter knows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
SOURCES = sorted(path for part in ("common", "server", "client") for path in (TOP / part).rglob("*.py"))
OURS = [path for path in SOURCES if "v1" not in path.parts]


@pytest.mark.parametrize(
    "path", [*OURS, *sorted((TOP / "tests").rglob("*.py"))], ids=lambda path: str(path.relative_to(TOP))
)
def test_packages_are_imported_by_their_own_names(path: Path) -> None:
    assert not re.search(r"^\s*(from|import) (server|client|common)\.", path.read_text(), re.MULTILINE)


def test_no_module_is_called_after_nothing() -> None:
    assert [path.name for path in OURS if path.stem in {"utils", "util", "helpers", "helper", "misc"}] == []


def test_every_package_is_marked_as_typed() -> None:
    for package in ("common/shoal", "server/shoald", "client/shoalctl"):
        assert (TOP / package / "py.typed").exists()


def test_every_package_is_tracked_source_and_not_ignored_as_build_output() -> None:
    import shutil
    import subprocess

    if shutil.which("git") is None or not (TOP / ".git").exists():
        pytest.skip("not a git checkout")
    checked = subprocess.run(
        ["git", "-c", f"safe.directory={TOP}", "check-ignore", "--stdin"],
        cwd=TOP,
        input="\n".join(str(path.relative_to(TOP)) for path in SOURCES),
        capture_output=True,
        text=True,
    )
    assert checked.stdout == ""


def test_the_unit_lets_containers_outlive_the_daemon() -> None:
    unit = (TOP / "deploy" / "shoald.service").read_text()
    settings = dict(re.findall(r"^(\w+)=(.*)$", unit, re.MULTILINE))
    assert (settings["Type"], settings["Delegate"], settings["KillMode"]) == ("notify", "yes", "process")
    # Each of these makes a mount namespace of its own, or is inherited by containers.
    for harmful in (
        "ProtectSystem",
        "PrivateTmp",
        "PrivateDevices",
        "PrivateMounts",
        "ProtectHome",
        "ProtectKernelTunables",
        "ProtectKernelModules",
        "ProtectControlGroups",
        "NoNewPrivileges",
        "RestrictNamespaces",
        "SystemCallFilter",
        "UMask",
        "OOMScoreAdjust",
    ):
        assert harmful not in settings
