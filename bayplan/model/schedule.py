"""When a cron fires: five fields as crontab(5) has them, in a time zone, over changes of the clock.

What happens where the local clock jumps is what cronie and Vixie cron do. A schedule whose minute
or hour begins with `*` follows the time that passes: it fires at every instant whose local time
matches, so that `*/15 * * * *` neither pauses nor doubles up. Any other schedule means a time of
the day: if that time is skipped it fires once, at the first instant after the gap; if it comes
twice it fires at the first of them only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from bayplan.model.errors import InvalidSpec

DAYS_MAX = 366 * 8 + 2
"""The longest pause between two times that exist: 29 February over a century without one."""
_DAY = timedelta(days=1)
_MINUTE = timedelta(minutes=1)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS: tuple[tuple[str, int, int, tuple[str, ...]], ...] = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of the month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("day of the week", 0, 7, _WEEKDAYS),
)
_WORDS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


@dataclass(frozen=True, slots=True)
class Schedule:
    """Which minutes, hours, days, months and weekdays (0: Sunday) match. `either_day`: a day of
    the month or of the week will do, since both are restricted. `elapsed`: it follows the time
    that passes, not the time of the day."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    either_day: bool
    elapsed: bool

    def on(self, day: date) -> bool:
        """True where the schedule has times on the day."""
        if day.month not in self.months:
            return False
        by_month = day.day in self.days
        by_week = day.isoweekday() % 7 in self.weekdays
        return by_month or by_week if self.either_day else by_month and by_week


@lru_cache(maxsize=4096)
def parse_schedule(text: str) -> Schedule:
    """`30 2 * * mon-fri`, `*/15 * * * *`, `@daily`. Raises InvalidSpec with the field at fault."""
    words = _WORDS.get(text.strip().lower(), text).split()
    if len(words) != len(_FIELDS):
        raise InvalidSpec(
            f'"{text[:80]}" has {len(words)} fields, not 5; '
            "write minute hour day-of-month month day-of-week, e.g. 30 2 * * *"
        )
    sets = [_field(word, *field) for word, field in zip(words, _FIELDS, strict=True)]
    minutes, hours, days, months, weekdays = sets
    schedule = Schedule(
        minutes=minutes,
        hours=hours,
        days=days,
        months=months,
        weekdays=frozenset(d % 7 for d in weekdays),
        either_day=not words[2].startswith("*") and not words[4].startswith("*"),
        elapsed=words[0].startswith("*") or words[1].startswith("*"),
    )
    if not any(schedule.on(date(2000, 1, 1) + timedelta(days=n)) for n in range(366 * 8)):
        raise InvalidSpec(f'"{text[:80]}" never comes: there is no such day')
    return schedule


def _field(text: str, name: str, low: int, high: int, words: tuple[str, ...]) -> frozenset[int]:
    found: set[int] = set()
    for part in text.lower().split(","):
        match = re.fullmatch(r"(\*|([0-9a-z]+)(?:-([0-9a-z]+))?)(?:/([0-9]{1,2}))?", part)
        if match is None:
            raise InvalidSpec(f'"{part[:20]}" is not a {name}; write e.g. {low}, {low}-{high}, */5')
        first, last = low, min(high, 6) if name == "day of the week" else high
        step = int(match[4] or 1)
        if match[1] != "*":
            first = _value(match[2], name, low, high, words)
            last = _value(match[3], name, low, high, words) if match[3] else first
            if match[4] and not match[3]:
                last = high
        if first > last or not step:
            raise InvalidSpec(f'"{part[:20]}" is an empty range of the {name}')
        found.update(range(first, last + 1, step))
    return frozenset(found)


def _value(text: str, name: str, low: int, high: int, words: tuple[str, ...]) -> int:
    if text[:3] in words and len(text) == 3:
        return words.index(text) + (1 if words == _MONTHS else 0)
    if not text.isdigit() or not low <= int(text) <= high:
        raise InvalidSpec(f'"{text[:20]}" is not a {name}; write {low} to {high}')
    return int(text)


@lru_cache(maxsize=512)
def time_zone(name: str) -> ZoneInfo:
    """The zone of an IANA name. Raises InvalidSpec where this host knows none of it."""
    try:
        if not re.fullmatch(r"[A-Za-z0-9+_-]+(/[A-Za-z0-9+_-]+){0,3}", name):
            raise ValueError
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError):  # ZoneInfoNotFoundError is a KeyError
        raise InvalidSpec(
            f'"{name[:60]}" is not a time zone this host knows; write e.g. Europe/Berlin'
        ) from None


