"""A zone of our own in firewalld, where it lets nobody else change its table (firewalld.conf: NftablesTableOwner).

The zone has the daemon's bridges, whatever their number, and takes from containers what the name server needs; two
policies let them out, and let in what our own table has let pass. It is part of firewalld's permanent configuration, so
a reload or a restart leaves no moment without it. Nothing here is called where there is no table of firewalld.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import structlog

from shoald.host.process import run
from shoald.network.addressing import bridge_prefix

log = structlog.get_logger(__name__)

PLACE = ("inet", "firewalld")
"""Its table."""
CLOSING = "firewalld_policy_drop"
"""Another table of firewalld, while it reloads or is in panic: shut on purpose, for all."""
CONFIGURATION = Path("/etc/firewalld/firewalld.conf")
_TIMEOUT_S = 60.0
_POLICY_NAME = 11
"""Longest name of a policy."""


def zone_file(bridge: str) -> str:
    """See firewalld.zone(5)."""
    return f"""\
<?xml version="1.0" encoding="utf-8"?>
<zone>
  <short>{bridge}</short>
  <description>Containers of shoald, which made this zone.</description>
  <interface name="{bridge}"/>
  <interface name="{bridge_prefix(bridge)}+"/>
  <service name="dns"/>
</zone>
"""


def policy_file(source: str, target: str) -> str:
    """All that goes from one zone to another passes; see firewalld.policies(5)."""
    return f"""\
<?xml version="1.0" encoding="utf-8"?>
<policy target="ACCEPT">
  <ingress-zone name="{source}"/>
  <egress-zone name="{target}"/>
</policy>
"""


def documents(bridge: str) -> dict[str, tuple[str, str]]:
    """Name -> kind and text of all that firewalld is told."""
    out, into = policy_names(bridge)
    return {
        bridge: ("zone", zone_file(bridge)),
        out: ("policy", policy_file(bridge, "ANY")),
        into: ("policy", policy_file("ANY", bridge)),
    }


def policy_names(bridge: str) -> tuple[str, str]:
    """Of what goes out, and of what comes in."""
    stem = bridge if len(bridge) <= _POLICY_NAME - 4 else hashlib.sha256(bridge.encode()).hexdigest()[:7]
    return f"{stem}-out", f"{stem}-in"


async def has_zone(bridge: str) -> bool:
    """Whether the zone is in force."""
    argv = ["nft", "list", "chain", *PLACE, f"filter_IN_{bridge}"]
    return (await run(argv, timeout=_TIMEOUT_S, check=False)).returncode == 0


def strict(text: str) -> bool:
    """Whether published ports are shut in spite of the zone, by firewalld.conf(5); pure."""
    pairs = [line.partition("=") for line in text.splitlines()]
    values = [value.strip().lower() for key, _, value in pairs if key.strip() == "StrictForwardPorts"]
    return values[-1:] in (["yes"], ["true"])


async def enlist(bridge: str) -> None:
    """Make the zone, anew if there is one, and have firewalld reload.

    What others changed in firewalld without --permanent is lost by that. Raises Internal PROGRAM_FAILED with what
    firewall-cmd says, and FailedPrecondition PROGRAM_MISSING.
    """
    with tempfile.TemporaryDirectory(prefix="shoald-firewalld-") as directory:
        for name, (kind, text) in documents(bridge).items():
            file = Path(directory) / f"{kind}.xml"
            file.write_text(text)
            await _forget(kind, name)
            await _command("--permanent", f"--new-{kind}-from-file={file}", f"--name={name}")
    await _command("--reload")
    log.warning("firewalld_zone_made", zone=bridge)


async def dismiss(bridge: str) -> None:
    """Take the zone back, if it is in force."""
    if await has_zone(bridge):
        for name, (kind, _) in reversed(documents(bridge).items()):
            await _forget(kind, name)
        await _command("--reload")


async def _forget(kind: str, name: str) -> None:
    await _command("--permanent", f"--delete-{kind}={name}", check=False)


async def _command(*arguments: str, check: bool = True) -> None:
    await run(["firewall-cmd", *arguments], timeout=_TIMEOUT_S, check=check)
