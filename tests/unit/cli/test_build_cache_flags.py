"""`--cache-from`, `--cache-to` and archives of `-o`: what is understood, and what is not."""

from __future__ import annotations

import pytest

from shoalctl.flags.build_cache import CacheTarget, LocalCache, LocalTarget, parse_cache_from, parse_cache_to
from shoalctl.flags.build_output import Output, parse_output
from shoalctl.flags.fault import UsageFault


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("app", "docker.io/library/app:latest"),
        ("example.com/a/cache:1", "example.com/a/cache:1"),
        ("type=registry,ref=example.com/a", "example.com/a:latest"),
        ("ref=example.com/a:2", "example.com/a:2"),
        ("type=local,src=../a cache", LocalCache("../a cache")),
        ("type=local,src=a,tag=x,digest=sha256:" + "a" * 64, LocalCache("a", "x", "sha256:" + "a" * 64)),
    ],
)
def test_cache_from(text: str, wanted: str | LocalCache) -> None:
    assert parse_cache_from(text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("example.com/a", CacheTarget("example.com/a:latest")),
        ("type=registry,ref=example.com/a,mode=max", CacheTarget("example.com/a:latest", all_steps=True)),
        ("ref=example.com/a,mode=min,ignore-error=true", CacheTarget("example.com/a:latest", ignore_errors=True)),
        ("type=inline", CacheTarget("")),
        ("type=inline,mode=max", CacheTarget("")),
        ("type=local,dest=a", LocalTarget("a", "latest")),
        (
            "type=local,dest=/a,mode=max,tag=v1.2-x,ignore-error=1,compression=gzip",
            LocalTarget("/a", "v1.2-x", all_steps=True, ignore_errors=True),
        ),
        ("ref=a/b,ignore-error=True", CacheTarget("docker.io/a/b:latest", ignore_errors=True)),
        ("ref=a/b,oci-mediatypes=true,image-manifest=true,compression=zstd", CacheTarget("docker.io/a/b:latest")),
    ],
)
def test_cache_to(text: str, wanted: CacheTarget | LocalTarget) -> None:
    assert parse_cache_to(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "",
        "UPPER",
        "type=gha",
        "type=registry",
        "ref=",
        "ref=a,what=1",
        "type=registry,ref",
        "type=local",
        "type=local,src=",
        "type=local,dest=a",
        "type=local,src=a,ref=b",
        "type=local,src=a,digest=sha256:1",
        "type=local,src=a,digest=sha512:" + "a" * 128,
        "type=local,src=a,tag=",
        "type=local,src=a,tag=a/b",
    ],
)
def test_bad_cache_from(text: str) -> None:
    with pytest.raises(UsageFault):
        parse_cache_from(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "type=s3",
        "type=registry",
        "type=inline,ref=a",
        "ref=a@sha256:" + "a" * 64,
        "ref=a,mode=x",
        "ref=a,ignore-error=?",
        "type=local",
        "type=local,src=a",
        "type=local,dest=a,mode=some",
        "type=local,dest=a,tag=:",
        "type=local,dest=a,ref=b",
        "type=registry,ref=a,dest=b",
    ],
)
def test_bad_cache_to(text: str) -> None:
    with pytest.raises(UsageFault):
        parse_cache_to(text)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("type=oci,dest=a.tar", Output("oci", "a.tar")),
        ("type=oci", Output("oci", "-")),
        ("type=docker,dest=-,name=x:1", Output("docker", "-", ["x:1"])),
        ("type=docker", Output("image")),
    ],
)
def test_archives(text: str, wanted: Output) -> None:
    assert parse_output(text) == wanted


@pytest.mark.parametrize("text", ["type=oci,push=true", "type=docker,dest=a,push=true", "type=oci,name=UPPER"])
def test_bad_archives(text: str) -> None:
    with pytest.raises(UsageFault):
        parse_output(text)