def next_fire(schedule: Schedule, zone: ZoneInfo, after: float) -> float:
    """The first time after `after` (both seconds since the epoch) at which the schedule fires."""
    start = datetime.fromtimestamp(after, UTC)
    soon = _steady(schedule, zone, start)
    return soon.timestamp() if soon is not None else thorough(schedule, zone, start)


def _steady(schedule: Schedule, zone: ZoneInfo, start: datetime) -> datetime | None:
    """The answer where it comes today or tomorrow and no clock is changed in these days; None:
    one has to look closely. (A zone that changes twice within four days is not known.)"""
    local = start.astimezone(zone)
    offset, now = local.utcoffset(), local.replace(tzinfo=None)
    assert offset is not None, "an aware time has an offset"
    for day in (now.date(), now.date() + timedelta(days=1)):
        if not schedule.on(day):
            continue
        for hour in sorted(schedule.hours):
            if datetime.combine(day, time(hour, 59)) <= now:
                continue
            for minute in sorted(schedule.minutes):
                found = datetime.combine(day, time(hour, minute))
                if found > now:
                    around = (start - _DAY, start + 2 * _DAY + timedelta(hours=2))
                    if any(t.astimezone(zone).utcoffset() != offset for t in around):
                        return None
                    return (found - offset).replace(tzinfo=UTC)
    return None


def thorough(schedule: Schedule, zone: ZoneInfo, start: datetime) -> float:
    """The same for any time: day by day, every local time as the instants at which it is."""
    day = start.astimezone(zone).date() - timedelta(days=1)
    best: datetime | None = None
    for _ in range(DAYS_MAX):
        on_time = schedule.on(day)
        if on_time:
            earlier = best is not None
            best = _first_on(schedule, zone, day, start, best)
        elif best is not None:
            break
        if on_time and earlier:
            break  # the next day was looked at too: a clock set back near midnight mixes them
        day += timedelta(days=1)
    assert best is not None, "parse_schedule refuses what never comes"
    return best.timestamp()


def last_fire(schedule: Schedule, zone: ZoneInfo, after: float, until: float) -> float | None:
    """The last time within (after, until]; None: there is none."""
    found = None
    for back_s in (3600.0, 90_000.0, 32 * 86_400.0, until - after):
        at = max(after, until - back_s)
        while (at := next_fire(schedule, zone, at)) <= until:
            found = at
        if found is not None or until - back_s <= after:
            break
    return found


def _first_on(
    schedule: Schedule, zone: ZoneInfo, day: date, start: datetime, best: datetime | None
) -> datetime | None:
    """The earliest instant of `day` after `start`, or `best` if that is earlier. Hours that lie
    outside are not looked into."""
    for hour in sorted(schedule.hours):
        top = datetime.combine(day, time(hour))
        last = top.replace(minute=59)
        if all(t <= start for t in _instants(schedule, zone, last)) and (
            _utc(zone, last, 1) <= start
        ):
            continue
        if best is not None and min(_utc(zone, top, 0), _utc(zone, top, 1)) >= best:
            continue
        for minute in sorted(schedule.minutes):
            for instant in _instants(schedule, zone, top.replace(minute=minute)):
                if instant > start and (best is None or instant < best):
                    best = instant
    return best


def _utc(zone: ZoneInfo, local: datetime, fold: int) -> datetime:
    return local.replace(tzinfo=zone, fold=fold).astimezone(UTC)


def _instants(schedule: Schedule, zone: ZoneInfo, local: datetime) -> Iterator[datetime]:
    """When a local time is: once, twice, or never (PEP 495 tells by the offsets of both folds)."""
    first, second = _utc(zone, local, 0), _utc(zone, local, 1)
    if first == second:
        yield first
    elif first < second:  # it comes twice
        yield first
        if schedule.elapsed:
            yield second
    elif not schedule.elapsed:  # it is skipped: `second` lies before the gap, `first` behind it
        yield _gap_end(zone, second, first)


def _gap_end(zone: ZoneInfo, before: datetime, after: datetime) -> datetime:
    """The instant between the two at which the zone's offset changes; whole minutes."""
    offset = before.astimezone(zone).utcoffset()
    low, high = 0, int((after - before) / _MINUTE)
    while low < high:
        middle = (low + high) // 2
        if (before + middle * _MINUTE).astimezone(zone).utcoffset() == offset:
            low = middle + 1
        else:
            high = middle
    return before + high * _MINUTE
