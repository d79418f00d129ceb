"""Turns that are apart."""

from __future__ import annotations

import asyncio

from bayplan.pace import Pace

INTERVAL_S = 0.05
RESOLUTION_S = 0.002
"""Timers may fire early by as much."""


async def test_the_first_turn_is_at_once_and_the_next_one_waits() -> None:
    """Two in a row are the interval apart."""
    loop = asyncio.get_running_loop()
    pace = Pace(INTERVAL_S)
    began = loop.time()
    await pace.turn()
    first = loop.time() - began
    await pace.turn()
    second = loop.time() - began
    assert first < INTERVAL_S / 2
    assert second + RESOLUTION_S >= INTERVAL_S


async def test_after_a_rest_a_turn_is_at_once_again() -> None:
    """Nothing is saved up: the turn after it waits."""
    loop = asyncio.get_running_loop()
    pace = Pace(INTERVAL_S)
    await pace.turn()
    await asyncio.sleep(3 * INTERVAL_S)
    began = loop.time()
    await pace.turn()
    assert loop.time() - began < INTERVAL_S / 2
    await pace.turn()
    assert loop.time() - began + RESOLUTION_S >= INTERVAL_S


async def test_a_turn_that_cost_much_is_followed_by_a_rest() -> None:
    """Longer than the interval, where that was asked for; a shorter one changes nothing."""
    loop = asyncio.get_running_loop()
    pace = Pace(INTERVAL_S)
    await pace.turn()
    began = loop.time()
    pace.rest(3 * INTERVAL_S)
    pace.rest(INTERVAL_S)
    await pace.turn()
    assert loop.time() - began + RESOLUTION_S >= 3 * INTERVAL_S
