"""Where credentials go, and above all where they do not (CVE-2020-15157, GHSA-gc89-7gcr-jxqc)."""

from __future__ import annotations

import asyncio
import base64
import logging
import random
import ssl
import urllib.parse
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme
from aiohttp import web

from shoal.errors import FailedPrecondition, ShoalError, Unauthenticated, Unavailable
from shoal.reference import Reference
from shoald.oci.manifest import Descriptor
from shoald.oci.mediatypes import OCI_FOREIGN_LAYER, OCI_LAYER, OCI_MANIFEST
from shoald.registry.client import RegistryClient
from shoald.registry.ports import Credentials
from shoald.registry.settings import RegistrySettings
from tests.support.docker_registry import docker_registry
from tests.support.hostile_registry import HostileRegistry, challenge, hostile_registry, serve_manifest
from tests.support.images import make_image, push_built

IMAGE = make_image([{"a": "x"}])
DATA = random.Random(1).randbytes(700_000)
BLOB = Descriptor.of(DATA, OCI_LAYER)
SECRET = "tr0ub4dor-and-3"
LOGIN = Credentials(username="ada", password=SECRET)
BASIC = "Basic " + base64.b64encode(f"ada:{SECRET}".encode()).decode()


@pytest.fixture(autouse=True)
def no_secret_in_logs(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    assert SECRET not in caplog.text
    assert BASIC.removeprefix("Basic ") not in caplog.text


async def no_wait(seconds: float) -> None:
    await asyncio.sleep(0)


@pytest.fixture
async def client() -> AsyncIterator[RegistryClient]:
    made = RegistryClient(RegistrySettings(attempts=3), sleep=no_wait)
    yield made
    await made.close()


def ref_at(server: HostileRegistry, name: str = "app:1") -> Reference:
    return Reference.parse(f"{server.address}/{name}")


async def whole(client: RegistryClient, ref: Reference, descriptor: Descriptor = BLOB) -> bytes:
    async with client.blob(ref, descriptor, credentials=LOGIN) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def blob(request: web.Request) -> web.Response:
    return web.Response(body=DATA)


def wants_basic(request: web.Request) -> web.Response | None:
    return None if request.headers.get("Authorization") == BASIC else challenge("Basic", realm="x")


class TokenServer:
    """Answers like a token server; `lives` is what it says about the life of its tokens."""

    def __init__(self, **answer: Any) -> None:
        self.given = 0
        self.answer = answer

    async def __call__(self, request: web.Request) -> web.Response:
        self.given += 1
        return web.json_response({"token": f"token-{self.given}", "expires_in": 300, **self.answer})


async def test_basic_goes_to_the_registry_only_when_asked(client: RegistryClient) -> None:
    async def handler(request: web.Request) -> web.Response:
        return wants_basic(request) or serve_manifest(IMAGE.manifest, OCI_MANIFEST)

    async with hostile_registry(handler) as server:
        await client.resolve(ref_at(server), credentials=LOGIN)
        await client.resolve(ref_at(server), credentials=LOGIN)
        assert [s.authorization for s in server.asked("/manifests/")] == ["", BASIC, BASIC]
        assert not server.asked("/v2/")[0].authorization


async def test_wrong_login_is_tried_once(client: RegistryClient) -> None:
    async def handler(request: web.Request) -> web.Response:
        return challenge("Basic", realm="x")

    async with hostile_registry(handler) as server:
        with pytest.raises(Unauthenticated) as caught:
            await client.resolve(ref_at(server), credentials=LOGIN)
        assert len(server.asked("/manifests/")) == 2
    assert caught.value.reason == "REGISTRY_AUTH"
    assert caught.value.hint


async def test_a_private_repository_does_not_close_the_public_ones(client: RegistryClient) -> None:
    async def handler(request: web.Request) -> web.Response:
        refused = wants_basic(request) if "/private/" in request.path else None
        return refused or serve_manifest(IMAGE.manifest, OCI_MANIFEST)

    async with hostile_registry(handler) as server:
        await client.resolve(ref_at(server, "private:1"), credentials=LOGIN)
        await client.resolve(ref_at(server, "public:1"))
        with pytest.raises(Unauthenticated, match="needs a login"):
            await client.resolve(ref_at(server, "private:1"))


async def test_credentials_of_one_registry_never_reach_another(client: RegistryClient) -> None:
    async def handler(request: web.Request) -> web.Response:
        return wants_basic(request) or serve_manifest(IMAGE.manifest, OCI_MANIFEST)

    async with hostile_registry(handler) as one, hostile_registry(handler) as other:
        configured = RegistryClient(RegistrySettings(credentials={one.address: LOGIN}))
        await configured.resolve(ref_at(one))
        with pytest.raises(Unauthenticated):
            await configured.resolve(ref_at(other))
        assert other.authorizations == []
        await configured.close()


@pytest.mark.parametrize("same_port", [True, False])
async def test_redirects_carry_no_authorization(client: RegistryClient, same_port: bool) -> None:
    """To another host on the same port, and to another port of the same host."""
    target = ""

    async def registry(request: web.Request) -> web.Response:
        if request.path.startswith("/stored"):
            return await blob(request)
        return wants_basic(request) or web.Response(status=307, headers={"Location": target})

    async with hostile_registry(registry) as server, hostile_registry(blob) as storage:
        target = f"http://{server.other_name if same_port else storage.address}/stored?sig=a%2Fb"
        assert await whole(client, ref_at(server)) == DATA
        found = (server if same_port else storage).asked("/stored")
        assert [(s.authorization, s.query) for s in found] == [("", "sig=a%2Fb")]


async def test_storage_that_asks_for_a_login_gets_none(client: RegistryClient) -> None:
    """CVE-2020-15157: the challenge comes from where the registry redirected to."""
    target = ""

    async def registry(request: web.Request) -> web.Response:
        return wants_basic(request) or web.Response(status=302, headers={"Location": target})

    async def evil(request: web.Request) -> web.Response:
        return challenge(realm=f"http://{request.host}/token", service="s")

    async with hostile_registry(registry) as server, hostile_registry(evil) as storage:
        target = storage.url + "/blob"
        with pytest.raises(Unauthenticated, match="redirected"):
            await whole(client, ref_at(server))
        assert storage.authorizations == []
        assert not storage.asked("/token")


async def test_redirects_end(client: RegistryClient) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": request.path + "/x"})

    async with hostile_registry(handler) as server:
        with pytest.raises(Unavailable) as caught:
            await client.resolve(ref_at(server))
        assert len(server.asked("/manifests/")) == 6
    assert caught.value.reason == "REGISTRY_REDIRECT"


@pytest.mark.parametrize(
    "location",
    ["http://198.51.100.7/x", "file:///etc/shadow", "ftp://127.0.0.1/", "http://", "//198.51.100.7/x", "http://[::"],
)
async def test_redirect_to_where_it_may_not(client: RegistryClient, location: str) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": location})

    async with hostile_registry(handler) as server:
        with pytest.raises(Unavailable) as caught:
            await client.resolve(ref_at(server), credentials=LOGIN)
    assert caught.value.reason == "REGISTRY_REDIRECT"


async def test_user_in_a_location_is_dropped(client: RegistryClient) -> None:
    async def handler(request: web.Request) -> web.Response:
        if request.path == "/x":
            return serve_manifest(IMAGE.manifest, OCI_MANIFEST)
        return web.Response(status=302, headers={"Location": f"http://eve:pw@{request.host}/x"})

    async with hostile_registry(handler) as server:
        await client.resolve(ref_at(server))
        assert server.authorizations == []


async def test_upload_location_elsewhere_gets_no_authorization(client: RegistryClient) -> None:
    target = ""

    async def registry(request: web.Request) -> web.Response | None:
        if refused := wants_basic(request):
            return refused
        return web.Response(status=202, headers={"Location": target}) if request.method == "POST" else None

    async def storage(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=201)

    async def body() -> AsyncIterator[bytes]:
        yield DATA

    async with hostile_registry(registry) as server, hostile_registry(storage) as other:
        target = other.url + "/upload?a=b"
        assert await client.push_blob(ref_at(server), BLOB, body, credentials=LOGIN)
        assert [s.authorization for s in other.asked("/upload", "PUT")] == [""]
        target = "http://198.51.100.7/upload"
        with pytest.raises(Unavailable) as caught:
            await client.push_blob(ref_at(server), BLOB, body, credentials=LOGIN)
    assert caught.value.reason == "REGISTRY_REDIRECT"


async def test_bearer_flow(client: RegistryClient) -> None:
    """The realm that the registry names gets the login; the registry gets the token; each scope has one of its own."""
    tokens = TokenServer()
    realm = ""

    async def registry(request: web.Request) -> web.Response:
        if not request.headers.get("Authorization", "").startswith("Bearer token-"):
            return challenge(realm=realm, service='reg,with \\"quotes\\"', scope="repository:other:push,pull")
        return await blob(request)

    async with hostile_registry(registry) as server, hostile_registry(tokens) as auth:
        realm = auth.url + "/token?keep=1"
        assert await whole(client, ref_at(server)) == DATA
        (asked,) = auth.asked("/token")
        assert asked.authorization == BASIC
        assert urllib.parse.parse_qs(asked.query) == {
            "keep": ["1"],
            "service": ['reg,with "quotes"'],
            "scope": ["repository:app:pull"],  # ours, not what the registry would like to get
            "account": ["ada"],
        }
        assert set(server.authorizations) == {"Bearer token-1"}
        await whole(client, ref_at(server, "neighbour:1"))
        assert "Bearer token-2" in server.authorizations
        assert BASIC not in server.authorizations


async def test_token_by_its_other_name(client: RegistryClient) -> None:
    realm = ""

    async def registry(request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != "Bearer other":
            return challenge(realm=realm, service="s")
        return await blob(request)

    async with hostile_registry(registry) as server:
        async with hostile_registry(TokenServer(token=None, access_token="other")) as auth:
            realm = auth.url + "/token"
            assert await whole(client, ref_at(server)) == DATA


async def test_one_token_for_many_requests(client: RegistryClient) -> None:
    tokens = TokenServer()
    realm = ""

    async def registry(request: web.Request) -> web.Response:
        return await blob(request) if "Authorization" in request.headers else challenge(realm=realm)

    async with hostile_registry(registry) as server, hostile_registry(tokens) as auth:
        realm = auth.url + "/token"
        await whole(client, ref_at(server))
        await asyncio.gather(*(whole(client, ref_at(server)) for _ in range(8)))
        assert tokens.given == 1
        async with client.blob(ref_at(server), BLOB) as _:
            pass
        assert tokens.given == 2  # nobody else's token for the anonymous
        assert [s.authorization for s in auth.asked("/token")] == [BASIC, ""]


async def test_token_that_is_no_longer_good_is_replaced_once(client: RegistryClient) -> None:
    tokens = TokenServer()
    realm, good = "", {"Bearer token-1"}

    async def registry(request: web.Request) -> web.Response:
        return await blob(request) if request.headers.get("Authorization") in good else challenge(realm=realm)

    async with hostile_registry(registry) as server, hostile_registry(tokens) as auth:
        realm = auth.url + "/token"
        await whole(client, ref_at(server))
        good = {"Bearer token-2"}
        assert await whole(client, ref_at(server)) == DATA
        good = set()
        with pytest.raises(Unauthenticated):
            await whole(client, ref_at(server))
        assert tokens.given == 3


async def test_late_refusal_of_an_old_token_spares_the_new_one(client: RegistryClient) -> None:
    tokens = TokenServer()
    realm, bad, renewed = "", {""}, asyncio.Event()
    refused = 0

    async def registry(request: web.Request) -> web.Response:
        nonlocal refused
        if (sent := request.headers.get("Authorization", "")) not in bad:
            if sent == "Bearer token-2":
                renewed.set()
            return await blob(request)
        refused += sent != ""
        if refused == 2:
            await renewed.wait()
        return challenge(realm=realm)

    async with hostile_registry(registry) as server, hostile_registry(tokens) as auth:
        realm = auth.url + "/token"
        await whole(client, ref_at(server))
        bad.add("Bearer token-1")
        await asyncio.gather(*(whole(client, ref_at(server)) for _ in range(2)))
        assert refused == 2
        assert tokens.given == 2


async def test_identity_token_is_posted(client: RegistryClient) -> None:
    posted: dict[str, Any] = {}
    realm = ""

    async def registry(request: web.Request) -> web.Response:
        good = request.headers.get("Authorization") == "Bearer fresh"
        return serve_manifest(IMAGE.manifest, OCI_MANIFEST) if good else challenge(realm=realm, service="s v")

    async def tokens(request: web.Request) -> web.Response:
        posted.update(await request.post(), method=request.method)
        return web.json_response({"access_token": "fresh"})

    async with hostile_registry(registry) as server, hostile_registry(tokens) as auth:
        realm = auth.url + "/token"
        await client.resolve(ref_at(server), credentials=Credentials(identity_token=SECRET + "&+ "))
        assert auth.authorizations == []
    assert posted == {
        "method": "POST",
        "grant_type": "refresh_token",
        "refresh_token": SECRET + "&+ ",
        "service": "s v",
        "client_id": "shoal",
        "scope": "repository:app:pull",
    }


@pytest.mark.parametrize(
    ("realm", "reason"),
    [
        ("http://198.51.100.7/token", "REGISTRY_REDIRECT"),
        ("file:///etc/passwd", "REGISTRY_AUTH_SERVER"),
        ("/token", "REGISTRY_AUTH_SERVER"),
        ("", "REGISTRY_AUTH_SERVER"),
        ("http://[::", "REGISTRY_AUTH_SERVER"),
        ("http://eve:pw@127.0.0.1/token", "REGISTRY_AUTH_SERVER"),
    ],
)
async def test_realms_that_get_nothing(client: RegistryClient, realm: str, reason: str) -> None:
    async def handler(request: web.Request) -> web.Response:
        return challenge(realm=realm)

    async with hostile_registry(handler) as server:
        with pytest.raises(Unavailable) as caught:
            await client.resolve(ref_at(server), credentials=LOGIN)
        assert server.authorizations == []
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("status", "body", "error", "reason"),
    [
        (500, b"", Unavailable, "REGISTRY_ERROR"),
        (401, b'{"details":"incorrect username or password"}', Unauthenticated, "REGISTRY_AUTH"),
        (200, b"not json", Unavailable, "REGISTRY_AUTH_SERVER"),
        (200, b"{}", Unavailable, "REGISTRY_AUTH_SERVER"),
        (200, b'{"token":"a\\r\\nX-Evil: 1"}', Unavailable, "REGISTRY_AUTH_SERVER"),
        (200, b'{"token":"' + b"a" * 300_000 + b'"}', ShoalError, "SIZE_MISMATCH"),
        (302, b"", Unavailable, "REGISTRY_AUTH_SERVER"),
    ],
)
async def test_token_servers_that_fail(
    client: RegistryClient, status: int, body: bytes, error: type[ShoalError], reason: str
) -> None:
    realm = ""

    async def registry(request: web.Request) -> web.Response:
        return challenge(realm=realm)

    async def tokens(request: web.Request) -> web.Response:
        return web.Response(status=status, body=body, headers={"Location": "/elsewhere"} if status == 302 else {})

    async with hostile_registry(registry) as server, hostile_registry(tokens) as auth:
        realm = auth.url + "/token"
        with pytest.raises(error) as caught:
            await client.resolve(ref_at(server), credentials=LOGIN)
        assert len(auth.asked("/token")) == (3 if status == 500 else 1)
        assert not auth.asked("/elsewhere")
    assert caught.value.reason == reason


async def test_echoed_secrets_are_blotted_out(client: RegistryClient) -> None:
    async def handler(request: web.Request) -> web.Response:
        if refused := wants_basic(request):
            return refused
        echo = f"you sent {request.headers['Authorization']} and that is {SECRET}, or was it bearer abc.def-123?"
        return web.json_response({"errors": [{"code": "DENIED", "message": echo}]}, status=403)

    async with hostile_registry(handler) as server:
        with pytest.raises(ShoalError) as caught:
            await client.resolve(ref_at(server), credentials=LOGIN)
    shown = f"{caught.value!r} {caught.value} {caught.value.metadata}"
    assert "you sent" in shown
    assert SECRET not in shown
    assert "abc.def" not in shown
    assert BASIC.removeprefix("Basic ") not in shown
    assert SECRET not in repr(LOGIN)
    assert SECRET not in repr(RegistrySettings(credentials={"x": LOGIN}))


@pytest.mark.parametrize("allowed", [True, False])
async def test_foreign_urls_are_not_followed(allowed: bool) -> None:
    client = RegistryClient(RegistrySettings(attempts=2, foreign_urls=allowed), sleep=no_wait)

    async def registry(request: web.Request) -> web.Response | None:
        return wants_basic(request)

    async with hostile_registry(registry) as server, hostile_registry(blob) as elsewhere:
        layer = msgspec.structs.replace(BLOB, media_type=OCI_FOREIGN_LAYER, urls=[elsewhere.url + "/layer"])
        with pytest.raises(FailedPrecondition) as caught:
            await whole(client, ref_at(server), layer)
        assert elsewhere.seen == []  # plain http is refused even where foreign urls are allowed
    assert caught.value.reason == "FOREIGN_LAYER"
    await client.close()


class Authority:
    """A certificate authority, its file, and a server's TLS context."""

    def __init__(self, directory: Path) -> None:
        ca = trustme.CA()
        self.file = directory / "ca.pem"
        ca.cert_pem.write_to_path(str(self.file))
        certificate = ca.issue_cert("127.0.0.1", "localhost")
        self.chain, self.key = directory / "chain.pem", directory / "key.pem"
        self.chain.write_bytes(b"".join(part.bytes() for part in certificate.cert_chain_pems))
        certificate.private_key_pem.write_to_path(str(self.key))
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(self.context)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def test_tls_with_a_configured_authority(authority: Authority) -> None:
    with docker_registry(tls=(authority.chain, authority.key)) as server:
        ref = Reference.parse(f"{server.address}/app:1")
        for name in (server.address, "127.0.0.1"):
            client = RegistryClient(RegistrySettings(ca_files={name: authority.file}))
            assert await push_built(client, ref, [IMAGE]) == IMAGE.digest
            assert (await client.resolve(ref)).body == IMAGE.manifest
            await client.close()


async def test_unknown_authority_is_refused_before_anything_is_sent(
    client: RegistryClient, authority: Authority
) -> None:
    async with hostile_registry(blob, tls=authority.context) as server:
        with pytest.raises(Unavailable, match="certificate") as caught:
            await client.resolve(ref_at(server), credentials=LOGIN)
        assert server.seen == []
    assert caught.value.reason == "REGISTRY_TLS"


async def test_https_never_leads_to_http(authority: Authority) -> None:
    """By redirect, by upload location, by token realm: not even on loopback."""
    plain_url = ""

    async def registry(request: web.Request) -> web.Response | None:
        match request.method:
            case "GET" if "manifests" in request.path:
                return challenge(realm=plain_url + "/token")
            case "GET":
                return web.Response(status=307, headers={"Location": plain_url + "/blob"})
            case "POST":
                return web.Response(status=202, headers={"Location": plain_url + "/upload"})
        return None

    async def body() -> AsyncIterator[bytes]:
        yield DATA

    async with hostile_registry(registry, tls=authority.context) as server, hostile_registry(blob) as plain:
        plain_url = plain.url
        ref = ref_at(server)
        client = RegistryClient(RegistrySettings(ca_files={server.address: authority.file}, attempts=2), sleep=no_wait)
        with pytest.raises(Unavailable, match="insecure redirect"):
            await whole(client, ref)
        with pytest.raises(Unavailable, match="insecure upload location"):
            await client.push_blob(ref, BLOB, body, credentials=LOGIN)
        with pytest.raises(Unavailable, match="insecure token server"):
            await client.resolve(ref, credentials=LOGIN)
        assert plain.seen == []
        await client.close()


async def test_plain_http_where_tls_is_configured(authority: Authority) -> None:
    async with hostile_registry(blob) as server:
        client = RegistryClient(RegistrySettings(ca_files={server.address: authority.file}))
        with pytest.raises(Unavailable, match="plain http") as caught:
            await client.resolve(ref_at(server), credentials=LOGIN)
        assert server.seen == []
        await client.close()
    assert caught.value.reason == "REGISTRY_TLS"
