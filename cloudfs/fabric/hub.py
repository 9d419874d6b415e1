"""What every engine does with values, whatever carries them.  Pure.

A node *keeps* the values that it publishes; every other node holds a copy.  Values go out
as frames, which may be lost, doubled or late: stamps put them in order, and from time to
time a node tells a digest of what it keeps, so that who missed something fetches all of
it.  The same fetch serves who comes later.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator

from cloudfs.errors import CloudError
from cloudfs.fabric.api import MAX_VALUE, Sample
from cloudfs.fabric.keys import check_key, meets
from cloudfs.fabric.stamp import Clock, Stamp
from cloudfs.fabric.subscription import Subscription

KEPT, GONE, TOLD, DIGEST = b"K", b"G", b"T", b"D"
MAX_KEYS = 1 << 17  # values that one node may have others keep
_HEAD = struct.Struct("<cQIBB")  # kind, time, count, bytes of the node's name, of the key


class Hub:
    """One node's values and its copies of others'."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.clock = Clock(node)
        self._own: dict[str, Sample] = {}
        self._held: dict[str, dict[str, Sample]] = {}  # node → key → its value
        self._told: dict[str, Stamp] = {}  # node → its last once-told
        self._gone: dict[str, Stamp] = {}  # node → its last withdrawal
        self._subscriptions: list[tuple[str, Subscription[Sample]]] = []

    # --- what this node says: frames for all others -------------------------------------------

    def publish(self, key: str, value: bytes) -> tuple[Stamp, bytes]:
        if len(value) > MAX_VALUE:
            raise CloudError("toobig", f"{key}: a value has at most {MAX_VALUE} bytes")
        if key not in self._own and len(self._own) >= MAX_KEYS:
            raise CloudError("toomany", f"a node keeps at most {MAX_KEYS} values")
        sample = self._own[check_key(key)] = Sample(key, value, self.clock.now())
        return sample.stamp, frame(KEPT, sample)

    def withdraw(self, key: str) -> bytes | None:
        if self._own.pop(key, None) is None:
            return None
        return frame(GONE, Sample(key, b"", self.clock.now(), gone=True))

    def tell(self, key: str, value: bytes) -> bytes:
        if len(value) > MAX_VALUE:
            raise CloudError("toobig", f"{key}: a value has at most {MAX_VALUE} bytes")
        return frame(TOLD, Sample(check_key(key), value, self.clock.now()))

    def digest(self) -> bytes:
        """A frame by which others see whether they hold all that this node keeps."""
        return frame(DIGEST, Sample("digest", _digest(self._own.values()), self.clock.now()))

    def everything(self) -> bytes:
        """The digest and all frames of what this node keeps, each behind its size."""
        frames = [self.digest(), *(frame(KEPT, sample) for sample in self._own.values())]
        return b"".join(struct.pack("<I", len(one)) + one for one in frames)

    # --- what others say ----------------------------------------------------------------------

    def heard(self, data: bytes) -> str | None:
        """A frame of another node; the node whose values are to be fetched, if it shows that
        some were missed.  Raises CloudError("proto") for what is no frame."""
        kind, sample = unframe(data)
        node = sample.stamp.node
        if node == self.node:
            return None
        self.clock.saw(sample.stamp)
        held = self._held.setdefault(node, {})
        if kind == DIGEST:
            return node if _digest(held.values()) != sample.value else None
        if kind == TOLD:
            if node not in self._told or self._told[node] < sample.stamp:
                self._told[node] = sample.stamp
                self._deliver(sample, once=True)
            return None
        old, gone = held.get(sample.key), self._gone.get(node)
        if old is not None and old.stamp >= sample.stamp:
            return None
        if kind == KEPT:
            if old is None and gone is not None and sample.stamp < gone:
                return None  # late: it may be what was withdrawn; if not, a digest shows it
            held[sample.key] = sample
        else:
            self._gone[node] = sample.stamp if gone is None else max(gone, sample.stamp)
            if held.pop(sample.key, None) is None:
                return None
        self._deliver(sample)
        return None

    def fetched(self, node: str, data: bytes) -> bool:
        """All that a node keeps, as its `everything` gave it: what is not in it is gone.
        False if a withdrawal was heard since, so that it has to be fetched once more."""
        frames = [unframe(one) for one in _split(data)]
        if node == self.node or not frames or frames[0][0] != DIGEST:
            return True
        at = frames[0][1].stamp
        if node in self._gone and self._gone[node] > at:
            return False
        new = {one.key: one for kind, one in frames if kind == KEPT and one.stamp.node == node}
        held = self._held.setdefault(node, {})
        for key, old in list(held.items()):
            if key not in new and old.stamp < at:
                del held[key]
                self._deliver(Sample(key, b"", at, gone=True))
        for key, sample in new.items():
            known = held.get(key)
            if known is None or known.stamp < sample.stamp:
                held[key] = sample
                self._deliver(sample)
        self.clock.saw(at)
        return True

    # --- subscribers --------------------------------------------------------------------------

    def subscribe(self, keyexpr: str) -> Subscription[Sample]:
        made: Subscription[Sample] = Subscription(self._unsubscribe)
        self._subscriptions.append((keyexpr, made))
        for held in self._held.values():
            for key, sample in held.items():
                if meets(keyexpr, key):
                    made.put(sample, (sample.stamp.node, key))
        return made

    def _unsubscribe(self, one: Subscription[Sample]) -> None:
        self._subscriptions = [pair for pair in self._subscriptions if pair[1] is not one]

    def _deliver(self, sample: Sample, once: bool = False) -> None:
        for keyexpr, one in self._subscriptions:
            if meets(keyexpr, sample.key):
                one.put(sample, None if once else (sample.stamp.node, sample.key))

    def close(self) -> None:
        for _, one in list(self._subscriptions):
            one.close()


def frame(kind: bytes, sample: Sample) -> bytes:
    """A sample as bytes."""
    node, key = sample.stamp.node.encode(), sample.key.encode()
    head = _HEAD.pack(kind, sample.stamp.time, sample.stamp.count, len(node), len(key))
    return b"".join((head, node, key, sample.value))


def unframe(data: bytes) -> tuple[bytes, Sample]:
    """The inverse of `frame`; CloudError("proto")."""
    try:
        kind, time, count, node_size, key_size = _HEAD.unpack_from(data)
        node_end = _HEAD.size + node_size
        node = data[_HEAD.size : node_end].decode()
        key = data[node_end : node_end + key_size].decode()
    except (struct.error, UnicodeDecodeError):
        raise CloudError("proto", "a frame that is none") from None
    if len(data) < node_end + key_size or kind not in (KEPT, GONE, TOLD, DIGEST) or not node:
        raise CloudError("proto", "a frame that is none")
    value = data[node_end + key_size :]
    return kind, Sample(check_key(key), value, Stamp(time, count, node), kind == GONE)


def _split(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        try:
            (size,) = struct.unpack_from("<I", data, at)
        except struct.error:
            raise CloudError("proto", "a frame's size is cut") from None
        at += 4
        if at + size > len(data):
            raise CloudError("proto", "a frame is cut")
        yield data[at : at + size]
        at += size


def _digest(samples: Iterable[Sample]) -> bytes:
    """The same for the same set of keys and stamps, in whatever order."""
    total, count = 0, 0
    for sample in samples:
        text = f"{sample.key} {sample.stamp}".encode()
        total ^= int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())
        count += 1
    return struct.pack("<QI", total, count)
