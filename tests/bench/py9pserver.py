"""py9p's own server over a copy of a directory tree in memory, as a peer.

    python py9pserver.py SOCKET DIRECTORY

Every file of DIRECTORY up to 64 KiB is read at start, so that py9p is measured and
not the disk.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from py9p import py9p

LARGEST = 1 << 16  # bytes of a file


class Tree:
    """The callbacks that py9p.Server asks of a file system."""

    def __init__(self, top: Path) -> None:
        self.dirs: dict[int, Any] = {}
        self.children: dict[int, dict[str, int]] = {}
        self.data: dict[int, bytes] = {}
        self.root = self._load(top, "/")

    def _load(self, path: Path, name: str) -> Any:
        number = len(self.dirs)
        kind = py9p.QTDIR if path.is_dir() else py9p.QTFILE
        mode = 0o555 | py9p.DMDIR if kind else 0o444
        entry = py9p.Dir(
            0, 0, 0, py9p.Qid(kind, 0, number), mode, 0, 0, 0, name, "root", "root", "root"
        )
        self.dirs[number] = entry
        if kind:
            self.children[number] = {}
            for child in sorted(path.iterdir()):
                if child.is_dir() or child.stat().st_size <= LARGEST:
                    loaded = self._load(child, child.name)
                    self.children[number][child.name] = loaded.qid.path
        else:
            self.data[number] = path.read_bytes()
            entry.length = len(self.data[number])
        return entry

    def walk(self, server: Any, request: Any) -> None:
        at = request.fid.qid.path
        for name in request.ifcall.wname:
            if name not in self.children.get(at, {}):
                break
            at = self.children[at][name]
            request.ofcall.wqid.append(self.dirs[at].qid)
        server.respond(request, None)

    def open(self, server: Any, request: Any) -> None:
        server.respond(request, None)

    def stat(self, server: Any, request: Any) -> None:
        request.ofcall.stat.append(self.dirs[request.fid.qid.path])
        server.respond(request, None)

    def read(self, server: Any, request: Any) -> None:
        at = request.fid.qid.path
        if at in self.data:
            server.bufread(request, self.data[at])
            return
        request.ofcall.stat = [self.dirs[child] for child in self.children[at].values()]
        server.respond(request, None)


def main() -> None:
    socket, top = sys.argv[1:]
    py9p.Server((socket, 0o600), fs=Tree(Path(top)), msize=65536).serve()


if __name__ == "__main__":
    main()
