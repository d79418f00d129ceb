"""Devices of one node: which are free, whole or in part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from bayplan.model.node import Device
from bayplan.model.service import DeviceRequest
from bayplan.model.task import DeviceShare
from controller.scheduler.base import WHOLE, DeviceKey


class Inventory:
    """Devices in the order of their ids. A share goes where the least is left over (so that
    whole ones stay whole), whole ones in order."""

    def __init__(self, devices: Sequence[Device], use: Mapping[DeviceKey, int]) -> None:
        self._devices = tuple(sorted(devices, key=lambda d: (d.name, len(d.id), d.id)))
        self._free = {(d.name, d.id): WHOLE - use.get((d.name, d.id), 0) for d in devices}

    def after(self, given_back: Iterable[DeviceShare], taken: Iterable[DeviceShare]) -> Inventory:
        """Another one, where some tasks have ended and others have come."""
        made = Inventory(self._devices, {})
        made._free = dict(self._free)
        for sign, shares in ((1, given_back), (-1, taken)):
            for share in shares:
                key = share.name, share.id
                if key in made._free:
                    made._free[key] += sign * share.millis
        return made

    def room(self, requests: Sequence[DeviceRequest]) -> int:
        """How many tasks with these requests can still be placed."""
        return min((self._room(r) for r in requests), default=0)

    def free(self, request: DeviceRequest) -> int:
        """Thousandths that a task could have of what it asks for: of the single device with most
        left for a share, else of the wholly free ones."""
        left = [self._free[d.name, d.id] for d in self._matching(request)]
        if request.millis < WHOLE:
            return max(left, default=0)
        return WHOLE * sum(1 for x in left if x >= WHOLE)

    def take(self, requests: Sequence[DeviceRequest]) -> tuple[DeviceShare, ...]:
        """Give a task its devices; room() has said that they are there."""
        shares: list[DeviceShare] = []
        for request in requests:
            each = min(request.millis, WHOLE)
            able = [d for d in self._matching(request) if self._free[d.name, d.id] >= each]
            if request.millis < WHOLE:
                able.sort(key=lambda d: self._free[d.name, d.id])
            for device in able[: max(request.millis // WHOLE, 1)]:
                self._free[device.name, device.id] -= each
                shares.append(DeviceShare(name=device.name, id=device.id, millis=each))
        return tuple(shares)

    def _matching(self, request: DeviceRequest) -> list[Device]:
        return [
            d for d in self._devices if d.name == request.name and request.model in ("", d.model)
        ]

    def _room(self, request: DeviceRequest) -> int:
        left = [self._free[d.name, d.id] for d in self._matching(request)]
        if request.millis < WHOLE:
            return sum(max(x, 0) // request.millis for x in left)
        return sum(1 for x in left if x >= WHOLE) // (request.millis // WHOLE)
