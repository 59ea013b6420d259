"""`--network NAME` and its long form `name=NAME,alias=...,ip=...,ip6=...,mac-address=...`, as Docker reads them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from typing import NamedTuple

from shoalctl.flags.fault import UsageFault

ALONE = ("host", "none")
_KEYS = {"ip": "ip", "ip6": "ip6", "mac-address": "mac", "mac_address": "mac"}


class NetworkFlag(NamedTuple):
    """A network to join; empty fields are chosen by the host."""

    name: str
    ip: str = ""
    ip6: str = ""
    mac: str = ""
    aliases: Sequence[str] = ()


def parse_networks(values: Sequence[str]) -> list[NetworkFlag]:
    """All `--network` of a command line, in their order. Raises UsageFault."""
    found = [parse_network(value) for value in values]
    names = [network.name for network in found]
    if len(names) != len(set(names)):
        raise UsageFault("a network is named twice", hint="name each network once")
    if len(found) > 1 and any(name in ALONE or name.startswith("container:") for name in names):
        raise UsageFault("host, none and container:... can't be combined with other networks")
    return found


def parse_network(text: str) -> NetworkFlag:
    """One value. Raises UsageFault."""
    if "=" not in text:
        if not text or "," in text:
            raise _invalid(text, "a name is needed")
        return NetworkFlag("bridge" if text == "default" else text)
    fields: dict[str, str] = {}
    aliases: list[str] = []
    for part in _parts(text):
        key, equals, value = part.partition("=")
        if not equals or not value:
            raise _invalid(text, f"{part!r} has no value")
        if key == "alias":
            aliases.append(value)
        elif key == "name":
            fields["name"] = value
        elif key in _KEYS:
            fields[_KEYS[key]] = value
        else:
            raise _invalid(text, f"{key!r} is not one of name, alias, ip, ip6, mac-address")
    if "name" not in fields:
        raise _invalid(text, "name= is missing")
    return NetworkFlag(aliases=aliases, **fields)


def _parts(text: str) -> list[str]:
    try:
        return next(csv.reader([text]))
    except csv.Error as error:
        raise _invalid(text, str(error)) from error


def _invalid(text: str, why: str) -> UsageFault:
    return UsageFault(f"invalid network {text!r}: {why}", hint="write NAME, or name=NAME,alias=ALIAS,ip=ADDRESS")
