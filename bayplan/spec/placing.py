"""What operators write of where tasks are to run, field by field."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from bayplan.model.service import (
    PlacementPolicy,
    Sticky,
)
from bayplan.spec.forms import A_TEXT, ONE_OR_MORE, ONE_OR_MORE_TEXTS, Fields, short_form
from bayplan.spec.scalars import (
    Count,
    Expression,
    SpreadKey,
    Switch,
    Text,
    choice,
)


class PreferFields(Fields):
    """A wish that never makes a task wait; short form: the expression."""

    match: Expression = Field(description="label.disk == ssd")
    weight: Count = Field(default=50, description="1 to 100")


class SpreadFields(Fields):
    """Spread tasks over the values of a label; short form: the key."""

    over: SpreadKey = Field(description="label.NAME, attr.NAME or node")
    max_skew: Count = Field(
        default=0,
        description="most by which values may differ; 0: as even as can be, never waiting",
    )


class AffinityFields(Fields):
    """Relation to the tasks of a service; short form: its name, over node, required."""

    service: Text = Field(description="NAME in the same namespace, or NAMESPACE/NAME")
    over: SpreadKey = Field(
        default="node", description="what must be equal, or differ: node, label.NAME or attr.NAME"
    )
    weight: Count = Field(default=0, description="1 to 100: a wish; left out: required")


class TolerationFields(Fields):
    """A taint that does not keep the tasks off; short form: its key."""

    key: Text = Field(description="key of the taint")
    value: Text | None = Field(default=None, description="only with this value")


class PlacementFields(Fields):
    """Where tasks may and should run."""

    require: Annotated[list[Expression], ONE_OR_MORE_TEXTS] = Field(
        default=[], description="expressions over labels and attributes that a node must satisfy"
    )
    prefer: Annotated[list[Annotated[PreferFields, short_form("match", A_TEXT)]], ONE_OR_MORE] = (
        Field(default=[], description="expressions that make a node more attractive")
    )
    spread: Annotated[list[Annotated[SpreadFields, short_form("over", A_TEXT)]], ONE_OR_MORE] = (
        Field(default=[], description="one spread, or a list of them")
    )
    near: Annotated[list[Annotated[AffinityFields, short_form("service", A_TEXT)]], ONE_OR_MORE] = (
        Field(default=[], description="services whose tasks are to be close")
    )
    apart: Annotated[
        list[Annotated[AffinityFields, short_form("service", A_TEXT)]], ONE_OR_MORE
    ] = Field(default=[], description="services whose tasks are to be elsewhere")
    distinct: Annotated[list[SpreadKey], ONE_OR_MORE_TEXTS] = Field(
        default=[], description="at most one task of the service per value: node, label.rack"
    )
    tolerate: Annotated[
        list[Annotated[TolerationFields, short_form("key", A_TEXT)]], ONE_OR_MORE
    ] = Field(default=[], description="taints of nodes that do not keep the tasks off")
    pool: Text | None = Field(
        default=None,
        description="nodes with this value of label.pool; left out: those without; all: any",
    )
    policy: Annotated[PlacementPolicy, *choice(PlacementPolicy)] = Field(
        default=PlacementPolicy.CLUSTER,
        description="spread, pack (fewest nodes), balance (even load) or cluster (its default)",
    )
    sticky: Annotated[Sticky, *choice(Sticky)] = Field(
        default=Sticky.NO, description="a slot's next task on its last node: no, prefer or require"
    )
    gang: Switch = Field(default=False, description="all waiting tasks are placed, or none")
