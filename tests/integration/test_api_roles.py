"""Who may call what: the table is total, agrees with the contract in the proto, and is enforced."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor_pool import Default
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha import reflection_pb2

from shoal.pki import Role
from shoal.v1 import container_pb2 as pb
from shoal.v1.container_pb2_grpc import ContainerServiceStub
from shoald.api.authz import Authorizer, DenyList
from shoald.api.roles import METHODS
from shoald.api.server import SERVICES
from tests.support.api_server import Fleet, credentials, error_info, serving
from tests.support.fake_engine import FakeEngine

PROTO = Path(__file__).parents[2] / "proto" / "shoal" / "v1"
STANDARD = ("grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection")


def _methods(services: tuple[str, ...]) -> Iterator[str]:
    for service in services:
        for method in Default().FindServiceByName(service).methods:
            yield f"/{service}/{method.name}"


def test_every_method_of_every_descriptor_has_an_entry_and_no_entry_is_left_over() -> None:
    known = {*_methods(SERVICES), *_methods(STANDARD)}
    known.add("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    known.add("/grpc.health.v1.Health/List")  # newer versions of the health service have it
    assert set(METHODS) == known


def test_every_service_of_the_proto_is_served() -> None:
    declared = {
        f"shoal.v1.{name}"
        for file in PROTO.glob("*.proto")
        for name in re.findall(r"^service (\w+)", file.read_text(), re.MULTILINE)
    }
    assert set(SERVICES) == declared


def test_the_table_says_what_the_proto_says() -> None:
    said = {"all": frozenset(Role), "admin, operator": frozenset({Role.ADMIN, Role.OPERATOR})}
    for file in PROTO.glob("*.proto"):
        for service, body in re.findall(r"^service (\w+) \{(.*?)^\}", file.read_text(), re.MULTILINE | re.DOTALL):
            for comment, name in re.findall(r"((?: *//[^\n]*\n)+) *rpc (\w+)\(", body):
                text = re.sub(r"\s*//\s*", " ", comment)
                found = re.search(r"Roles: (all|admin, operator)\.", text)
                assert found, f"{service}.{name} does not say who may call it"
                entry = METHODS[f"/shoal.v1.{service}/{name}"]
                assert entry.roles == said[found[1]], name
                if "Read-only" in text:
                    assert not entry.mutates, name
                elif name != "FollowBuild":
                    assert entry.mutates, name


async def _code(channel: grpc.aio.Channel, method: str) -> tuple[grpc.StatusCode, str]:
    """Call a method with an empty message; the code and, for an error of ours, its reason."""
    service, name = method.removeprefix("/").split("/")
    if service == "grpc.reflection.v1.ServerReflection":
        request: Message = reflection_pb2.ServerReflectionRequest(list_services="")
    else:
        descriptor = Default().FindServiceByName(service).methods_by_name[name]
        request = GetMessageClass(descriptor.input_type)()
    kind = type(request)
    call = channel.stream_stream(method, kind.SerializeToString, bytes)(iter([request]))
    try:
        async for _ in call:
            if name in ("Watch", "ServerReflectionInfo"):
                call.cancel()
                return grpc.StatusCode.OK, ""
    except grpc.aio.AioRpcError as error:
        if error.details() == "Internal error from Core":  # the write met the refusal, which grpc.aio then hides
            return await _code(channel, method)
        ours = "grpc-status-details-bin" in dict(error.trailing_metadata() or ())
        return error.code(), error_info(error).reason if ours else ""
    return grpc.StatusCode.OK, ""


@pytest.mark.parametrize("role", list(Role))
async def test_each_role_passes_where_the_table_says_and_nowhere_else(tmp_path: Path, role: Role) -> None:
    fleet = Fleet.make(tmp_path)
    async with serving(FakeEngine(), tmp_path, tls=fleet.tls) as running:
        trust = credentials(fleet.ca.cert_pem, fleet.user("someone", role))
        async with grpc.aio.secure_channel(running.address, trust) as channel:
            for method in (*_methods(SERVICES), *_methods(STANDARD), *METHODS):
                if method == "/grpc.health.v1.Health/List":
                    continue
                code, reason = await _code(channel, method)
                refused = code is grpc.StatusCode.PERMISSION_DENIED
                assert refused == (role not in METHODS[method].roles), method
                if refused:
                    assert reason == "ROLE_REQUIRED"


async def test_a_method_without_an_entry_is_refused_even_for_an_admin(tmp_path: Path) -> None:
    engine = FakeEngine()
    async with serving(engine, tmp_path) as running:
        table = {method: entry for method, entry in METHODS.items() if not method.endswith("ContainerService/Kill")}
        running.server._gate._authorizer = Authorizer(DenyList(None), table)
        async with grpc.aio.insecure_channel(running.socket) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await ContainerServiceStub(channel).Kill(pb.ContainerServiceKillRequest(name="web"))
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert error_info(caught.value).reason == "METHOD_NOT_ALLOWED"
    assert engine.calls == []


@pytest.mark.parametrize(("role", "allowed"), [(Role.ADMIN, True), (Role.OPERATOR, False)])
async def test_userns_host_needs_an_admin(tmp_path: Path, role: Role, allowed: bool) -> None:
    fleet, engine = Fleet.make(tmp_path), FakeEngine()
    request = pb.ContainerServiceRunRequest(spec=pb.ContainerSpec(image="busybox", userns="host"))
    async with serving(engine, tmp_path, tls=fleet.tls) as running:
        trust = credentials(fleet.ca.cert_pem, fleet.user("someone", role))
        async with grpc.aio.secure_channel(running.address, trust) as channel:
            stub = ContainerServiceStub(channel)
            if allowed:
                await stub.Run(request)
                assert engine.asked("run")[1].userns == "host"
                return
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Run(request)
    info = error_info(caught.value)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert (info.reason, info.metadata["required"]) == ("ROLE_REQUIRED", "admin")
    assert engine.calls == []


async def test_the_policy_sees_what_the_handler_gets_with_repeated_and_unknown_fields(tmp_path: Path) -> None:
    """A message may hold a field twice (the last counts) and fields that nobody knows."""
    fleet, engine = Fleet.make(tmp_path), FakeEngine()
    innocent = pb.ContainerSpec(image="busybox").SerializeToString()
    userns_host = b"\xba\x01\x04host"  # field 23
    unknown = b"\xfa\x3e\x03xyz"  # field 1007
    spec = innocent + userns_host + unknown
    raw = b"\x12" + bytes([len(innocent)]) + innocent + b"\x12" + bytes([len(spec)]) + spec
    async with serving(engine, tmp_path, tls=fleet.tls) as running:
        trust = credentials(fleet.ca.cert_pem, fleet.user("someone", Role.OPERATOR))
        for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
            async with grpc.aio.secure_channel(running.address, trust, compression=compression) as channel:
                run = channel.unary_unary("/shoal.v1.ContainerService/Run", bytes, bytes)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await run(raw)
                assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert engine.calls == []


async def test_unknown_fields_alone_do_no_harm(tmp_path: Path) -> None:
    engine = FakeEngine()
    raw = pb.ContainerServiceStartRequest(name="web").SerializeToString() + b"\xfa\x3e\x03xyz"
    async with serving(engine, tmp_path) as running:
        async with grpc.aio.insecure_channel(running.socket) as channel:
            await channel.unary_unary("/shoal.v1.ContainerService/Start", bytes, bytes)(raw)
    assert engine.asked("start") == ("web", "")
