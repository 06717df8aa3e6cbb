"""Expected durations in words, as the commands print them before long work."""

from __future__ import annotations

from collections.abc import Callable, Mapping

_MINUTE, _HOUR = 60.0, 3600.0


def in_words(seconds: float) -> str:
    """``under a minute``, ``about 3 minutes`` or ``about 2.5 hours``.

    Args:
        seconds: at least 0.
    """
    if seconds < _MINUTE:
        return "under a minute"
    if seconds < 1.5 * _HOUR:
        minutes = round(seconds / _MINUTE)
        return f"about {minutes} minute{'s' if minutes > 1 else ''}"
    return f"about {seconds / _HOUR:.2g} hours"


def phases_in_words(phases: Mapping[str, float]) -> str:
    """``answers about 7 minutes, steps under a minute; about 7 minutes in all``.

    Phases that together take under a minute are not listed.

    Args:
        phases: seconds of each, by its name; at least one.
    """
    whole = f"{in_words(sum(phases.values()))} in all"
    if sum(phases.values()) < _MINUTE:
        return whole
    parts = ", ".join(f"{name} {in_words(seconds)}" for name, seconds in phases.items())
    return f"{parts}; {whole}"


def announcer(say: Callable[[str], None], settings: int = 1) -> Callable[[str, float], None]:
    """A function that says, before long work, what begins and about how long it takes.

    Args:
        say: takes the line.
        settings: how many follow each other, or times that the work is repeated.

    Returns:
        Takes what begins, such as ``Generating for 64 requests``, and seconds under one setting.
    """
    under = f" under {settings} settings" if settings > 1 else ""

    def announce(what: str, seconds: float) -> None:
        whole = seconds * settings
        up_to = "up to " if whole >= _MINUTE else ""  # else in words it is a bound already
        say(f"{what}{under}: {up_to}{in_words(whole)}")

    return announce
