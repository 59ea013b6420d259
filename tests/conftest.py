"""What holds for the whole session: ten seconds after the last test nothing of it is left on the machine."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from tests.support.leftovers import snapshot

PATIENCE_S = 10.0


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fail the session for mounts, namespaces, interfaces, rules, processes, cgroups and directories that stay.

    SHOAL_TESTS_SHARED=1 is for a machine where others start containers at the same time: it then only tells.
    """
    if os.geteuid() != 0:
        yield
        return
    from shoald.host.controllers import MountedControllers, unmount_unused
    from tests.support.daemon import sweep_abandoned  # the whole daemon: nothing that unit tests should wait for

    sweep_abandoned()
    before = snapshot()
    # Held for the session: daemons come and go, and the kernel takes its time to give a controller back.
    controllers = MountedControllers()
    controllers.mount()
    yield
    controllers.close()
    unmount_unused()
    deadline = time.monotonic() + PATIENCE_S
    while (left := snapshot() - before) and time.monotonic() < deadline:
        time.sleep(0.2)
    if left:
        text = "the tests left on this machine:\n  " + "\n  ".join(sorted(left))
        if os.environ.get("SHOAL_TESTS_SHARED") == "1":
            print(text)
        else:
            pytest.fail(text, pytrace=False)
