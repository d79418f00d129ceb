"""The HTTP face, as the OCI distribution specification 1.1 has it (endpoints end-1 to end-13)."""

from __future__ import annotations

import asyncio
import errno
import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import structlog
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from bayplan.model.errors import BayplanError, InvalidSpec, NotFound
from bayplan.oci.manifest import (
    INDEX,
    INDEXES,
    MANIFEST_BYTES_MAX,
    MANIFESTS,
    TAGGED_AT,
    load_json,
)
from bayplan.oci.reference import DIGEST, NAME, NAME_MAX, TAG
from controller.registry.access import Access, AccessFile
from controller.registry.storage import Storage

log = structlog.get_logger()

PAGE_MAX = 1000
_NAME = rf"(?P<name>{NAME.pattern})"
_UPLOAD = r"(?P<upload>[0-9a-f]{32})"
_DIGEST = rf"(?P<digest>{DIGEST.pattern})"
_VERSION = rf"(?P<version>{DIGEST.pattern}|{TAG.pattern})"

Serial = Callable[[bytes], str]
Scope = MutableMapping[str, Any]


def error(status: int, code: str, message: str) -> Response:
    """The specification's error body."""
    body = {"errors": [{"code": code, "message": message}]}
    return JSONResponse(body, status_code=status)


