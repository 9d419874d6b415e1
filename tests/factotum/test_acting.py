"""Nodes act for a user by what was lent to them, hop after hop, and by nothing else."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from cloudfs.errors import CloudError
from cloudfs.factotum import p9any
from cloudfs.factotum.acting import Acting
from cloudfs.factotum.nodeproof import NodeProof, bound_to
from cloudfs.factotum.proofs import Proofs
from cloudfs.factotum.tokens import LIFE
from cloudfs.who import Who
from tests.factotum.town import Prover, Town, certificate


class Station:
    """A node: whom it believes, and for whom it can act."""

    def __init__(self, town: Town, name: str) -> None:
        files = town.node(name)
        self.name = name
        self.proof = NodeProof(files)
        self.proof.load()
        self.binding = bound_to(certificate(files).public_bytes(Encoding.DER))
        self.proofs = Proofs(town.people, lambda: self.proof, town.clock)
        root = (town.root.cert, town.root.cloud)
        self.acting = Acting(self.proofs.lent, lambda: self.proof, lambda: root, town.clock)


@pytest.fixture
def town(tmp_path: Path) -> Town:
    made = Town(tmp_path)
    made.user("ana")
    return made


def log_in(town: Town, station: Station, more: str = "lend=yes") -> Who:
    """ana's factotum proves herself over the socket of a node."""
    server, prover = station.proofs.begin(b""), Prover(town.rpc("ana"), more)
    while (message := prover.say()) is not None:
        if message:
            server.write(message)
        else:
            prover.hear(server.read())
    return station.proofs.who(server, 1000)


def visit(here: Station, there: Station, user: str = "ana") -> Who:
    """One node proves to another that it acts for a user."""
    client = here.acting.talk(user, there.name, there.binding)
    assert client is not None
    server = there.proofs.begin(there.binding)
    converse(client, server)
    return there.proofs.who(server, None, here.name)


def converse(client: p9any.Client, server: p9any.Server) -> None:
    while client.state != "done":
        message = client.read()
        if message:
            server.write(message)
        else:
            client.write(server.read())


def test_a_node_acts_as_the_caller_hop_after_hop(town: Town) -> None:
    nodes = [Station(town, f"n{number}") for number in range(1, 7)]
    assert log_in(town, nodes[0]).user == "ana"
    for here, there in pairwise(nodes[:5]):
        assert visit(here, there).user == "ana"
    assert nodes[4].acting.talk("ana", "n6", nodes[5].binding) is None  # four hops are the most


def test_who_lends_nothing_is_acted_for_by_nobody(town: Town) -> None:
    n1, n2 = Station(town, "n1"), Station(town, "n2")
    log_in(town, n1, "")
    assert n1.acting.talk("ana", "n2", n2.binding) is None
    assert n1.acting.talk("bob", "n2", n2.binding) is None


def test_a_stolen_token_alone_is_useless(town: Town) -> None:
    """What n1 was lent is no good to n2, which has it too, but not n1's key."""
    n1, n2, n3 = (Station(town, name) for name in ("n1", "n2", "n3"))
    log_in(town, n1)
    loan = n1.proofs.lent.of("ana", town.now)
    assert loan is not None
    n2.proofs.lent.keep("ana", "n1", loan.credential, loan.until)
    client = n2.acting.talk("ana", "n3", n3.binding)
    assert client is not None
    with pytest.raises(CloudError, match="not signed by the holder"):
        converse(client, n3.proofs.begin(n3.binding))


def test_what_is_for_one_node_cannot_be_relayed_to_another(town: Town) -> None:
    n1, n2, n3 = (Station(town, name) for name in ("n1", "n2", "n3"))
    log_in(town, n1)
    client = n1.acting.talk("ana", "n2", n2.binding)
    assert client is not None
    with pytest.raises(CloudError):
        converse(client, n3.proofs.begin(n3.binding))


def test_it_ends_with_the_login_with_its_time_and_with_the_epoch(town: Town) -> None:
    n1, n2 = Station(town, "n1"), Station(town, "n2")
    log_in(town, n1)
    assert visit(n1, n2).user == "ana"
    town.new_epoch("ana")
    with pytest.raises(CloudError, match="epoch"):
        visit(n1, n2)
    log_in(town, n1)
    n1.proofs.lent.drop("ana")
    assert n1.acting.talk("ana", "n2", n2.binding) is None
    log_in(town, n1)
    town.now += LIFE + 1
    assert n1.acting.talk("ana", "n2", n2.binding) is None
