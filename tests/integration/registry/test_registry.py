"""The built-in registry, spoken to by our own client and by others."""

from __future__ import annotations

import hashlib
import io
import subprocess
from pathlib import Path

import pytest

from agent.images import ImageError, Images, Registries
from bayplan.oci.importing import RunDefaults, import_rootfs
from bayplan.oci.manifest import Descriptor
from bayplan.oci.reference import parse
from bayplan.oci.registry import Endpoint, RegistryClient, RegistryError
from controller.registry import access
from tests.integration.registry.conftest import RunningRegistry

pytestmark = pytest.mark.root


async def push(registry: RunningRegistry, rootfs: io.BytesIO, name: str = "shop/web:1") -> str:
    async with RegistryClient(registry.endpoint("operator")) as client:
        defaults = RunDefaults(cmd=("/bin/app",), env=("A=1",))
        return await import_rootfs(client, rootfs, parse(name), defaults)


def images(registry: RunningRegistry, root: Path, who: str = "node") -> Images:
    return Images(root, Registries(builtin=lambda: [registry.endpoint(who)]))


async def test_what_is_imported_can_be_pulled(
    registry: RunningRegistry, rootfs: io.BytesIO, tmp_path: Path
) -> None:
    """Import, list, pull, and find it again without the registry."""
    digest = await push(registry, rootfs)
    async with RegistryClient(registry.endpoint("node")) as client:
        assert await client.catalog() == ["shop/web"]
        assert await client.tags("shop/web") == ["1"]
    store = images(registry, tmp_path / "images")
    image = await store.ensure("shop/web:1", deadline_s=20)
    assert image.digest == digest
    assert (image.config.cmd, image.config.env) == (("/bin/app",), ("A=1",))
    assert (image.layers[0] / "bin/app").stat().st_mode & 0o777 == 0o755
    again = Images(tmp_path / "images", Registries(builtin=list))
    assert again.find("shop/web:1") == image


async def test_importing_twice_gives_the_same_image(
    registry: RunningRegistry, rootfs: io.BytesIO
) -> None:
    """Deterministic: nothing new is stored."""
    first = await push(registry, rootfs)
    rootfs.seek(0)
    assert await push(registry, rootfs) == first


async def test_a_layer_is_unpacked_once(
    registry: RunningRegistry, rootfs: io.BytesIO, tmp_path: Path
) -> None:
    """Two names for the same layer share its directory; collecting one keeps it for the other."""
    await push(registry, rootfs)
    rootfs.seek(0)
    await push(registry, rootfs, "other:2")
    store = images(registry, tmp_path / "images")
    one = await store.ensure("shop/web:1", deadline_s=20)
    two = await store.ensure("other:2", deadline_s=20)
    assert one.layers == two.layers
    await store.collect({"other:2"})
    assert two.layers[0].is_dir()
    assert store.find("shop/web:1") is None
    assert await store.collect(set()) > 0
    assert list((tmp_path / "images/layers").iterdir()) == []
    assert list((tmp_path / "images/incoming").iterdir()) == []


async def test_a_node_cannot_push(registry: RunningRegistry, rootfs: io.BytesIO) -> None:
    """Nodes pull and nothing else."""
    async with RegistryClient(registry.endpoint("node")) as client:
        with pytest.raises(RegistryError, match="403"):
            await import_rootfs(client, rootfs, parse("web:1"), RunDefaults())


async def test_a_valid_certificate_nobody_knows_is_refused(registry: RunningRegistry) -> None:
    """Issued by the CA, but not (or no longer) in the list."""
    async with RegistryClient(registry.endpoint("stranger")) as client:
        with pytest.raises(RegistryError, match="refuses access"):
            await client.catalog()


