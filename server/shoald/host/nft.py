"""nftables, through the `nft` program (its library is GPL-2; a call costs 3 ms). A script is one transaction."""

from __future__ import annotations

import json
import re
from typing import Any

from shoal.errors import Internal, InvalidArgument
from shoald.host.process import program_failed, run

_FAMILIES = frozenset({"ip", "ip6", "inet", "arp", "bridge", "netdev"})
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.-]{0,126}")
_TIMEOUT_SECONDS = 30.0
_MISSING = b"No such file or directory"


async def apply(script: str) -> None:
    """Run an nft script atomically: all of it or nothing.

    Raises Internal NFT_REFUSED with nft's own message (and the lines that it points at), FailedPrecondition
    PROGRAM_MISSING when nftables is not installed.
    """
    completed = await run(["nft", "-f", "-"], input=script.encode(), timeout=_TIMEOUT_SECONDS, check=False)
    if completed.returncode != 0:
        message = completed.stderr.decode(errors="replace").strip().replace("/dev/stdin", "script")
        metadata = {"program": "nft", "exit_status": str(completed.returncode)}
        raise Internal(f"nft refused the rules: {message[:2000]}", reason="NFT_REFUSED", metadata=metadata)


async def list_table(family: str, name: str) -> list[dict[str, Any]] | None:
    """The objects of a table as `nft --json list table` gives them (libnftables-json(5)); None when there is none."""
    _check(family, name)
    argv = ["nft", "--json", "list", "table", family, name]
    completed = await run(argv, timeout=_TIMEOUT_SECONDS, check=False)
    if completed.returncode != 0:
        if _MISSING in completed.stderr:
            return None
        raise program_failed(argv, completed.returncode, completed.stderr)
    objects: list[dict[str, Any]] = json.loads(completed.stdout)["nftables"]
    return [found for found in objects if "metainfo" not in found]


async def delete_table(family: str, name: str) -> None:
    """Delete a table and all in it; nothing happens when there is none."""
    _check(family, name)
    # `destroy` needs nft 1.0.7: adding a table that exists changes nothing, and both lines are one transaction.
    await apply(f"add table {family} {name}\ndelete table {family} {name}\n")


def _check(family: str, name: str) -> None:
    if family not in _FAMILIES or not _NAME.fullmatch(name):
        raise InvalidArgument(f"bad nft table {family!r} {name!r}", reason="INVALID_TABLE")
