"""Passage through the firewalls of others: Docker, ufw, firewalld and their like drop or reject by default what the
host forwards, and some what it gets.

An nft verdict `accept` holds for its own chain only, so containers need a rule in every such chain (Docker puts its own
into the same). What must not pass is dropped by the chain of our own table. What containers send to the host itself
needs a rule only for the name server of their network.
"""

from __future__ import annotations

import json
import re
from typing import Any

import structlog

from shoal.errors import ShoalError
from shoald.host import nft
from shoald.host.process import program_failed, run
from shoald.network.addressing import bridge_prefix

log = structlog.get_logger(__name__)

_TIMEOUT_S = 30.0
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.-]{0,126}")
_FAMILIES = ("ip", "ip6", "inet")
_HOOKS = ("forward", "input")
_DNS = "meta l4proto { tcp, udp } th dport 53"

Objects = list[dict[str, Any]]


async def admit(bridge: str) -> bool:
    """Let the traffic of a daemon's bridges pass; True when a rule was missing. Idempotent."""
    script = admit_script(await _chains(), bridge)
    if script:
        try:
            await nft.apply(script)
        except ShoalError as error:
            # A table with an owner (firewalld 2 by its configuration) takes rules from nobody else.
            log.error(
                "forwarding_not_admitted",
                error=str(error),
                hint=f"tell the firewall to let interfaces {bridge} and {bridge_prefix(bridge)}* pass",
            )
            return False
    return bool(script)


async def withdraw(bridge: str) -> None:
    """Remove the rules again."""
    script = withdraw_script(await _chains(), bridge)
    if script:
        await nft.apply(script)


async def _chains() -> Objects:
    """The base chains of hooks forward and input, each with its rules."""
    listed = []
    for family in _FAMILIES:
        listed += [chain for chain in filtering(await _objects("list", "chains", family)) if chain["family"] == family]
    objects = []
    for chain in listed:
        objects += await _objects("--handle", "list", "chain", chain["family"], chain["table"], chain["name"])
    return objects


async def _objects(*arguments: str) -> Objects:
    argv = ["nft", "--json", *arguments]
    completed = await run(argv, timeout=_TIMEOUT_S, check=False)
    if completed.returncode != 0:
        if b"No such file" in completed.stderr:  # gone between two calls
            return []
        raise program_failed(argv, completed.returncode, completed.stderr)
    objects: Objects = json.loads(completed.stdout or b"{}").get("nftables", [])
    return objects


def filtering(objects: Objects) -> Objects:
    """The base chains of both hooks; pure. `objects` as in libnftables-json(5)."""
    chains = [o["chain"] for o in objects if "chain" in o]
    return [
        chain
        for chain in chains
        if chain.get("hook") in _HOOKS and _NAME.fullmatch(chain["table"]) and _NAME.fullmatch(chain["name"])
    ]


def closed(objects: Objects) -> Objects:
    """Those that let nothing pass by default: by their policy, or by a last rule for all packets; pure."""
    ends = {_place(o["rule"]) for o in objects if "rule" in o and _is_end(o["rule"])}
    return [
        chain
        for chain in filtering(objects)
        if chain.get("policy") == "drop" or (chain["family"], chain["table"], chain["name"]) in ends
    ]


def _place(rule: dict[str, Any]) -> tuple[str, str, str]:
    return rule["family"], rule["table"], rule["chain"]


def _is_end(rule: dict[str, Any]) -> bool:
    """Whether it drops or rejects without a condition."""
    kinds = set()
    for kind, value in ((kind, value) for expression in rule.get("expr", []) for kind, value in expression.items()):
        # iptables-nft writes its own REJECT.
        target = value.get("name") if kind == "xt" and isinstance(value, dict) else ""
        kinds.add("reject" if target in ("REJECT", "DROP") else kind)
    return bool({"drop", "reject"} & kinds) and kinds <= {"drop", "reject", "counter", "log"}


def _comment(bridge: str) -> str:
    return f"shoal bridge {bridge}"


def admit_script(objects: Objects, bridge: str) -> str:
    """Rules for every chain of `closed` that has none of ours yet; pure. They come first there."""
    ours = {_place(rule) for rule in _ours(objects, bridge)}
    script = ""
    for chain in closed(objects):
        place = (chain["family"], chain["table"], chain["name"])
        if place in ours:
            continue
        for name in (bridge, f"{bridge_prefix(bridge)}*"):
            if chain["hook"] == "forward":
                matches = [f'iifname "{name}"', f'oifname "{name}"']
            else:
                matches = [f'iifname "{name}" {_DNS}'] if name != bridge else []
            for match in matches:
                script += f'insert rule {" ".join(place)} {match} counter accept comment "{_comment(bridge)}"\n'
    return script


def withdraw_script(objects: Objects, bridge: str) -> str:
    """Deletion of the rules that `admit_script` made; pure."""
    return "".join(f"delete rule {' '.join(_place(rule))} handle {rule['handle']}\n" for rule in _ours(objects, bridge))


def _ours(objects: Objects, bridge: str) -> Objects:
    return [o["rule"] for o in objects if "rule" in o and o["rule"].get("comment") == _comment(bridge)]
