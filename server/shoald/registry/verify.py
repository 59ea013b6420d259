"""Checking bytes against what they should be, and small blobs as a whole."""

from __future__ import annotations

from shoal.digest import Digest
from shoal.errors import DataLoss, InvalidArgument
from shoal.reference import Reference
from shoald.oci.config import MAX_CONFIG_BYTES
from shoald.oci.manifest import Descriptor
from shoald.registry.ports import Credentials, Source


def verify(body: bytes, digest: str, size: int | None, what: str) -> None:
    """Raise DataLoss (SIZE_MISMATCH, DIGEST_MISMATCH) unless `body` has this size (None: any) and digest."""
    if size is not None and len(body) != size:
        raise DataLoss(f"{what} has {len(body)} bytes, not {size}", reason="SIZE_MISMATCH", metadata={"digest": digest})
    try:
        expected = Digest.parse(digest)
    except InvalidArgument as e:
        raise DataLoss(f"{what} comes with a bad digest: {e}", reason="DIGEST_MISMATCH") from e
    found = Digest.of(body, expected.algorithm)
    if found != expected:
        raise DataLoss(
            f"{what} has the digest {found}, not {expected}",
            reason="DIGEST_MISMATCH",
            hint="the registry, or something on the way, changed the content",
            metadata={"digest": digest},
        )


async def read_blob(
    registry: Source,
    ref: Reference,
    descriptor: Descriptor,
    *,
    credentials: Credentials | None = None,
    limit: int = MAX_CONFIG_BYTES,
) -> bytes:
    """A whole small blob (a configuration), its size and digest verified.

    Raises DataLoss (SIZE_MISMATCH) for one larger than `limit` bytes, before it is fetched.
    """
    what = f"blob {descriptor.digest} of {ref.familiar_name}"
    if descriptor.size > limit:
        raise DataLoss(f"{what} has {descriptor.size} bytes; {limit} is the limit", reason="SIZE_MISMATCH")
    async with registry.blob(ref, descriptor, credentials=credentials) as chunks:
        body = b"".join([chunk async for chunk in chunks])
    verify(body, descriptor.digest, descriptor.size, what)
    return body
