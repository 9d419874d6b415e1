"""Several enclosures on one private network, each as good as a machine of its own; with
what they need on disk, and all that they made taken away at the end.  Root only.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from cloudfs.errors import CloudError
from cloudfs.node.claims import Claim, orphans
from cloudfs.node.enclosure import Enclosure
from cloudfs.node.groups import Groups
from cloudfs.node.netns import FIX, Switch, tool
from cloudfs.node.wan import Wan

PROGRAMS = ("ip", "bridge", "nsenter", "unshare")


def lack() -> str:
    """Why no machines can be made here; "" if they can."""
    if os.geteuid() != 0:
        return "only root can make network namespaces"
    try:
        for program in PROGRAMS:
            tool(program)
    except CloudError as error:
        return f"{error.why} ({error.fix})"
    return ""


class Machines:
    """Machines by name, on one switch.  Their files are under base, one directory for
    each, named as the machine.  clocks: seconds by which a machine's monotonic clock is
    ahead.  wan: whether the links can be long and slow (node/wan.py).

    A context: begun when entered, gone when left.  What an earlier owner that was
    killed has left is cleared first.  Raises CloudError.
    """

    def __init__(
        self,
        names: Iterable[str],
        clocks: Mapping[str, float] | None = None,
        *,
        wan: bool = False,
    ) -> None:
        self.names = list(names)
        self.clocks = dict(clocks or {})
        self._long = wan
        self.all: dict[str, Enclosure] = {}

    def __enter__(self) -> Machines:
        if word := lack():
            raise CloudError("unsupported", word, FIX)
        sweep()
        self.base = Path(tempfile.mkdtemp(prefix="cloudfs-"))
        self.base.chmod(0o711)  # sandboxes have users of their own
        self._claim = Claim({"base": str(self.base), "nodes": " ".join(self.names)})
        self.tag = self._claim.tag
        self.switch: Switch
        if self._long:
            self.switch = Wan(self.tag, self.names, self.base)
        else:
            self.switch = Switch(self.tag, self.names)
        try:
            self.switch.open()
            for name in self.names:
                (self.base / name).mkdir(mode=0o711)
                space = self.switch.namespace(name)
                self.all[name] = Enclosure(name, space, self.clocks.get(name, 0.0))
            for one in self.all.values():
                one.ready()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    @property
    def wan(self) -> Wan:
        """The network, of machines that were made with one."""
        assert isinstance(self.switch, Wan)
        return self.switch

    def _close(self) -> None:
        for one in self.all.values():
            one.close()
        clear(self.switch, self.base)
        self._claim.release()


def clear(switch: Switch, base: Path) -> None:
    """Take away what machines left: namespaces with what runs in them, control groups of
    their objects, files."""
    switch.close()
    for name in switch.ports:
        groups = Groups(name)
        with contextlib.suppress(OSError):
            for id in os.listdir(base / name / "state" / "objects"):
                groups.of(id, everywhere=True).clear()
        groups.remove()
    shutil.rmtree(base, ignore_errors=True)


def sweep() -> None:
    """Clear what owners that were killed have left."""
    for tag, record in orphans():
        clear(Switch(tag, record["nodes"].split()), Path(record["base"]))
