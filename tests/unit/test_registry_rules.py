"""The pure parts of the registry client: challenges, plain http, addresses, error answers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from yarl import URL

from shoal.errors import ShoalError, Unavailable
from shoald.registry.challenge import Challenge, choose, parse_challenges
from shoald.registry.failures import read_answer, to_error
from shoald.registry.origin import PlainHttp, host_port, is_loopback, next_url, same_origin, shown_url


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (
            'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push"',
            [Challenge("bearer", "https://auth.docker.io/token", "registry.docker.io")],
        ),
        (
            'BEARER  realm = "x" , service=plain ,error="invalid_token"',
            [Challenge("bearer", "x", "plain", "invalid_token")],
        ),
        ('Basic realm="a, b \\"c\\""', [Challenge("basic", 'a, b "c"')]),
        ('Basic realm="x", Bearer realm="y",service="z"', [Challenge("basic", "x"), Challenge("bearer", "y", "z")]),
        ("Negotiate, Basic realm=x", [Challenge("negotiate"), Challenge("basic", "x")]),
        ("Basic", [Challenge("basic")]),
        ('Bearer realm="first",realm="second"', [Challenge("bearer", "first")]),
        ("", []),
        ('="x"', []),
    ],
)
def test_challenges(header: str, expected: list[Challenge]) -> None:
    assert parse_challenges([header]) == expected


def test_bearer_is_preferred() -> None:
    assert choose([Challenge("negotiate"), Challenge("basic"), Challenge("bearer")]) == Challenge("bearer")
    assert choose([Challenge("negotiate")]) is None
    assert choose([]) is None


@given(st.text(alphabet='Bearer =",\\ \tx', max_size=60))
@settings(max_examples=100, deadline=None)
def test_any_challenge_header_is_read_without_failing(header: str) -> None:
    assert isinstance(parse_challenges([header, header * 200]), list)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("LOCALHOST", True),
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("[::1]", True),
        ("127.0.0.1.evil.org", False),
        ("localhost.evil.org", False),
        ("10.0.0.1", False),
        ("0.0.0.0", False),
        ("2130706433", False),
        ("", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    ("entry", "url", "expected"),
    [
        ("reg.lan", "http://reg.lan", True),
        ("reg.lan", "http://REG.lan:5000", True),
        ("reg.lan:5000", "http://reg.lan:5000", True),
        ("reg.lan:5000", "http://reg.lan", False),
        ("reg.lan", "http://sub.reg.lan", False),
        ("10.0.0.0/8", "http://10.2.3.4:5000", True),
        ("10.0.0.0/8", "http://11.2.3.4:5000", False),
        ("10.0.0.0/8", "http://10.evil.org", False),
        ("fd00::/8", "http://[fd00::5]:5000", True),
        ("[fd00::5]:5000", "http://[fd00::5]:5000", True),
        ("192.0.2.1", "http://192.0.2.1:5000", True),
    ],
)
def test_insecure_registries(entry: str, url: str, expected: bool) -> None:
    assert PlainHttp([entry]).allowed(URL(url)) is expected


@pytest.mark.parametrize(
    ("registry", "target", "allowed"),
    [
        ("https://a.org/", "https://b.org/x", True),
        ("http://127.0.0.1:5000/", "https://b.org/x", True),
        ("https://a.org/", "http://a.org/x", False),
        ("https://a.org/", "http://127.0.0.1/x", False),
        ("https://a.org/", "http://lan/x", False),
        ("http://lan/", "http://lan:80/x", True),
        ("http://lan:5000/", "http://lan:9000/x", True),
        ("http://lan/", "http://storage.lan/x", False),
        ("http://lan/", "http://127.0.0.1:2375/x", False),
        ("http://lan/", "http://localhost/x", False),
        ("http://lan/", "http://169.254.169.254/x", False),
        ("http://127.0.0.1:5000/", "http://localhost:6000/x", True),
        ("http://127.0.0.1:5000/", "http://lan/x", True),
        ("http://127.0.0.1:5000/", "http://b.org/x", False),
        ("http://127.0.0.1:5000/", "ftp://127.0.0.1/x", False),
        ("https://a.org/", "https:///x", False),
    ],
)
def test_where_a_registry_may_send_us(registry: str, target: str, allowed: bool) -> None:
    rules = PlainHttp(["lan"])
    try:
        url = URL(target)
    except ValueError:
        assert not allowed
        return
    if allowed:
        rules.check_next(URL(registry), url, "redirect")
    else:
        with pytest.raises(Unavailable) as caught:
            rules.check_next(URL(registry), url, "redirect")
        assert caught.value.reason == "REGISTRY_REDIRECT"


def test_origins() -> None:
    assert same_origin(URL("https://a.org/x"), URL("https://a.org:443/y"))
    for other in ("http://a.org", "https://a.org:444", "https://b.org", "https://a.org.b.org"):
        assert not same_origin(URL("https://a.org"), URL(other))


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("https://s3/x?sig=a%2Fb%3D%3D&e=1", "https://s3/x?sig=a%2Fb%3D%3D&e=1"),
        ("/v2/x%2Fy?_state=A%3D", "https://a.org/v2/x%2Fy?_state=A%3D"),
        ("other?x=%20", "https://a.org/v2/app/other?x=%20"),
        ("https://eve:pw@s3/x?a#frag", "https://s3/x?a"),
    ],
)
def test_locations_keep_their_bytes(location: str, expected: str) -> None:
    assert str(next_url(URL("https://a.org/v2/app/blobs"), location)) == expected


def test_shown_addresses_hide_what_may_be_secret() -> None:
    assert shown_url(URL("https://u:p@h/x?token=s#f")) == "https://h/x"
    assert host_port(URL("https://u:p@h:5000/x")) == "h:5000"
    assert host_port(URL("https://h/x")) == "h"


@pytest.mark.parametrize(
    ("status", "body", "code", "reason"),
    [
        (401, b"", "UNAUTHENTICATED", "REGISTRY_AUTH"),
        (403, b"", "PERMISSION_DENIED", "REGISTRY_DENIED"),
        (404, b"", "NOT_FOUND", "NOT_FOUND"),
        (429, b"", "RESOURCE_EXHAUSTED", "REGISTRY_RATE_LIMIT"),
        (500, b"<html>", "UNAVAILABLE", "REGISTRY_ERROR"),
        (400, b'{"errors":[{"code":"DIGEST_INVALID"}]}', "DATA_LOSS", "DIGEST_MISMATCH"),
        (400, b'{"errors":[{"code":"denied"}]}', "PERMISSION_DENIED", "REGISTRY_DENIED"),
        (400, b'{"errors":[{"code":"TOOMANYREQUESTS"}]}', "RESOURCE_EXHAUSTED", "REGISTRY_RATE_LIMIT"),
        (400, b'{"errors":null}', "FAILED_PRECONDITION", "REGISTRY_REFUSED"),
        (400, b'{"errors":[]}', "FAILED_PRECONDITION", "REGISTRY_REFUSED"),
        (400, b'{"errors":[{"code":7,"message":[]}]}', "FAILED_PRECONDITION", "REGISTRY_REFUSED"),
    ],
)
def test_answers(status: int, body: bytes, code: str, reason: str) -> None:
    error = to_error(read_answer(status, {}, body), "reg.example", "pull")
    assert isinstance(error, ShoalError)
    assert (error.code, error.reason) == (code, reason)
    assert "reg.example" in error.message


@pytest.mark.parametrize(
    ("header", "expected"),
    [("3", 3.0), ("-1", 0.0), ("Wed, 21 Oct 2015 07:28:00 GMT", None), ("", None), ("nan", None)],
)
def test_retry_after(header: str, expected: float | None) -> None:
    assert read_answer(429, {"Retry-After": header}, b"").retry_after == expected
