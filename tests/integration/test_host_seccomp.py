"""Real OCI runtimes take the converted profile, and the kernel filters by it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from shoald.host.controllers import MountedControllers
from shoald.host.kernel import kernel_version
from shoald.host.process import run
from shoald.host.seccomp import linux_seccomp, load_profile

pytestmark = pytest.mark.root

SCRIPT = """
grep Seccomp: /proc/self/status
chroot / true; echo $?
id -u
"""


@pytest.mark.parametrize("runtime", ["crun", "runc"])
@pytest.mark.parametrize("extra", [(), ("CAP_SYS_CHROOT",)])
async def test_a_container_is_filtered(tmp_path: Path, runtime: str, extra: tuple[str, ...]) -> None:
    if shutil.which(runtime) is None or not Path("/bin/busybox").exists():
        pytest.skip(f"needs {runtime} and busybox-static")
    controllers = MountedControllers()
    controllers.mount()  # for crun; taken down at the end of the session
    controllers.close()
    root = tmp_path / "rootfs"
    for name in ("bin", "proc", "dev", "sys"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin" / "busybox")
    for name in ("sh", "grep", "chroot", "id", "true"):
        (root / "bin" / name).symlink_to("busybox")
    await run([runtime, "spec"], cwd=tmp_path)
    config: dict[str, Any] = json.loads((tmp_path / "config.json").read_text())
    for capabilities in config["process"]["capabilities"].values():
        capabilities.extend(extra)
    config["process"].update(terminal=False, args=["/bin/sh", "-c", SCRIPT])
    document = load_profile().document
    assert document is not None
    bounding = config["process"]["capabilities"]["bounding"]
    config["linux"]["seccomp"] = linux_seccomp(document, bounding, os.uname().machine, kernel_version())
    (tmp_path / "config.json").write_text(json.dumps(config))
    name = f"shoal-test-{os.getpid()}-{runtime}"
    try:
        completed = await run([runtime, "run", "--bundle", str(tmp_path), name], timeout=60)
    finally:
        await run([runtime, "delete", "--force", name], check=False)
    # 2 is SECCOMP_MODE_FILTER.
    assert completed.stdout.split() == [b"Seccomp:", b"2", b"0" if extra else b"1", b"0"]
