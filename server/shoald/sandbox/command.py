"""`shoald sandbox`: several daemons on this machine, enrolled in the client's configuration."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from shoal.errors import AlreadyExists, FailedPrecondition, PermissionDenied
from shoal.pki import KeyPair, Role, create_ca, issue_host, issue_user
from shoald import lock
from shoald.host.process import use_pidfd_watcher
from shoald.sandbox import enrol, processes, state
from shoald.sandbox.plan import PARENT, PlannedHost, base_config, check_request, plan, preferred_ports
from shoald.sandbox.processes import StartedDaemon
from shoald.sandbox.state import Sandbox
from shoald.sandbox.teardown import take_down

_LOOK_AGAIN_S = 0.5
_ADMIN_FILES = {"ca": "ca.pem", "cert": "admin.pem", "key": "admin-key.pem"}


def run(arguments: argparse.Namespace) -> int:
    """The command; its exit code."""
    check_request(arguments.hosts, arguments.group)
    if os.geteuid() != 0:
        raise PermissionDenied("a sandbox needs root", reason="ROOT_REQUIRED", hint="run it with sudo")
    os.umask(0o022)
    directory = (arguments.dir or PARENT / arguments.group).absolute()
    return asyncio.run(_down(directory) if arguments.down else _up(arguments, directory))


async def _down(directory: Path) -> int:
    use_pidfd_watcher()
    if not directory.exists():
        print(f"there is no sandbox in {directory}")
        return 0
    with state.exclusive(directory):
        existed = await take_down(directory)
    print("the sandbox is gone" if existed else f"there is no sandbox in {directory}")
    return 0


async def _up(arguments: argparse.Namespace, directory: Path) -> int:
    use_pidfd_watcher()
    stopping = _stop_requests()
    client_config = (arguments.config or enrol.client_config(os.environ)).absolute()
    with state.exclusive(directory):
        existing = state.load(directory)
        if existing is not None:
            work = asyncio.ensure_future(_start_again(directory, existing))
        else:
            work = asyncio.ensure_future(_make(directory, arguments.group, arguments.hosts, client_config))
        try:
            waited: list[asyncio.Future[Any]] = [work, stopping]
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                work.cancel()
            daemons = await work
        except BaseException:
            if existing is None:  # else there may be containers in it
                await asyncio.shield(take_down(directory))
            if stopping.done():
                return 130
            raise
    made = state.load(directory)
    if made is not None:
        _explain(arguments, directory, made, state.hosts(directory, made))
    if arguments.detach:
        for daemon in daemons:
            daemon.close()
        return 0
    await _until_stopped(stopping, daemons, directory)
    with state.exclusive(directory):
        if await take_down(directory):
            print("the sandbox is gone", flush=True)
    return 0


async def _make(directory: Path, group: str, count: int, client_config: Path) -> list[StartedDaemon]:
    names = [f"{group}-{number}" for number in range(1, count + 1)]
    enrol.check(client_config, group, names)
    slot = state.take_slot(directory)
    # First the record: whatever is interrupted from now on can be taken down.
    state.save(directory, Sandbox(group, slot, str(client_config), tuple(names)))
    ports = _free_ports(slot, count)
    hosts = plan(base_config(os.environ), directory, group, slot, ports)
    admin = _certify(directory, hosts)
    daemons = [await processes.start(host) for host in hosts]
    await _all([processes.wait_ready(daemon, admin) for daemon in daemons])
    enrol.enrol(client_config, group, directory, hosts)
    return daemons


async def _start_again(directory: Path, sandbox: Sandbox) -> list[StartedDaemon]:
    """Start the daemons of a sandbox that do not run: they find their containers. Raises AlreadyExists if all run."""
    hosts = state.hosts(directory, sandbox)
    down = [host for host in hosts if lock.holder(host.config.run_dir) is None]
    if hosts and not down:
        raise AlreadyExists(
            f"there is a sandbox in {directory} already, and its daemons run",
            reason="SANDBOX_EXISTS",
            hint=f"take it down: shoald sandbox --down --dir {directory}",
        )
    if len(hosts) < len(sandbox.hosts):
        raise FailedPrecondition(
            f"the sandbox in {directory} was never complete",
            reason="SANDBOX_INCOMPLETE",
            hint=f"take it down: shoald sandbox --down --dir {directory}",
        )
    pki = directory / "pki"
    admin = {name: (pki / file).read_bytes() for name, file in _ADMIN_FILES.items()}
    daemons = [await processes.start(host) for host in down]
    await _all([processes.wait_ready(daemon, admin) for daemon in daemons])
    enrol.enrol(Path(sandbox.client_config), sandbox.group, directory, hosts)
    print(f"the sandbox in {directory} is there already; started again: {', '.join(host.name for host in down)}")
    return daemons


async def _all(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Wait for all; the first that fails ends the others and is raised as it is."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _certify(directory: Path, hosts: Sequence[PlannedHost]) -> dict[str, bytes]:
    """Write each host's certificate and configuration; what an admin needs to connect."""
    pki = directory / "pki"
    ca = create_ca("shoal sandbox")
    ca.save(pki / "ca.pem", pki / "ca-key.pem")
    admin: KeyPair = issue_user(ca, "sandbox-admin", Role.ADMIN)
    admin.save(pki / "admin.pem", pki / "admin-key.pem")
    for host in hosts:
        host.directory.mkdir(mode=0o711, parents=True)
        pair = issue_host(ca, host.name, ["127.0.0.1", "localhost"])
        pair.save(host.directory / "host.pem", host.directory / "host-key.pem")
        processes.write_config(host)
    return {"ca": ca.cert_pem, "cert": admin.cert_pem, "key": admin.key_pem}


