"""Secrets, and who uses them."""

from __future__ import annotations

from bayplan.model.secret import Secret
from bayplan.model.service import SecretReference, TaskTemplate
from bayplan.model.validate.names import SECRET_KEY, check_name
from bayplan.model.validate.problems import Problem

SECRET_VALUE_BYTES_MAX = 256 * 1024
SECRET_BYTES_MAX = 512 * 1024


def validate_secret(secret: Secret) -> list[Problem]:
    """Everything that is wrong with a secret; never shows a value."""
    problems = [*check_name(secret.name, ("name",)), *check_name(secret.namespace, ("namespace",))]
    if not secret.values:
        problems.append(Problem((), "holds no value; write e.g. values: {password: …}"))
    for key, value in secret.values.items():
        if SECRET_KEY.fullmatch(key) is None or key in (".", ".."):
            problems.append(
                Problem((key,), f'"{key[:60]}" is not a key; use letters, digits, dots and dashes')
            )
        if len(value) > SECRET_VALUE_BYTES_MAX:
            problems.append(
                Problem((key,), f"is {len(value)} bytes long; at most {SECRET_VALUE_BYTES_MAX}")
            )
    total = sum(map(len, secret.values.values()))
    if total > SECRET_BYTES_MAX:
        problems.append(Problem((), f"holds {total} bytes; at most {SECRET_BYTES_MAX}"))
    return problems


def secret_references(template: TaskTemplate) -> tuple[SecretReference, ...]:
    """What secrets a template uses, each once, in its order."""
    found = [e.secret for e in template.env if e.secret] + [f.secret for f in template.files]
    return tuple(dict.fromkeys(found))
