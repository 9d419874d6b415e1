"""Who may run an object that is to survive its node: leases, epochs, votes.  Pure.

An object with `availability` has an owner, the node that runs it, and members: nodes that
hold its images, and witnesses, which only vote.  The owner and the first of the members
are its voters, an odd number, fixed for a `series`.  Of each member the promise is one
record: the epoch and the owner that it last agreed to, and until when, on its own clock,
it agrees to no other.

  begin  the owner begins a series, with members of its choice, or renews its lease in it
  hold   the owner of an epoch that a majority agreed to renews its lease
  may    would you agree to me as the next owner?  Nothing changes by it
  take   do so: only once the lease of the last one has run out, to one of a higher epoch
  drop   the owner ends the series: nobody takes in it any more

Two never run.  An owner lets its object run only as long as a majority of the voters has
agreed to it within `bound` of its patience, counted from when each was asked.  A voter
agrees to a `take` after the whole patience, counted from when it answered, which is later.
Any two majorities share a voter, and that one agreed to the second owner only when the
first could count on it no more.  All that is taken of clocks is that they run about
equally fast while `patience - bound` goes by: not what they show.  (Gray and Cheriton,
"Leases", SOSP 1989; epochs as Lamport's ballots; `may` is the PreVote of Ongaro's Raft, so
that one who is cut off does not outbid an owner that is well.)

A voter that dropped counts for the owner for ever, so a series is changed without a stop:
dropped by a majority, then begun anew in a higher epoch with other members.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.kernel import query

LEAST_PATIENCE = 5.0  # seconds: beats of a loaded machine may be that late
SHARE = 0.8  # of its patience for which an owner counts on an answer
RENEW, RENEWALS = 1.5, 6  # seconds between renewals, and how many fit into a patience
STEP = 1.5  # seconds that each next candidate waits for the one before it
STALE = 0.5  # of its patience that one waits which has not the newest image
MOST_MEMBERS = 12
COUNT = 1 << 20  # images of one epoch


# --- what a user asks for -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Terms:
    """checkpoint: seconds between two images; replicas: nodes that keep the last one;
    patience: seconds of silence after which its node is taken for lost."""

    checkpoint: float = 10.0
    replicas: int = 2
    patience: float = 9.0

    def text(self) -> str:
        return f"checkpoint={self.checkpoint:g} replicas={self.replicas} patience={self.patience:g}"


RANGES: dict[str, tuple[float, float, str]] = {
    "checkpoint": (1.0, 86400.0, "seconds between two images"),
    "replicas": (1, 7, "nodes that keep the last image"),
    "patience": (LEAST_PATIENCE, 3600.0, "seconds until a silent node is taken for lost"),
}


def terms(words: Iterable[str]) -> Terms:
    """What the words `name=N` say; the rest is as usual.  Raises CloudError("bad")."""
    found: dict[str, Any] = {}
    for word in words:
        name, text = ndb.pair(word, "checkpoint=N, replicas=N or patience=N")
        if name not in RANGES:
            raise CloudError(
                "bad", f"availability: no {name[:40]!r}", f"it takes {' '.join(RANGES)}, or off"
            )
        least, most, what = RANGES[name]
        value = query.number(text)
        whole = name != "replicas" or value == math.floor(value or 0)
        if value is None or not least <= value <= most or not whole:
            kind = "a whole number" if name == "replicas" else "a number"
            raise CloudError(
                "bad",
                f"availability: {word[:80]}: wants {kind} from {least:g} to {most:g}: {what}",
                "write: availability checkpoint=10 replicas=2",
            )
        found[name] = int(value) if name == "replicas" else value
    return Terms(**found)


# --- a member's promise ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Claim:
    """What a node asks of a member.  voters: of the series, the owner that began it first."""

    verb: str
    epoch: int
    owner: str
    series: int
    voters: tuple[str, ...] = ()
    patience: float = 9.0


@dataclass(frozen=True, slots=True)
class Promise:
    """phase: held (by its owner), voted (for one that may not have a majority) or dropped.
    until: when the lease runs out, on the member's clock."""

    epoch: int
    owner: str
    series: int
    voters: tuple[str, ...]
    patience: float
    phase: str
    until: float

    def record(self) -> dict[str, Any]:
        """What must outlive the daemon; when the lease runs out is not among it."""
        kept = asdict(self)
        del kept["until"]
        return kept


def recall(record: Mapping[str, Any], now: float) -> Promise:
    """The promise of a record, whose lease may have been renewed a moment before."""
    told = {**record, "voters": tuple(record["voters"])}
    return Promise(**told, until=now + record["patience"])


