"""What a spec must satisfy whoever sends it. Pure; the command line and the controller share it.

Paths are those of the YAML an operator writes (`("health", "http", "port")`), so that a problem
can be shown beside its line.
"""

from __future__ import annotations

from bayplan.model.service import ServiceSpec
from bayplan.model.validate.names import check_labels, check_name
from bayplan.model.validate.placement import PRIORITY_MAX, check_placement, check_priority
from bayplan.model.validate.policies import (
    check_disruption,
    check_fencing,
    check_gates,
    check_replicas,
    check_update,
    check_workload,
)
from bayplan.model.validate.problems import REPLICAS_MAX, Path, Problem
from bayplan.model.validate.quotas import validate_quota
from bayplan.model.validate.secrets import (
    SECRET_BYTES_MAX,
    SECRET_VALUE_BYTES_MAX,
    secret_references,
    validate_secret,
)
from bayplan.model.validate.template import CAPABILITIES, SIGNALS, check_template

__all__ = [
    "CAPABILITIES",
    "SIGNALS",
    "PRIORITY_MAX",
    "Path",
    "Problem",
    "REPLICAS_MAX",
    "SECRET_BYTES_MAX",
    "SECRET_VALUE_BYTES_MAX",
    "secret_references",
    "validate",
    "validate_quota",
    "validate_secret",
]


def validate(spec: ServiceSpec) -> list[Problem]:
    """Everything that is wrong with a workload, empty where it can run."""
    return [
        *check_name(spec.name, ("name",)),
        *check_name(spec.namespace, ("namespace",)),
        *check_labels(spec.labels),
        *check_replicas(spec.replicas),
        *check_template(spec.template),
        *check_placement(spec),
        *check_priority(spec.priority),
        *check_update(spec.update),
        *check_gates(spec),
        *check_fencing(spec),
        *check_disruption(spec),
        *check_workload(spec),
    ]
