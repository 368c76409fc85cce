"""Cron: when a schedule fires, as Kubeflow reads it: six fields, the first of which are seconds, in UTC.

With five fields Kubeflow would take minutes for seconds, and so on, without a word. Source: robfig/cron 1.2.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from itertools import islice, product

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
FIELDS: tuple[tuple[str, int, int, tuple[str, ...]], ...] = (
    ("second", 0, 59, ()),
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of month", 1, 31, ()),
    ("month", 1, 12, MONTHS),
    ("day of week", 0, 6, DAYS),
)
YEARS = 8
"""How far ahead is looked: February 29th may be eight years off."""


@dataclass(frozen=True)
class Cron:
    """When a schedule fires; `parse` makes one."""

    text: str
    fields: tuple[frozenset[int], ...]
    """What each of FIELDS may be."""
    any_day: bool
    """Whether one of the two fields of days is a star: then both must hold, else one of them is enough."""

    def on(self, day: datetime) -> bool:
        """Whether it fires on that day."""
        _, _, _, of_month, months, of_week = self.fields
        held = (day.day in of_month, (day.weekday() + 1) % 7 in of_week)
        return day.month in months and (all(held) if self.any_day else any(held))

    def times(self, after: datetime) -> Iterator[datetime]:
        """When it fires after `after`, in UTC."""
        first = datetime.combine(after.date(), time(), UTC)
        hours = list(product(*(sorted(self.fields[place]) for place in (2, 1, 0))))
        for day in (first + timedelta(days=days) for days in range(366 * YEARS)):
            if self.on(day):
                moments = (day.replace(hour=hour, minute=minute, second=second) for hour, minute, second in hours)
                yield from (moment for moment in moments if moment > after)

    def next(self, after: datetime, number: int = 3) -> list[datetime]:
        """The next times it fires."""
        return list(islice(self.times(after), number))


def parse(text: str, now: datetime) -> Cron:
    """A cron expression. Raises: ValueError for one that Kubeflow would refuse, read otherwise, or never fire."""
    parts = text.split()
    if len(parts) == 5:
        raise ValueError(
            f"--cron: found five fields, {text!r}; expected six: Kubeflow's first field is seconds, and it would read "
            f"these as another time; '0 {' '.join(parts)}' is what they mean elsewhere"
        )
    if len(parts) != 6:
        raise ValueError(
            f"--cron: found {text!r}; expected six fields, second minute hour day-of-month month day-of-week, in UTC, "
            "such as '0 0 3 1 * *': at 03:00 on the first of each month"
        )
    fields = tuple(_field(part, *field) for part, field in zip(parts, FIELDS, strict=True))
    if len(fields[0]) > 1:
        raise ValueError(
            f"--cron: found {text!r}, which fires {len(fields[0])} times a minute; expected one number of seconds, "
            f"such as '0 {' '.join(parts[1:])}'"
        )
    cron = Cron(text, fields, any(parts[place][0] in "*?" for place in (3, 5)))
    if not cron.next(now, 1):
        raise ValueError(f"--cron: found {text!r}, which never fires; expected a day that there is")
    return cron


def _field(text: str, name: str, low: int, high: int, names: tuple[str, ...]) -> frozenset[int]:
    """The numbers that a field stands for."""

    def number(part: str) -> int:
        if part.lower() in names:
            return names.index(part.lower()) + low
        if not (part.isascii() and part.isdigit()) or not low <= int(part) <= high:
            words = f" or {names[0]} to {names[-1]}" if names else ""
            raise ValueError(f"--cron: found {part!r} as {name}; expected {low} to {high}{words}, ranges and lists")
        return int(part)

    found: set[int] = set()
    for part in text.split(","):
        span, slash, step = part.partition("/")
        if slash and not (step.isascii() and step.isdigit() and int(step)):
            raise ValueError(f"--cron: found {part!r} as {name}; expected a step of 1 or more after the slash")
        if span in ("*", "?"):
            first, last = low, high
        else:
            start, dash, end = span.partition("-")
            first = number(start)
            last = number(end) if dash else high if slash else first
        if first > last:
            raise ValueError(f"--cron: found {part!r} as {name}; expected the smaller number first")
        found.update(range(first, last + 1, int(step or 1)))
    return frozenset(found)
