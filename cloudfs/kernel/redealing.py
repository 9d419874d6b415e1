"""Shares dealt anew when holders are lost or the cloud has grown.

    holder lost ──LOST s──▶ the first holder that lives coordinates:
        plan ──deal──▶ as many old holders as are needed, each of which looks for itself whether the
                       plan is right, and sends each new holder a part of its share
        plan ──join──▶ every new holder makes its share of the parts; all answer the same points
        dealing ──sign──▶ old holders; with enough signatures it is spread like any record

Nobody has the key at any time, and the coordinator is not believed: an old holder deals only to
those whom it would choose itself (factotum/dealings.py), in place of those that it finds gone
itself.  A plan that fails is forgotten, and the old shares count until the new dealing is known.
Verbs of a holder, each with `by=`, the number of an old holder's share, and `sign=`, its word for
all that stands below, to this holder:

    deal  + plan                     send the parts of this holder's share
    part  + plan, value= points=     the one for this holder
    join  + plan, sealed keys        make the new share, answer its dealing's points
    sign  + dealing                  this holder's word for a dealing that it has dealt for

Holders fetch sealed keys that they missed as well.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import trio
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.factotum import accounts, dealings, ristretto, sealed, shares
from cloudfs.factotum.dealings import LINE, Dealing, notes
from cloudfs.kernel.holder import REQUEST, Holder, Share
from cloudfs.kernel.secstore import LIMIT, Secstore

log = logging.getLogger(__name__)

LOOK = 30.0  # seconds between two looks at the users that this node holds for, on average
LOST = 300.0  # seconds that a holder is away before its share is dealt to another
USERS = 8  # dealt anew in one look
PLANS = 256  # under way
PROMISE = 120.0  # seconds for which a holder signs no other dealing than the one that it has dealt


@dataclass(frozen=True, slots=True)
class Plan:
    """before: the hash of the dealing that there is.  dealers: numbers of shares in it."""

    user: str
    before: str
    need: int
    holders: tuple[str, ...]
    keys: tuple[str, ...]
    dealers: tuple[int, ...]

    def text(self) -> str:
        return ndb.record(
            {
                "user": self.user,
                "before": self.before,
                "need": self.need,
                "holders": ",".join(self.holders),
                "keys": ",".join(self.keys),
                "dealers": ",".join(map(str, self.dealers)),
            }
        )

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.text().encode()).hexdigest()

    def dealing(self, last: Dealing, points: tuple[bytes, ...]) -> Dealing:
        """What comes of it, with these points."""
        keys = tuple(_hex(key) for key in self.keys)
        number = last.number + 1
        return Dealing(self.user, number, self.need, self.holders, keys, points, self.before)


def parse_plan(line: str) -> Plan:
    """A plan from its line.  CloudError("bad")."""
    try:
        pairs = ndb.parse(line)
        plan = Plan(
            pairs["user"],
            pairs["before"],
            int(pairs["need"]),
            tuple(pairs["holders"].split(",")),
            tuple(pairs["keys"].split(",")),
            tuple(map(int, pairs["dealers"].split(","))),
        )
        whole = plan.text() == line.rstrip("\n") and len(plan.keys) == len(plan.holders)
        whole = whole and 1 <= plan.need <= len(plan.holders) <= shares.MOST
        whole = whole and len({*plan.holders}) == len(plan.holders)
    except (KeyError, ValueError):
        whole = False
    if not whole:
        raise CloudError("bad", "that is no plan to deal anew")
    accounts.check_name(plan.user)
    return plan


@dataclass(slots=True)
class _Under:
    """A plan under way at one holder.  dealt: what this one deals, by the number of a new holder;
    parts: what came, by the number of the dealer."""

    plan: Plan
    began: float
    dealt: shares.Dealing | None = None
    parts: dict[int, tuple[int, tuple[bytes, ...]]] = field(default_factory=dict)


class Redealing:
    """Of one node."""

    def __init__(
        self,
        holder: Holder,
        store: Secstore,
        event: Callable[..., None] = lambda event, **pairs: None,
    ) -> None:
        self.holder = holder
        self.store = store
        self._event = event
        self._under: OrderedDict[str, _Under] = OrderedDict()
        self._signed: dict[str, tuple[str, float]] = {}  # dealing before → (after, when)
        self._missed: dict[str, float] = {}  # since when a holder is away
        self._random = random.Random(holder.node)  # noqa: S311, spreads work over time
        holder.verbs |= {"part": self._part, "join": self._join, "sign": self._sign}
        holder.later["deal"] = self._deal

    async def run(self) -> None:
        """Look after the users that this node holds for, until cancelled."""
        while True:
            await trio.sleep(LOOK * self._random.uniform(0.5, 1.5))
            await self.look()

    async def look(self) -> None:
        """Deal anew for a few users where that is due, and fetch sealed keys that were missed."""
        self.holder.tidy()
        users = list(self.holder.shares)
        await self._observe(users)
        held = {node for user in users for node in self._holders(user)}
        self._missed = {node: at for node, at in self._missed.items() if node in held}
        self._random.shuffle(users)
        done = 0
        for user in users:
            try:
                done += await self.mend(user)
                await self._fetch_keys(user)
            except CloudError as error:
                log.info("shares of %s: %s", user, error)
            if done >= USERS:
                break

    async def _observe(self, users: Iterable[str]) -> None:
        """Note which holders are away, those in other zones by asking there."""
        cloud, now = self.store.cloud, trio.current_time()
        nodes = {node for user in users for node in self._holders(user)} - {self.holder.node}
        for node in sorted(nodes):
            info = cloud.node(node)
            if info is None or not info.near:
                await cloud.refresh(f"node {node}", LIMIT / 2)
            if cloud.alive(node):
                self._missed.pop(node, None)
            else:
                self._missed.setdefault(node, now)

    def _holders(self, user: str) -> tuple[str, ...]:
        made = self.store.people.dealing(user)
        return made.holders if made else ()

    def _away(self, node: str) -> float:
        """Seconds for which a node was seen to be away, 0 for one that lives."""
        if node == self.holder.node or self.store.cloud.alive(node):
            return 0.0
        return max(0.001, trio.current_time() - self._missed.get(node, trio.current_time()))

    # --- coordinating -------------------------------------------------------------------------

    async def mend(self, user: str) -> bool:
        """Deal anew if that is due and this node's to do; whether it was done.  CloudError where
        it failed, and then all is as it was."""
        last = self.store.people.dealing(user)
        if last is None or last.digest not in self.holder.shares.get(user, {}):
            return False
        living = [node for node in last.holders if not self._away(node)]
        if living[0] != self.holder.node or len(living) < last.need:
            return False
        keep = [node for node in last.holders if self._away(node) < LOST]
        if keep != living:
            return False  # one that is away for a moment would miss it
        need, holders = await self._choose(user, keep)
        spare, now = len(holders) - need, len(keep) - last.need
        grows = len(holders) > len(last.holders)
        if not grows and (len(keep) == len(last.holders) or spare <= now):
            return False
        await self._deal_anew(user, last, need, holders, living)
        return True

    async def _choose(
        self, user: str, keep: list[str], without: Iterable[str] = ()
    ) -> tuple[int, tuple[str, ...]]:
        """Who should hold a user's shares, as this node sees it."""
        candidates = await self.store.candidates(user)
        for node in keep:
            candidates.setdefault(node, self.store.cloud.cluster_of(node))
        for node in without:
            candidates.pop(node, None)
        return dealings.choose(user, candidates, keep)

    async def _deal_anew(
        self, user: str, last: Dealing, need: int, holders: tuple[str, ...], living: list[str]
    ) -> None:
        keys = []
        for node in holders:
            told = await self.store.ask(node, "key")
            keys.append(ndb.parse(told).get("key", ""))
        mine, *others = (last.share_of(node) for node in living)
        self._random.shuffle(others)  # one that lies is left out by chance the next time
        dealers = sorted([mine, *others[: last.need - 1]])
        plan = Plan(user, last.digest, need, holders, tuple(keys), tuple(dealers))
        for number in dealers:
            await self._ask(last, last.holders[number - 1], "deal", f"{plan.text()}\n")
        keys_there = self._sealed(user)
        points = set()
        for node in holders:
            points.add(
                (await self._ask(last, node, "join", f"{plan.text()}\n{keys_there}")).strip()
            )
        if len(points) != 1:
            raise CloudError("io", "the new holders have come to different points")
        made = plan.dealing(last, _points(points.pop()))
        signs = {}
        for number in dealers:
            told = await self._ask(last, last.holders[number - 1], "sign", made.text())
            signs[number] = _hex(told.strip())
        self.store.people.take(dealings.with_signs(made, signs).text())
        self._event("dealt", user=user, number=made.number, holders=",".join(holders))

    async def _ask(self, last: Dealing, node: str, verb: str, body: str) -> str:
        """Ask another holder, by this one's word."""
        sign = self.holder.key.sign(_to_sign(verb, node, body))
        pairs = {"by": last.share_of(self.holder.node), "sign": sign.hex()}
        return await self.store.ask(node, f"{verb} {ndb.record(pairs)}\n{body}")

    def _sealed(self, user: str) -> str:
        """The sealed keys, as far as a request holds them."""
        text = ""
        for line in self.holder.records.sealed_of(user):
            if len(text) + len(line) < REQUEST - LINE:
                text += line
        return text

    async def _fetch_keys(self, user: str) -> None:
        """Fetch the sealed keys that the user's record names, where they were missed."""
        record, last = self.store.people.user(user), self.store.people.dealing(user)
        if record is None or last is None or not notes(record).blob:
            return
        have = [sealed.parse(line) for line in self.holder.records.sealed_of(user)]
        named = notes(record).blob
        others = [node for node in last.holders if node != self.holder.node]
        if not others or any(named == one.digest or named in one.before for one in have):
            return
        told = await self.store.ask(
            self._random.choice(others), f"keys {ndb.record({'user': user})}"
        )
        for line in told.splitlines(keepends=True):
            self.holder.store(record, line)

    # --- an old holder ------------------------------------------------------------------------

    async def _deal(self, pairs: dict[str, str], lines: list[str], source: str) -> str:
        plan = parse_plan(_one(lines))
        last = self._by_holder("deal", plan.user, plan.before, pairs, lines)
        share = self._share(last)
        if share.number not in plan.dealers or len(set(plan.dealers)) != last.need:
            raise CloudError("bad", "that plan needs no part of this share")
        await self._check(plan, last)
        under = self._begin(plan)
        if under.dealt is None:
            under.dealt = shares.deal(share.value, plan.need, range(1, len(plan.holders) + 1))
        points = ",".join(point.hex() for point in under.dealt.commitments)
        for number, node in enumerate(plan.holders, 1):
            part = {"value": f"{under.dealt.shares[number]:x}", "points": points}
            await self._ask(last, node, "part", f"{plan.text()}\n{ndb.record(part)}\n")
        return "dealt\n"

    async def _check(self, plan: Plan, last: Dealing) -> None:
        """CloudError("denied") unless this node would plan so itself."""
        await self._observe([plan.user])
        missing = [node for node in last.holders if node not in plan.holders]
        present = [node for node in missing if self._away(node) < LOST / 2]
        if present:
            raise CloudError("denied", f"{', '.join(present)}: not gone")
        keep = [node for node in last.holders if node in plan.holders]
        if (plan.need, plan.holders) != await self._choose(plan.user, keep, missing):
            raise CloudError("denied", f"{self.holder.node} would choose other holders")

    def _sign(self, pairs: dict[str, str], lines: list[str], source: str) -> str:
        made = dealings.parse(_one(lines))
        last = self._by_holder("sign", made.user, made.before, pairs, lines)
        share = self._share(last)
        dealt = (under.plan for under in self._under.values() if under.dealt is not None)
        if not any(plan.dealing(last, made.points).digest == made.digest for plan in dealt):
            raise CloudError("denied", "that dealing is not what this holder has dealt for")
        if made.public != last.public:
            raise CloudError("denied", "that dealing is of another key")
        after, when = self._signed.get(last.digest, ("", 0.0))
        now = trio.current_time()
        if after not in ("", made.digest) and now - when < PROMISE:
            raise CloudError("busy", "this holder has signed another dealing just now")
        self._signed[last.digest] = made.digest, now
        while len(self._signed) > PLANS:
            del self._signed[next(iter(self._signed))]
        return made.sign(share.number, self.holder.key).hex() + "\n"

    def _share(self, last: Dealing) -> Share:
        share = self.holder.shares.get(last.user, {}).get(last.digest)
        if share is None:
            raise CloudError("absent", f"{self.holder.node} holds no share of that dealing")
        return share

    # --- a new holder -------------------------------------------------------------------------

    def _part(self, pairs: dict[str, str], lines: list[str], source: str) -> str:
        if len(lines) != 2:
            raise CloudError("bad", "part: wants a plan and a value")
        plan, told = parse_plan(lines[0]), ndb.parse(lines[1])
        self._by_holder("part", plan.user, plan.before, pairs, lines)
        number, points = int(pairs["by"]), _points(told["points"])
        if self.holder.node not in plan.holders or number not in plan.dealers:
            raise CloudError("bad", "that plan is not for this node")
        under = self._begin(plan)
        under.parts.setdefault(number, (int(told["value"], 16), points))
        return "taken\n"

    def _join(self, pairs: dict[str, str], lines: list[str], source: str) -> str:
        plan = parse_plan(lines[0] if lines else "")
        last = self._by_holder("join", plan.user, plan.before, pairs, lines)
        under = self._under.get(plan.digest)
        record = self.store.people.user(plan.user)
        if under is None or sorted(under.parts) != sorted(plan.dealers) or record is None:
            raise CloudError("absent", f"not all parts have come to {self.holder.node}")
        number = plan.holders.index(self.holder.node) + 1
        if plan.keys[number - 1] != self.holder.public.hex():
            raise CloudError("denied", f"the plan has another key of {self.holder.node}")
        value, points = shares.join(number, under.parts, last.points, plan.need)
        for line in lines[1:]:
            self.holder.store(record, line)
        made = plan.dealing(last, points)
        if made.digest not in self.holder.shares.get(plan.user, {}):
            self.holder.take_share(made, number, value)
        return ",".join(point.hex() for point in points) + "\n"

    # --- small things -------------------------------------------------------------------------

    def _begin(self, plan: Plan) -> _Under:
        now = trio.current_time()
        for digest in [d for d, u in self._under.items() if now - u.began > PROMISE]:
            del self._under[digest]
        found = self._under.get(plan.digest)
        if found is None:
            if len(self._under) >= PLANS:
                raise CloudError("busy", f"{PLANS} plans to deal anew are under way")
            found = self._under[plan.digest] = _Under(plan, now)
        return found

    def _by_holder(
        self, verb: str, user: str, before: str, pairs: dict[str, str], lines: list[str]
    ) -> Dealing:
        """The dealing that there is, if one of its holders asks; CloudError."""
        last = self.store.people.dealing(user)
        if last is None or last.digest != before:
            raise CloudError("stale", f"{self.holder.node} knows another dealing of {user}")
        number, sign = int(pairs["by"]), bytes.fromhex(pairs["sign"])
        try:
            if not 1 <= number <= len(last.keys):
                raise InvalidSignature
            Ed25519PublicKey.from_public_bytes(last.keys[number - 1]).verify(
                sign, _to_sign(verb, self.holder.node, "".join(lines))
            )
        except InvalidSignature:
            raise CloudError("denied", f"{verb}: no holder of {user} asks for that") from None
        return last


def _to_sign(verb: str, node: str, body: str) -> bytes:
    return f"cloudfs redeal {verb}\0{node}\0{body}".encode()


def _points(text: str) -> tuple[bytes, ...]:
    return tuple(ristretto.point(_hex(one)) for one in text.split(","))


def _hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise CloudError("bad", "that is not hexadecimal") from None


def _one(lines: list[str]) -> str:
    if len(lines) != 1:
        raise CloudError("bad", "wants one line below it")
    return lines[0]
