"""What every content store does, and what the local one does on a real disk."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.digest import Digest
from shoal.errors import DataLoss, Internal, NotFound, ResourceExhausted
from shoald.content.local import LocalContent
from shoald.content.ports import ContentStore
from tests.support.memory_content import MemoryContent

BODY = random.Random(7).randbytes(3 << 20)
DIGEST = Digest.of(BODY)


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ContentStore:
    return LocalContent(tmp_path / "content") if request.param == "local" else MemoryContent(tmp_path)


@pytest.fixture
def local(tmp_path: Path) -> LocalContent:
    return LocalContent(tmp_path / "content")


async def ingest(store: ContentStore, body: bytes = BODY, digest: Digest = DIGEST, size: int | None = None) -> Path:
    async with store.ingest(digest, len(body) if size is None else size) as writer:
        for start in range(writer.offset, len(body), 1 << 20):
            await writer.append(body[start : start + (1 << 20)])
        return await writer.commit()


async def test_a_committed_blob_is_there(store: ContentStore) -> None:
    assert store.path(DIGEST) is None
    assert store.size(DIGEST) is None
    path = await ingest(store)
    assert path == store.path(DIGEST)
    assert path.read_bytes() == BODY
    assert store.size(DIGEST) == len(BODY)
    assert store.read(DIGEST) == BODY
    assert store.digests() == [DIGEST]
    assert store.partials() == []


@pytest.mark.parametrize("offset", [0, 1, 1 << 20, len(BODY) - 1, len(BODY)])
async def test_stream_from_an_offset_in_chunks_of_a_mebibyte(store: ContentStore, offset: int) -> None:
    await ingest(store)
    chunks = [chunk async for chunk in store.stream(DIGEST, offset)]
    assert b"".join(chunks) == BODY[offset:]
    assert all(len(chunk) == 1 << 20 for chunk in chunks[:-1])


async def test_missing_blobs(store: ContentStore) -> None:
    with pytest.raises(NotFound) as caught:
        store.read(DIGEST)
    assert caught.value.reason == "BLOB_NOT_FOUND"
    with pytest.raises(NotFound):
        await anext(aiter(store.stream(DIGEST)))
    assert await store.delete(DIGEST) is False


async def test_read_has_a_limit(store: ContentStore) -> None:
    await ingest(store)
    with pytest.raises(ResourceExhausted) as caught:
        store.read(DIGEST, limit=len(BODY) - 1)
    assert caught.value.reason == "BLOB_TOO_LARGE"
    assert store.read(DIGEST, limit=len(BODY)) == BODY


async def test_an_interrupted_ingest_goes_on(store: ContentStore) -> None:
    async def lose_the_link() -> None:
        async with store.ingest(DIGEST, len(BODY)) as writer:
            assert writer.offset == 0
            writer.write(BODY[:1000])
            raise ConnectionError

    with pytest.raises(ConnectionError):
        await lose_the_link()
    assert store.path(DIGEST) is None
    assert store.partials() == [DIGEST]
    async with store.ingest(DIGEST, len(BODY)) as writer:
        assert writer.offset == 1000
        assert store.partials() == []
        writer.write(BODY[1000:])
        await writer.commit()
    assert store.read(DIGEST) == BODY


async def test_a_wrong_digest_is_refused_and_discarded(store: ContentStore) -> None:
    wrong = Digest.of(b"something else")
    with pytest.raises(DataLoss) as caught:
        await ingest(store, digest=wrong)
    assert caught.value.reason == "DIGEST_MISMATCH"
    assert (store.path(wrong), store.partials(), store.digests()) == (None, [], [])


async def test_too_many_bytes_are_refused_at_once(store: ContentStore) -> None:
    with pytest.raises(DataLoss) as caught:
        await ingest(store, size=len(BODY) - 1)
    assert caught.value.reason == "SIZE_MISMATCH"
    assert store.partials() == []


async def test_too_few_bytes_are_refused_and_kept(store: ContentStore) -> None:
    with pytest.raises(DataLoss) as caught:
        await ingest(store, body=BODY[:5], size=len(BODY))
    assert caught.value.reason == "SIZE_MISMATCH"
    assert store.partials() == [DIGEST]
    assert store.path(DIGEST) is None


async def test_a_damaged_partial_fails_once_and_then_recovers(store: ContentStore) -> None:
    async with store.ingest(DIGEST, len(BODY)) as writer:
        writer.write(b"x" * 1000)
    with pytest.raises(DataLoss):
        await ingest(store)
    await ingest(store)
    assert store.read(DIGEST) == BODY


async def test_a_partial_that_is_too_long_starts_anew(store: ContentStore) -> None:
    digest = Digest.of(b"short")
    async with store.ingest(digest, 100) as writer:
        writer.write(b"x" * 50)
    async with store.ingest(digest, 5) as writer:
        assert writer.offset == 0
        writer.write(b"short")
        await writer.commit()
    assert store.read(digest) == b"short"


async def test_discard(store: ContentStore) -> None:
    async with store.ingest(DIGEST, len(BODY)) as writer:
        writer.write(b"x")
        await writer.discard()
        with pytest.raises(Internal):
            writer.write(b"y")
    assert store.partials() == []


async def test_a_complete_blob_needs_no_writing(store: ContentStore) -> None:
    await ingest(store)
    async with store.ingest(DIGEST, len(BODY)) as writer:
        assert writer.offset == len(BODY)
        await writer.discard()
        assert await writer.commit() == store.path(DIGEST)
    with pytest.raises(DataLoss):
        async with store.ingest(DIGEST, 1):
            pass
    assert store.read(DIGEST) == BODY


async def test_one_writer_at_a_time_and_the_second_finds_it_done(store: ContentStore) -> None:
    order: list[str] = []

    async def first() -> None:
        async with store.ingest(DIGEST, len(BODY)) as writer:
            order.append("first in")
            await asyncio.sleep(0.02)
            writer.write(BODY)
            await writer.commit()
            order.append("first out")

    async def second() -> None:
        await asyncio.sleep(0.01)
        async with store.ingest(DIGEST, len(BODY)) as writer:
            order.append(f"second at {writer.offset}")
            await writer.commit()

    await asyncio.gather(first(), second())
    assert order == ["first in", "first out", f"second at {len(BODY)}"]


async def test_put(store: ContentStore) -> None:
    digest = await store.put(b"{}")
    assert digest == Digest.of(b"{}") == await store.put(b"{}", digest)
    with pytest.raises(DataLoss):
        await store.put(b"[]", digest)
    assert store.digests() == [digest]
    long = Digest.of(b"{}", "sha512")
    assert await store.put(b"{}", long) == long
    assert set(store.digests()) == {digest, long}


async def test_delete_asks_at_the_last_moment(store: ContentStore) -> None:
    await ingest(store)
    assert await store.delete(DIGEST, unless=lambda: True) is False
    assert store.path(DIGEST) is not None
    assert await store.delete(DIGEST, unless=lambda: False) is True
    assert store.path(DIGEST) is None
    await ingest(store)


async def test_delete_waits_for_a_writer(store: ContentStore) -> None:
    async with store.ingest(DIGEST, len(BODY)) as writer:
        deleting = asyncio.create_task(store.delete(DIGEST))
        await asyncio.sleep(0.01)
        assert not deleting.done()
        writer.write(BODY)
        await writer.commit()
    assert await deleting is True
    assert store.digests() == []


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 5000), max_size=6), algorithm=st.sampled_from(["sha256", "sha512"]))
def test_any_interruptions_give_the_same_blob(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], algorithm: str
) -> None:
    body = BODY[:5000]
    digest = Digest.of(body, algorithm)
    root = tmp_path_factory.mktemp("content")

    async def run() -> bytes:
        for cut in sorted(cuts):
            async with LocalContent(root).ingest(digest, len(body)) as writer:
                writer.write(body[writer.offset : max(writer.offset, cut)])
        store = LocalContent(root)
        await ingest(store, body, digest)
        return store.read(digest)

    assert asyncio.run(run()) == body


async def test_blobs_are_read_only_and_private(local: LocalContent, tmp_path: Path) -> None:
    path = await ingest(local)
    assert path.stat().st_mode & 0o777 == 0o444
    assert (tmp_path / "content").stat().st_mode & 0o777 == 0o700


async def test_strangers_in_the_directories_are_not_blobs(local: LocalContent, tmp_path: Path) -> None:
    blobs = tmp_path / "content" / "blobs" / "sha256"
    (blobs / "note.txt").write_text("x")
    (blobs / ("A" * 64)).write_text("x")
    (blobs / ("a" * 64)).mkdir()
    assert local.digests() == []


async def test_a_symlink_is_not_followed(local: LocalContent, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "content" / "ingest" / f"sha256-{DIGEST.hex}").symlink_to(victim)
    with pytest.raises(Internal):
        await ingest(local)
    assert victim.read_text() == "precious"


async def test_descriptors_do_not_leak(local: LocalContent) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(DataLoss):
            await ingest(local, digest=Digest.of(b"no"))
        async with local.ingest(DIGEST, len(BODY)) as writer:
            writer.write(b"x")
            await writer.discard()
    await ingest(local)
    stream = local.stream(DIGEST)
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    assert len(os.listdir("/proc/self/fd")) <= before


async def test_cancelled_while_resuming(local: LocalContent) -> None:
    async with local.ingest(DIGEST, len(BODY)) as writer:
        writer.write(BODY[: 2 << 20])

    async def resume() -> None:
        async with local.ingest(DIGEST, len(BODY)):
            await asyncio.sleep(60)

    before = len(os.listdir("/proc/self/fd"))
    task = asyncio.create_task(resume())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(os.listdir("/proc/self/fd")) <= before
    await ingest(local)
    assert local.read(DIGEST) == BODY


@pytest.mark.parametrize("step", ["fchmod", "fsync", "rename"])
async def test_a_full_disk_at_each_step_of_a_commit(
    local: LocalContent, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, step, full)
        with pytest.raises(ResourceExhausted) as caught:
            await ingest(local)
    assert caught.value.reason == "DISK_FULL"
    assert (local.digests(), local.partials()) == ([], [])
    await ingest(local)
    assert local.read(DIGEST) == BODY


CRASHING = """
import asyncio, os, sys, signal
from pathlib import Path
from shoal.digest import Digest
import shoald.content.local as local
step, root = sys.argv[1], Path(sys.argv[2])
body = b"crash " * 1000

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

