"""Cron's times, also where the clock is put forward or back."""

from __future__ import annotations

import zoneinfo
from datetime import UTC, datetime, timedelta
from random import Random
from zoneinfo import ZoneInfo

import pytest

from bayplan.model.errors import InvalidSpec
from bayplan.model.schedule import (
    Schedule,
    last_fire,
    next_fire,
    parse_schedule,
    thorough,
    time_zone,
)

BERLIN = ZoneInfo("Europe/Berlin")  # 2026: forward 29 March 2:00, back 25 October 3:00


def at(text: str, zone: str = "UTC", fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def fires(text: str, zone: str, begin: float, count: int) -> list[str]:
    """The next `count` times, in UTC."""
    schedule, found = parse_schedule(text), []
    for _ in range(count):
        begin = next_fire(schedule, ZoneInfo(zone), begin)
        found.append(datetime.fromtimestamp(begin, UTC).strftime("%m-%d %H:%M"))
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30 2 * * *", ["01-01 02:30", "01-02 02:30"]),
        ("*/20 * * * *", ["01-01 00:20", "01-01 00:40"]),
        ("5-10/5,40 3 * * *", ["01-01 03:05", "01-01 03:10", "01-01 03:40"]),
        ("0 0 13 * fri", ["01-02 00:00", "01-09 00:00", "01-13 00:00"]),  # either day
        ("0 0 */10 * fri", ["05-01 00:00"]),  # a field with * restricts, and both have to match
        ("0 0 * * 7", ["01-04 00:00"]),
        ("0 0 * * sun", ["01-04 00:00"]),
        ("0 12 1 jan-mar *", ["01-01 12:00", "02-01 12:00", "03-01 12:00"]),
        ("@hourly", ["01-01 01:00"]),
    ],
)
def test_fields(text: str, expected: list[str]) -> None:
    """Lists, ranges, steps, names, and the two ways to name a day."""
    assert fires(text, "UTC", at("2026-01-01T00:00"), len(expected)) == expected


def test_a_leap_day_is_found_over_a_century_without_one() -> None:
    """29 February comes again eight years after 2096."""
    schedule = parse_schedule("0 0 29 2 *")
    later = next_fire(schedule, ZoneInfo("UTC"), at("2096-03-01T00:00"))
    assert datetime.fromtimestamp(later, UTC).year == 2104


@pytest.mark.parametrize(
    ("text", "begin", "expected"),
    [
        # Skipped: once, at the first instant after the gap (3:00 CEST).
        ("30 2 * * *", "2026-03-28T12:00", ["03-29 01:00", "03-30 00:30"]),
        ("0,30 2 * * *", "2026-03-28T12:00", ["03-29 01:00", "03-30 00:00", "03-30 00:30"]),
        # Twice: at the first of them.
        ("30 2 * * *", "2026-10-24T12:00", ["10-25 00:30", "10-26 01:30"]),
        # What follows the time that passes goes on evenly.
        ("*/30 * * * *", "2026-03-29T00:30", ["03-29 01:00", "03-29 01:30"]),
        ("0 * * * *", "2026-10-24T23:30", ["10-25 00:00", "10-25 01:00", "10-25 02:00"]),
        ("*/30 2 * * *", "2026-03-29T00:00", ["03-30 00:00", "03-30 00:30"]),
    ],
)
def test_changes_of_the_clock(text: str, begin: str, expected: list[str]) -> None:
    """As cronie has it, in Berlin; times are UTC."""
    assert fires(text, "Europe/Berlin", at(begin), len(expected)) == expected


def reference(schedule: Schedule, zone: ZoneInfo, begin: int, minutes: int) -> list[int]:
    """Minute by minute: compares each local time passed, and at a jump all those skipped."""
    found, seen = [], set()
    before = datetime.fromtimestamp(begin - 60, UTC).astimezone(zone).replace(tzinfo=None)
    for stamp in range(begin, begin + 60 * minutes, 60):
        local = datetime.fromtimestamp(stamp, UTC).astimezone(zone)
        plain = local.replace(tzinfo=None)
        passed = [plain]
        if not schedule.elapsed:
            step = before + timedelta(minutes=1)
            while step < plain:
                passed.append(step)
                step += timedelta(minutes=1)
        hit = [
            p
            for p in passed
            if p.minute in schedule.minutes and p.hour in schedule.hours and schedule.on(p.date())
        ]
        again = not schedule.elapsed and local.fold and hit == [plain]
        if hit and not again and stamp not in seen:
            found.append(stamp)
            seen.add(stamp)
        before = plain
    return found


