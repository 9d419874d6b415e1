"""Who may do what with a file: Plan 9's rule, and what a token leaves of it."""

from __future__ import annotations

from collections.abc import Callable

from cloudfs.errors import CloudError
from cloudfs.tree.api import Node, R, W, Who
from cloudfs.who import Powers

GroupsOf = Callable[[str], frozenset[str]]


def no_groups(user: str) -> frozenset[str]:
    """The groups of a user of a space that knows none."""
    return frozenset()


def allowed(who: Who, node: Node, bits: int, groups_of: GroupsOf = no_groups) -> bool:
    """Whether who has all of bits (R, W, X) on node: Plan 9's rule, in which what the
    group or everybody may do the owner may too.

    groups_of: the cloud's groups of a user, asked each time, since they change while a
    session lasts.
    """
    mode = node.mode & 7
    if who.user == node.uid:
        mode |= node.mode >> 6
    if node.gid in who.groups or (node.gid != node.uid and node.gid in groups_of(who.user)):
        mode |= node.mode >> 3
    if who.powers is not None and not who.boss and node.mode & 7 & bits != bits:
        return mode & bits == bits and _left(who.powers, node, bits)
    return mode & bits == bits or who.boss or node.remote


def _left(powers: Powers, node: Node, bits: int) -> bool:
    """Whether a token leaves its user what the owner's or the group's bits give on a node.

    What a line of a ctl does is checked when it is done (kernel/verbs.py).  Another node would
    act for the whole user, so it is not asked.
    """
    app = getattr(getattr(node, "subject", None), "app", "")
    ops = [word for bit, word in ((R, "read"), (W, "write")) if bits & bit]
    try:
        for op in ops if node.name != "ctl" else ():
            powers.admit(op=op)
        powers.admit(app=app)
    except CloudError:
        return False
    return not node.remote
