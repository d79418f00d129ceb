"""Names of images.

A name whose first part is a host (it has a `.` or `:`, or is `localhost`) belongs to that
registry; any other belongs to the cluster's built-in one. The grammar is that of the OCI
distribution specification 1.1, section "Pulling manifests".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bayplan.model.errors import InvalidSpec

NAME = re.compile(
    r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
)
TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
HOST = re.compile(
    r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*"
    r"|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?"
)
NAME_MAX = 255


@dataclass(frozen=True, slots=True)
class Reference:
    """`host` empty: the built-in registry. `digest` empty: what `tag` points to now."""

    host: str
    name: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        prefix = f"{self.host}/" if self.host else ""
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{prefix}{self.name}{tag}{digest}"

    @property
    def version(self) -> str:
        """What the registry is asked for: the digest, else the tag."""
        return self.digest or self.tag


def _is_host(part: str) -> bool:
    return "." in part or ":" in part or part == "localhost"


def parse(text: str) -> Reference:
    """Raises InvalidSpec, naming the part that is wrong. Without tag and digest: `latest`."""
    rest, at, digest = text.partition("@")
    if at and not DIGEST.fullmatch(digest):
        raise InvalidSpec(
            f'image "{text}": "{digest}" is not a digest; write sha256: and 64 hex digits'
        )
    host = ""
    first, slash, tail = rest.partition("/")
    if slash and _is_host(first):
        host, rest = first, tail
        if not HOST.fullmatch(host):
            raise InvalidSpec(
                f'image "{text}": "{host}" is not a registry; write HOST or HOST:PORT'
            )
    name, colon, tag = rest.partition(":")
    if colon and not TAG.fullmatch(tag):
        raise InvalidSpec(
            f'image "{text}": "{tag}" is not a tag; use letters, digits, ".", "_" and "-"'
        )
    if not NAME.fullmatch(name) or len(name) > NAME_MAX:
        raise InvalidSpec(
            f'image "{text}": "{name}" is not an image name; use lower-case letters, digits, '
            f'".", "_", "-" and "/", e.g. shop/web:1.42'
        )
    return Reference(host=host, name=name, tag=tag or ("" if digest else "latest"), digest=digest)
