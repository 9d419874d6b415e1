"""What a node proves itself with, and whom it believes: its keys, certificates and ledger.

    root        the cloud's root certificate; None while the node is in no cloud
    own         what its certificate says
    authority   its cluster's authority, where this node is an issuer
    revoked     the nodes that lost their place

All of it is on disk (factotum/nodekeys.py), with the file `revoked` beside; the ledger of an
issuer, who joined with what, is in the node's records.  Nothing here waits for another node:
asking them is cloudfs/enrolling.py.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cryptography import x509

from cloudfs.errors import CloudError
from cloudfs.factotum import authority as authorities
from cloudfs.factotum import enrol, nodekeys, revocation
from cloudfs.factotum.authority import ANEW, LIFE, RENEW, SEEDS, Authority
from cloudfs.factotum.certificates import Proof, proof, when
from cloudfs.factotum.revocation import REGAIN, Revocation, Revoked
from cloudfs.kernel.records import Records

SPREAD = 3600.0  # seconds over which the nodes of a cloud spread their renewals
FILES = 1024  # join files that are good, at most
LONGEST = 30 * 86400.0  # seconds that a join file may be good for
SEEN = 4096  # nodes whose newest certificate is remembered

log = logging.getLogger(__name__)


class Credentials:
    """One node's.  state: the state directory.  clock: seconds since 1970."""

    def __init__(
        self,
        state: Path,
        name: str,
        records: Records,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.state = state
        self.name = name
        self.clock = clock
        self.files = nodekeys.files_in(state)
        self.root: x509.Certificate | None = None
        self.own: Proof | None = None
        self.authority: Authority | None = None
        self.revoked = Revoked()
        self.why = ""  # why there is a certificate that is not used
        self._records = records
        self._seen: OrderedDict[tuple[str, str, str], float] = OrderedDict()

    @property
    def certified(self) -> bool:
        return self.own is not None

    def load(self, cluster: str) -> None:
        """Take what is on disk, for a node of that cluster.  CloudError("bad") where a file is
        broken; what names another node is not used, and `why` says so."""
        if not self.files.cert.exists():
            self.why = "this node is in no cloud yet; type cloudfs init, or cloudfs join FILE"
            return
        found = nodekeys.read_proof(self.files)
        if (found.node, found.cluster) != (self.name, cluster):
            here = f"{self.name} of cluster {cluster}"
            self.why = (
                f"its certificate is of node {found.node} of cluster {found.cluster}, and it was"
                f" started as {here}; start it as that one, or join anew: cloudfs join FILE"
            )
            return
        self.root, self.own, self.why = nodekeys.certificate(self.files.ca), found, ""
        self.authority = self._authority()
        try:
            lines = (self.state / "revoked").read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        self.revoked = revocation.known(lines, self.root, found.cloud, self.clock())

    # --- being certified ------------------------------------------------------------------------

    def init(self, cloud: str, cluster: str) -> Path:
        """Begin a cloud, or with its root.key at hand a cluster of it; where root.key is.

        CloudError: `exists` where this node is in a cloud, `bad` for names that are none or
        a root.key of another cloud.
        """
        if self.own is not None:
            why = f"this node is in the cloud {self.own.cloud} already"
            raise CloudError("exists", why, "see: cloudfs nodes")
        now, place = self.clock(), self.state / "root.key"
        root = nodekeys.authority_in(place)
        if root is not None and (root.cluster or cloud not in ("", root.cloud)):
            raise CloudError("bad", f"{place} is of the cloud {root.cloud}, not of {cloud}")
        made = root or authorities.make_root(cloud or "local", now)
        self.keep_aside(made.cert)
        held = nodekeys.authority_in(self.state / "cluster.key")
        if held is None or held.cluster != cluster or not held.under(made.cert):
            held = authorities.make_cluster(made, cluster, now)
        if root is None:
            nodekeys.write(place, made.pem(), 0o600)
        nodekeys.write(self.state / "cluster.key", held.pem(), 0o600)
        nodekeys.give(self.state, made.cert, held, self.name, now)
        self.load(cluster)
        return place

    def adopt(self, root: x509.Certificate, chain: bytes) -> None:
        """Prove oneself with this certificate from now on.  The keys of another cloud, which
        this node had begun for itself, stay in its state directory under another name."""
        self.keep_aside(root)
        nodekeys.put(self.files, root, chain)
        self.root, self.own = root, nodekeys.read_proof(self.files)
        self.why = ""
        self.authority = self._authority()

    def _authority(self) -> Authority | None:
        """That of the own cluster, where it is here.  CloudError("bad") for a broken file."""
        found, own, root = nodekeys.authority_in(self.state / "cluster.key"), self.own, self.root
        if found is None or own is None or root is None:
            return None
        return found if found.cluster == own.cluster and found.under(root) else None

    def keep_aside(self, root: x509.Certificate) -> None:
        """Move keys out of the way that are not of that cloud."""
        before = nodekeys.certificate(self.files.ca) if self.files.ca.exists() else root
        if before == root:
            return
        tag = authorities.root_hash(before)[:8]
        for name in ("root.key", "cluster.key", "revoked"):
            path = self.state / name
            if path.exists():
                path.rename(path.with_name(f"{name}.{tag}"))
        self.revoked = Revoked()

    def renews(self) -> float:
        """When the certificate is to be renewed, in seconds since 1970."""
        assert self.own is not None
        return self.own.made + age_of_renewal(self.name)

    def renew_here(self) -> bool:
        """Make the own certificate anew, where the authority is here; whether it is."""
        by = self.authority = self._authority()
        if by is None or self.root is None:
            return False
        nodekeys.give(self.state, self.root, by, self.name, self.clock())
        self.own = nodekeys.read_proof(self.files)
        return True

    # --- being an issuer ------------------------------------------------------------------------

    def invite(self, life: float, uses: int, seeds: Sequence[str]) -> str:
        """A new join file of this node's cluster.  CloudError: `refused` where this node is no
        issuer, `bad` for a life or uses that cannot be."""
        if not 60 <= life <= LONGEST:
            raise CloudError("bad", "a join file is good for a minute at least and 30 days at most")
        by, root = self._issuer(), self.root
        assert root is not None
        now = self.clock()
        joins = self._joins(now)
        if len(joins) >= FILES:
            raise CloudError("toomany", f"{FILES} join files are good already", "let some end")
        made = authorities.make_join(by, root, seeds[:SEEDS], self.name, now, life, uses)
        joins[made.id] = {"ends": made.ends, "nodes": {}}
        self._records.set("joins", joins)
        return made.text()

    def issues_for(self, asked: enrol.Asked) -> bool:
        """Whether it is for this node to answer that."""
        by = self.authority
        if by is None or self.own is None:
            return False
        if asked.shown is not None:
            return asked.shown.issuer == self.name
        return by.cluster == asked.cluster

    def answer(self, asked: enrol.Asked) -> str:
        """The certificate for a question that is for this node; CloudError("denied")."""
        by, now = self._issuer(), self.clock()
        revoked = self.revoked.of(asked.cluster, asked.node)
        if revoked is not None:
            until = when(revoked.at + revocation.LIVES)
            fix = f"give the machine another name, or wait until {until}"
            raise CloudError("denied", revoked.why, fix)
        joins, key = self._joins(now), hashlib.sha256(asked.public).hexdigest()[:32]
        shown = asked.shown
        entry: dict[str, Any] = joins.get(shown.id, {}) if shown else {}
        again = bool(entry) and entry["nodes"].get(asked.node) == key  # the answer was lost

        def used(id: str) -> int:
            if not entry:
                raise CloudError("denied", "its issuer does not know this join file", ANEW)
            if entry.get("shut"):
                why = "a node that joined with this file was revoked since"
                raise CloudError("denied", why, ANEW)
            nodes: dict[str, str] = entry["nodes"]
            return len(nodes) - int(again)

        chain = enrol.answer(asked, by, now, used)
        issued = self._records.get("issued", {})
        have = issued.get(asked.node)
        if have and have[0] != key and have[1] > now:
            raise CloudError(
                "denied",
                f"there is a node {asked.node} with another key in cluster {asked.cluster}",
                "give this one another name: cloudfs up --node NAME",
            )
        if shown is not None:
            entry["nodes"][asked.node] = key
            self._records.set("joins", joins)
        issued = {name: each for name, each in issued.items() if each[1] + REGAIN > now}
        issued[asked.node] = [key, now + LIFE]
        self._records.set("issued", issued)
        return chain.decode()

    def _joins(self, now: float) -> dict[str, dict[str, Any]]:
        """The join files that are good, by id."""
        kept: dict[str, dict[str, Any]] = self._records.get("joins", {})
        return {id: entry for id, entry in kept.items() if entry["ends"] > now}

    def _issuer(self) -> Authority:
        if self.authority is None or self.own is None:
            raise CloudError(
                "refused",
                "this node has not its cluster's authority, cluster.key",
                "type it on a node that has: ls /cloud/query/issuer=yes",
            )
        return self.authority

    # --- who lost their place -------------------------------------------------------------------

    def revoke(self, node: str, cluster: str) -> Revocation:
        """Take a node's place away, which others are then to be told of.  CloudError: `refused`
        where neither the authority of its cluster nor the root is here, `busy` for itself."""
        assert self.own is not None
        if (cluster, node) == (self.own.cluster, self.name):
            raise CloudError("busy", f"{node} is this node itself", "type it on another issuer")
        by = nodekeys.authority_in(self.state / "root.key")
        if by is None or by.cert != self.root:
            by = self._issuer()
        made = revocation.revoke(by, cluster, node, self.clock())
        have = self.revoked.of(cluster, node)
        if have is not None:
            return have
        self._take(made)
        joins = self._joins(self.clock())
        for entry in joins.values():
            if node in entry["nodes"]:
                entry["shut"] = True  # or it would come back with its own join file
        self._records.set("joins", joins)
        return made

    def learn(self, text: str) -> Revocation | None:
        """Take a record that another node told; None if it is known.  CloudError for one that
        is none, or was not made by who may."""
        record = revocation.parse(text)
        if self.root is None or self.own is None:
            return None
        have = self.revoked.of(record.cluster, record.node)
        if have is not None and have.at <= record.at:
            return None
        revocation.check(record, self.root, self.own.cloud)
        return record if self._take(record) else None

    def _take(self, record: Revocation) -> bool:
        if not self.revoked.add(record, self.clock()):
            return False
        text = "".join(f"{each.text()}\n" for each in self.revoked.all.values())
        nodekeys.write(self.state / "revoked", text.encode(), 0o644)
        return True

    @property
    def lost(self) -> str:
        """Why this node has no place any more, or ""."""
        own = self.own
        record = self.revoked.of(own.cluster, own.node) if own else None
        return record.why if record else ""

    def shut_out(self) -> frozenset[str]:
        """The common names of certificates to be kept away from the engine."""
        return self.revoked.shut_out(self.clock())

    def admit(self, der: bytes) -> None:
        """CloudError("denied") where the node with that certificate, verified once, was revoked,
        or has run out of certificates since."""
        named, now = proof(der), self.clock()
        record = self.revoked.of(named.cluster, named.node)
        if record is not None:
            raise CloudError("denied", record.why)
        who = named.cluster, named.node, named.key
        ends = max(named.ends, self._seen.pop(who, 0.0))
        self._seen[who] = ends
        if len(self._seen) > SEEN:
            self._seen.popitem(last=False)
        if ends <= now:
            why = f"the certificate of {named.node} ran out {when(ends)} (UTC)"
            raise CloudError("denied", why)

    # --- for people -----------------------------------------------------------------------------

    def record(self) -> dict[str, object]:
        """What its certificate says; nothing of it is secret."""
        own = self.own
        if own is None:
            return {"why": self.why}
        return {
            "cloud": own.cloud,
            "cluster": own.cluster,
            "node": own.node,
            "id": own.key,
            "made": int(own.made),
            "renews": int(self.renews()),
            "ends": int(own.ends),
            "issuer": "yes" if self.authority is not None else "no",
            "why": self.lost,
        }

    def greeting(self) -> str:
        """What this node says to who asks for a certificate."""
        own, root = self.own, self.root
        if own is None or root is None:
            raise CloudError("unreachable", "this node is in no cloud")
        return enrol.greeting(own.cloud, own.cluster, own.node, root, self.clock())


def age_of_renewal(node: str) -> float:
    """Seconds after which a node renews its certificate; each has its own, a little less or
    more than RENEW."""
    share = int.from_bytes(hashlib.sha256(node.encode()).digest()[:4], "big") / 2**32
    return RENEW + SPREAD * (share - 0.5)