class Refused(CloudError):
    """A member does not agree.  epoch, owner: to whom it did."""

    def __init__(self, kind: str, why: str, has: Promise | None) -> None:
        told = f", in epoch {has.epoch} of node {has.owner}" if has else ""
        super().__init__(kind, f"{why}{told}", "")


def answer(has: Promise | None, claim: Claim, now: float) -> Promise:
    """The promise after a claim that a member agrees to; `Refused`: "stale" where another
    owner is surely the last, "busy" where a later claim may do, "absent" where it knows too
    little to agree."""
    return _RULES[claim.verb](has, claim, now)


def _same(has: Promise, claim: Claim) -> bool:
    return (has.epoch, has.owner, has.series) == (claim.epoch, claim.owner, claim.series)


def _over(has: Promise, claim: Claim) -> Refused:
    """Why a claim comes too late."""
    if has.phase == "voted":
        return Refused("busy", "another was agreed to", has)
    return Refused("stale", "it was taken over" if has.phase == "held" else "it was dropped", has)


def _made(claim: Claim, phase: str, now: float, voters: tuple[str, ...]) -> Promise:
    until = now + claim.patience
    return Promise(claim.epoch, claim.owner, claim.series, voters, claim.patience, phase, until)


def _begin(has: Promise | None, claim: Claim, now: float) -> Promise:
    if has is not None and not (_same(has, claim) and has.phase == "held"):
        if claim.epoch <= has.epoch:
            raise _over(has, claim)
        free = has.phase == "dropped" or has.owner == claim.owner or now >= has.until
        if not free:
            raise Refused("busy", "its lease runs", has)
    return _made(claim, "held", now, claim.voters)


def _hold(has: Promise | None, claim: Claim, now: float) -> Promise:
    if has is not None and claim.epoch < has.epoch:
        raise _over(has, claim)
    if has is None or has.series != claim.series:  # it missed the begin, or has lost it
        raise Refused("absent", "this node knows of no such series", has)
    if claim.epoch == has.epoch and not _same(has, claim):
        raise _over(has, claim)
    if claim.epoch == has.epoch and has.phase == "dropped":
        raise _over(has, claim)
    # A majority agreed to this owner, so nobody else can count on one, nor on this member.
    return _made(claim, "held", now, has.voters)


def _take(has: Promise | None, claim: Claim, now: float) -> Promise:
    if has is None or has.series != claim.series or has.phase == "dropped":
        raise Refused("absent", "nothing is to be taken over", has)
    if _same(has, claim):
        return _made(claim, has.phase, now, has.voters)
    if claim.epoch <= has.epoch:
        raise _over(has, claim)
    if now < has.until and has.owner != claim.owner:
        raise Refused("busy", "its lease runs", has)
    return _made(replace(claim, patience=has.patience), "voted", now, has.voters)


def _may(has: Promise | None, claim: Claim, now: float) -> Promise:
    _take(has, claim, now)
    assert has is not None
    return has


def _drop(has: Promise | None, claim: Claim, now: float) -> Promise:
    if has is not None and claim.epoch < has.epoch:
        raise _over(has, claim)
    return _made(claim, "dropped", now, has.voters if has else claim.voters)


_RULES = {"begin": _begin, "hold": _hold, "take": _take, "may": _may, "drop": _drop}


# --- an owner's tenure ----------------------------------------------------------------


def majority(voters: Sequence[str]) -> int:
    """How many of them decide."""
    return len(voters) // 2 + 1


def agreed(voters: Sequence[str], names: Collection[str]) -> bool:
    """Whether these are a majority of the voters."""
    return sum(voter in names for voter in voters) >= majority(voters)


@dataclass(slots=True)
class Tenure:
    """An owner's hold of an object in one epoch.

    since: when the first `begin` of a series was sent, for the time in which nobody else
    can have got hold of it; -inf where a majority agreed before.  grants: member → when
    that was asked which it agreed to last.  All on the owner's clock.
    """

    epoch: int
    series: int
    voters: tuple[str, ...]
    members: tuple[str, ...]  # but the owner; those that hold images first
    holders: int  # so many of them
    patience: float = 9.0
    since: float = -math.inf
    grants: dict[str, float] = field(default_factory=dict)

    def granted(self, member: str, asked: float) -> None:
        self.grants[member] = max(asked, self.grants.get(member, -math.inf))

    def dropped(self, member: str) -> None:
        self.grants[member] = math.inf

    @property
    def renew(self) -> float:
        """Seconds between two renewals."""
        return min(RENEW, self.patience / RENEWALS)

    def until(self) -> float:
        """Until when the object may run."""
        grants = sorted((self.grants.get(voter, -math.inf) for voter in self.voters), reverse=True)
        return max(grants[majority(self.voters) - 1], self.since) + self.patience * SHARE

    def established(self) -> bool:
        """Whether a majority ever agreed to it."""
        return agreed(self.voters, self.grants)

    def record(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "series": self.series,
            "voters": list(self.voters),
            "members": list(self.members),
            "holders": self.holders,
            "patience": self.patience,
        }


