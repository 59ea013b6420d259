"""What docs/dockerfile.md says of builds: all rows that show something in one build, and those that end one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.build_context import write_context
from tests.support.daemon import Fleet
from tests.support.dockerd import dockerd_path, running_dockerd
from tests.support.dockerfile_table import Row, rows

BUILT = [row for row in rows() if "build" in row.table]
FAILING = [row for row in rows() if "fails" in row.table]
ALLOWED = ("--allow", "network.host,security.insecure,device")
HOSTNAME = ("--build-arg", "BUILDKIT_SANDBOX_HOSTNAME=sandbox-of-the-table")


_NEWER = re.compile(
    r"<<|--(?:link|parents|exclude|unpack|security|device|network)|env=|--chmod=[a-z+]|--mount=\S+(?:size|mode)="
    r"|hostname|\$HOME|\$PATH"
)
"""What Debian's Docker is too old for, and what depends on its configuration."""


def _stages(base: str, built: Sequence[Row]) -> str:
    """A stage for each row, and one that has what each of them wrote into /out."""
    stages = [f"FROM {base} AS r{at}\n{row.table['build']}\n" for at, row in enumerate(built)]
    copies = [f"COPY --from=r{at} /out /results/{at}\n" for at in range(len(built))]
    return "".join([*stages, f"FROM {base}\n", *copies])


@pytest.fixture(scope="module")
def results(host: Fleet, busybox: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each row's stage wrote, by the number of the row."""
    context = tmp_path_factory.mktemp("context")
    write_context(context)
    (context / "Dockerfile").write_text(_stages(busybox, BUILT))
    secret = tmp_path_factory.mktemp("secret") / "token"
    secret.write_text("hidden\n")
    out = tmp_path_factory.mktemp("out")
    host.shoal("build", "--secret", f"id=token,src={secret}", *ALLOWED, *HOSTNAME, "-o", out, context)
    return {path.name: path.read_text().strip() for path in (out / "results").iterdir()}


@pytest.mark.parametrize("at", range(len(BUILT)), ids=lambda at: BUILT[at].id)
def test_a_row_shows(at: int, results: dict[str, str]) -> None:
    assert results[str(at)] == BUILT[at].table["out"]


@pytest.mark.parametrize("row", FAILING, ids=lambda row: row.id)
def test_a_row_fails(row: Row, host: Fleet, busybox: str, tmp_path: Path) -> None:
    write_context(tmp_path)
    (tmp_path / "Dockerfile").write_text(f"FROM {busybox}\n{row.table['fails']}\n")
    flags = row.table.get("flags", ())
    done = host.shoal("build", *flags, tmp_path, code=None)
    assert done.returncode in (1, 2)
    assert row.table["said"] in done.stdout + done.stderr


@pytest.mark.peers
def test_docker_shows_the_same(busybox: str, tmp_path: Path) -> None:
    if dockerd_path() is None:
        pytest.skip("Docker is not installed (make bench-peers)")
    known = [row for row in BUILT if row.state == "supported" and not _NEWER.search(row.table["build"])]
    assert len(known) >= 20
    write_context(tmp_path)
    (tmp_path / "token").write_text("hidden\n")
    secret = f"id=token,src={tmp_path / 'token'}"
    found = {}
    with running_dockerd() as docker:
        for row in known:  # one by one: with a writable mount beside it, a read-only one of 20.10 is not
            (tmp_path / "Dockerfile").write_text(_stages(busybox, [row]))
            docker.docker("build", "--network", "none", "--secret", secret, "-o", f"{tmp_path}.out", str(tmp_path))
            found[row.id] = Path(f"{tmp_path}.out/results/0").read_text().strip()
    assert found == {row.id: row.table["out"] for row in known}