async def test_revocation_works_at_once(registry: RunningRegistry, rootfs: io.BytesIO) -> None:
    """On a connection that is open already."""
    await push(registry, rootfs)
    async with RegistryClient(registry.endpoint("node")) as client:
        assert await client.tags("shop/web") == ["1"]
        access.write(registry.access, {})
        with pytest.raises(RegistryError):
            await client.tags("shop/web")


async def test_nobody_gets_in_without_a_certificate(registry: RunningRegistry) -> None:
    """The handshake fails."""
    bare = Endpoint(registry.host)
    async with RegistryClient(bare) as client:
        with pytest.raises(RegistryError, match="does not answer"):
            await client.catalog()


async def test_a_damaged_blob_is_noticed(
    registry: RunningRegistry, rootfs: io.BytesIO, tmp_path: Path
) -> None:
    """One flipped byte on the registry's disk: the pull fails, nothing is kept."""
    await push(registry, rootfs)
    largest = max((registry.root / "blobs").iterdir(), key=lambda p: p.stat().st_size)
    data = bytearray(largest.read_bytes())
    for blob in (registry.root / "blobs").iterdir():
        if blob.read_bytes()[:2] == b"\x1f\x8b":
            data = bytearray(blob.read_bytes())
            data[-9] ^= 1
            blob.write_bytes(data)
    store = images(registry, tmp_path / "images")
    with pytest.raises(ImageError, match="has the digest") as caught:
        await store.ensure("shop/web:1", deadline_s=20)
    assert not caught.value.retryable
    assert list((tmp_path / "images/layers").iterdir()) == []


async def test_an_image_that_is_not_there(registry: RunningRegistry, tmp_path: Path) -> None:
    """One sentence, and no use in trying again."""
    store = images(registry, tmp_path / "images")
    with pytest.raises(ImageError, match="has no nothing:1") as caught:
        await store.ensure("nothing:1", deadline_s=20)
    assert (caught.value.reason, caught.value.retryable) == ("not_found", False)


async def test_an_upload_whose_digest_is_wrong_is_refused(registry: RunningRegistry) -> None:
    """And leaves nothing behind."""
    async with RegistryClient(registry.endpoint("operator")) as client:
        wrong = Descriptor("", "sha256:" + hashlib.sha256(b"other").hexdigest(), 3)
        with pytest.raises(RegistryError, match="400"):
            await client.push_blob("web", wrong, io.BytesIO(b"abc"))
    assert list((registry.root / "uploads").iterdir()) == []


def test_skopeo_copies_in_and_out(registry: RunningRegistry, tmp_path: Path) -> None:
    """A client of others, with its own idea of the protocol: chunked uploads, mounts, HEADs."""
    certificates = tmp_path / "skopeo"
    certificates.mkdir()
    for source, target in (
        ("ca.pem", "ca.crt"),
        ("operator.pem", "client.cert"),
        ("operator.key", "client.key"),
    ):
        (certificates / target).write_bytes((registry.folder / source).read_bytes())
    layout = tmp_path / "layout"
    subprocess.run(["umoci", "init", "--layout", layout], check=True, timeout=30)
    subprocess.run(["umoci", "new", "--image", f"{layout}:1"], check=True, timeout=30)
    (tmp_path / "file").write_text("hello")
    insert = ["umoci", "insert", "--image", f"{layout}:1", tmp_path / "file", "/file"]
    subprocess.run(insert, check=True, timeout=30)
    remote = f"docker://{registry.host}/tools/app:1"
    common = ["skopeo", "--insecure-policy", "copy"]
    subprocess.run(
        [*common, f"--dest-cert-dir={certificates}", f"oci:{layout}:1", remote],
        check=True,
        timeout=60,
    )
    back = tmp_path / "back"
    subprocess.run(
        [*common, f"--src-cert-dir={certificates}", remote, f"oci:{back}:1"],
        check=True,
        timeout=60,
    )
    sent = {p.name for p in (layout / "blobs/sha256").iterdir()}
    assert {p.name for p in (back / "blobs/sha256").iterdir()} <= sent
