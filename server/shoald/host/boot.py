"""Which boot of the host this is: files that are never synced can be trusted only in the one that wrote them."""

from __future__ import annotations

from pathlib import Path

from shoald.host.files import atomic_write


def boot_id() -> str:
    """Random, another one at each boot (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def is_same_boot(note: Path) -> bool:
    """Whether `note` was made in this boot."""
    return note.exists() and note.read_text() == boot_id()


def note_boot(note: Path) -> None:
    """Make the note, once all that is left of an earlier boot is gone."""
    if not is_same_boot(note):
        atomic_write(note, boot_id().encode(), 0o600)