def tenure(record: Mapping[str, Any]) -> Tenure:
    """That of a record; what was granted is not in it."""
    voters, members = tuple(record["voters"]), tuple(record["members"])
    numbers = record["epoch"], record["series"]
    return Tenure(*numbers, voters, members, record["holders"], record["patience"])


Plan = tuple[tuple[str, ...], tuple[str, ...], int]  # members, voters, and how many hold images


def plan(
    me: str,
    has: Sequence[str],
    bad: Collection[str],
    others: Sequence[tuple[str, str]],
    cluster: str,
    replicas: int,
    more: Sequence[str] = (),
) -> Plan:
    """Members for an object's next series, voters, and how many of the members hold images.

    has: its members of now; bad: those of them that do not answer or cannot keep images;
    others: (node, cluster) of nodes that could run it, best first; cluster: the owner's;
    more: nodes that could not, but vote.
    Those that are well stay; new ones are of clusters that have none yet, if there are such.
    One that is bad stays only where there is no other.
    """
    where = dict(others)
    chosen = [name for name in has if name not in bad and name in where]
    wanted = 2 * ((replicas + 1) // 2)  # with the owner an odd number of voters
    rest = [name for name, _ in others if name not in chosen and name not in bad]
    while rest and len(chosen) < wanted:
        used = {cluster, *(where.get(name, "") for name in chosen)}
        fresh = (name for name in rest if where[name] not in used)
        far = (name for name in rest if where[name] != cluster)
        found = next(itertools.chain(fresh, far, rest))
        rest.remove(found)
        chosen.append(found)
    holders = min(replicas, len(chosen))
    chosen += [n for n in more if n not in chosen and n not in bad][: wanted - len(chosen)]
    chosen += [name for name in has if name not in chosen][: wanted - len(chosen)]
    voters = (me, *chosen)
    return tuple(chosen), voters[: len(voters) - (len(voters) % 2 == 0)], holders


# --- images, and who takes over -------------------------------------------------------


@dataclass(frozen=True, slots=True)
class News:
    """What an owner tells of images with each renewal.  newest: the last that is whole
    somewhere, 0 for none; at: the members that have it; enough: the last that is whole on
    as many members as there can be."""

    newest: int = 0
    at: tuple[str, ...] = ()
    enough: int = 0


class Copies:
    """Which member has which image whole; of each the last."""

    def __init__(self) -> None:
        self.whole: dict[str, int] = {}

    def put(self, member: str, number: int) -> None:
        self.whole[member] = max(number, self.whole.get(member, 0))

    def keep(self, members: Collection[str]) -> None:
        """Forget all others."""
        self.whole = {name: n for name, n in self.whole.items() if name in members}

    def news(self, holders: Collection[str], lost: Collection[str] = ()) -> News:
        """lost: holders that do not answer, on which nothing waits."""
        has = {name: number for name, number in self.whole.items() if name in holders}
        newest = max(has.values(), default=0)
        at = tuple(sorted(name for name, number in has.items() if number == newest and newest))
        wait = [has.get(name, 0) for name in holders if name not in lost]
        return News(newest, at, min(wait, default=0))


def superfluous(whole: Collection[int], enough: int) -> list[int]:
    """Of the images that a member has whole, those to remove: older than its own newest and
    than what is whole on enough members."""
    newest = max(whole, default=0)
    return sorted(number for number in whole if number < min(newest, max(enough, 0)))


def first_of(epoch: int) -> int:
    """The number before that of the first image of an epoch: a later owner's are higher."""
    return epoch * COUNT


def rank(id: str, names: Iterable[str]) -> list[str]:
    """Names in the order in which they have their turn (rendezvous hashing)."""
    return sorted(
        names, key=lambda name: hashlib.blake2b(f"{id}/{name}".encode(), digest_size=8).digest()
    )


def turn(id: str, me: str, has: Promise, news: News, newest: int) -> float:
    """When a member is to try to take the object over, if nothing was heard by then.

    newest: the last image that it has whole; inf where it has none.  First come those that
    have the newest, in their order; the others only if none of those did it.
    """
    if not newest or has.phase == "dropped":
        return math.inf
    first = rank(id, news.at)
    if me in first:
        return has.until + first.index(me) * STEP
    others = rank(id, ({*has.voters} - set(first)) | {me})
    late = 0.0 if newest >= news.newest else STALE * has.patience
    return has.until + (len(first) + others.index(me)) * STEP + late
