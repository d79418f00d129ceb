"""Identities and tokens: who may come in, as what. Pure, as `intent`."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from bayplan import pki
from bayplan.model.errors import Conflict, InvalidSpec, NotFound, PermissionDenied
from bayplan.model.identity import Identity, JoinToken, Role, TokenPurpose
from controller.server.intent import Desk, Outcome, event, said
from controller.server.nodes import check_name
from controller.store.base import Change, Changes, Delete, Key, Kind, Put, Tables

TOKEN_LIFETIME_S: Final = 900.0
TOKENS_MAX: Final = 1_000
_NAME = re.compile(r"[a-zA-Z0-9]([\w.@+-]{0,62}[a-zA-Z0-9])?")


def _last_admin(tables: Tables, name: str) -> bool:
    return not any(
        s.value.role is Role.ADMIN and s.value.name != name for s in tables.identities.values()
    )


def set_identity(desk: Desk, name: str, role: Role, grant_exec: bool) -> Outcome:
    """Raises InvalidSpec, Conflict (the last administrator would lose the role)."""
    if not _NAME.fullmatch(name):
        raise InvalidSpec(f"{name[:80]!r} is not a name; use letters, digits and .@+_-, at most 64")
    key: Key = ("", name)
    stored = desk.tables.identities.get(key)
    if stored is None:
        made = Identity(name=name, role=role, exec=grant_exec, created_at=desk.now)
        changes: Changes = (
            Put(Kind.IDENTITY, key, made, 0),
            event(desk, "identity", "", name, "Created", f"{role} by {desk.caller}"),
        )
        effect = f"`bay user token {name}` makes the token to log in with"
        lines = [f"role: {role}", *(["exec: true"] if grant_exec else [])]
        return Outcome(changes, (said("Identity", key, "create", summary=lines, effect=effect),))
    old = stored.value
    new = replace(old, role=role, exec=grant_exec)
    if new == old:
        return Outcome((), (said("Identity", key, "unchanged"),))
    if old.role is Role.ADMIN and role is not Role.ADMIN and _last_admin(desk.tables, name):
        raise Conflict(f"{name} is the last administrator", hint="make another one first")
    lines = []
    if old.role is not role:
        lines.append(f"role: {old.role} -> {role}")
    if old.exec is not grant_exec:
        lines.append(f"exec: {str(old.exec).lower()} -> {str(grant_exec).lower()}")
    changes = (
        Put(Kind.IDENTITY, key, new, stored.mod_revision),
        event(desk, "identity", "", name, "Changed", f"{'; '.join(lines)} by {desk.caller}"),
    )
    change = said("Identity", key, "update", summary=lines, effect="holds from the next call on")
    return Outcome(changes, (change,))


def remove_identity(desk: Desk, name: str) -> Outcome:
    """Its certificates and its tokens go with it. Raises NotFound, Conflict."""
    key: Key = ("", name)
    stored = desk.tables.identities.get(key)
    if stored is None:
        raise NotFound(f"there is no identity {name}", hint="`bay user ls` lists them")
    if stored.value.role is Role.ADMIN and _last_admin(desk.tables, name):
        raise Conflict(f"{name} is the last administrator", hint="make another one first")
    tokens: list[Change] = [
        Delete(Kind.TOKEN, where, None)
        for where, s in desk.tables.tokens.items()
        if s.value.purpose is TokenPurpose.OPERATOR and s.value.subject == name
    ]
    changes: Changes = (
        Delete(Kind.IDENTITY, key, stored.mod_revision),
        *tokens,
        event(desk, "identity", "", name, "Removed", f"by {desk.caller}"),
    )
    effect = "its certificates are revoked"
    return Outcome(changes, (said("Identity", key, "delete", effect=effect),))


def create_token(
    desk: Desk, token: pki.Token, purpose: TokenPurpose, subject: str, lifetime_s: float
) -> tuple[Outcome, float]:
    """The record of `token`, and when it expires. Tokens that are over are swept away with it.
    Raises InvalidSpec, NotFound, Conflict."""
    lifetime = lifetime_s or TOKEN_LIFETIME_S
    if not 0 < lifetime <= pki.TOKEN_LIFETIME_MAX_S:
        raise InvalidSpec(
            f"a token cannot live {lifetime:g} s", hint="at most an hour, e.g. --lifetime 15m"
        )
    if purpose is TokenPurpose.OPERATOR and ("", subject) not in desk.tables.identities:
        raise NotFound(
            f"there is no identity {subject or '(none given)'} to log in as",
            hint=f"make it first: `bay user add {subject or 'NAME'} --role viewer`",
        )
    if purpose is TokenPurpose.NODE and subject:
        check_name(subject)
    tokens = desk.tables.tokens
    over = [where for where, s in tokens.items() if s.value.expires_at <= desk.now]
    if len(tokens) - len(over) >= TOKENS_MAX:
        raise Conflict(f"there are {TOKENS_MAX} tokens already", hint="wait until they expire")
    expires_at = desk.now + lifetime
    record = JoinToken(
        id=token.id,
        purpose=purpose,
        secret_hash=pki.hash_secret(token.secret),
        subject=subject,
        expires_at=expires_at,
        created_at=desk.now,
        created_by=desk.caller,
    )
    what = f"for {purpose} {subject or '(any)'} by {desk.caller}"
    changes: Changes = (
        Put(Kind.TOKEN, ("", token.id), record, 0),
        event(desk, "token", "", token.id, "Created", what),
        *(Delete(Kind.TOKEN, where, None) for where in over[:50]),
    )
    return Outcome(changes, ()), expires_at


def check_token(
    tables: Tables, text: str, purpose: TokenPurpose, now: float
) -> tuple[JoinToken, int]:
    """The valid token's record and its revision. Raises PermissionDenied, which tells apart only
    what somebody who holds the secret may know."""
    hint = "ask an administrator for a new one: `bay node token`, `bay user token`"
    try:
        token = pki.parse_token(text)
    except pki.PkiError as error:
        raise PermissionDenied(error.message, hint=error.hint) from error
    stored = tables.tokens.get(("", token.id))
    if stored is None or not pki.secret_matches(token.secret, stored.value.secret_hash):
        raise PermissionDenied("this token is not known here", hint=hint)
    record = stored.value
    if record.expires_at <= now:
        raise PermissionDenied("this token has expired", hint=hint)
    if record.used:
        raise PermissionDenied("this token was used already", hint=hint)
    if record.purpose is not purpose:
        names = {TokenPurpose.NODE: "a node", TokenPurpose.OPERATOR: "an operator"}
        raise PermissionDenied(
            f"this token is for {names[record.purpose]}, not for {names[purpose]}", hint=hint
        )
    return record, stored.mod_revision


def spent(record: JoinToken, revision: int) -> tuple[Change, ...]:
    """A bound token is good for one use: written so that a second use conflicts."""
    if not record.subject:
        return ()
    return (Put(Kind.TOKEN, ("", record.id), replace(record, used=True), revision),)
