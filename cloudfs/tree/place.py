"""proc/place of a node's own directory: where another node offers an object.

It is walked to and not listed.  What it takes, and what is refused, is told by
kernel/offer.py; reading it gives that text.  A caller acts for itself: the object is
the caller's, whoever made it elsewhere.
"""

from __future__ import annotations

from cloudfs.kernel import offer
from cloudfs.kernel.objects import Objects
from cloudfs.kernel.offer import Offer
from cloudfs.tree import numbers
from cloudfs.tree.api import Cues, Handle, Node
from cloudfs.tree.files import Row
from cloudfs.tree.handles import Lines
from cloudfs.tree.space import Attach
from cloudfs.tree.table import File


def place(objects: Objects) -> Node:
    """The file."""
    return File(Place(), objects, numbers.PLACE, objects.owner, lambda: objects.changed)


class Place(Row):
    """Each open is an offer of its own, of which nothing is left unless it comes to hold."""

    def __init__(self) -> None:
        super().__init__("place", 0o666, "What other nodes offer: objects that may come.")

    def open(self, subject: Objects, mode: int, at: Attach, cues: Cues) -> Handle:
        text = "" if mode & 3 == 1 else (offer.__doc__ or "").rstrip() + "\n"
        # The lines are a program's: which one was refused says nothing to a person.
        return Lines(text, Offer(subject, at.who, at.space).line, numbered=False)
