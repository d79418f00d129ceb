"""A registry at each of several controllers: what is imported outlives any one of them."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from agent.images import ImageError, Images, Registries
from bayplan.oci.importing import Imported, RunDefaults, import_everywhere
from bayplan.oci.reference import parse
from bayplan.oci.registry import Endpoint, RegistryError
from tests.integration.registry.conftest import RunningRegistry

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]
NAME = "shop/web:1"


def dead(endpoint: Endpoint) -> Endpoint:
    """As of a controller that is down: nobody listens on tcpmux's port."""
    return replace(endpoint, host="127.0.0.1:1")


async def load(endpoints: list[Endpoint], rootfs: io.BytesIO, version: str) -> Imported:
    return await import_everywhere(
        endpoints, rootfs, parse(NAME), RunDefaults(cmd=("/bin/app",), env=(f"V={version}",))
    )


async def test_any_one_may_be_lost(
    registries: tuple[RunningRegistry, ...], rootfs: io.BytesIO, tmp_path: Path
) -> None:
    """Imported once, the image is had without the first, the second or the third registry."""
    imported = await load([r.endpoint("operator") for r in registries], rootfs, "a")
    assert imported.missed == ()
    for lost in range(3):
        endpoints = [r.endpoint("node") for r in registries]
        endpoints[lost] = dead(endpoints[lost])
        images = Images(tmp_path / f"images{lost}", Registries(builtin=lambda e=endpoints: e))
        assert (await images.ensure(NAME, deadline_s=20)).digest == imported.digest


async def test_the_newest_tag_is_taken(
    registries: tuple[RunningRegistry, ...], rootfs: io.BytesIO, tmp_path: Path
) -> None:
    """One registry was away when the tag was moved: what it still has is not used, whichever is
    asked first, and the import said that it was missed."""
    pushing = [r.endpoint("operator") for r in registries]
    old = await load(pushing, rootfs, "a")
    new = await load([*pushing[:2], dead(pushing[2])], rootfs, "b")
    assert new.digest != old.digest
    assert ["127.0.0.1:1 does not answer" in why for why in new.missed] == [True]
    pulling = [r.endpoint("node") for r in reversed(registries)]
    for attempt in range(3):
        images = Images(tmp_path / f"images{attempt}", Registries(builtin=lambda: pulling))
        assert (await images.ensure(NAME, deadline_s=20)).digest == new.digest
        # The stale one and one of the others are a majority as well.
    images = Images(tmp_path / "two", Registries(builtin=lambda: [*pulling[:2], dead(pulling[2])]))
    assert (await images.ensure(NAME, deadline_s=20)).digest == new.digest


async def test_most_must_take_it(
    registries: tuple[RunningRegistry, ...], rootfs: io.BytesIO
) -> None:
    """In one of three it could be missed by whoever asks the other two: the import fails and
    says where the image is."""
    first, *others = [r.endpoint("operator") for r in registries]
    with pytest.raises(RegistryError, match=f"in 1 of 3 registries \\({first.host}\\)") as failed:
        await load([first, *map(dead, others)], rootfs, "a")
    assert failed.value.retryable


async def test_what_is_here_serves_where_no_registry_has_it(
    registries: tuple[RunningRegistry, ...], rootfs: io.BytesIO, tmp_path: Path
) -> None:
    """Their disks are lost: a host that has the image goes on with it, another one is told."""
    imported = await load([r.endpoint("operator") for r in registries], rootfs, "a")
    pulling = [r.endpoint("node") for r in registries]
    images = Images(tmp_path / "images", Registries(builtin=lambda: pulling))
    await images.ensure(NAME, deadline_s=20)
    for registry in registries:
        shutil.rmtree(registry.root / "repositories")
    assert (await images.ensure(NAME, deadline_s=20)).digest == imported.digest
    other = Images(tmp_path / "other", Registries(builtin=lambda: pulling))
    with pytest.raises(ImageError, match="has no shop/web:1") as failed:
        await other.ensure(NAME, deadline_s=20)
    assert failed.value.reason == "not_found"
