"""Clouds for tests: keys and certificates made at once, without asking anybody."""

from __future__ import annotations

import time
from pathlib import Path

from cloudfs.factotum import authority, nodekeys
from cloudfs.factotum.authority import Authority
from cloudfs.factotum.nodekeys import KeyFiles


class TestCloud:
    """A cloud whose root key lies in a folder, and the state directories of its nodes in it."""

    __test__ = False  # pytest takes the name for a test's

    def __init__(self, folder: Path, name: str = "local") -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        found = nodekeys.authority_in(folder / "root.key")
        self.root = found or authority.make_root(name, time.time())
        if found is None:
            nodekeys.write(folder / "root.key", self.root.pem(), 0o600)
        self._clusters: dict[str, Authority] = {}

    def cluster(self, name: str) -> Authority:
        """A cluster's authority."""
        if name not in self._clusters:
            self._clusters[name] = authority.make_cluster(self.root, name, time.time())
        return self._clusters[name]

    def files(self, node: str, cluster: str = "test", now: float | None = None) -> KeyFiles:
        """A node's files, in FOLDER/NODE, made where they are not there yet, at a time."""
        state = self.folder / node
        files = nodekeys.files_in(state)
        if not files.cert.exists():
            made = time.time() if now is None else now
            nodekeys.give(state, self.root.cert, self.cluster(cluster), node, made)
        return files
