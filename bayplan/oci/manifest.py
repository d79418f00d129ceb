"""Manifests, indexes and image configurations, checked as they are read.

Source: OCI image specification 1.1 (manifest.md, image-index.md, config.md); Docker's
"Image Manifest Version 2, Schema 2" has the same shape under other media types.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bayplan.model.errors import BayplanError
from bayplan.oci.reference import DIGEST

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
MANIFESTS = (MANIFEST, DOCKER_MANIFEST)
INDEXES = (INDEX, DOCKER_INDEX)
TAGGED_AT = "bayplan-tagged-at"
"""Header of the built-in registry beside a manifest by tag: when the tag was set."""

MANIFEST_BYTES_MAX = 4 << 20
LAYERS_MAX = 500

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class MalformedImage(BayplanError):
    """What the registry sent is not an image this version can run."""

    code = "malformed_image"
    exit_code = 2


@dataclass(frozen=True, slots=True)
class Descriptor:
    media_type: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """`layers` lowest first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What an image says of how it is run. `env` as `NAME=value`; `user` as typed there."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    stop_signal: str = ""
    diff_ids: tuple[str, ...] = ()


def load_json(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object, or MalformedImage."""
    try:
        found = json.loads(data)
    except ValueError as error:
        raise MalformedImage(f"{what} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise MalformedImage(f"{what} is not a JSON object")
    return found


def _descriptor(value: Any, what: str) -> Descriptor:
    if not isinstance(value, Mapping):
        raise MalformedImage(f"{what} is not a descriptor")
    digest, size = value.get("digest"), value.get("size")
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        raise MalformedImage(f"{what}.digest {digest!r} is not a sha256 digest")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise MalformedImage(f"{what}.size {size!r} is not a size")
    media_type = value.get("mediaType")
    return Descriptor(media_type if isinstance(media_type, str) else "", digest, size)


def parse_manifest(data: bytes) -> Manifest:
    """Raises MalformedImage, naming the field."""
    found = load_json(data, "manifest")
    layers = found.get("layers")
    if not isinstance(layers, list) or len(layers) > LAYERS_MAX:
        raise MalformedImage(f"manifest.layers is not a list of at most {LAYERS_MAX} layers")
    return Manifest(
        config=_descriptor(found.get("config"), "manifest.config"),
        layers=tuple(_descriptor(x, f"manifest.layers[{i}]") for i, x in enumerate(layers)),
    )


def choose_platform(data: bytes, machine: str) -> Descriptor:
    """The manifest of an index for Linux on `machine` (as uname says it)."""
    wanted = _ARCHITECTURES.get(machine, machine)
    manifests = load_json(data, "index").get("manifests")
    if not isinstance(manifests, list):
        raise MalformedImage("index.manifests is not a list")
    there: list[str] = []
    for i, entry in enumerate(manifests):
        platform = entry.get("platform") if isinstance(entry, Mapping) else None
        platform = platform if isinstance(platform, Mapping) else {}
        system, arch = platform.get("os", "linux"), platform.get("architecture", wanted)
        if system == "linux" and arch == wanted:
            return _descriptor(entry, f"index.manifests[{i}]")
        there.append(f"{system}/{arch}")
    raise MalformedImage(f"no image for linux/{wanted}; the index has {', '.join(there) or 'none'}")


def _strings(value: Any, what: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(x, str) for x in value):
        raise MalformedImage(f"{what} is not a list of strings")
    return tuple(value)


def parse_config(data: bytes) -> ImageConfig:
    """Raises MalformedImage, naming the field."""
    found = load_json(data, "image configuration")
    config = found.get("config") or {}
    rootfs = found.get("rootfs") or {}
    if not isinstance(config, Mapping) or not isinstance(rootfs, Mapping):
        raise MalformedImage("image configuration: config and rootfs must be objects")
    diff_ids = _strings(rootfs.get("diff_ids"), "rootfs.diff_ids")
    for digest in diff_ids:
        if not DIGEST.fullmatch(digest):
            raise MalformedImage(f"rootfs.diff_ids: {digest!r} is not a sha256 digest")
    texts = {}
    for name in ("WorkingDir", "User", "StopSignal"):
        value = config.get(name) or ""
        if not isinstance(value, str):
            raise MalformedImage(f"config.{name} is not a string")
        texts[name] = value
    return ImageConfig(
        entrypoint=_strings(config.get("Entrypoint"), "config.Entrypoint"),
        cmd=_strings(config.get("Cmd"), "config.Cmd"),
        env=_strings(config.get("Env"), "config.Env"),
        working_dir=texts["WorkingDir"],
        user=texts["User"],
        stop_signal=texts["StopSignal"],
        diff_ids=diff_ids,
    )
