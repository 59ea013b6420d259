"""Passage through the firewalls of others: Docker, ufw, firewalld and their like drop or reject by default what the
host forwards, and some what it gets.

An nft verdict `accept` holds for its own chain only, so containers need a rule in every such chain (Docker puts its own
into the same). What must not pass is dropped by the chain of our own table. What containers send to the host itself
needs a rule only for the name server of their network.
"""

from __future__ import annotations

import json
import re
from enum import Enum
from typing import Any

import structlog

from shoal.errors import ShoalError
from shoald.host import nft
from shoald.host.process import program_failed, run
from shoald.network import firewalld
from shoald.network.addressing import bridge_prefix

log = structlog.get_logger(__name__)

_TIMEOUT_S = 30.0
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.-]{0,126}")
_FAMILIES = ("ip", "ip6", "inet")
_HOOKS = ("forward", "input")
_DNS = "meta l4proto { tcp, udp } th dport 53"

Objects = list[dict[str, Any]]
Table = tuple[str, str]
"""Family and name."""


class Passage(Enum):
    """How the bridges' traffic passes firewalld."""

    RULES = "rules"
    ZONE = "zone"
    NONE = "none"


async def admit(bridge: str) -> bool:
    """Let the traffic of a daemon's bridges pass; True when a rule was missing. Idempotent."""
    changed = False
    for table, script in admit_scripts(await _chains(), bridge).items():
        if table == firewalld.PLACE and await firewalld.has_zone(bridge):
            continue
        try:
            await nft.apply(script)
            changed = True
        except ShoalError as error:
            changed |= await _ask_owner(table, bridge, error)
    return changed


async def _ask_owner(table: Table, bridge: str, refusal: ShoalError) -> bool:
    """A table with an owner takes rules from nobody else; firewalld (an owner by default since 2.1) can be asked."""
    try:
        if table == firewalld.PLACE:
            await firewalld.enlist(bridge)
            return True
    except ShoalError as error:
        refusal = error
    log.error(
        "forwarding_not_admitted",
        table=" ".join(table),
        error=str(refusal),
        hint=f"tell the firewall to let interfaces {bridge} and {bridge_prefix(bridge)}* pass",
    )
    return False


async def withdraw(bridge: str) -> None:
    """Remove the rules again."""
    objects = await _chains()
    script = withdraw_script(objects, bridge)
    if script:
        await nft.apply(script)
    if firewalld_runs(objects):
        await firewalld.dismiss(bridge)


async def passage(bridge: str) -> Passage | None:
    """By what the bridges pass firewalld; None where it does not run. Changes nothing."""
    objects = await _chains()
    if not firewalld_runs(objects):
        return None
    if any(_place(rule)[:2] == firewalld.PLACE for rule in _ours(objects, bridge)):
        return Passage.RULES
    return Passage.ZONE if await firewalld.has_zone(bridge) else Passage.NONE


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
        if chain.get("hook") in _HOOKS
        and _NAME.fullmatch(chain["table"])
        and _NAME.fullmatch(chain["name"])
        and chain["table"] != firewalld.CLOSING
    ]


def firewalld_runs(objects: Objects) -> bool:
    """Whether it has its table; pure."""
    return any((chain["family"], chain["table"]) == firewalld.PLACE for chain in filtering(objects))


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


def admit_scripts(objects: Objects, bridge: str) -> dict[Table, str]:
    """Rules for every chain of `closed` that has none of ours yet, by table; pure. They come first there."""
    ours = {_place(rule) for rule in _ours(objects, bridge)}
    scripts: dict[Table, str] = {}
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
                rule = f'insert rule {" ".join(place)} {match} counter accept comment "{_comment(bridge)}"\n'
                scripts[place[:2]] = scripts.get(place[:2], "") + rule
    return scripts


def withdraw_script(objects: Objects, bridge: str) -> str:
    """Deletion of the rules that `admit_script` made; pure."""
    return "".join(f"delete rule {' '.join(_place(rule))} handle {rule['handle']}\n" for rule in _ours(objects, bridge))


def _ours(objects: Objects, bridge: str) -> Objects:
    return [o["rule"] for o in objects if "rule" in o and o["rule"].get("comment") == _comment(bridge)]
