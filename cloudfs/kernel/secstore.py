"""Secstore as a client sees it through its own node, which asks the holders on behalf of nobody.

    choose NAME                        who would hold the shares of a new user
    give  + user, dealing, keys, and a line `share=` for each holder
    harden point= [device= time=] + a line `holder= sign=` for each holder, of a device
    right= sign=                       that was the user, who has signed the point
    keys                               what each holder keeps
    keep  + a sealed line

An answer has for each holder a line `holder= lines=N` or `holder= kind= why=`, and N lines below
it.  The first `need` good answers are waited for, and the others a moment longer.  Nobody on the
way is believed: a client checks proofs and signatures itself (cli/secstore.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

import trio

from cloudfs import ndb
from cloudfs.errors import CloudError
from cloudfs.factotum import dealings
from cloudfs.factotum.accounts import check_name
from cloudfs.factotum.dealings import Dealing
from cloudfs.factotum.shares import MOST
from cloudfs.kernel.choose import HOLDERS
from cloudfs.kernel.cloud import Cloud
from cloudfs.kernel.holder import Holder, no_user
from cloudfs.kernel.people import People
from cloudfs.wait import settle

LIMIT = 5.0  # seconds for all holders
GRACE = 0.25  # seconds for the others once enough have answered

Ask = Callable[[str, str, float], Awaitable[str]]  # (node, request, seconds)


class Secstore:
    """Of one node.  ask: what another node's holder answers; raises CloudError."""

    def __init__(self, cloud: Cloud, people: People, holder: Holder, ask: Ask) -> None:
        self.cloud = cloud
        self.people = people
        self.holder = holder
        self._ask = ask
        cloud.holders = lambda user: seen(cloud, user)

    async def ask(self, node: str, request: str, seconds: float = LIMIT) -> str:
        """What the holder at a node answers, this one's or another's."""
        if node == self.holder.node:
            await trio.lowlevel.checkpoint()
            return await settle(self.holder.ask(request))
        return await self._ask(node, request, seconds)

    def of(self, user: str) -> Dealing:
        """Who holds a user's shares.  CloudError("absent")."""
        if self.people.user(user) is None:
            raise no_user(user)
        found = self.people.dealing(user)
        if found is None:
            raise CloudError("absent", f"who holds the keys of {user} is not known here yet")
        return found

    # --- one user -----------------------------------------------------------------------------

    async def harden(self, user: str, request: str) -> str:
        """The point times each holder's share."""
        first, *rest = request.splitlines() or [""]
        pairs = ndb.parse(first)
        signs: dict[str, str] = {}
        for line in rest[:MOST]:
            told = ndb.parse(line)
            signs[told.get("holder", "")] = told.get("sign", "")
        made = self.of(user)
        if "right" in pairs:
            said = {"user": user, "point": pairs["right"], "sign": pairs.get("sign", "")}
            every = dict.fromkeys(made.holders, f"right {ndb.record(said)}")
            return await self.gather(every, made.need)
        point = {"user": user, "point": pairs.get("point", "")}
        device = {name: pairs[name] for name in ("device", "time") if name in pairs}

        def of(node: str) -> str:
            more = device | {"sign": signs[node]} if device and signs.get(node) else {}
            return f"harden {ndb.record(point | more)}"

        return await self.gather({node: of(node) for node in made.holders}, made.need)

    async def keys(self, user: str) -> str:
        """The sealed keys, as each holder has them."""
        made = self.of(user)
        request = f"keys {ndb.record({'user': user})}"
        return await self.gather(dict.fromkeys(made.holders, request), made.need)

    async def keep(self, user: str, line: str) -> str:
        """Give every holder a version of the sealed keys."""
        made = self.of(user)
        request = f"keep {ndb.record({'user': user})}\n{line}"
        return await self.gather(dict.fromkeys(made.holders, request), len(made.holders))

    # --- a new user ---------------------------------------------------------------------------

    async def choose(self, name: str) -> str:
        """`need=`, and a line `holder= key=` for each node that would hold a share."""
        check_name(name)
        need, holders = dealings.choose(name, await self.candidates(name))
        requests: dict[str, str] = dict.fromkeys(holders, "key")
        told = await self.gather(requests, len(holders))
        lines = [ndb.record({"need": need, "holders": len(holders)})]
        return "\n".join([*lines, told])

    async def give(self, request: str) -> str:
        """Give each holder its share."""
        lines = request.splitlines()
        records = lines[:3]
        shares: dict[str, str] = {}
        for line in lines[3 : 3 + MOST]:
            told = ndb.parse(line)
            shares[told.get("holder", "")] = told.get("share", "")
        requests = {
            node: "\n".join([f"give {ndb.record({'share': share})}", *records])
            for node, share in shares.items()
        }
        return await self.gather(requests, len(requests))

    async def candidates(self, user: str) -> dict[str, str]:
        """Nodes that may hold a share of a user, with their clusters: of each zone those that
        are chosen first."""
        found = dict(seen(self.cloud, user))
        if self.cloud.ask is not None:
            records, _ = await self.cloud.ask(f"holders {user}", LIMIT / 2)
            for told in map(_pairs, records):
                found.setdefault(told.get("name", ""), told.get("cluster", ""))
            for node in found:
                if self.cloud.node(node) is None:
                    await self.cloud.refresh(f"node {node}", LIMIT / 2)  # its address
        return {
            node: cluster
            for node, cluster in found.items()
            if node == self.holder.node or self.cloud.alive(node)
        }

    # --- asking several -----------------------------------------------------------------------

    async def gather(self, requests: Mapping[str, str], need: int) -> str:
        """Ask these nodes at once; see the module for the answer."""
        said: dict[str, str] = {}
        good = 0

        async def one(node: str, request: str, scope: trio.CancelScope) -> None:
            nonlocal good
            try:
                answer = await self.ask(node, request)
            except CloudError as error:
                pairs = {"holder": node, "kind": error.kind, "why": error.why, "fix": error.fix}
                said[node] = f"{ndb.record(pairs)}\n"
                return
            count = answer.count("\n")
            said[node] = f"{ndb.record({'holder': node, 'lines': count})}\n{answer}"
            good += 1
            if good == need:
                scope.deadline = min(scope.deadline, trio.current_time() + GRACE)

        with trio.move_on_after(LIMIT) as scope:
            async with trio.open_nursery() as nursery:
                for node, request in requests.items():
                    nursery.start_soon(one, node, request, scope)
        for node in requests:
            late = {"holder": node, "kind": "timeout", "why": f"{node} has not answered yet"}
            said.setdefault(node, f"{ndb.record(late)}\n")
        return "".join(said[node] for node in requests)


def _pairs(record: str) -> dict[str, str]:
    try:
        return ndb.parse(record)
    except CloudError:
        return {}


def seen(cloud: Cloud, user: str) -> Sequence[tuple[str, str]]:
    """Of a node's own zone those that live and are chosen first for a user, with clusters."""
    machine = cloud.machine
    here = {machine.name: machine.cluster} if machine.public or not cloud.nodes else {}
    here |= {
        info.name: info.cluster
        for info in cloud.nodes.values()
        if info.near and info.state in ("alive", "drained")
    }
    return [(node, here[node]) for node in dealings.rank(user, list(here))[:HOLDERS]]
