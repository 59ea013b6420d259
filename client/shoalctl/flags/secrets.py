"""`--secret`: values of this machine for files on a tmpfs in the container."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from shoalctl.flags.fault import UsageFault
from shoalctl.flags.mounts import local_path

MAX_SECRET_BYTES = 512 << 10
DIRECTORY = "/run/secrets"

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")


class SecretFlag(NamedTuple):
    """A secret by the name of its file in the container. The value is never shown. Mode 0: 0400."""

    target: str
    value: bytes
    mode: int = 0

    def __repr__(self) -> str:
        return f"SecretFlag(target={self.target!r}, mode={self.mode:o})"


def parse_build_secret(text: str, environment: Mapping[str, str]) -> tuple[str, bytes]:
    """`id=NAME[,src=FILE|env=VARIABLE]` for a build; the id and the value, read now. Raises UsageFault."""
    given = _fields(text, ("id", "src", "env", "type"))
    name = given.get("id", "")
    if not name:
        raise _invalid(text, "id=NAME is missing")
    return name, _value(text, name, given, environment)


def parse_secret(text: str, environment: Mapping[str, str]) -> SecretFlag:
    """`id=NAME,src=FILE|env=VARIABLE[,target=/path][,mode=0400]`; reads the value now. Without src and env: the
    variable or the file of the id's name, in this order. Raises UsageFault."""
    given = _fields(text, ("id", "src", "env", "target", "mode", "type"))
    name = given.get("id", "")
    if not _NAME.fullmatch(name):
        raise _invalid(text, "id=NAME is missing, or has other characters than [a-zA-Z0-9_.-]")
    target = given.get("target", name)
    if not target.startswith("/"):
        target = f"{DIRECTORY}/{target}"
    if ".." in target.split("/") or target.endswith("/"):
        raise _invalid(text, f"the target {target!r} is not a file's path")
    mode = given.get("mode", "0")
    if not re.fullmatch("0*[0-7]{1,3}", mode):
        raise _invalid(text, f"mode {mode!r} is not octal, up to 777")
    return SecretFlag(target, _value(text, name, given, environment), int(mode, 8))


def _fields(text: str, known: Collection[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for item in text.split(","):
        key, separator, value = item.partition("=")
        key = {"source": "src", "dst": "target", "destination": "target"}.get(key, key)
        if not separator or key not in known:
            raise _invalid(text, f"unknown part {item!r}")
        given[key] = value
    kind = given.get("type", "")
    if kind not in ("", "file", "env"):
        raise _invalid(text, f"unknown type {kind!r}; there are file and env")
    if kind == "env" and "src" in given:  # docker build's way to write it
        given["env"] = given.pop("src")
    if "src" in given and "env" in given:
        raise _invalid(text, "src and env exclude each other")
    return given


def _value(text: str, name: str, given: Mapping[str, str], environment: Mapping[str, str]) -> bytes:
    variable = given.get("env", name if "src" not in given and name in environment else "")
    if variable:
        if variable not in environment:
            raise _invalid(text, f"the variable {variable} is not set")
        return _bounded(text, os.fsencode(environment[variable]))
    path = Path(local_path(given.get("src", name)))
    try:
        with path.open("rb") as file:
            return _bounded(text, file.read(MAX_SECRET_BYTES + 1))
    except OSError as error:
        raise _invalid(text, f"can't read {path}: {error.strerror}") from error


def _bounded(text: str, value: bytes) -> bytes:
    if len(value) > MAX_SECRET_BYTES:
        raise _invalid(text, f"the value has more than {MAX_SECRET_BYTES} bytes")
    return value


def _invalid(text: str, why: str) -> UsageFault:
    return UsageFault(f"invalid secret {text!r}: {why}", hint="write id=NAME,src=FILE or id=NAME,env=VARIABLE")
