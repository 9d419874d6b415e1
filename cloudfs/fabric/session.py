"""One Zenoh session, as blocking calls for a worker's thread.

Peer mode over QUIC with mutual TLS; no multicast, no shared memory.  Of Zenoh's own
notions only these are used, under `cfs2/ZONE/`:

    live/NODE/SESSION/HOST:PORT    a liveliness token: the node is here, and can be dialled there
    put/NODE/KEY, tell/NODE/KEY    samples by that node; the attachment is the stamp
    ask/NODE                       each node's one queryable

Callbacks come on Zenoh's threads, so all they do is to put something into an inbox.

Where many links come up at once on busy machines a peer can lose the first declarations of
one, and is then deaf on it for good ("Route query with unknown scope" in Zenoh's log; seen
with 32 peers on two loaded cores, never with few).  The sign is a link to a peer whose token
is not known; `deaf` finds them, and a session opened anew hears.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from cloudfs.errors import CloudError
from cloudfs.fabric.api import Sample
from cloudfs.fabric.stamp import Stamp

if TYPE_CHECKING:
    import zenoh

    from cloudfs.factotum.nodekeys import KeyFiles

LEASE = 4.0  # seconds without a word after which a peer is lost
KEEP_ALIVE = 4  # words in that time
# An attempt to open a link, which the end of a session waits for.
OPENING = 2.5  # seconds
# All that one peer can send another.
MESSAGES = [
    *("put", "delete", "declare_subscriber", "query", "reply", "declare_queryable"),
    *("liveliness_token", "liveliness_query", "declare_liveliness_subscriber"),
]
RETRY = (200, 4000)  # ms between attempts to reach a seed: first, and at most

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Events(Protocol):
    """What a session says, from whatever thread."""

    def live(self, node: str, session: str, address: str, alive: bool) -> None: ...
    def deaf(self, sessions: frozenset[str]) -> None: ...
    def sample(self, kept: bool, node: str, sample: Sample) -> None: ...
    def question(self, data: bytes, query: zenoh.Query) -> None: ...
    def answer(self, number: int, node: str, data: bytes) -> None: ...
    def finished(self, number: int) -> None: ...


def config(
    files: KeyFiles,
    listen: Sequence[str],
    seeds: Sequence[str],
    meet: bool = True,
    shut_out: Iterable[str] = (),
) -> zenoh.Config:
    """meet: dial those that gossip speaks of.  shut_out: the common names of certificates
    with which nothing is exchanged: Zenoh has no list of revoked ones, and links to them stay."""
    import zenoh

    one, most = RETRY
    keys = {
        "root_ca_certificate": str(files.ca),
        "enable_mtls": True,
        "verify_name_on_connect": False,  # nodes have names, not fixed addresses
        "close_link_on_expiration": True,
    }
    for side in ("listen", "connect"):
        keys |= {f"{side}_certificate": str(files.cert), f"{side}_private_key": str(files.key)}
    settings = {
        "mode": "peer",
        "listen/endpoints": [f"quic/{address}" for address in listen],
        "connect/endpoints": [f"quic/{address}" for address in seeds],
        "connect/timeout_ms": -1,  # a seed may be down: go on trying
        "connect/exit_on_failure": False,
        "connect/retry": {
            "period_init_ms": one,
            "period_max_ms": most,
            "period_increase_factor": 2,
        },
        "open/return_conditions": {"connect_scouted": False, "declares": False},
        "scouting/multicast/enabled": False,
        "scouting/gossip/enabled": True,
        "scouting/gossip/autoconnect": {"peer": ["peer"] if meet else []},
        # Of two that hear of each other one dials.
        "scouting/gossip/autoconnect_strategy": {"peer": {"to_peer": "greater-zid"}},
        "timestamping/enabled": True,
        "transport/unicast/open_timeout": int(OPENING * 1000),
        "transport/shared_memory/enabled": False,
        "transport/link/protocols": ["quic"],
        "transport/link/tls": keys,
        "transport/link/tx/lease": int(LEASE * 1000),
        "transport/link/tx/keep_alive": KEEP_ALIVE,
        # A peer that takes nothing for that long loses its link, and with it nothing: what is
        # published is fetched again when it is back.
        "transport/link/tx/queue/congestion_control/block/wait_before_close": 2_000_000,  # µs
    }
    names = sorted(shut_out)
    if names:
        settings["access_control"] = {
            "enabled": True,
            "default_permission": "allow",
            "rules": [
                {
                    "id": "nothing",
                    "permission": "deny",
                    "flows": ["ingress", "egress"],
                    "messages": MESSAGES,
                    "key_exprs": ["**"],
                }
            ],
            "subjects": [{"id": "revoked", "cert_common_names": names}],
            "policies": [{"rules": ["nothing"], "subjects": ["revoked"]}],
        }
    found = zenoh.Config()
    for name, value in settings.items():
        found.insert_json5(name, json.dumps(value))
    return found


class Session:
    """Every method blocks, perhaps long.  Only `open` raises: what fails otherwise fails
    because the session is at its end, and all is said anew in the next one."""

    def __init__(self, node: str, zone: str, events: Events) -> None:
        self._node = node
        self._root = f"cfs2/{zone or '-'}"
        self._mark = ""  # the session's own id, as its peers know it
        self._known: set[str] = set()  # sessions whose tokens were seen, of whatever zone
        self._events = events
        self._zenoh: zenoh.Session | None = None
        self._shut_out: frozenset[str] = frozenset()
        self._listening: dict[str, zenoh.Subscriber[None]] = {}

    def open(
        self,
        files: KeyFiles,
        listen: str,
        seeds: Sequence[str],
        exprs: Sequence[str],
        shut_out: frozenset[str] = frozenset(),
    ) -> None:
        """shut_out: see `config`.  Raises CloudError: `busy` for an address in use, `bad` for
        what cannot be."""
        import zenoh

        self.close()
        zenoh.init_log_from_env_or("off")
        try:
            session = zenoh.open(config(files, [listen], seeds, shut_out=shut_out))
        except zenoh.ZError as error:
            raise _explained(str(error), listen) from error
        self._zenoh = session
        self._shut_out = shut_out
        self._mark = str(session.zid())
        self._known.clear()
        remote = zenoh.Locality.REMOTE
        asked = f"{self._root}/ask/{self._node}"
        session.declare_queryable(asked, _direct(self._asked), allowed_origin=remote)
        for expr in exprs:
            self.listen(expr)
        alive = session.liveliness()
        alive.declare_subscriber("cfs2/*/live/**", _direct(self._live), history=True)
        token = f"{self._root}/live/{self._node}/{self._mark}/{listen}"
        self._token = alive.declare_token(token)

    def close(self) -> None:
        session, self._zenoh = self._zenoh, None
        self._listening.clear()
        if session is not None:
            _tried(session.close)

    def deaf(self) -> None:
        """Say which sessions there is a link to but no token of."""
        session = self._zenoh
        if session is not None:
            peers = frozenset(map(str, _tried(session.info.peers_zid) or ()))
            if self._shut_out:  # whose tokens are not to be known
                links = _tried(session.info.links) or []
                peers -= {str(x.zid) for x in links if x.auth_identifier in self._shut_out}
            self._events.deaf(peers - self._known)

    def listen(self, expr: str) -> None:
        import zenoh

        session = self._zenoh
        if session is not None and expr not in self._listening:
            found = _tried(
                lambda: session.declare_subscriber(
                    f"{self._root}/*/*/{expr}",
                    _direct(self._heard),
                    allowed_origin=zenoh.Locality.REMOTE,
                )
            )
            if found is not None:
                self._listening[expr] = found

    def unlisten(self, expr: str) -> None:
        declared = self._listening.pop(expr, None)
        if declared is not None:
            _tried(declared.undeclare)

    def put(self, sample: Sample, kept: bool) -> None:
        """kept: wait where a peer cannot take it yet, rather than drop it."""
        import zenoh

        session = self._zenoh
        if session is None:
            return
        key = f"{self._root}/{'put' if kept else 'tell'}/{self._node}/{sample.key}"
        how = zenoh.CongestionControl.BLOCK if kept else zenoh.CongestionControl.DROP
        stamp = str(sample.stamp)
        if sample.gone:
            _tried(lambda: session.delete(key, attachment=stamp, congestion_control=how))
        else:
            value = sample.value
            _tried(lambda: session.put(key, value, attachment=stamp, congestion_control=how))

    def ask(self, number: int, node: str, data: bytes, timeout: float) -> None:
        """Ask that node, or all with "*".  timeout: seconds."""
        import zenoh

        def answered(reply: zenoh.Reply) -> None:
            if reply.ok is not None:
                who = str(reply.ok.key_expr).rpartition("/")[2]
                self._events.answer(number, who, reply.ok.payload.to_bytes())

        finished = partial(self._events.finished, number)

        def ask(session: zenoh.Session) -> bool:
            session.get(
                f"{self._root}/ask/{node}",
                zenoh.handlers.Callback(answered, finished, indirect=False),
                target=zenoh.QueryTarget.ALL,
                consolidation=zenoh.ConsolidationMode.NONE,
                timeout=max(timeout, 0.001),
                payload=data,
                priority=zenoh.Priority.INTERACTIVE_HIGH,
                express=True,
                allowed_destination=zenoh.Locality.REMOTE,
            )
            return True

        if self._zenoh is None or not _tried(partial(ask, self._zenoh)):
            finished()

    def answer(self, query: zenoh.Query, data: bytes | None) -> None:
        """Answer a question; with None only let go of it."""
        if data is not None:
            key, said = f"{self._root}/ask/{self._node}", data
            _tried(lambda: query.reply(key, said, express=True))
        _tried(query.drop)

    # --- on Zenoh's threads ------------------------------------------------------------------

    def _live(self, sample: zenoh.Sample) -> None:
        import zenoh

        root, _, said = str(sample.key_expr).partition("/live/")
        node, mark, address = said.split("/")
        alive = sample.kind == zenoh.SampleKind.PUT
        (self._known.add if alive else self._known.discard)(mark)
        if root == self._root and mark != self._mark:
            self._events.live(node, mark, address, alive)

    def _heard(self, sample: zenoh.Sample) -> None:
        import zenoh

        _, _, kind, node, key = str(sample.key_expr).split("/", 4)
        if kind in ("put", "tell") and sample.attachment is not None:
            gone = sample.kind == zenoh.SampleKind.DELETE
            stamp = Stamp.parse(sample.attachment.to_string())
            heard = Sample(key, sample.payload.to_bytes(), stamp, gone)
            self._events.sample(kind == "put", node, heard)

    def _asked(self, query: zenoh.Query) -> None:
        self._events.question(query.payload.to_bytes() if query.payload else b"", query)


def bridge(files: KeyFiles, addresses: Sequence[str], seconds: float) -> None:
    """Make those that listen at the addresses known to each other.

    An open session cannot be told to dial somewhere.  But one that is open for a moment to
    both sides gossips to each of the other, and then they dial.
    """
    import zenoh

    session = _tried(lambda: zenoh.open(config(files, [], addresses, meet=False)))
    if session is not None:
        time.sleep(seconds)
        _tried(session.close)


def _direct(call: Callable[[T], None]) -> zenoh.handlers.Callback[T]:
    """The call as a callback in Zenoh's own thread, out of which no error gets."""
    import zenoh

    def guarded(item: T) -> None:
        try:
            call(item)
        except Exception:
            _log.exception("what a peer sent cannot be used")

    return zenoh.handlers.Callback(guarded, None, indirect=False)


def _tried(call: Callable[[], T]) -> T | None:
    """What the call returns, None if it failed."""
    import zenoh

    try:
        return call()
    except zenoh.ZError as error:
        _log.debug("%s", error)
        return None


def _explained(said: str, listen: str) -> CloudError:
    """Zenoh's words for why it does not open, in ours."""
    said = said.partition(" at /")[0].strip()
    if "in use" in said:
        return CloudError("busy", f"the address {listen} is in use", "choose another --listen")
    return CloudError("bad", f"the engine does not open at {listen}: {said[:200]}")
