"""Pulling: one reference -> an image whose layers are unpacked, each of them once."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import time
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import structlog

from agent.images import copies
from agent.images.content import Content, Image, check_layers
from agent.images.copies import Copy
from bayplan.model.errors import BayplanError, InvalidSpec
from bayplan.oci.manifest import (
    INDEXES,
    MANIFEST_BYTES_MAX,
    Descriptor,
    ImageConfig,
    MalformedImage,
    Manifest,
    choose_platform,
    parse_config,
    parse_manifest,
)
from bayplan.oci.reference import Reference, parse
from bayplan.oci.registry import Endpoint, RegistryClient, RegistryError

T = TypeVar("T")
LAYERS_AT_ONCE_MAX = 3

_log = structlog.get_logger(__name__)


class ImageError(BayplanError):
    """An image cannot be had. `reason`: invalid, not_found, unreachable, malformed, disk_full,
    timeout; `retryable`: trying again later may help."""

    code = "image"

    def __init__(self, reason: str, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.reason = reason
        self.retryable = retryable


@dataclass(frozen=True, slots=True)
class Registries:
    """Where references lead. `builtin` gives the endpoints of the cluster's own registries as they
    are now: certificates change, and so does the leader, whose one comes first. `plain_http`:
    hosts that may be spoken to without TLS; `credentials`: host -> (user name, password)."""

    builtin: Callable[[], Sequence[Endpoint]]
    plain_http: frozenset[str] = frozenset()
    credentials: Mapping[str, tuple[str, str]] = field(default_factory=dict, repr=False)

    def endpoints(self, reference: Reference) -> Sequence[Endpoint]:
        """At least one. Raises ImageError."""
        if not reference.host:
            found = self.builtin()
            if not found:
                raise ImageError(
                    "unreachable",
                    f"image {reference}: the built-in registry is not known yet",
                    retryable=True,
                )
            return found
        username, password = self.credentials.get(reference.host, ("", ""))
        endpoint = Endpoint(
            host=reference.host,
            plain_http=reference.host in self.plain_http,
            username=username,
            password=password,
        )
        return [endpoint]


class Images:
    """The images of a host, kept under `root` (0700)."""

    def __init__(self, root: Path, registries: Registries) -> None:
        self.content = Content(root)
        self._registries = registries
        self._pulls: dict[str, asyncio.Task[Image]] = {}
        self._layers: dict[str, asyncio.Lock] = {}
        self._slots = asyncio.Semaphore(LAYERS_AT_ONCE_MAX)
        self._collecting = asyncio.Lock()
        self._remembering = asyncio.Lock()

    async def ensure(self, reference: str, *, deadline_s: float) -> Image:
        """The image, pulled if it is not here; callers at the same time share one pull, which goes
        on when one of them gives up. A tag is asked for at the registry each time, and what is
        here serves where no registry answers or has it any more. Raises ImageError."""
        pull = self._pulls.get(reference)
        if pull is None:
            pull = asyncio.create_task(self._pull(reference))
            self._pulls[reference] = pull
            pull.add_done_callback(lambda _: self._pulls.pop(reference, None))
        try:
            return await asyncio.wait_for(asyncio.shield(pull), deadline_s)
        except TimeoutError:
            raise ImageError(
                "timeout",
                f"image {reference} is not here after {deadline_s:.0f} s; the pull goes on",
                retryable=True,
            ) from None

    def find(self, reference: str) -> Image | None:
        """The image if all of it is on this host already."""
        digest = self.content.references().get(reference)
        return self.content.image(reference, digest) if digest else None

    async def collect(self, in_use: Collection[str]) -> int:
        """Drop the images that no reference in `in_use` names; bytes freed. A pull under way
        keeps everything."""
        async with self._collecting:
            if self._pulls:
                return 0
            known = self.content.references()
            keep = {ref: digest for ref, digest in known.items() if ref in in_use}
            return await asyncio.to_thread(self.content.collect, keep)

    async def _pull(self, text: str) -> Image:
        try:
            reference = parse(text)
        except InvalidSpec as error:
            raise ImageError("invalid", str(error), retryable=False) from error
        here = await asyncio.to_thread(self.find, text)
        if here is not None and reference.digest:
            return here
        async with self._collecting:
            pass  # a collection under way ends first; the next one sees this pull and does nothing
        try:
            return await self._fetch(text, reference)
        except RegistryError as error:
            if here is not None and (error.retryable or error.missing):
                _log.warning(
                    "image used as it is here", image=text, digest=here.digest, error=str(error)
                )
                return here
            reason = "unreachable" if error.retryable else "not_found"
            message = f"image {text}: {error}"
            raise ImageError(reason, message, retryable=error.retryable) from error
        except MalformedImage as error:
            raise ImageError("malformed", f"image {text}: {error}", retryable=False) from error
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            message = f"image {text}: no space left under {self.content.root}"
            raise ImageError("disk_full", message, retryable=True) from error

    async def _fetch(self, text: str, reference: Reference) -> Image:
        endpoints = self._registries.endpoints(reference)
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(RegistryClient(e)) for e in endpoints]
            *first, last = await copies.find(clients, reference)
            for copy in first:
                try:
                    return await self._fetch_copy(text, reference, copy)
                except RegistryError as error:
                    _log.warning("image copy not to be had", image=text, error=str(error))
            return await self._fetch_copy(text, reference, last)

    async def _fetch_copy(self, text: str, reference: Reference, copy: Copy) -> Image:
        client, descriptor, data = copy.client, copy.descriptor, copy.data
        if descriptor.media_type in INDEXES or b'"manifests"' in data[:4096]:
            chosen = choose_platform(data, os.uname().machine)
            descriptor, data = await client.manifest(reference.name, chosen.digest)
        found = await asyncio.to_thread(self.content.image, text, descriptor.digest)
        fetched, began = 0, time.monotonic()
        if found is None:
            manifest = parse_manifest(data)
            config = await self._config(client, reference.name, manifest)
            check_layers(manifest, config)
            layers = zip(manifest.layers, config.diff_ids, strict=True)
            sizes = await _together(
                [self._layer(client, reference.name, layer, diff) for layer, diff in layers]
            )
            fetched = len(data) + manifest.config.size + sum(sizes)
            await asyncio.to_thread(self.content.put_blob, descriptor.digest, data)
        async with self._remembering:
            await asyncio.to_thread(self._remember, text, descriptor.digest)
        image = await asyncio.to_thread(self.content.image, text, descriptor.digest)
        if image is None:
            raise MalformedImage("what was pulled is not complete")
        return replace(image, fetched_bytes=fetched, fetch_s=time.monotonic() - began)

    async def _config(self, client: RegistryClient, name: str, manifest: Manifest) -> ImageConfig:
        if manifest.config.size > MANIFEST_BYTES_MAX:
            raise MalformedImage("the image configuration is over 4 MiB")
        folder = self.content.incoming()
        try:
            with (folder / "config").open("w+b") as out:
                await client.blob(name, manifest.config, out)
                out.seek(0)
                data = out.read()
        finally:
            shutil.rmtree(folder)
        config = parse_config(data)
        await asyncio.to_thread(self.content.put_blob, manifest.config.digest, data)
        return config

    async def _layer(
        self, client: RegistryClient, name: str, layer: Descriptor, diff_id: str
    ) -> int:
        """Fetch and unpack one layer unless it is here; images that share it wait for one. Returns
        the bytes fetched."""
        async with self._layers.setdefault(diff_id, asyncio.Lock()), self._slots:
            if self.content.layer(diff_id).is_dir():
                return 0
            folder = self.content.incoming()
            try:
                archive = folder / "archive"
                with archive.open("w+b") as out:
                    await client.blob(name, layer, out)
                await asyncio.to_thread(self.content.unpack, archive, diff_id)
            finally:
                shutil.rmtree(folder)
            return layer.size

    def _remember(self, reference: str, digest: str) -> None:
        self.content.set_references({**self.content.references(), reference: digest})


async def _together(work: Collection[Coroutine[Any, Any, T]]) -> list[T]:
    """All at once; the first failure ends the others before it is raised."""
    tasks = [asyncio.ensure_future(item) for item in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
