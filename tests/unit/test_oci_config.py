"""Image configurations and chain ids."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from shoal.digest import Digest
from shoal.errors import DataLoss, InvalidArgument
from shoald.oci.chain import chain_id, chain_ids
from shoald.oci.config import (
    MAX_CONFIG_BYTES,
    ContainerDefaults,
    Healthcheck,
    History,
    ImageConfig,
    RootFS,
    parse_config,
)
from shoald.oci.manifest import encode

GOLDEN = Path(__file__).parents[1] / "golden" / "oci"
A, B, C = (str(Digest.of(text)) for text in (b"a", b"b", b"c"))


def test_docker_config_is_read_whole() -> None:
    config = parse_config((GOLDEN / "docker-config.json").read_bytes())
    assert config == ImageConfig(
        architecture="amd64",
        os="linux",
        variant="v2",
        author="Ada",
        os_version="10",
        os_features=["win32k"],
        created="2023-05-04T17:37:03.872958712Z",
        config=ContainerDefaults(
            user="www-data:33",
            exposed_ports={"80/tcp": {}, "53/udp": {}},
            env=["PATH=/usr/sbin:/usr/bin", "EMPTY="],
            entrypoint=["/entry", "--flag"],
            cmd=None,
            healthcheck=Healthcheck(
                test=["CMD-SHELL", "curl -f http://localhost/"],
                interval=30_000_000_000,
                timeout=5_000_000_000,
                start_period=1_000_000_000,
                start_interval=2_000_000_000,
                retries=3,
            ),
            args_escaped=True,
            volumes={"/data": {}, "/logs": None},
            working_dir="/srv",
            labels={"b": "2", "a": "1"},
            stop_signal="SIGQUIT",
            shell=["/bin/bash", "-c"],
        ),
        rootfs=RootFS(
            diff_ids=[
                "sha256:c6a83fedfae6ed8a4f5f7cbb6a7b6f1c1ec3d86fea8cb9e5ba2e5e6673fde9f6",
                "sha256:9b9b7f3d56a01e3d9076874990c62e7a516cc4032f784f421574d06b18ef9aa4",
            ]
        ),
        history=[
            History(
                created="2023-05-04T17:37:03Z", created_by="/bin/sh -c #(nop) ADD file in /", comment="c", author="x"
            ),
            History(created="2023-05-04T17:37:03.872958712Z", created_by="ENV A=b", empty_layer=True),
        ],
    )
    assert str(config.platform) == "linux/amd64/v2"
    assert config.chain_ids()[0] == config.rootfs.diff_ids[0]


def test_written_config_has_the_names_of_the_specification() -> None:
    config = ImageConfig(
        architecture="arm64",
        os="linux",
        created="2024-01-01T00:00:00Z",
        config=ContainerDefaults(
            cmd=["sh"], exposed_ports={"80/tcp": {}}, on_build=["RUN x"], working_dir="/w", stop_signal="TERM"
        ),
        rootfs=RootFS(diff_ids=[A]),
        history=[History(created_by="x", empty_layer=True)],
    )
    assert json.loads(encode(config)) == {
        "created": "2024-01-01T00:00:00Z",
        "architecture": "arm64",
        "os": "linux",
        "config": {
            "Cmd": ["sh"],
            "ExposedPorts": {"80/tcp": {}},
            "OnBuild": ["RUN x"],
            "WorkingDir": "/w",
            "StopSignal": "TERM",
        },
        "rootfs": {"type": "layers", "diff_ids": [A]},
        "history": [{"created_by": "x", "empty_layer": True}],
    }
    assert parse_config(encode(config)) == config


def test_the_least_config() -> None:
    config = parse_config(
        b'{"architecture":"amd64","os":"linux","config":null,"rootfs":{"type":"layers"},"history":null}'
    )
    assert config.defaults == ContainerDefaults()
    assert config.chain_ids() == []


@pytest.mark.parametrize("listed", [None, ["sh", "-c"], [], "sh -c x"])
def test_command_as_text_is_one_word(listed: Any) -> None:
    """Old images have a string where a list belongs; Docker reads it as a list of one."""
    body = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": listed, "Entrypoint": listed},
        "rootfs": {"type": "layers"},
    }
    found = parse_config(json.dumps(body).encode()).defaults
    assert found.cmd == found.entrypoint == ([listed] if isinstance(listed, str) else listed)


@pytest.mark.parametrize(
    "change",
    [
        {"rootfs": {"type": "layers", "diff_ids": ["sha256:xyz"]}},
        {"rootfs": {"type": "layers", "diff_ids": ["../../x"]}},
        {"rootfs": {"type": "layers+base", "diff_ids": []}},
        {"rootfs": None},
        {"os": None},
        {"config": {"Env": "A=b"}},
        {"config": {"Env": [1]}},
        {"config": {"Labels": {"a": 1}}},
        {"config": []},
    ],
)
def test_refused(change: dict[str, Any]) -> None:
    body = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}, **change}
    with pytest.raises(InvalidArgument) as caught:
        parse_config(json.dumps(body).encode())
    assert caught.value.reason == "BAD_IMAGE_CONFIG"


def test_null_for_no_layers() -> None:
    body = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":null}}'
    assert parse_config(body).rootfs.diff_ids == []


def test_too_large() -> None:
    with pytest.raises(DataLoss):
        parse_config(b" " * (MAX_CONFIG_BYTES + 1))


def test_chain_ids_follow_the_specification() -> None:
    ab = "sha256:" + hashlib.sha256(f"{A} {B}".encode()).hexdigest()
    abc = "sha256:" + hashlib.sha256(f"{ab} {C}".encode()).hexdigest()
    assert chain_ids([A, B, C]) == [A, ab, abc]
    assert chain_ids([]) == []
    assert chain_id(ab, C) == abc
    assert chain_ids([B, A])[1] != ab


def test_chain_id_of_a_real_image() -> None:
    """Two layers whose chain id Docker computed: the one above, of the empty layer twice."""
    empty = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
    assert chain_ids([empty, empty])[1] == "sha256:" + hashlib.sha256(f"{empty} {empty}".encode()).hexdigest()


def test_null_is_not_set() -> None:
    """As Go reads it; values of Volumes are null as they are."""
    body = {
        "architecture": "amd64",
        "os": "linux",
        "author": None,
        "variant": None,
        "os.version": None,
        "config": {
            "User": None,
            "WorkingDir": None,
            "StopSignal": None,
            "ArgsEscaped": None,
            "Env": None,
            "Cmd": "sh",
            "Volumes": {"/v": None},
            "Labels": {"a": None, "b": "2"},
            "Healthcheck": {"Test": ["CMD", "x"], "Interval": None, "Retries": None},
        },
        "rootfs": {"type": "layers", "diff_ids": [A]},
        "history": [{"created": None, "created_by": None, "comment": None, "empty_layer": None}, None],
    }
    assert parse_config(json.dumps(body).encode()) == ImageConfig(
        architecture="amd64",
        os="linux",
        config=ContainerDefaults(
            cmd=["sh"], volumes={"/v": None}, labels={"a": "", "b": "2"}, healthcheck=Healthcheck(test=["CMD", "x"])
        ),
        rootfs=RootFS(diff_ids=[A]),
        history=[History(), History()],
    )
