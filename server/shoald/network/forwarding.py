"""Passage through the firewalls of others: Docker, ufw and their like drop by default what the host forwards.

An nft verdict `accept` holds for its own chain only, so containers need a rule in every such chain (Docker puts its own
into the same). What must not pass is dropped by the chain of our own table.
"""

from __future__ import annotations

import json
import re
from typing import Any

from shoald.host import nft
from shoald.host.process import program_failed, run

_TIMEOUT_S = 30.0
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.-]{0,126}")


async def admit(bridge: str) -> bool:
    """Let the bridge's traffic pass; True when a rule was missing. Idempotent."""
    script = admit_script(await _chains(), bridge)
    if script:
        await nft.apply(script)
    return bool(script)


async def withdraw(bridge: str) -> None:
    """Remove the rules again."""
    script = withdraw_script(await _chains(), bridge)
    if script:
        await nft.apply(script)


async def _chains() -> list[dict[str, Any]]:
    """The chains that drop what is forwarded, each with its rules."""
    objects = []
    for chain in dropping(await _objects("list", "chains", "ip")):
        objects += await _objects("--handle", "list", "chain", "ip", chain["table"], chain["name"])
    return objects


async def _objects(*arguments: str) -> list[dict[str, Any]]:
    argv = ["nft", "--json", *arguments]
    completed = await run(argv, timeout=_TIMEOUT_S, check=False)
    if completed.returncode != 0:
        if b"No such file" in completed.stderr:  # gone between two calls
            return []
        raise program_failed(argv, completed.returncode, completed.stderr)
    objects: list[dict[str, Any]] = json.loads(completed.stdout or b"{}").get("nftables", [])
    return objects


def dropping(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The base chains of hook forward whose policy is drop; pure. `objects` as in libnftables-json(5)."""
    chains = [o["chain"] for o in objects if "chain" in o]
    return [
        chain
        for chain in chains
        if (chain.get("hook"), chain.get("policy")) == ("forward", "drop")
        and _NAME.fullmatch(chain["table"])
        and _NAME.fullmatch(chain["name"])
    ]


def _comment(bridge: str) -> str:
    return f"shoal bridge {bridge}"


def admit_script(objects: list[dict[str, Any]], bridge: str) -> str:
    """Rules for every chain of `dropping` that has none of ours yet; pure."""
    ours = {(rule["table"], rule["chain"]) for rule in _ours(objects, bridge)}
    return "".join(
        f'insert rule ip {chain["table"]} {chain["name"]} {side} "{bridge}" counter accept'
        f' comment "{_comment(bridge)}"\n'
        for chain in dropping(objects)
        if (chain["table"], chain["name"]) not in ours
        for side in ("iifname", "oifname")
    )


def withdraw_script(objects: list[dict[str, Any]], bridge: str) -> str:
    """Deletion of the rules that `admit_script` made; pure."""
    return "".join(
        f"delete rule ip {rule['table']} {rule['chain']} handle {rule['handle']}\n" for rule in _ours(objects, bridge)
    )


def _ours(objects: list[dict[str, Any]], bridge: str) -> list[dict[str, Any]]:
    return [o["rule"] for o in objects if "rule" in o and o["rule"].get("comment") == _comment(bridge)]
