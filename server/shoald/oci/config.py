"""The image configuration: defaults of a container and the identity of its layers (image-spec `config.md`)."""

from __future__ import annotations

from typing import Any

import msgspec

from shoal.errors import DataLoss, InvalidArgument
from shoal.platform import Platform
from shoald.oci.chain import chain_ids
from shoald.oci.strict import check_digest

MAX_CONFIG_BYTES = 8 * 1024 * 1024
"""A configuration larger than this is refused; real ones are a few KiB."""


class Healthcheck(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="pascal"):
    """Docker's HEALTHCHECK: `test` is ["NONE"], ["CMD", ...] or ["CMD-SHELL", line]; times in ns, 0 inherits."""

    test: list[str] | None = None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class ContainerDefaults(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="pascal"):
    """The `config` object: defaults for a container. None and absent mean the same: not set by the image."""

    user: str = ""
    exposed_ports: dict[str, object] | None = None
    """Keys such as "80/tcp"; the values carry nothing."""
    env: list[str] | None = None
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    healthcheck: Healthcheck | None = None
    args_escaped: bool = False
    volumes: dict[str, object] | None = None
    """Keys are absolute paths inside the container; the values carry nothing."""
    working_dir: str = ""
    labels: dict[str, str] | None = None
    stop_signal: str = ""
    on_build: list[str] | None = None
    shell: list[str] | None = None


class RootFS(msgspec.Struct, frozen=True, kw_only=True):
    """The layers by the digests of their uncompressed tars, the lowest first."""

    type: str = "layers"
    diff_ids: list[str] = []


class History(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One step of how the image was made; `empty_layer` steps have no entry in `rootfs.diff_ids`."""

    created: str | None = None
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class ImageConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The document that an image id is the digest of. Times are RFC 3339 text, kept as they were written."""

    created: str | None = None
    author: str = ""
    architecture: str
    os: str
    os_version: str = msgspec.field(default="", name="os.version")
    os_features: list[str] | None = msgspec.field(default=None, name="os.features")
    variant: str = ""
    config: ContainerDefaults | None = None
    rootfs: RootFS
    history: list[History] | None = None

    @property
    def platform(self) -> Platform:
        """What this image runs on."""
        return Platform(self.os, self.architecture, self.variant)

    @property
    def defaults(self) -> ContainerDefaults:
        """The `config` object, or an empty one."""
        return self.config or ContainerDefaults()

    def chain_ids(self) -> list[str]:
        """The chain id of each layer's stack, the lowest first."""
        return chain_ids(self.rootfs.diff_ids)


_decoder = msgspec.json.Decoder(ImageConfig)


def parse_config(body: bytes) -> ImageConfig:
    """Read an image configuration.

    Raises InvalidArgument (BAD_IMAGE_CONFIG) for what is no valid configuration, DataLoss (SIZE_MISMATCH) for one
    larger than MAX_CONFIG_BYTES. Does not check the digest: whoever fetched the bytes has.
    """
    if len(body) > MAX_CONFIG_BYTES:
        raise DataLoss(f"image config of {len(body)} bytes is larger than {MAX_CONFIG_BYTES}", reason="SIZE_MISMATCH")
    try:
        try:
            config = _decoder.decode(body)
        except msgspec.ValidationError:
            config = msgspec.convert(_modernise(msgspec.json.decode(body)), ImageConfig)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as e:
        raise InvalidArgument(f"invalid image config: {e}", reason="BAD_IMAGE_CONFIG") from e
    if config.rootfs.type != "layers":
        raise InvalidArgument(f"image config has a rootfs of type {config.rootfs.type!r}", reason="BAD_IMAGE_CONFIG")
    for diff_id in config.rootfs.diff_ids:
        check_digest(diff_id, "diff id", "BAD_IMAGE_CONFIG")
    return config


def _modernise(document: Any) -> Any:
    """What Docker reads and the specification does not have: null for a value that is not set, and a command as text (a
    list of one word)."""
    document = _set(document)
    match document:
        case {"config": {} as defaults}:
            document["config"] = _modern_defaults(_set(defaults))
    match document:
        case {"rootfs": {} as rootfs}:
            document["rootfs"] = _set(rootfs)
    match document:
        case {"history": [*entries]}:
            document["history"] = [_set({} if entry is None else entry) for entry in entries]
    return document


def _modern_defaults(defaults: dict[str, Any]) -> dict[str, Any]:
    for name in ("Cmd", "Entrypoint", "Shell"):
        if isinstance(value := defaults.get(name), str):
            defaults[name] = [value]
    if "Healthcheck" in defaults:
        defaults["Healthcheck"] = _set(defaults["Healthcheck"])
    if isinstance(labels := defaults.get("Labels"), dict):
        defaults["Labels"] = {key: "" if value is None else value for key, value in labels.items()}
    return defaults


def _set(value: Any) -> Any:
    """An object without its fields that are null: to Go these are not there."""
    return {key: each for key, each in value.items() if each is not None} if isinstance(value, dict) else value