class Registry:
    """The ASGI application. `serial` reads the serial (hex) off a DER certificate."""

    def __init__(self, storage: Storage, access: AccessFile, serial: Serial) -> None:
        self.storage = storage
        self.access = access
        self.serial = serial
        self._locks: dict[str, asyncio.Lock] = {}
        self._routes: list[
            tuple[re.Pattern[str], dict[str, Callable[..., Awaitable[Response]]]]
        ] = [
            (re.compile(r"/v2/"), {"GET": self._base}),
            (re.compile(r"/v2/_catalog"), {"GET": self._catalog}),
            (re.compile(rf"/v2/{_NAME}/tags/list"), {"GET": self._tags}),
            (
                re.compile(rf"/v2/{_NAME}/manifests/{_VERSION}"),
                {
                    "GET": self._get_manifest,
                    "HEAD": self._get_manifest,
                    "PUT": self._put_manifest,
                    "DELETE": self._delete_manifest,
                },
            ),
            (
                re.compile(rf"/v2/{_NAME}/blobs/{_DIGEST}"),
                {"GET": self._get_blob, "HEAD": self._get_blob, "DELETE": self._delete_blob},
            ),
            (re.compile(rf"/v2/{_NAME}/blobs/uploads/"), {"POST": self._start_upload}),
            (
                re.compile(rf"/v2/{_NAME}/blobs/uploads/{_UPLOAD}"),
                {
                    "GET": self._upload_status,
                    "PATCH": self._append,
                    "PUT": self._finish,
                    "DELETE": self._cancel,
                },
            ),
            (re.compile(rf"/v2/{_NAME}/referrers/{_DIGEST}"), {"GET": self._referrers}),
        ]

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"only HTTP is served here, not {scope['type']}")
        request = Request(scope, receive)
        response = await self._answer(request)
        response.headers["Docker-Distribution-Api-Version"] = "registry/2.0"
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        if refusal := self._refusal(request):
            return refusal
        for pattern, verbs in self._routes:
            found = pattern.fullmatch(request.url.path)
            if not found:
                continue
            verb = verbs.get(request.method)
            if verb is None:
                return error(405, "UNSUPPORTED", f"{request.method} is not supported here")
            if len(found.groupdict().get("name") or "") > NAME_MAX:
                return error(400, "NAME_INVALID", f"the name is over {NAME_MAX} characters")
            return await self._guarded(verb, request, found.groupdict())
        return error(404, "NAME_INVALID", f"no such path: {request.url.path}")

    async def _guarded(
        self, verb: Callable[..., Awaitable[Response]], request: Request, parts: dict[str, str]
    ) -> Response:
        try:
            return await verb(request, **parts)
        except NotFound as missing:
            code = "MANIFEST_UNKNOWN" if "/manifests/" in request.url.path else "BLOB_UNKNOWN"
            return error(404, code, str(missing))
        except InvalidSpec as wrong:
            code = "DIGEST_INVALID" if "digest" in str(wrong) else "MANIFEST_INVALID"
            return error(400, code, str(wrong))
        except BayplanError as failed:
            return error(400, "MANIFEST_INVALID", str(failed))
        except OSError as failed:
            if failed.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            log.error("registry disk full", path=str(self.storage.root))
            return error(507, "UNKNOWN", "the registry's disk is full")

    def _refusal(self, request: Request) -> Response | None:
        certificate = request.scope.get("peer_certificate")
        holder = self.access.find(self.serial(certificate)) if certificate else None
        if holder is None:
            return error(401, "UNAUTHORIZED", "your certificate is not valid here (any more)")
        writes = request.method not in ("GET", "HEAD")
        if writes and holder.access is not Access.PUSH:
            return error(403, "DENIED", f"{holder.name} may pull, not push; ask for role operator")
        return None

    async def _base(self, _: Request) -> Response:
        return JSONResponse({})

    # --- listings -----------------------------------------------------------------------------

    async def _catalog(self, request: Request) -> Response:
        names = await run_in_threadpool(self.storage.repositories)
        return self._page(request, names, lambda page: {"repositories": page})

    async def _tags(self, request: Request, name: str) -> Response:
        tags = await run_in_threadpool(self.storage.tags, name)
        return self._page(request, tags, lambda page: {"name": name, "tags": page})

    def _page(
        self, request: Request, names: list[str], body: Callable[[list[str]], dict[str, Any]]
    ) -> Response:
        asked = request.query_params.get("n", str(PAGE_MAX))
        if not asked.isdecimal():
            return error(400, "UNSUPPORTED", f"n={asked!r} is not a number")
        count = min(int(asked), PAGE_MAX)
        last = request.query_params.get("last", "")
        rest = [n for n in names if n > last]
        page = rest[:count]
        response = JSONResponse(body(page))
        if len(rest) > count and page:
            target = f"{request.url.path}?n={count}&last={page[-1]}"
            response.headers["Link"] = f'<{target}>; rel="next"'
        return response

    async def _referrers(self, request: Request, name: str, digest: str) -> Response:
        wanted = request.query_params.get("artifactType")

        def scan() -> list[dict[str, Any]]:
            return list(self._referring(name, digest, wanted))

        manifests = await run_in_threadpool(scan)
        body = {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}
        response = Response(json.dumps(body), media_type=INDEX)
        if wanted:
            response.headers["OCI-Filters-Applied"] = "artifactType"
        return response

    def _referring(self, name: str, digest: str, wanted: str | None) -> list[dict[str, Any]]:
        found = []
        for own, media_type, data in self.storage.manifests(name):
            manifest = load_json(data, "manifest")
            if (manifest.get("subject") or {}).get("digest") != digest:
                continue
            kind = manifest.get("artifactType") or (manifest.get("config") or {}).get("mediaType")
            if wanted and kind != wanted:
                continue
            entry = {"mediaType": media_type, "digest": own, "size": len(data)}
            entry |= {"artifactType": kind, "annotations": manifest.get("annotations") or {}}
            found.append(entry)
        return found

    # --- manifests ----------------------------------------------------------------------------

    async def _get_manifest(self, request: Request, name: str, version: str) -> Response:
        digest, media_type, data = await run_in_threadpool(self.storage.manifest, name, version)
        headers = {"Docker-Content-Digest": digest, "Content-Length": str(len(data))}
        if version != digest:
            headers[TAGGED_AT] = repr(
                await run_in_threadpool(self.storage.tagged_at, name, version)
            )
        content = b"" if request.method == "HEAD" else data
        return Response(content, media_type=media_type, headers=headers)

    async def _put_manifest(self, request: Request, name: str, version: str) -> Response:
        media_type = request.headers.get("content-type", "")
        if media_type not in (*MANIFESTS, *INDEXES):
            raise InvalidSpec(f"{media_type!r} is not a manifest's media type")
        data = b""
        async for chunk in request.stream():
            data += chunk
            if len(data) > MANIFEST_BYTES_MAX:
                return error(413, "SIZE_INVALID", "the manifest is over 4 MiB")
        manifest = load_json(data, "manifest")
        await run_in_threadpool(self._check_children, name, media_type, manifest)
        tag = "" if version.startswith("sha256:") else version
        digest = await run_in_threadpool(self.storage.put_manifest, name, tag, media_type, data)
        if not tag and digest != version:
            raise InvalidSpec(f"the manifest has the digest {digest}, not {version}")
        headers = {
            "Location": f"/v2/{name}/manifests/{digest}",
            "Docker-Content-Digest": digest,
        }
        if subject := (manifest.get("subject") or {}).get("digest"):
            headers["OCI-Subject"] = subject
        log.info("manifest pushed", name=name, version=version, digest=digest)
        return Response(status_code=201, headers=headers)

    def _check_children(self, name: str, media_type: str, manifest: dict[str, Any]) -> None:
        """A manifest must not point to what is not here."""
        if media_type in INDEXES:
            for entry in manifest.get("manifests") or []:
                self.storage.manifest(name, self._digest(entry))
            return
        for entry in (manifest.get("config"), *(manifest.get("layers") or [])):
            self.storage.blob(name, self._digest(entry))

    @staticmethod
    def _digest(entry: Any) -> str:
        digest = entry.get("digest") if isinstance(entry, dict) else None
        if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
            raise InvalidSpec(f"{entry!r} is not a descriptor")
        return digest

    async def _delete_manifest(self, _: Request, name: str, version: str) -> Response:
        await run_in_threadpool(self.storage.delete_manifest, name, version)
        return Response(status_code=202)

    # --- blobs --------------------------------------------------------------------------------

    async def _get_blob(self, request: Request, name: str, digest: str) -> Response:
        path = await run_in_threadpool(self.storage.blob, name, digest)
        headers = {"Docker-Content-Digest": digest, "Accept-Ranges": "bytes"}
        return FileResponse(path, media_type="application/octet-stream", headers=headers)

    async def _delete_blob(self, _: Request, name: str, digest: str) -> Response:
        await run_in_threadpool(self.storage.unlink_blob, name, digest)
        return Response(status_code=202)

    async def _start_upload(self, request: Request, name: str) -> Response:
        query = request.query_params
        mount, source = query.get("mount", ""), query.get("from", "")
        if DIGEST.fullmatch(mount) and NAME.fullmatch(source):
            try:
                self.storage.blob(source, mount)
            except NotFound:
                log.info("mount refused, blob unknown", source=source, digest=mount)
            else:
                self.storage.link_blob(name, mount)
                return self._created(name, mount)
        upload = self.storage.start_upload()
        if digest := query.get("digest"):
            await self._receive(request, upload)
            return await self._complete(name, upload, digest)
        return self._accepted(name, upload, 0)

    def _accepted(self, name: str, upload: str, size: int) -> Response:
        headers = {
            "Location": f"/v2/{name}/blobs/uploads/{upload}",
            "Range": f"0-{max(size - 1, 0)}",
            "Docker-Upload-UUID": upload,
        }
        return Response(status_code=202, headers=headers)

    def _created(self, name: str, digest: str) -> Response:
        headers = {"Location": f"/v2/{name}/blobs/{digest}", "Docker-Content-Digest": digest}
        return Response(status_code=201, headers=headers)

    async def _receive(self, request: Request, upload: str) -> int:
        """Append the body; the size then. One writer at a time an upload."""
        path = self.storage.upload(upload)
        async with self._locks.setdefault(upload, asyncio.Lock()):
            with path.open("ab") as out:
                async for chunk in request.stream():
                    await run_in_threadpool(out.write, chunk)
                return out.tell()

    async def _upload_status(self, _: Request, name: str, upload: str) -> Response:
        response = self._accepted(name, upload, self.storage.upload(upload).stat().st_size)
        response.status_code = 204
        return response

    async def _append(self, request: Request, name: str, upload: str) -> Response:
        size = self.storage.upload(upload).stat().st_size
        if given := request.headers.get("content-range"):
            start = given.removeprefix("bytes ").partition("-")[0]
            if start != str(size):
                return error(416, "BLOB_UPLOAD_INVALID", f"the next byte is {size}, not {start}")
        return self._accepted(name, upload, await self._receive(request, upload))

    async def _finish(self, request: Request, name: str, upload: str) -> Response:
        await self._receive(request, upload)
        return await self._complete(name, upload, request.query_params.get("digest", ""))

    async def _complete(self, name: str, upload: str, digest: str) -> Response:
        self._locks.pop(upload, None)
        if not DIGEST.fullmatch(digest):
            raise InvalidSpec(f"{digest!r} is not a sha256 digest")
        await run_in_threadpool(self.storage.finish_upload, name, upload, digest)
        return self._created(name, digest)

    async def _cancel(self, _: Request, name: str, upload: str) -> Response:
        self._locks.pop(upload, None)
        self.storage.cancel_upload(upload)
        return Response(status_code=204)