def _free_ports(slot: int, count: int) -> list[tuple[int, int]]:
    """Two ports for each host that are free now; the preferred ones where they are."""
    taken: set[int] = set()

    def free(preferred: int) -> int:
        for port in (preferred, *[0] * 100):
            with socket.socket() as probe:
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
                found = int(probe.getsockname()[1])
            if found not in taken:
                taken.add(found)
                return found
        raise AlreadyExists("no free port on 127.0.0.1", reason="PORT_IN_USE")

    pairs = [preferred_ports(slot, number) for number in range(1, count + 1)]
    return [(free(api), free(metrics)) for api, metrics in pairs]


def _stop_requests() -> asyncio.Future[None]:
    """Completes at the first SIGINT, SIGTERM or SIGHUP; later ones do not disturb the teardown."""
    loop = asyncio.get_running_loop()
    stopping: asyncio.Future[None] = loop.create_future()

    def request() -> None:
        if not stopping.done():
            stopping.set_result(None)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, request)
    return stopping


async def _until_stopped(stopping: asyncio.Future[None], daemons: Sequence[StartedDaemon], directory: Path) -> None:
    """Wait for a signal, or for somebody else to take the sandbox down; tell of daemons that end."""
    running = list(daemons)
    while running and not stopping.done():
        await asyncio.wait([stopping, *(each.ended for each in running)], return_when=asyncio.FIRST_COMPLETED)
        for daemon in [each for each in running if each.ended.done()]:
            running.remove(daemon)
            if not stopping.done() and not state.busy(directory):
                print(f"{daemon.host.name}: the daemon ended; start it again with", flush=True)
                print(f"  shoald serve --config {daemon.host.config_file}", flush=True)
    while not stopping.done() and state.load(directory) is not None:
        await asyncio.wait([stopping], timeout=_LOOK_AGAIN_S)
    for daemon in daemons:
        daemon.close()


def _explain(arguments: argparse.Namespace, directory: Path, made: Sandbox, hosts: Sequence[PlannedHost]) -> None:
    client_config, group = Path(made.client_config), made.group
    usual = client_config == enrol.client_config(os.environ)
    shoal = "shoal" if usual else f"SHOAL_CONFIG={client_config} shoal"
    for host in hosts:
        network = host.config.network
        print(
            f"{host.name}: {host.config.listen[0]}, publishes ports on {network.publish_address}, log {host.log_file}"
        )
    print(f"they are the group {group!r} in {client_config}. Try:")
    print(f"  {shoal} info -g {group}")
    print(f"  {shoal} run -g {group} -d --name hello busybox sleep 600")
    print(f"  {shoal} ps -g {group}")
    if arguments.detach:
        print(f"take it down with: shoald sandbox --down --dir {directory}", flush=True)
    else:
        print("Ctrl-C takes everything down.", flush=True)
