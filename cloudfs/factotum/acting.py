"""This node acts for a user on another one, by what was lent to it.

Between nodes a connection proves which node it is, and no more.  For each user of the cloud it
proves on an afid, with cap25519, that the user lent it a token (lent.py, delegation.py), and lends
that on to the node it asks, so that what runs there for the user can act on a third.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from cryptography import x509

from cloudfs.errors import CloudError
from cloudfs.factotum import cap25519, delegation, nodeproof, p9any
from cloudfs.factotum.lent import Lent, Loan
from cloudfs.factotum.nodeproof import Check, NodeProof

Root = tuple[x509.Certificate, str]  # the root's certificate, and the cloud's name


class Acting:
    """lent: what this node was lent.  proof(): what it proves itself with.  root(): of its cloud;
    None for both while it is in none.  now: seconds since 1970."""

    def __init__(
        self,
        lent: Lent,
        proof: Callable[[], NodeProof | None],
        root: Callable[[], Root | None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._lent = lent
        self._proof = proof
        self._root = root
        self._now = now
        self._check: tuple[Root, Check] | None = None

    def talk(self, user: str, node: str, binding: bytes) -> p9any.Client | None:
        """A conversation that proves to a node that this one acts for a user; None where nobody
        lent it anything for that.  binding: of the connection (cap25519)."""
        loan, root, proof = self._lent.of(user, self._now()), self._root(), self._proof()
        if loan is None or root is None or proof is None:
            return None
        if self._check is None or self._check[0] is not root:
            self._check = root, Check(nodeproof.root_key(root[0]), root[1], self._now)
        check, me = self._check[1], proof.holder()

        def shown(name: str, certificates: bytes) -> bytes:
            if name != node:
                raise CloudError("denied", f"who answers is node {name}, not {node}")
            return _lend(loan, proof, nodeproof.node_key(certificates))

        def begin(dom: str, before: bytes) -> p9any.Talk:
            return cap25519.Client(before, binding, me, check, shown)

        return p9any.Client({(cap25519.NAME, root[1]): begin})


def _lend(loan: Loan, proof: NodeProof, to: bytes) -> bytes:
    """What was lent, lent on; as it is where it may not go any farther."""
    try:
        return delegation.delegate(loan.credential, proof.holder(), to, loan.until)
    except CloudError as error:
        if error.kind not in ("toomany", "toobig"):
            raise
        return loan.credential
