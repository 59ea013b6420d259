"""Platforms: containerd's normal forms and its order of preference."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import InvalidArgument
from shoal.platform import Platform


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("linux/amd64", "linux/amd64"),
        ("Linux/x86_64", "linux/amd64"),
        ("linux/x86-64/v1", "linux/amd64"),
        ("linux/amd64/v3", "linux/amd64/v3"),
        ("linux/i386", "linux/386"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm64/8", "linux/arm64"),
        ("linux/arm64/v9", "linux/arm64/v9"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/arm/6", "linux/arm/v6"),
        ("linux/arm/v8", "linux/arm/v8"),
        ("linux/armhf", "linux/arm/v7"),
        ("linux/armel", "linux/arm/v6"),
        ("arm64", "linux/arm64"),
        ("x86_64", "linux/amd64"),
        ("linux/s390x", "linux/s390x"),
        ("macos/arm64", "darwin/arm64"),
        ("windows/amd64", "windows/amd64"),
    ],
)
def test_parse(text: str, normal: str) -> None:
    assert str(Platform.parse(text)) == normal
    assert Platform.parse(normal) == Platform.parse(text)


@pytest.mark.parametrize(
    "text",
    ["", "/", "linux/", "/amd64", "linux//v7", "linux/arm/v7/x", "plan 9/arm", "nonsense", "linux/amd64\n", "../.."],
)
def test_refused(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Platform.parse(text)
    assert caught.value.reason == "INVALID_PLATFORM"
    assert "linux/arm64" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("host", "order"),
    [
        ("linux/amd64", ["linux/amd64", "linux/386"]),
        ("linux/amd64/v3", ["linux/amd64/v3", "linux/amd64/v2", "linux/amd64", "linux/386"]),
        ("linux/386", ["linux/386"]),
        ("linux/arm/v7", ["linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]),
        ("linux/arm/v5", ["linux/arm/v5"]),
        ("linux/arm64", ["linux/arm64", "linux/arm/v8", "linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]),
        ("linux/arm64/v8.2", ["linux/arm64/v8.2", "linux/arm64/v8.1", "linux/arm64", "linux/arm/v8"]),
        (
            "linux/arm64/v9.1",
            ["linux/arm64/v9.1", "linux/arm64/v9", "linux/arm64/v8.6", "linux/arm64/v8.5", "linux/arm64"],
        ),
        ("linux/riscv64", ["linux/riscv64"]),
    ],
)
def test_order_of_preference(host: str, order: list[str]) -> None:
    platform = Platform.parse(host)
    ranks = [platform.rank(Platform.parse(each)) for each in order]
    assert None not in ranks
    assert ranks == sorted(ranks, key=lambda rank: rank or 0)
    assert len(set(ranks)) == len(ranks)
    assert ranks[0] == 0


@pytest.mark.parametrize(
    ("host", "other"),
    [
        ("linux/amd64", "linux/arm64"),
        ("linux/amd64", "windows/amd64"),
        ("linux/amd64", "linux/amd64/v2"),
        ("linux/amd64/v2", "linux/amd64/v3"),
        ("linux/386", "linux/amd64"),
        ("linux/arm/v6", "linux/arm/v7"),
        ("linux/arm", "linux/arm64"),
        ("linux/arm64", "linux/arm64/v9"),
        ("linux/amd64", "unknown/unknown"),
    ],
)
def test_does_not_run(host: str, other: str) -> None:
    assert not Platform.parse(host).matches(Platform.parse(other))


def test_best() -> None:
    index = [
        Platform.parse(each) for each in ("linux/386", "linux/arm/v6", "linux/amd64", "linux/arm64/v8", "linux/amd64")
    ]
    assert Platform.parse("linux/amd64").best(index) == 2
    assert Platform.parse("linux/arm64").best(index) == 3
    assert Platform.parse("linux/arm/v7").best(index) == 1
    assert Platform.parse("linux/s390x").best(index) is None
    assert Platform.parse("linux/amd64").best([]) is None


@pytest.mark.parametrize(
    ("machine", "normal"),
    [
        ("x86_64", "linux/amd64"),
        ("aarch64", "linux/arm64"),
        ("armv6l", "linux/arm/v6"),
        ("armv7l", "linux/arm/v7"),
        ("i686", "linux/386"),
        ("loongarch64", "linux/loong64"),
        ("ppc64le", "linux/ppc64le"),
        ("arm64", "linux/arm64"),
    ],
)
def test_host(machine: str, normal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Uname:
        def __init__(self) -> None:
            self.machine = machine

    monkeypatch.setattr("os.uname", Uname)
    assert str(Platform.host()) == normal
    assert Platform.parse("linux") == Platform.host()


@given(st.text(max_size=30) | st.text("linux/armv78d64", max_size=20))
def test_whatever_parses_is_stable(text: str) -> None:
    try:
        platform = Platform.parse(text)
    except InvalidArgument:
        return
    assert Platform.parse(str(platform)) == platform
    assert platform.rank(platform) == 0
