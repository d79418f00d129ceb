"""The content store: manifests and configurations by digest, unpacked layers by diff_id.

    blobs/<hex>          manifests and configurations (layers' archives are dropped once unpacked)
    layers/<hex>/        one unpacked layer, shared by all images that have it
    references.json      what each reference pointed to when it was last pulled
    incoming/            whatever is not finished; emptied at start

A layer directory appears by rename only after its digest was verified and its files were synced.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agent.images.unpack import Unpacker
from agent.syscalls.sync import syncfs
from bayplan.oci.manifest import ImageConfig, MalformedImage, Manifest, parse_config, parse_manifest


@dataclass(frozen=True, slots=True)
class Image:
    """`layers` lowest first: directories with overlayfs whiteouts and the archive's owners.
    `fetched_bytes` had to be fetched for it just now, which took `fetch_s`."""

    reference: str
    digest: str
    config: ImageConfig
    layers: tuple[Path, ...]
    fetched_bytes: int = field(default=0, compare=False)
    fetch_s: float = field(default=0.0, compare=False)


class Content:
    """Synchronous; called in threads by `Images`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.rmtree(root / "incoming", ignore_errors=True)
        for part in ("blobs", "layers", "incoming"):
            (root / part).mkdir(mode=0o700, parents=True, exist_ok=True)

    def incoming(self) -> Path:
        """A new empty directory for work in progress, on the same filesystem."""
        return Path(tempfile.mkdtemp(dir=self.root / "incoming"))

    def blob(self, digest: str) -> bytes | None:
        try:
            return (self.root / "blobs" / digest.removeprefix("sha256:")).read_bytes()
        except FileNotFoundError:
            return None

    def put_blob(self, digest: str, data: bytes) -> None:
        self._replace(self.root / "blobs" / digest.removeprefix("sha256:"), data)

    def layer(self, diff_id: str) -> Path:
        """Where a layer is, or will be, unpacked."""
        return self.root / "layers" / diff_id.removeprefix("sha256:")

    def unpack(self, archive: Path, diff_id: str) -> None:
        """Raises MalformedImage where the archive's content is not the one `diff_id` names."""
        folder = self.incoming()
        root = folder / "layer"
        root.mkdir(mode=0o755)
        unpacker = Unpacker(root)
        try:
            with archive.open("rb") as source:
                found = unpacker.run(source)
        finally:
            unpacker.close()
        if found != diff_id:
            shutil.rmtree(folder)
            raise MalformedImage(f"a layer unpacks to {found}; its configuration says {diff_id}")
        sync = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            syncfs(sync)  # one for the whole layer: a power cut must not leave empty files
        finally:
            os.close(sync)
        try:
            root.rename(self.layer(diff_id))
        except OSError:
            if not self.layer(diff_id).is_dir():
                raise
        shutil.rmtree(folder, ignore_errors=True)

    # --- references -----------------------------------------------------------------------------

    def references(self) -> dict[str, str]:
        """Reference -> manifest digest."""
        try:
            found: dict[str, str] = json.loads((self.root / "references.json").read_text())
        except FileNotFoundError:
            return {}
        return found

    def set_references(self, references: Mapping[str, str]) -> None:
        self._replace(self.root / "references.json", json.dumps(references, indent=1).encode())

    def image(self, reference: str, digest: str) -> Image | None:
        """The image if all of it is here."""
        data = self.blob(digest)
        if data is None:
            return None
        manifest = parse_manifest(data)
        config_data = self.blob(manifest.config.digest)
        if config_data is None:
            return None
        config = parse_config(config_data)
        layers = tuple(self.layer(diff_id) for diff_id in config.diff_ids)
        if not all(path.is_dir() for path in layers):
            return None
        return Image(reference, digest, config, layers)

    # --- collection -----------------------------------------------------------------------------

    def collect(self, keep: Mapping[str, str]) -> int:
        """Drop every layer and blob that no reference in `keep` needs; bytes freed."""
        blobs: set[str] = set()
        layers: set[str] = set()
        for digest in keep.values():
            data = self.blob(digest)
            if data is None:
                continue
            config = parse_manifest(data).config.digest
            blobs |= {digest.removeprefix("sha256:"), config.removeprefix("sha256:")}
            if config_data := self.blob(config):
                layers |= {d.removeprefix("sha256:") for d in parse_config(config_data).diff_ids}
        self.set_references(keep)
        freed = 0
        for path in (self.root / "blobs").iterdir():
            if path.name not in blobs:
                freed += path.stat().st_size
                path.unlink()
        for path in (self.root / "layers").iterdir():
            if path.name not in layers:
                freed += _size(path)
                gone = self.incoming() / "layer"
                path.rename(gone)  # out of sight at once; a half-deleted layer is never used
                shutil.rmtree(gone.parent)
        return freed

    def _replace(self, path: Path, data: bytes) -> None:
        descriptor, temporary = tempfile.mkstemp(dir=self.root / "incoming")
        with os.fdopen(descriptor, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        Path(temporary).replace(path)


def check_layers(manifest: Manifest, config: ImageConfig) -> None:
    """Raises MalformedImage where the two do not list the same number of layers."""
    if len(manifest.layers) != len(config.diff_ids):
        raise MalformedImage(
            f"the manifest has {len(manifest.layers)} layers, the configuration "
            f"{len(config.diff_ids)}"
        )


def _size(path: Path) -> int:
    return sum(p.lstat().st_size for p in path.rglob("*") if not p.is_symlink())
