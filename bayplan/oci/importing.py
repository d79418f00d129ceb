"""A root file system in a tar archive -> an image of one layer in a registry."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

from bayplan.model.errors import InvalidSpec
from bayplan.oci.manifest import CONFIG, LAYER, MANIFEST, Descriptor
from bayplan.oci.reference import Reference
from bayplan.oci.registry import Endpoint, RegistryClient, RegistryError

CHUNK_BYTES = 1 << 20
COMPRESSION_LEVEL = 3
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDefaults:
    """What the image says of how it is run."""

    entrypoint: Sequence[str] = ()
    cmd: Sequence[str] = ()
    env: Sequence[str] = ()
    working_dir: str = ""
    user: str = ""
    stop_signal: str = ""


def _packed(archive: IO[bytes], into: IO[bytes]) -> tuple[Descriptor, str]:
    """Gzip `archive` into `into`: the layer's descriptor, and its diff_id. Deterministic, so that
    importing the same archive twice gives the same image."""
    plain = hashlib.sha256()
    with gzip.GzipFile(
        fileobj=into, mode="wb", compresslevel=COMPRESSION_LEVEL, mtime=0, filename=""
    ) as out:
        while chunk := archive.read(CHUNK_BYTES):
            plain.update(chunk)
            out.write(chunk)
    size = into.tell()
    into.seek(0)
    digest = hashlib.file_digest(into, "sha256")  # type: ignore[arg-type]
    descriptor = Descriptor(f"{LAYER}+gzip", f"sha256:{digest.hexdigest()}", size)
    return descriptor, f"sha256:{plain.hexdigest()}"


def _checked(archive: IO[bytes], name: str) -> IO[bytes]:
    """The uncompressed archive, after a look at its first entry. Raises InvalidSpec."""
    magic = archive.read(4)
    archive.seek(0)
    source: IO[bytes] = gzip.GzipFile(fileobj=archive) if magic[:2] == b"\x1f\x8b" else archive  # type: ignore[assignment]
    try:
        with tarfile.open(fileobj=source, mode="r:") as look:
            if look.next() is None:
                raise InvalidSpec(f"{name}: the archive is empty")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InvalidSpec(
            f"{name}: not a tar archive ({error}); make one with: tar -C ROOTFS -cf rootfs.tar ."
        ) from None
    source.seek(0)
    return source


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """An image in most registries. `missed`: why not in the others."""

    digest: str
    missed: tuple[str, ...] = ()


async def import_everywhere(
    endpoints: Sequence[Endpoint],
    archive: IO[bytes],
    reference: Reference,
    defaults: RunDefaults,
    *,
    name: str = "archive",
) -> Imported:
    """Into the registry of every controller, as `import_rootfs`. More than half must take it:
    then whoever asks more than half hears of it. Raises InvalidSpec, RegistryError, which says
    who has it already."""
    digest, taken = "", []
    failures: list[RegistryError] = []
    for endpoint in endpoints:
        archive.seek(0)
        try:
            async with RegistryClient(endpoint) as client:
                digest = await import_rootfs(client, archive, reference, defaults, name=name)
            taken.append(endpoint.host)
        except RegistryError as error:
            failures.append(error)
    if len(endpoints) == 1 and failures:
        raise failures[0]
    if 2 * len(taken) <= len(endpoints):
        said = "; ".join(str(failure) for failure in failures)
        raise RegistryError(
            f"{reference} is in {len(taken)} of {len(endpoints)} registries "
            f"({', '.join(taken) or 'none'}), and more than half must have it: {said}",
            retryable=any(failure.retryable for failure in failures),
            hint="repeat it once the others answer",
        )
    return Imported(digest=digest, missed=tuple(map(str, failures)))


async def import_rootfs(
    client: RegistryClient,
    archive: IO[bytes],
    reference: Reference,
    defaults: RunDefaults,
    *,
    name: str = "archive",
) -> str:
    """Push the image; its manifest's digest. `archive` is seekable, plain or gzipped tar; `name`
    is what errors call it. Raises InvalidSpec, RegistryError."""
    source = _checked(archive, name)
    with tempfile.TemporaryFile() as packed:
        layer, diff_id = _packed(source, packed)
        packed.seek(0)
        await client.push_blob(reference.name, layer, packed)
    machine = platform.machine()
    config = {
        "architecture": _ARCHITECTURES.get(machine, machine),
        "os": "linux",
        "config": _run_section(defaults),
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    }
    config_data = json.dumps(config, sort_keys=True).encode()
    config_blob = _described(CONFIG, config_data)
    await client.push_blob(reference.name, config_blob, io.BytesIO(config_data))
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": _entry(config_blob),
        "layers": [_entry(layer)],
    }
    data = json.dumps(manifest, sort_keys=True).encode()
    await client.push_manifest(reference.name, reference.version, MANIFEST, data)
    return _described(MANIFEST, data).digest


def _described(media_type: str, data: bytes) -> Descriptor:
    return Descriptor(media_type, f"sha256:{hashlib.sha256(data).hexdigest()}", len(data))


def _entry(blob: Descriptor) -> dict[str, Any]:
    return {"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size}


def _run_section(defaults: RunDefaults) -> dict[str, Any]:
    section: dict[str, Any] = {
        "Entrypoint": list(defaults.entrypoint),
        "Cmd": list(defaults.cmd),
        "Env": list(defaults.env),
        "WorkingDir": defaults.working_dir,
        "User": defaults.user,
        "StopSignal": defaults.stop_signal,
    }
    return {key: value for key, value in section.items() if value}
