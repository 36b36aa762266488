"""Which registry version is the champion, and how it came to be: an append-only log of moves in the registry itself.

A move says which champion it replaces. The log is replayed in order, and a move whose champion is no longer the
champion has lost: of any number of promotions at once exactly one wins, on any MLflow store, without a lock. The
aliases `champion` and `previous` follow the log, so that serving has one name to look at; who moved what, when and why
is the log. Knows no gate.
Try it: `ovi promote history`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from ovi import tracking
from ovi.config import Tracking
from ovi.errors import OviError

CHAMPION, PREVIOUS = "champion", "previous"


@dataclass(frozen=True)
class Move:
    """One entry: `to` takes the place of `before` (None: there was no champion). `held`: it took effect."""

    number: int
    before: str | None
    to: str
    by: str
    reason: str
    at: str
    held: bool

    def line(self) -> str:
        what = f"version {self.before or 'none'} -> {self.to}"
        lost = "" if self.held else " (lost: another was faster)"
        return f"{self.number:4}  {self.at}  {what:24}{self.by}: {self.reason}{lost}"


@dataclass(frozen=True)
class Standing:
    champion: str | None
    previous: str | None


def history(store: Tracking, model: str) -> list[Move]:
    """All moves, the oldest first."""
    moves: list[Move] = []
    now: str | None = None
    for number, values in tracking.read_entries(store, _log(model)):
        before = values["before"] or None
        if not moves:
            now = before  # a champion from before there was a log
        held = before == now
        now = values["to"] if held else now
        moves.append(Move(number, before, values["to"], values["by"], values["reason"], values["at"], held))
    return moves


def standing(store: Tracking, model: str) -> Standing:
    """The champion and the one before it."""
    held = [move for move in history(store, model) if move.held]
    if not held:
        return Standing(*(tracking.get_alias(store, model, alias) for alias in (CHAMPION, PREVIOUS)))
    return Standing(held[-1].to, held[-1].before)


def move(store: Tracking, model: str, before: str | None, to: str, by: str, reason: str) -> Move:
    """Make `to` the champion in place of `before`. OviError when `before` is not the champion any more."""
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    number = tracking.append_entry(
        store, _log(model), {"before": before or "", "to": to, "by": by, "reason": reason, "at": at}
    )
    ours = next(entry for entry in history(store, model) if entry.number == number)
    if not ours.held:
        raise OviError(
            f"version {to} of {model} is not promoted: meanwhile version {standing(store, model).champion} became the "
            "champion; compare with that one and run the same command again"
        )
    follow(store, model)
    return ours


def rollback(store: Tracking, model: str, by: str, reason: str) -> Move:
    """Make the previous champion the champion again."""
    now = standing(store, model)
    if now.champion is None or now.previous is None:
        raise OviError(f"{model}: there is no champion before version {now.champion} to go back to")
    return move(store, model, now.champion, now.previous, by, reason)


def follow(store: Tracking, model: str) -> None:
    """Set the aliases to what the log says, until it says so still afterwards: the last one to set them is right."""
    while True:
        now = standing(store, model)
        for alias, version in ((PREVIOUS, now.previous), (CHAMPION, now.champion)):
            if version is not None and tracking.get_alias(store, model, alias) != version:
                tracking.set_alias(store, model, alias, version)
        if standing(store, model) == now:
            return


def _log(model: str) -> str:
    return f"{model}.moves"
