"""What a registry may send."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bayplan.oci.manifest import MalformedImage, choose_platform, parse_config, parse_manifest

DIGEST = "sha256:" + "0" * 64
LAYER = {"mediaType": "x", "digest": DIGEST, "size": 3}


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    ("manifest", "wrong"),
    [
        (b"{", "manifest is not JSON"),
        (b"[]", "not a JSON object"),
        (encoded({"config": LAYER}), "manifest.layers"),
        (encoded({"layers": [], "config": {"digest": "x", "size": 1}}), "manifest.config.digest"),
        (encoded({"layers": [{**LAYER, "size": -1}], "config": LAYER}), "manifest.layers[0].size"),
        (
            encoded({"layers": [{**LAYER, "size": True}], "config": LAYER}),
            "manifest.layers[0].size",
        ),
    ],
)
def test_a_malformed_manifest_is_refused_by_field(manifest: bytes, wrong: str) -> None:
    """Never a traceback, always the field."""
    with pytest.raises(MalformedImage) as caught:
        parse_manifest(manifest)
    assert wrong in str(caught.value)


def test_the_platform_is_chosen() -> None:
    """uname's x86_64 is an index's amd64; what is missing is named with what is there."""
    other = {
        **LAYER,
        "digest": "sha256:" + "1" * 64,
        "platform": {"os": "linux", "architecture": "arm64"},
    }
    amd = {**LAYER, "platform": {"os": "linux", "architecture": "amd64"}}
    index = encoded({"manifests": [other, amd]})
    assert choose_platform(index, "x86_64").digest == DIGEST
    with pytest.raises(
        MalformedImage, match="no image for linux/riscv64; the index has linux/arm64"
    ):
        choose_platform(index, "riscv64")


def test_a_configuration_keeps_to_what_it_must_be() -> None:
    """Nulls stand for nothing; wrong types are refused by field."""
    config = {"config": {"Env": None, "Cmd": ["sh"]}, "rootfs": {"diff_ids": [DIGEST]}}
    found = parse_config(encoded(config))
    assert (found.env, found.cmd, found.diff_ids) == ((), ("sh",), (DIGEST,))
    with pytest.raises(MalformedImage, match=r"config\.Cmd"):
        parse_config(encoded({"config": {"Cmd": "sh"}}))
