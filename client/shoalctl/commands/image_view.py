"""An image as `inspect` shows it: Docker's names and shape."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from shoalctl.commands.container_rows import stamp
from shoalctl.commands.image_rows import familiar
from shoalctl.render.template import FreeMap

if TYPE_CHECKING:
    from shoal.v1 import image_pb2


def image_view(host: str, answer: image_pb2.ImageServiceInspectResponse) -> dict[str, Any]:
    """The object; `Host` is shoal's own addition."""
    image, config = answer.image, answer.config
    raw = _raw(answer.raw_config)
    return {
        "Host": host,
        "Id": image.id,
        "RepoTags": [familiar(tag) for tag in image.tags],
        "RepoDigests": [familiar(digest) for digest in image.repo_digests],
        "Digest": image.manifest_digest,
        "Created": stamp(image.created_at),
        "Author": answer.author,
        "Config": {
            "User": config.user,
            "Env": list(config.env),
            "Entrypoint": list(config.entrypoint) or None,
            "Cmd": list(config.cmd) or None,
            "WorkingDir": config.working_dir,
            "ExposedPorts": {port: {} for port in config.exposed_ports},
            "Volumes": {volume: {} for volume in config.volumes},
            "StopSignal": config.stop_signal,
            "Healthcheck": raw.get("Healthcheck"),
            "OnBuild": raw.get("OnBuild"),
            "Shell": raw.get("Shell"),
            "Labels": FreeMap(sorted(config.labels.items())),
        },
        "Architecture": image.platform.architecture,
        "Variant": image.platform.variant,
        "Os": image.platform.os,
        "Size": image.size_bytes,
        "RootFS": {"Type": "layers", "Layers": list(answer.diff_ids)},
        "History": [
            {
                "Created": stamp(step.created_at),
                "CreatedBy": step.created_by,
                "Comment": step.comment,
                "EmptyLayer": step.empty_layer,
            }
            for step in answer.history
        ],
    }


def _raw(document: bytes) -> dict[str, Any]:
    """The `config` object of an image's configuration, for what the message has no fields for."""
    try:
        found = json.loads(document or b"{}")
    except ValueError:
        return {}
    config = found.get("config") if isinstance(found, dict) else None
    return config if isinstance(config, dict) else {}
