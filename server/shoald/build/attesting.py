"""What a build says of its image beside it: an SBOM of its packages, and how it was made."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from shoal.digest import Digest
from shoal.errors import ShoalError
from shoal.platform import Platform
from shoal.reference import Reference
from shoald.attest.inventory import packages_of_image
from shoald.attest.manifest import attestation_manifest
from shoald.attest.materials import Material, context_material, image_material
from shoald.attest.package import Inventory
from shoald.attest.provenance import BuildFacts, Mode, Step, Version, provenance
from shoald.attest.purl import image_url
from shoald.attest.spdx import PREDICATE_TYPE, spdx_document
from shoald.attest.statement import Statement, Subject, make_statement, subjects_of_image
from shoald.build.solver import Build
from shoald.content.ports import ContentStore
from shoald.dockerfile import instructions as ins
from shoald.host.blocking import in_thread
from shoald.metadata import HoldKind, Metadata
from shoald.model.build import BuildRequest, BuildWarning
from shoald.model.image import Image
from shoald.oci.manifest import Descriptor
from shoald.snapshots.ports import Snapshotter


class Attesting:
    """Makes the attestations that a build asks for."""

    def __init__(self, md: Metadata, content: ContentStore, snapshots: Snapshotter) -> None:
        self._md = md
        self._content = content
        self._snapshots = snapshots

    async def entries(self, build: Build, request_id: str, image: Image, started: datetime) -> tuple[Descriptor, ...]:
        """The entries of an index for the attestations about an image, whose blobs are here and held by the build's
        lease. None are asked for: none."""
        request = build.request
        if not request.sbom and request.provenance is None:
            return ()
        subject = Digest.parse(image.manifest_digest)
        platform = build.plan.platform_of(build.plan.target)
        subjects = subjects_of_image(request.tags, subject, platform)
        statements = []
        if request.sbom:
            statements.append(await self._sbom(build, image, subjects, platform))
        if (wanted := request.provenance) is not None:
            facts = facts_of(build, request_id, started)
            slsa = Version(wanted.version)
            predicate = provenance(facts, mode=Mode.MAX if wanted.all else Mode.MIN, slsa=slsa)
            statements.append(make_statement(slsa.predicate_type, predicate, subjects))
        made = await in_thread(lambda: attestation_manifest(statements, subject))
        for body in (*(body for body, _ in made.blobs), made.manifest):
            self._md.leases.hold(build.lease, HoldKind.BLOB, str(Digest.of(body)))
            await self._content.put(body)
        with self._md.transaction():
            for body, media_type in made.blobs:
                self._md.blobs.add(str(Digest.of(body)), len(body), media_type)
            self._md.blobs.add(made.descriptor.digest, made.descriptor.size, made.descriptor.media_type)
        return (made.descriptor,)

    async def _sbom(self, build: Build, image: Image, subjects: list[Subject], platform: Platform) -> Statement:
        top = self._md.snapshots.by_chain(image.chain_id) if image.chain_id else None
        found = Inventory()
        if top is not None:
            async with self._snapshots.mounted(top.id) as root:
                found = await in_thread(lambda: packages_of_image(root))
        for text in found.warnings:
            build.emit(BuildWarning("", f"SBOM: {text}"))
        name = build.request.tags[0] if build.request.tags else image.id

        def statement() -> Statement:
            document = spdx_document(
                found,
                name=name,
                digest=Digest.parse(image.manifest_digest),
                created=image.created_at,
                purl=image_url(name, platform) if build.request.tags else "",
            )
            return make_statement(PREDICATE_TYPE, document, subjects)

        return await in_thread(statement)  # an image may have many packages


def facts_of(build: Build, request_id: str, started: datetime) -> BuildFacts:
    """What provenance may tell of a build that ends now. Values of secrets are no part of it."""
    request = build.request
    wanted = request.provenance
    named = [name for name, reference in request.contexts.items() if not reference]
    return BuildFacts(
        invocation_id=request_id,
        started=started,
        finished=datetime.now(UTC),
        builder_platform=Platform.host(),
        builder_id=wanted.builder_id if wanted else "",
        reproducible=wanted.reproducible if wanted else False,
        dockerfile_name=request.dockerfile_name,
        dockerfile=request.dockerfile,
        target=request.target or "",
        build_args=request.build_args,
        labels=request.labels,
        options=_options(request),
        locals=("context", *sorted(named)),
        secrets=tuple(sorted(request.secrets)),
        ssh=tuple(sorted(request.ssh)),
        materials=tuple(_materials(build)),
        steps=tuple(_steps(build)),
        network=_has_network(build),
    )


def _options(request: BuildRequest) -> dict[str, str]:
    found = {f"context:{name}": f"docker-image://{image}" for name, image in request.contexts.items() if image}
    if request.no_cache:
        found["no-cache"] = ""
    if request.network not in ("bridge", "default"):
        found["force-network-mode"] = request.network
    if request.extra_hosts:
        found["add-hosts"] = ",".join(request.extra_hosts)
    return found


def _materials(build: Build) -> Iterator[Material]:
    for (reference, _), image in sorted(build.images.items()):
        try:
            digest = _came_by(reference, image)
            yield image_material(reference, Digest.parse(digest), image.config.platform)
        except ShoalError:  # the base is named by its id
            continue
    for name, digest in sorted(build.request.manifests.items()):
        yield context_material(name or "context", Digest.parse(digest))
    yield from build.fetched.values()


def _came_by(reference: str, image: Image) -> str:
    """The digest that a registry has for the image under this name, or that of its manifest."""
    name = Reference.parse(reference).name
    for each in map(Reference.parse, image.repo_digests):
        if each.name == name and each.digest is not None:
            return str(each.digest)
    return image.manifest_digest


def _steps(build: Build) -> Iterator[Step]:
    for index in build.plan.needed:
        stage = build.plan.stages[index]
        yield Step(stage=stage.label, text=stage.text, start_line=stage.span.start, end_line=stage.span.end)
        for each in stage.instructions:
            yield Step(stage=stage.label, text=each.text, start_line=each.span.start, end_line=each.span.end)


def _has_network(build: Build) -> bool:
    runs = [
        each
        for index in build.plan.needed
        for each in build.plan.stages[index].instructions
        if isinstance(each, ins.Run)
    ]
    return any(each.network != "none" and (each.network == "host" or build.request.network != "none") for each in runs)
