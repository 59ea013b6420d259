"""Logins that docker has stored, and its credential helpers."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from shoal.errors import FailedPrecondition
from shoalctl.fleet.registry_auth import Login, login_for

AUTH = base64.b64encode(b"me:se:cret").decode()


def look(tmp_path: Path, config: Any, reference: str) -> Login | None:
    (tmp_path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return login_for(reference, {"DOCKER_CONFIG": str(tmp_path)})


@pytest.mark.parametrize("key", ["https://index.docker.io/v1/"])
def test_the_hub_has_an_old_name(key: str, tmp_path: Path) -> None:
    assert look(tmp_path, {"auths": {key: {"auth": AUTH}}}, "busybox") == Login("me", "se:cret")


@pytest.mark.parametrize("key", ["r.example:5000", "https://r.example:5000", "https://r.example:5000/v2/"])
def test_keys_may_be_addresses(key: str, tmp_path: Path) -> None:
    assert look(tmp_path, {"auths": {key: {"auth": AUTH}}}, "r.example:5000/a") == Login("me", "se:cret")
    assert look(tmp_path, {"auths": {key: {"auth": AUTH}}}, "r.example/a") is None


def test_tokens_and_plain_entries(tmp_path: Path) -> None:
    token = {"auths": {"r.example": {"auth": base64.b64encode(b"me:").decode(), "identitytoken": "t"}}}
    assert look(tmp_path, token, "r.example/a") == Login("me", "", "t")
    assert look(tmp_path, {"auths": {"r.example": {"username": "u", "password": "p"}}}, "r.example/a") == Login(
        "u", "p"
    )
    assert look(tmp_path, {"auths": {"r.example": {}}}, "r.example/a") is None
    assert login_for("busybox", {"DOCKER_CONFIG": str(tmp_path / "none")}) is None


@pytest.mark.parametrize("config", ["{", "[]", {"auths": {"https://index.docker.io/v1/": {"auth": "!"}}}])
def test_broken_files_say_so(config: Any, tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        look(tmp_path, config, "busybox")
    assert caught.value.reason == "REGISTRY_LOGIN"


def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = tmp_path / "docker-credential-test"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


def test_a_helper_gets_the_server_on_its_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper(tmp_path, monkeypatch, """read server; echo "{\\"Username\\": \\"$1\\", \\"Secret\\": \\"$server\\"}" """)
    assert look(tmp_path, {"credHelpers": {"r.example": "test"}}, "r.example/a") == Login("get", "r.example")
    assert look(tmp_path, {"credsStore": "test"}, "busybox") == Login("get", "https://index.docker.io/v1/")
    helper(tmp_path, monkeypatch, """echo '{"Username": "<token>", "Secret": "t"}'""")
    assert look(tmp_path, {"credsStore": "test"}, "busybox") == Login("", "", "t")
    helper(tmp_path, monkeypatch, "echo credentials not found; exit 1")
    assert look(tmp_path, {"credsStore": "test"}, "busybox") is None


@pytest.mark.parametrize("name", ["../../bin/sh", "none-such", "a b", ";id"])
def test_a_helper_is_only_a_program_of_the_path(name: str, tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="not installed"):
        look(tmp_path, {"credsStore": name}, "busybox")


def test_a_login_never_shows_its_secrets() -> None:
    assert "secret" not in repr(Login("me", "secret", "secret"))
