"""The Control service: what operators call."""

from __future__ import annotations

from controller.server.copying import Copying
from controller.server.orders import Orders
from controller.server.parts import Parts
from controller.server.reads import Reads
from controller.server.streams import Streams
from controller.server.top import Top
from controller.server.writes import Writes


class Control(Reads, Writes, Orders, Streams, Top, Copying):
    """Every call of `bayplan.v1.Control`."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
