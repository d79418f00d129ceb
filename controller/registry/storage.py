"""Blobs, manifests and tags in a directory.

    blobs/<hex>                       every blob and manifest once, by its sha256
    repositories/<name>/_blobs/<hex>  empty: the blob may be read through this repository
    repositories/<name>/_manifests/<hex>
                                      the media type of a manifest of this repository
    repositories/<name>/_tags/<tag>   the digest the tag points to
    uploads/<id>                      a blob on its way in

Everything appears by rename, so that a reader never sees half of anything. A name's parts cannot
begin with `_` (grammar of the distribution specification), so they never meet ours.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bayplan.model.errors import InvalidSpec, NotFound

UPLOAD_AGE_MAX_S = 24 * 3600


class Storage:
    """All paths are made of checked names and hex digits alone."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for part in ("blobs", "repositories", "uploads"):
            (root / part).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._drop_stale_uploads()

    def _drop_stale_uploads(self) -> None:
        for path in (self.root / "uploads").iterdir():
            if path.stat().st_mtime < time.time() - UPLOAD_AGE_MAX_S:
                path.unlink(missing_ok=True)

    def _repository(self, name: str, part: str) -> Path:
        return self.root / "repositories" / name / part

    def _content(self, digest: str) -> Path:
        return self.root / "blobs" / digest.removeprefix("sha256:")

    # --- blobs --------------------------------------------------------------------------------

    def blob(self, name: str, digest: str) -> Path:
        """The file of a blob of this repository. Raises NotFound."""
        path = self._content(digest)
        linked = self._repository(name, "_blobs") / digest.removeprefix("sha256:")
        if not linked.exists() or not path.exists():
            raise NotFound(f"{name} has no blob {digest}")
        return path

    def link_blob(self, name: str, digest: str) -> None:
        folder = self._repository(name, "_blobs")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / digest.removeprefix("sha256:")).touch(mode=0o600)

    def unlink_blob(self, name: str, digest: str) -> None:
        self.blob(name, digest)
        (self._repository(name, "_blobs") / digest.removeprefix("sha256:")).unlink()

    def start_upload(self) -> str:
        upload = secrets.token_hex(16)
        (self.root / "uploads" / upload).touch(mode=0o600)
        return upload

    def upload(self, upload: str) -> Path:
        """The file of an upload under way. Raises NotFound."""
        path = self.root / "uploads" / upload
        if not path.exists():
            raise NotFound(f"upload {upload} is not known; it has ended or is over a day old")
        return path

    def finish_upload(self, name: str, upload: str, digest: str) -> None:
        """Verify, make durable and link. Raises InvalidSpec where the digest is another."""
        path = self.upload(upload)
        with path.open("rb") as source:
            found = "sha256:" + hashlib.file_digest(source, "sha256").hexdigest()
            if found != digest:
                path.unlink()
                raise InvalidSpec(f"what was uploaded has the digest {found}, not {digest}")
            os.fsync(source.fileno())
        path.replace(self._content(digest))
        self.link_blob(name, digest)

    def cancel_upload(self, upload: str) -> None:
        self.upload(upload).unlink()

    # --- manifests ----------------------------------------------------------------------------

    def put_manifest(self, name: str, tag: str, media_type: str, data: bytes) -> str:
        """Store, and point `tag` at it if there is one; the digest."""
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self._write(self._content(digest), data)
        folder = self._repository(name, "_manifests")
        self._write(folder / digest.removeprefix("sha256:"), media_type.encode())
        if tag:
            self._write(self._repository(name, "_tags") / tag, digest.encode())
        return digest

    def manifest(self, name: str, version: str) -> tuple[str, str, bytes]:
        """(digest, media type, bytes) by tag or digest. Raises NotFound."""
        digest = version
        if not version.startswith("sha256:"):
            try:
                digest = (self._repository(name, "_tags") / version).read_text()
            except FileNotFoundError:
                raise NotFound(f"{name} has no tag {version}") from None
        entry = self._repository(name, "_manifests") / digest.removeprefix("sha256:")
        try:
            return digest, entry.read_text(), self._content(digest).read_bytes()
        except FileNotFoundError:
            raise NotFound(f"{name} has no manifest {digest}") from None

    def tagged_at(self, name: str, tag: str) -> float:
        """When the tag was last set, also where it stayed the same. Raises NotFound."""
        try:
            return (self._repository(name, "_tags") / tag).stat().st_mtime
        except FileNotFoundError:
            raise NotFound(f"{name} has no tag {tag}") from None

    def delete_manifest(self, name: str, version: str) -> None:
        """A tag: the tag alone. A digest: the manifest and every tag that points to it."""
        digest, _, _ = self.manifest(name, version)
        if not version.startswith("sha256:"):
            (self._repository(name, "_tags") / version).unlink()
            return
        (self._repository(name, "_manifests") / digest.removeprefix("sha256:")).unlink()
        for tag in self.tags(name):
            path = self._repository(name, "_tags") / tag
            if path.read_text() == digest:
                path.unlink()

    def tags(self, name: str) -> list[str]:
        """Sorted. Raises NotFound for a repository nobody has pushed to."""
        if not self._repository(name, "_manifests").is_dir():
            raise NotFound(f"there is no repository {name}")
        folder = self._repository(name, "_tags")
        return sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []

    def manifests(self, name: str) -> Iterator[tuple[str, str, bytes]]:
        folder = self._repository(name, "_manifests")
        for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
            yield self.manifest(name, f"sha256:{entry.name}")

    def repositories(self) -> list[str]:
        top = self.root / "repositories"
        return sorted(str(p.parent.relative_to(top)) for p in top.rglob("_manifests"))

    def _write(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=self.root / "uploads")
        with os.fdopen(descriptor, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        Path(temporary).replace(path)
