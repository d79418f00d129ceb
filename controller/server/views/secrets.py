"""Secrets as operators see them: everything but their values."""

from __future__ import annotations

from collections.abc import Mapping

from bayplan.model.service import Service
from bayplan.model.validate import secret_references
from bayplan.wire._pb.bayplan.v1 import control_pb2 as control
from controller.store.base import Key, Stored, Tables


def secret_users(services: Mapping[Key, Stored[Service]], namespace: str, secret: str) -> list[str]:
    """Names of the services of the namespace that refer to the secret."""
    return sorted(
        s.value.name
        for (where, _), s in services.items()
        if where == namespace
        and any(r.name == secret for r in secret_references(s.value.spec.template))
    )


def secret_views(tables: Tables, namespace: str) -> list[control.SecretView]:
    """Names, keys and versions; values never leave the controller but to nodes that use them."""
    return [
        control.SecretView(
            namespace=secret.namespace,
            name=secret.name,
            keys=sorted(secret.sealed),
            version=secret.version,
            updated_at=secret.updated_at,
            updated_by=secret.updated_by,
            used_by=secret_users(tables.services, secret.namespace, secret.name),
        )
        for key, stored in sorted(tables.secrets.items())
        if (secret := stored.value) and namespace in ("", key[0])
    ]
