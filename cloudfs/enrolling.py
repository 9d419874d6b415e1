"""Certificates from other nodes: asked for with a join file, renewed by themselves, given.

    a joiner ──join──▶ a seed ──passed──▶ the join file's issuer
    a node   ──renew──▶ an issuer of its cluster, or any node, which passes it on to one

What is said stands in factotum/enrol.py, what is on disk in cloudfs/credentials.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial

import trio
from cryptography import x509

from cloudfs.credentials import Credentials
from cloudfs.errors import CloudError
from cloudfs.factotum import enrol
from cloudfs.factotum.authority import Join, check_root
from cloudfs.factotum.certificates import when
from cloudfs.factotum.nodekeys import certificate, node_key, stranger_context
from cloudfs.kernel.cloud import Cloud, NodeInfo
from cloudfs.wait import Wait
from cloudfs.wire.enrol import converse
from cloudfs.wire.imports import Pool

PATIENCE = 30.0  # seconds for all seeds of a join file together
LOOK = 60.0  # seconds between looks whether the certificate is to be renewed
AGAIN = (5.0, 3600.0)  # seconds after an attempt to renew that failed: the first, and at most
TRIED = 8  # nodes asked in one attempt
BURST, RATE = 40.0, 10.0  # questions of strangers, and of nodes: at once, and a second
OVER = 2  # of a stranger's question that is passed on: attempts with different nodes
ELSEWHERE = 2.0  # seconds for other zones to tell of issuers
FINAL = frozenset({"denied", "bad"})  # kinds of answers after which no other node is asked

log = logging.getLogger(__name__)


class _Bucket:
    """Bounds what answering may cost."""

    def __init__(self) -> None:
        self._tokens, self._filled = BURST, 0.0

    def take(self) -> None:
        """CloudError("again") where too much was asked of late."""
        now = trio.current_time()
        self._tokens = min(BURST, self._tokens + RATE * (now - self._filled))
        self._filled = now
        if self._tokens < 1:
            raise CloudError("again", "too many ask this node at once", "try again in a moment")
        self._tokens -= 1


class Enrolling:
    """Asks and answers.  renewed: called once there is a new certificate."""

    def __init__(self, credentials: Credentials, cloud: Cloud, pool: Pool) -> None:
        self.credentials = credentials
        self.seeds: list[str] = []  # addresses of nodes of the cloud
        self.renewed: Callable[[], None] = lambda: None
        self._cloud = cloud
        self._pool = pool
        self._strangers, self._nodes = _Bucket(), _Bucket()

    # --- asking -----------------------------------------------------------------------------

    async def join(self, file: Join) -> tuple[x509.Certificate, bytes]:
        """The root and a certificate, PEM, for who has that join file.

        CloudError: `denied` where a node of that cloud says no, where what answers is of
        another cloud, or where this machine's clock is too wrong; else `unreachable`.
        """
        own = self.credentials
        key = node_key(own.files.key)
        text = enrol.ask_join(file, own.name, key)
        failed = CloudError("unreachable", "no seed of the join file answers")
        with trio.move_on_after(PATIENCE):
            for address in file.seeds:
                try:
                    said = await converse(self._pool, address, context=stranger_context(None))
                    node, there, root = enrol.read_greeting(said)
                    check_root(file, root)
                    # The clock first: with a wrong one the certificate does not verify.
                    enrol.check_clock(node, there, own.clock())
                    context = stranger_context(root)
                    answer = await converse(self._pool, address, node, text, context)
                    return root, enrol.check_answer(answer, root, key, own.name)[0]
                except CloudError as error:
                    log.info("asked %s for a certificate: %s", address, error)
                    failed = error
                    if error.kind in FINAL:
                        break
        raise failed

    async def renew(self) -> None:
        """Have the certificate made anew.  CloudError where nobody does."""
        own = self.credentials
        assert own.own is not None
        assert own.root is not None
        if own.renew_here():
            self.renewed()
            return
        key = node_key(own.files.key)
        text = enrol.ask_renewal(certificate(own.files.cert), key)
        # Who has run out of certificates is let in as a stranger only.
        late = own.own.ends <= own.clock()
        context = stranger_context(own.root) if late else None
        failed = CloudError("unreachable", "no other node is known")
        await self._look_for(own.own.cluster)
        for address in self._to_ask():
            try:
                answer = await converse(self._pool, address, "", text, context)
                chain, made = enrol.check_answer(answer, own.root, key, own.name)
                if made.ends <= own.own.ends:
                    raise CloudError("denied", "the new certificate ends before the old one")
            except CloudError as error:
                failed = error
                continue
            own.adopt(own.root, chain)
            self.renewed()
            return
        raise failed

    def _to_ask(self) -> list[str]:
        """Addresses of nodes, the issuers of the own cluster first."""
        cloud, cluster = self._cloud, self._cloud.machine.cluster
        issuers = [i.addr for i in self._issuers(cluster)]
        others = sorted(cloud.nodes.values(), key=lambda info: info.cluster != cluster)
        found = dict.fromkeys([*issuers, *self.seeds, *(info.addr for info in others)])
        return [address for address in found if address][:TRIED]

    async def run(self) -> None:
        """Renew the certificate whenever it is time, until cancelled."""
        own, pause, due = self.credentials, AGAIN[0], 0.0
        while True:
            if own.own is not None and not own.lost and own.clock() >= max(due, own.renews()):
                try:
                    await self.renew()
                    pause = AGAIN[0]
                    log.info("the certificate was renewed and ends %s", when(own.own.ends))
                except CloudError as error:
                    ends = when(own.own.ends)
                    log.warning("the certificate ends %s and is not renewed: %s", ends, error)
                    due, pause = own.clock() + pause, min(2 * pause, AGAIN[1])
            # No longer than LOOK: the machine's clock may be set.
            wait = max(due, own.renews() if own.own else due) - own.clock()
            await trio.sleep(wait if 0 < wait < LOOK else LOOK)

    # --- answering --------------------------------------------------------------------------

    def answer(self, strange: bool, question: str) -> str | Wait[str]:
        """The certificate for a question.  CloudError: `bad`, `denied`, `again`."""
        asked = enrol.parse(question)
        (self._strangers if strange else self._nodes).take()
        if self.credentials.issues_for(asked):
            made = self.credentials.answer(asked)
            what = "joined with a join file" if asked.shown else "has a new certificate"
            log.info("node %s of cluster %s %s", asked.node, asked.cluster, what)
            return made
        if asked.passed:
            raise CloudError("unreachable", f"this node is no issuer of {asked.cluster}")
        return Wait(partial(self._pass_on, asked, question))

    async def _pass_on(self, asked: enrol.Asked, question: str) -> str:
        """What the issuer says, or an issuer of the cluster."""
        if asked.shown is not None:
            wanted = asked.shown.issuer
            if self._cloud.node(wanted) is None:
                await self._cloud.refresh(f"node {wanted}", ELSEWHERE)
            info = self._cloud.node(wanted)
            targets = [(wanted, info.addr)] if info else []
            missing = f"{wanted}, which made the join file, is not known here"
        else:
            await self._look_for(asked.cluster)
            targets = [(info.name, info.addr) for info in self._issuers(asked.cluster)]
            missing = f"no issuer of cluster {asked.cluster} is known here"
        failed = CloudError("unreachable", missing, "try again when it is there")
        for node, address in targets[:OVER]:
            try:
                return await converse(self._pool, address, node, enrol.PASSED + question)
            except CloudError as error:
                failed = error
                if error.kind in FINAL:
                    break
        raise CloudError(failed.kind, failed.why, failed.fix)

    async def _look_for(self, cluster: str) -> None:
        """Ask other zones for issuers of a cluster where none is known here."""
        if not any(self._issuers(cluster)):
            question = f"query all issuer=yes cluster={cluster} count={OVER}"
            await self._cloud.refresh(question, ELSEWHERE)

    def _issuers(self, cluster: str) -> Iterator[NodeInfo]:
        """The issuers of a cluster of which this node knows."""
        for info in self._cloud.nodes.values():
            issues = info.cluster == cluster and info.told.get("issuer") == "yes"
            if issues and self._cloud.alive(info.name) and info.addr:
                yield info
