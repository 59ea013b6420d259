"""What `shoal build` was asked, and the Dockerfile and context that it means."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from shoalctl.flags.attestations import Attestations
from shoalctl.flags.build_cache import CacheTarget, LocalCache, LocalTarget
from shoalctl.flags.build_contexts import IMAGE
from shoalctl.flags.build_output import Output
from shoalctl.flags.dockerfile import Source, from_directory
from shoalctl.flags.empty import EMPTY
from shoalctl.flags.fault import UsageFault
from shoalctl.flags.git_url import check_git_url, is_git_url
from shoalctl.flags.ssh_agents import SshAgent

if TYPE_CHECKING:
    from shoal.v1 import image_pb2, types_pb2
    from shoalctl.fleet.building import Archive
    from shoalctl.fleet.manifest import SharedManifest


class BuildOptions(NamedTuple):
    """The flags of `build`. `path` is a directory or `-`; `file` a path, `-` or empty."""

    path: str
    file: str = ""
    tags: Sequence[str] = ()
    build_args: Mapping[str, str] = EMPTY
    target: str = ""
    no_cache: bool = False
    pull: bool = False
    labels: Mapping[str, str] = EMPTY
    platforms: Sequence[tuple[str, str, str]] = ()
    network: str = ""
    progress: str = "auto"
    iidfile: str = ""
    creds: tuple[str, str] | None = None
    secrets: Mapping[str, bytes] = EMPTY
    contexts: Mapping[str, str] = EMPTY
    outputs: Sequence[Output] = ()
    cache_from: Sequence[str] = ()
    cache_to: Sequence[CacheTarget] = ()
    local_caches: Sequence[LocalCache] = ()
    local_targets: Sequence[LocalTarget] = ()
    detach: bool = False
    rewrite_times: bool = False
    allow: Sequence[str] = ()
    debug: bool = False
    once: bool = False
    checkout: bool = False
    """`path` is a checkout for this build only."""
    distribute: bool = False
    extra_hosts: Sequence[str] = ()
    ssh: Mapping[str, SshAgent] = EMPTY
    attestations: Attestations = Attestations()

    def __repr__(self) -> str:
        return f"BuildOptions(path={self.path!r})"  # the rest holds secrets

    def check(self) -> None:
        """Find what can't work before any host is asked. Raises UsageFault."""
        if is_git_url(self.path):
            check_git_url(self.path)
        elif self.path == "-":
            if self.file == "-":
                raise UsageFault("PATH and -f can't both be standard input")
        elif self.file != "-":
            from_directory(self.path, self.file)
        elif not os.path.isdir(self.path):
            raise UsageFault(f"the build context {self.path!r} is not a directory")

    def at(self, directory: str) -> BuildOptions:
        """The same with a directory in place of a repository; `file` is in it."""
        file = os.path.join(directory, self.file) if self.file not in ("", "-") else self.file
        return self._replace(path=directory, file=file, checkout=True)

    def source(self) -> tuple[Source, SharedManifest | Archive]:
        """The Dockerfile, and the context; may read standard input. Blocking."""
        from shoalctl.fleet.context import BuildContext
        from shoalctl.fleet.manifest import SharedManifest
        from shoalctl.fleet.stdin_context import StdinContext

        if self.path == "-":
            stdin = StdinContext.read(self.file)
            return stdin.source, stdin.chunks
        if self.file == "-":
            text = StdinContext.dockerfile()
            source = Source(text, "Dockerfile", Path(self.path))
        else:
            source = from_directory(self.path, self.file)
        context = BuildContext.at(Path(self.path), source.path)
        context.kept = not self.checkout
        return source, SharedManifest(context)

    def named_contexts(self) -> dict[str, SharedManifest | Archive]:
        """The named contexts that are directories. Blocking."""
        from shoalctl.fleet.context import BuildContext
        from shoalctl.fleet.manifest import SharedManifest

        directories = {name: path for name, path in self.contexts.items() if not path.startswith(IMAGE)}
        return {name: SharedManifest(BuildContext.at(Path(path))) for name, path in directories.items()}

    @property
    def names(self) -> list[str]:
        """Of the result: tags, and what outputs of type image say."""
        return list(dict.fromkeys([*self.tags, *(name for each in self.outputs for name in each.names)]))

    def start(
        self,
        source: Source,
        credentials: types_pb2.RegistryCredentials | None,
        cache_credentials: Sequence[types_pb2.RegistryCredentials] = (),
    ) -> image_pb2.ImageServiceBuildRequest.Start:
        """The first message of the build."""
        from shoal.v1 import image_pb2
        from shoalctl.commands.messages import platform_of

        return image_pb2.ImageServiceBuildRequest.Start(
            dockerfile=source.text,
            dockerfile_name=source.name,
            tags=self.names,
            build_args=self.build_args,
            target=self.target,
            no_cache=self.no_cache,
            labels=self.labels,
            platform=platform_of(self.platforms[0]) if len(self.platforms) == 1 else None,
            platforms=[platform_of(each) for each in self.platforms] if len(self.platforms) > 1 else (),
            pull=self.pull,
            credentials=credentials,
            network=self.network,
            secrets=[
                image_pb2.ImageServiceBuildRequest.Secret(id=name, value=value) for name, value in self.secrets.items()
            ],
            cache_from=self.cache_from,
            cache_to=[
                image_pb2.ImageServiceBuildRequest.CacheTarget(
                    reference=each.reference, all_steps=each.all_steps, ignore_errors=each.ignore_errors
                )
                for each in self.cache_to
                if each.reference
            ],
            sbom=self.attestations.sbom is True,
            provenance=_provenance(self.attestations),
            allow=self.allow,
            rewrite_times=self.rewrite_times,
            inline_cache=any(not each.reference for each in self.cache_to),
            cache_credentials=cache_credentials,
            extra_hosts=self.extra_hosts,
            ssh={name: agent.handle for name, agent in self.ssh.items()},
            contexts={name: path if path.startswith(IMAGE) else "" for name, path in self.contexts.items()},
        )


def _provenance(wanted: Attestations) -> image_pb2.ImageServiceBuildRequest.Provenance | None:
    from shoal.v1 import image_pb2

    given = wanted.provenance
    if not given:
        return None
    message = image_pb2.ImageServiceBuildRequest.Provenance
    return message(
        all=given.mode == "max",
        version=message.VERSION_1 if given.version == "v1" else message.VERSION_0_2,
        builder_id=given.builder_id,
        reproducible=given.reproducible,
    )
