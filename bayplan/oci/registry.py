"""An asynchronous client of any OCI registry.

Source: OCI distribution specification 1.1; the Bearer challenge is that of Docker's
"Token Authentication Specification".
"""

from __future__ import annotations

import base64
import hashlib
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import IO, Any, Self
from urllib.parse import urljoin, urlsplit

from bayplan import lean

with lean.without("rich", "pygments"):  # it has a command line of its own
    import httpx

from bayplan.model.errors import BayplanError
from bayplan.oci.manifest import INDEXES, MANIFEST_BYTES_MAX, MANIFESTS, TAGGED_AT, Descriptor

CHUNK_BYTES = 1 << 20
ATTEMPTS_MAX = 4
CONNECT_S = 10.0
ANSWER_S = 30.0
TIMEOUT = httpx.Timeout(ANSWER_S, connect=CONNECT_S)
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')


class RegistryError(BayplanError):
    """The registry refused, or cannot be reached. `retryable`: the same call may succeed later.
    `missing`: it has not what was asked for."""

    code = "registry"
    exit_code = 6

    def __init__(
        self, message: str, *, retryable: bool, missing: bool = False, hint: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.retryable = retryable
        self.missing = missing


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a registry is and how to speak with it. `tls` None: the system's trust store;
    `plain_http` only where the operator allowed it by name; `server_name`: the name the server's
    certificate must have, where it is not that of `host`; `connect_s`: how long a connection may
    take to come about."""

    host: str
    tls: ssl.SSLContext | None = None
    plain_http: bool = False
    server_name: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    connect_s: float = CONNECT_S

    @property
    def base(self) -> str:
        return f"{'http' if self.plain_http else 'https'}://{self.host}"


SEVERAL_CONNECT_S = 3.0
"""For the registries of several controllers: one that is gone must not hold up the others."""


class RegistryClient:
    """One registry. Use as an asynchronous context manager."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._http = httpx.AsyncClient(
            base_url=endpoint.base,
            verify=endpoint.tls or ssl.create_default_context(),
            timeout=httpx.Timeout(ANSWER_S, connect=endpoint.connect_s),
            trust_env=endpoint.tls is None,
        )
        self._extensions = {"sni_hostname": endpoint.server_name} if endpoint.server_name else {}
        self._tokens: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    # --- pull -------------------------------------------------------------------------------

    async def manifest(self, name: str, version: str) -> tuple[Descriptor, bytes]:
        """A manifest or index by tag or digest, its digest verified. Raises RegistryError."""
        _, descriptor, data = await self.tagged(name, version)
        return descriptor, data

    async def tagged(self, name: str, version: str) -> tuple[float, Descriptor, bytes]:
        """As `manifest`, and when the tag was set (seconds since the epoch, by the registry's
        clock) where it is the built-in registry and a tag; else 0."""
        accept = ", ".join((*MANIFESTS, *INDEXES))
        path = f"/v2/{name}/manifests/{version}"
        response = await self._send("GET", path, f"repository:{name}:pull", {"Accept": accept})
        self._expect(response, (200,), f"{name}:{version}")
        data = response.content
        if len(data) > MANIFEST_BYTES_MAX:
            raise RegistryError(f"{name}: the manifest is over 4 MiB", retryable=False)
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        if version.startswith("sha256:") and digest != version:
            raise RegistryError(
                f"{name}: the registry sent {digest} for {version}", retryable=False
            )
        media_type = response.headers.get("content-type", "").partition(";")[0]
        tagged_at = float(response.headers.get(TAGGED_AT, 0))
        return tagged_at, Descriptor(media_type, digest, len(data)), data

    async def blob(self, name: str, blob: Descriptor, into: IO[bytes]) -> None:
        """Write a blob to `into` (empty, seekable), resuming where a connection breaks. Size and
        digest are verified; on RegistryError what is in `into` must not be used."""
        digest = hashlib.sha256()
        done = 0
        failure = "no answer"
        for _ in range(ATTEMPTS_MAX):
            headers = {"Range": f"bytes={done}-"} if done else {}
            try:
                async for chunk in self._stream(name, blob.digest, headers, done):
                    done += len(chunk)
                    if done > blob.size:
                        raise RegistryError(
                            f"{name}: {blob.digest} is longer than its {blob.size} bytes",
                            retryable=False,
                        )
                    digest.update(chunk)
                    into.write(chunk)
            except httpx.TransportError as error:
                failure = str(error) or type(error).__name__
                continue
            if done == blob.size:
                break
            failure = f"it ended after {done} of {blob.size} bytes"
        if done != blob.size:
            raise RegistryError(
                f"{self.endpoint.host}: {name}@{blob.digest}: {failure}", retryable=True
            )
        if f"sha256:{digest.hexdigest()}" != blob.digest:
            raise RegistryError(
                f"{name}: what the registry sent for {blob.digest} has the digest "
                f"sha256:{digest.hexdigest()}",
                retryable=False,
            )

    async def _stream(
        self, name: str, digest: str, headers: Mapping[str, str], skip: int
    ) -> AsyncIterator[bytes]:
        path = f"/v2/{name}/blobs/{digest}"
        scope = f"repository:{name}:pull"
        response = await self._send("GET", path, scope, headers, stream=True)
        try:
            if response.is_redirect:  # to a storage host, which must not see our credentials
                target = urljoin(str(response.url), response.headers["location"])
                async with (
                    httpx.AsyncClient(timeout=TIMEOUT, follow_redirects=True) as bare,
                    bare.stream("GET", target, headers=dict(headers)) as moved,
                ):
                    self._expect(moved, (200, 206), f"{name}@{digest}")
                    async for chunk in self._chunks(moved, skip):
                        yield chunk
                return
            self._expect(response, (200, 206), f"{name}@{digest}")
            async for chunk in self._chunks(response, skip):
                yield chunk
        finally:
            await response.aclose()

    @staticmethod
    async def _chunks(response: httpx.Response, skip: int) -> AsyncIterator[bytes]:
        """The bytes still missing; a registry without ranges sends all of them again."""
        rest = skip if response.status_code == 200 else 0
        async for chunk in response.aiter_raw(CHUNK_BYTES):
            if rest >= len(chunk):
                rest -= len(chunk)
                continue
            yield chunk[rest:]
            rest = 0

    async def catalog(self) -> list[str]:
        """Names of all repositories."""
        return await self._paged("/v2/_catalog", "registry:catalog:*", "repositories")

    async def tags(self, name: str) -> list[str]:
        return await self._paged(f"/v2/{name}/tags/list", f"repository:{name}:pull", "tags")

    async def _paged(self, path: str, scope: str, member: str) -> list[str]:
        found: list[str] = []
        at: str | None = f"{path}?n=1000"
        while at:
            response = await self._send("GET", at, scope, {})
            self._expect(response, (200,), path)
            found += response.json().get(member) or []
            link = re.match(r'<([^>]+)>;\s*rel="?next"?', response.headers.get("link", ""))
            at = None
            if link:
                parts = urlsplit(link.group(1))
                at = f"{parts.path}?{parts.query}"
        return found

    # --- push -------------------------------------------------------------------------------

    async def has_blob(self, name: str, digest: str) -> bool:
        path = f"/v2/{name}/blobs/{digest}"
        response = await self._send("HEAD", path, f"repository:{name}:pull,push", {})
        return response.status_code in (200, 307)

    async def push_blob(self, name: str, blob: Descriptor, source: IO[bytes]) -> None:
        """Upload what is not there yet; `source` is read from its present position."""
        if await self.has_blob(name, blob.digest):
            return
        scope = f"repository:{name}:pull,push"
        started = await self._send("POST", f"/v2/{name}/blobs/uploads/", scope, {})
        self._expect(started, (202,), f"push to {name}")
        location = urljoin(str(started.url), started.headers["location"])
        joint = "&" if "?" in location else "?"

        async def body() -> AsyncIterator[bytes]:
            while chunk := source.read(CHUNK_BYTES):
                yield chunk

        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(blob.size),
            **self._authorization(scope),
        }
        try:
            response = await self._http.put(
                f"{location}{joint}digest={blob.digest}",
                content=body(),
                headers=headers,
                extensions=self._extensions,
            )
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        self._expect(response, (201,), f"push to {name}")

    async def push_manifest(self, name: str, version: str, media_type: str, data: bytes) -> None:
        scope = f"repository:{name}:pull,push"
        headers = {"Content-Type": media_type}
        path = f"/v2/{name}/manifests/{version}"
        response = await self._send("PUT", path, scope, headers, content=data)
        self._expect(response, (201,), f"push of {name}:{version}")

    # --- requests ---------------------------------------------------------------------------

    def _authorization(self, scope: str) -> dict[str, str]:
        token = self._tokens.get(scope) or self._tokens.get("")
        return {"Authorization": token} if token else {}

    async def _send(
        self,
        method: str,
        path: str,
        scope: str,
        headers: Mapping[str, str],
        *,
        stream: bool = False,
        content: bytes | None = None,
    ) -> httpx.Response:
        """One request, answered to a challenge once. Raises RegistryError where nobody answers."""
        for attempt in (1, 2):
            request = self._http.build_request(
                method,
                path,
                headers={**headers, **self._authorization(scope)},
                content=content,
                extensions=self._extensions,
            )
            try:
                response = await self._http.send(request, stream=stream)
            except httpx.TransportError as error:
                raise self._unreachable(error) from error
            if response.status_code != 401 or attempt == 2:
                return response
            challenge = response.headers.get("www-authenticate", "")
            if not challenge:
                return response
            await response.aclose()
            await self._answer(challenge, scope)
        raise AssertionError("unreachable")

    async def _answer(self, challenge: str, scope: str) -> None:
        kind, _, rest = challenge.partition(" ")
        basic = ""
        if self.endpoint.username:
            pair = f"{self.endpoint.username}:{self.endpoint.password}".encode()
            basic = "Basic " + base64.b64encode(pair).decode()
        if kind.lower() == "basic":
            if not basic:
                raise RegistryError(
                    f"{self.endpoint.host} asks for a user name and a password", retryable=False
                )
            self._tokens[""] = basic
            return
        fields = dict(_CHALLENGE.findall(rest))
        realm = fields.get("realm", "")
        if kind.lower() != "bearer" or not realm.startswith(("https://", self.endpoint.base)):
            raise RegistryError(
                f"{self.endpoint.host}: cannot answer the challenge {challenge!r}", retryable=False
            )
        parameters = {"scope": fields.get("scope") or scope}
        if fields.get("service"):
            parameters["service"] = fields["service"]
        try:
            response = await self._http.get(
                realm, params=parameters, headers={"Authorization": basic} if basic else {}
            )
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        self._expect(response, (200,), "token")
        found: Mapping[str, Any] = response.json()
        self._tokens[scope] = f"Bearer {found.get('token') or found.get('access_token')}"

    def _unreachable(self, error: Exception) -> RegistryError:
        return RegistryError(
            f"registry {self.endpoint.host} does not answer: {str(error) or type(error).__name__}",
            retryable=True,
        )

    def _expect(self, response: httpx.Response, statuses: tuple[int, ...], what: str) -> None:
        status = response.status_code
        if status in statuses:
            return
        host = self.endpoint.host
        if status == 404:
            raise RegistryError(f"{host} has no {what}", retryable=False, missing=True)
        if status in (401, 403):
            raise RegistryError(f"{host} refuses access to {what} ({status})", retryable=False)
        raise RegistryError(
            f"{host} answered {status} for {what}", retryable=status >= 500 or status == 429
        )
