"""Taking a sandbox down: everything that it has, whatever state it is in, as often as it takes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from shoal.errors import FailedPrecondition, ShoalError
from shoald import compose
from shoald.host.mounts import unmount_tree
from shoald.host.trees import remove_tree
from shoald.sandbox import enrol, processes, state
from shoald.sandbox.plan import PARENT, PlannedHost, run_directory
from shoald.sandbox.state import Sandbox


async def take_down(directory: Path) -> bool:
    """Remove the sandbox of a directory; False when there is none. The caller holds `state.exclusive`.

    Raises FailedPrecondition (SANDBOX_REMAINS) naming what could not be removed; it may then be tried again.
    """
    sandbox = state.load(directory)
    if sandbox is None:
        return False
    faults: list[str] = []
    for host in state.hosts(directory, sandbox):
        with _noting(host.name, faults):
            await _remove_host(host)
    with _noting("certificates", faults):
        remove_tree(directory / "pki")
    with _noting("client configuration", faults):
        enrol.withdraw(Path(sandbox.client_config), sandbox.group, sandbox.hosts)
    if faults:
        raise FailedPrecondition(
            f"parts of the sandbox remain: {'; '.join(faults)}",
            reason="SANDBOX_REMAINS",
            hint=f"try again: shoald sandbox --down --dir {directory}",
        )
    _forget(directory, sandbox)
    return True


async def _remove_host(host: PlannedHost) -> None:
    await processes.stop(host.config)
    await compose.purge(host.config)
    for place in (host.config.run_dir, host.directory):
        # Nothing should be mounted any more; what is must not make a removal of files reach into it.
        unmount_tree(place, detach=True)
        remove_tree(place)


def _forget(directory: Path, sandbox: Sandbox) -> None:
    remove_tree(run_directory(sandbox.slot))
    for number in range(1, len(sandbox.hosts) + 1):
        remove_tree(directory / f"host-{number}")  # one that was never written in full
    state.forget(directory)
    with contextlib.suppress(OSError):
        directory.rmdir()  # only when nothing of others is in it
        if directory.parent == PARENT:
            PARENT.rmdir()


@contextlib.contextmanager
def _noting(what: str, faults: list[str]) -> Iterator[None]:
    """One part that resists does not keep the others."""
    try:
        yield
    except (ShoalError, OSError) as error:
        faults.append(f"{what}: {error}")