@pytest.mark.parametrize(
    ("zone", "day"),
    [
        ("Europe/Berlin", "2026-03-28T00:00"),
        ("Europe/Berlin", "2026-10-24T00:00"),
        ("America/New_York", "2026-11-01T00:00"),
        ("Australia/Lord_Howe", "2026-04-04T00:00"),  # half an hour
        ("Australia/Lord_Howe", "2026-10-03T00:00"),
        ("America/Havana", "2026-03-07T12:00"),  # midnight is skipped
        ("America/Havana", "2026-10-31T12:00"),  # midnight comes twice
        ("Pacific/Apia", "2011-12-29T12:00"),  # a whole day is skipped
        ("America/St_Johns", "2010-11-06T12:00"),  # back from 00:01 to 23:01
        ("Asia/Kathmandu", "2026-05-01T00:00"),
    ],
)
def test_the_same_as_minute_by_minute(zone: str, day: str) -> None:
    """next_fire and last_fire agree with the slow, obvious way, for any schedule."""
    rng = Random(f"{zone}{day}")
    tz, begin, minutes = ZoneInfo(zone), int(at(day)), 50 * 60
    for _ in range(4):
        text = " ".join(
            (
                rng.choice(["*", "*/15", "0", "30", "7,37", "1"]),
                rng.choice(["*", "*/2", "0", "1", "2", "0-3", "23,1", "2,3"]),
                rng.choice(["*", "*", "29-31", "1,8"]),
                "*",
                rng.choice(["*", "*", "sun", "fri-sat"]),
            )
        )
        schedule = parse_schedule(text)
        expected = reference(schedule, tz, begin, minutes)
        actual, now = [], begin - 1.0
        while (now := next_fire(schedule, tz, now)) < begin + 60 * minutes:
            actual.append(int(now))
        assert actual == expected, text
        last = last_fire(schedule, tz, begin - 1.0, begin + 60 * minutes - 1)
        assert last == (expected[-1] if expected else None), text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("* * * *", "has 4 fields"),
        ("60 * * * *", '"60" is not a minute; write 0 to 59'),
        ("* * 0 * *", "day of the month"),
        ("* * * foo *", '"foo" is not a month'),
        ("5-1 * * * *", "an empty range of the minute"),
        ("*/0 * * * *", "an empty range"),
        ("0 0 31 2 *", "never comes"),
        ("@often", "has 1 fields"),
    ],
)
def test_what_is_no_schedule(text: str, said: str) -> None:
    """Each error names the field and what would be right."""
    with pytest.raises(InvalidSpec, match=said.replace("*", r"\*")):
        parse_schedule(text)


@pytest.mark.parametrize("name", ["Mars/Olympus", "", "../etc/passwd", "Europe", "/etc/localtime"])
def test_what_is_no_time_zone(name: str) -> None:
    """Nothing outside the zone database is read."""
    with pytest.raises(InvalidSpec, match="is not a time zone"):
        time_zone(name)


def test_the_short_way_and_the_thorough_one_agree() -> None:
    """Also in the days around a change of the clock, on the half hour, and where a day is left
    out (Apia had no 30 December 2011)."""
    draw = Random(7)
    zones = ("UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Africa/Casablanca")
    changes = (at("2026-03-29T01:00"), at("2026-10-25T01:00"), at("2011-12-30T10:00"))
    for _ in range(300):
        zone = ZoneInfo(draw.choice((*zones, "Pacific/Apia")))
        minute, hour = draw.choice(("*", "*/7", "30", "0")), draw.choice(("*", "2", "1-3", "23"))
        schedule = parse_schedule(f"{minute} {hour} * * {draw.choice(('*', 'sun', 'mon-fri'))}")
        after = draw.choice(changes) + draw.uniform(-4, 4) * 86_400 * draw.choice((0.1, 1, 40))
        expected = thorough(schedule, zone, datetime.fromtimestamp(after, UTC))
        assert next_fire(schedule, zone, after) == expected, (schedule, zone, after)


def test_zones_are_known_where_the_system_has_none() -> None:
    """An operator's machine or an image without tzdata: they come with Bayplan."""
    zoneinfo.reset_tzpath(to=())
    try:
        assert ZoneInfo.no_cache("Europe/Berlin").key == "Europe/Berlin"
    finally:
        zoneinfo.reset_tzpath()