async def main():
    store = local.LocalContent(root)
    async with store.ingest(Digest.of(body), len(body)) as writer:
        writer.write(body[:3000][writer.offset:])
        if step == "write": die()
        writer.write(body[writer.offset:])
        if step == "sync_directory":
            local.sync_directory = die
        elif step != "none":
            setattr(os, step, die)
        await writer.commit()

asyncio.run(main())
"""


@pytest.mark.parametrize("step", ["write", "fchmod", "fsync", "rename", "sync_directory"])
async def test_killed_at_each_step(tmp_path: Path, step: str) -> None:
    """The blob is whole or absent, and the next daemon finishes it."""
    root, body = tmp_path / "content", b"crash " * 1000
    ended = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", CRASHING, step, str(root)], timeout=60)
    assert ended.returncode == -signal.SIGKILL
    store = LocalContent(root)
    digest = Digest.of(body)
    present = store.path(digest) is not None
    assert present == (step == "sync_directory")
    if not present:
        async with store.ingest(digest, len(body)) as writer:
            assert writer.offset == (3000 if step == "write" else 6000)
    await ingest(store, body, digest)
    assert store.read(digest) == body
    assert os.listdir(root / "ingest") == []


@pytest.mark.root
async def test_a_full_disk(small_disk: Path) -> None:
    """A real one: what was written goes, so that the disk recovers, and a blob that fits is stored."""
    store = LocalContent(small_disk)
    with pytest.raises(ResourceExhausted) as caught:
        await ingest(store)
    assert caught.value.reason == "DISK_FULL"
    assert store.partials() == []
    small = BODY[: 1 << 19]
    await ingest(store, small, Digest.of(small))
    assert store.read(Digest.of(small)) == small
