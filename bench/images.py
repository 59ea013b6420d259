"""The images that are measured with."""

from __future__ import annotations

import random

from tests.support.images import push_image_sync
from tests.support.layers import Entry, File, busybox_layer

LAYERS = 3


def push_small(address: str) -> str:
    """Busybox; the reference."""
    return push_image_sync(address, "busybox:latest").reference


def push_big(address: str, megabytes: int, files: int) -> str:
    """Three layers that share so many bytes and files; half of each file compresses well. The reference."""
    source = random.Random(1)
    each = megabytes * 1_000_000 // files
    layers: list[dict[str, Entry] | bytes] = [busybox_layer()]
    for layer in range(LAYERS):
        content: dict[str, Entry] = {}
        for number in range(files // LAYERS):
            # Sizes as in real trees: many small files, a few large ones, the same sum.
            size = each * 4 if number % 8 == 0 else each * 4 // 7
            half = size // 2
            content[f"data{layer}/{number % 64:02d}/{number:05d}"] = File(
                source.randbytes(half) + b"shoal " * (half // 6)
            )
        layers.append(content)
    return push_image_sync(address, "big:latest", layers=layers).reference
