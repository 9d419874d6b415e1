"""What a client of secstore remembers of a user, in a file of this machine's own user."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloudfs import config
from cloudfs.factotum.accounts import User
from cloudfs.factotum.sealed import Blob


class Memory:
    """The device's key, by which holders know it, and the last sealed keys that were seen."""

    def __init__(self, record: User) -> None:
        base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
        folder = Path(base) / "cloudfs-secstore"
        # By the first key: another user of the same name is somebody else.
        self._path = folder / f"{record.user}@{record.cloud}-{record.made[1].hex()[:16]}"
        self.device: Ed25519PrivateKey | None = None
        self.keys = ""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            has = json.loads(self._path.read_text())
            self.keys = str(has["keys"])
            if has["device"]:
                self.device = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(has["device"]))

    def note(self, blob: Blob) -> None:
        """Remember that this version was there."""
        if self.keys != blob.digest:
            self.keys = blob.digest
            self.save()

    def save(self) -> None:
        """Write it; where that cannot be the device stays a stranger."""
        device = self.device.private_bytes_raw().hex() if self.device else ""
        text = json.dumps({"device": device, "keys": self.keys})
        new = self._path.with_name(f"{self._path.name}.new")
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(new, "w", opener=config.private) as file:
                file.write(text)
            new.replace(self._path)
