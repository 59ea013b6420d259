"""Which boot of the host this is: files that are never synced can be trusted only in the one that wrote them."""

from __future__ import annotations

from pathlib import Path

from shoald.host.files import atomic_write


def boot_id() -> str:
    """Random, another one at each boot (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def same_boot(note: Path) -> bool:
    """Whether `note` was made in this boot by an earlier call; from now on it is."""
    boot = boot_id()
    same = note.exists() and note.read_text() == boot
    if not same:
        atomic_write(note, boot.encode(), 0o600)
    return same
