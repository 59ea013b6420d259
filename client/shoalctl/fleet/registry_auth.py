"""Credentials for registries: `~/.docker/config.json`, as docker login leaves it, and its credential helpers."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shoal.errors import FailedPrecondition
from shoal.reference import DEFAULT_DOMAIN, Reference

_HUB = "https://index.docker.io/v1/"
_HELPER_TIME = 30.0


@dataclass(frozen=True, slots=True)
class Login:
    """What a registry asks for; an identity token replaces the password."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)


def login_for(reference: str, environ: Mapping[str, str] | None = None) -> Login | None:
    """The login stored for the registry of a reference, or None when there is none.

    May run a credential helper (docker-credential-NAME) that the file names; blocking.
    Raises InvalidArgument for a bad reference, FailedPrecondition (REGISTRY_LOGIN) for an unusable file or helper.
    """
    env = os.environ if environ is None else environ
    path = Path(env.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")) / "config.json"
    domain = Reference.parse(reference).domain
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _unusable(f"can't read {path}: {error}") from error
    if not isinstance(config, dict):
        raise _unusable(f"{path} does not hold a JSON object")
    server = _HUB if domain == DEFAULT_DOMAIN else domain
    helper = _table(config, "credHelpers").get(domain) or config.get("credsStore")
    if helper:
        found = _ask_helper(str(helper), server)
        if found is not None:
            return found
    return _stored(_table(config, "auths"), server, path)


def _stored(auths: Mapping[str, Any], server: str, path: Path) -> Login | None:
    for key, entry in auths.items():
        if _host(key) == _host(server) and isinstance(entry, dict):
            return _decoded(entry, path)
    return None


def _decoded(entry: Mapping[str, Any], path: Path) -> Login | None:
    username, password = str(entry.get("username", "")), str(entry.get("password", ""))
    if auth := entry.get("auth"):
        try:
            username, _, password = base64.b64decode(str(auth), validate=True).decode().rstrip("\0").partition(":")
        except ValueError as error:
            raise _unusable(f"{path} holds a broken login") from error
    token = str(entry.get("identitytoken", ""))
    return Login(username, password, token) if username or token else None


def _ask_helper(name: str, server: str) -> Login | None:
    # A helper is a program of the user's PATH; its name must not lead elsewhere.
    program = shutil.which(f"docker-credential-{name}") if name.replace("-", "").replace("_", "").isalnum() else None
    if program is None:
        raise _unusable(f"the credential helper docker-credential-{name[:40]!r} is not installed")
    try:
        done = subprocess.run(
            [program, "get"], input=server.encode(), capture_output=True, timeout=_HELPER_TIME, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _unusable(f"the credential helper {program} failed: {error}") from error
    if done.returncode != 0:
        return None  # "credentials not found", or a locked store: the registry may not need any
    try:
        answer = json.loads(done.stdout)
        username, secret = str(answer["Username"]), str(answer["Secret"])
    except (ValueError, KeyError, TypeError) as error:
        raise _unusable(f"the credential helper {program} gave no credentials") from error
    return Login(identity_token=secret) if username == "<token>" else Login(username, secret)


def _table(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = config.get(key)
    return value if isinstance(value, dict) else {}


def _host(key: str) -> str:
    return key.partition("://")[2].partition("/")[0] if "://" in key else key.partition("/")[0]


def _unusable(message: str) -> FailedPrecondition:
    return FailedPrecondition(
        message, reason="REGISTRY_LOGIN", hint="correct ~/.docker/config.json, or give --creds USER:PASSWORD"
    )
