"""proc/hold of a node's own directory: what other nodes ask of it for objects that are to
survive them.

It is walked to and not listed, as proc/place; kernel/holding.py tells what it takes.
"""

from __future__ import annotations

from cloudfs.errors import CloudError
from cloudfs.kernel import holding
from cloudfs.kernel.availability import LEAST_PATIENCE, MOST_MEMBERS, Claim, News
from cloudfs.kernel.holding import listed, seconds, split, whole
from cloudfs.kernel.objects import Objects
from cloudfs.kernel.verb import Verb, find, table
from cloudfs.tree import numbers
from cloudfs.tree.api import Cues, Handle, Node, Wait
from cloudfs.tree.files import Row
from cloudfs.tree.handles import Lines
from cloudfs.tree.space import Attach
from cloudfs.tree.table import File

LONGEST = 3600.0  # seconds of patience


def hold(objects: Objects) -> Node:
    """The file."""
    return File(Hold(), objects, numbers.HOLD, objects.owner, lambda: objects.changed)


class Hold(Row):
    def __init__(self) -> None:
        super().__init__("hold", 0o666, "What other nodes ask for objects that survive them.")

    def open(self, subject: Objects, mode: int, at: Attach, cues: Cues) -> Handle:
        text = "" if mode & 3 == 1 else (holding.__doc__ or "").rstrip() + "\n"

        def line(line: str) -> Wait[None] | None:
            found = find(VERBS, line)
            if found is None:
                return None
            result: Wait[None] | None = found[0].run(subject, found[0].name, found[1], at)
            return result

        return Lines(text, line, numbered=False)


def _renew(objects: Objects, verb: str, args: list[str], at: Attach) -> None:
    id, epoch, owner, series = split(args)
    patience = seconds(args[4], LEAST_PATIENCE, LONGEST)
    voters = listed(args[5], MOST_MEMBERS)
    if len(voters) % 2 == 0:
        raise CloudError("bad", "hold: the voters are an odd number")
    news = News(whole(args[6]), listed(args[7], MOST_MEMBERS), whole(args[8]))
    claim = Claim(verb, epoch, owner, series, voters, patience)
    objects.holding.claim(at.who.user, id, claim, news)


def _ask(objects: Objects, verb: str, args: list[str], at: Attach) -> None:
    id, epoch, owner, series = split(args)
    objects.holding.claim(at.who.user, id, Claim(verb, epoch, owner, series))


def _drop(objects: Objects, verb: str, args: list[str], at: Attach) -> None:
    _ask(objects, verb, args[:4], at)
    if args[4:] != ["keep"]:
        objects.holding.drop_images(at.who.user, args[0])


def _image(objects: Objects, verb: str, args: list[str], at: Attach) -> Wait[None]:
    id, epoch, number, node, age = args
    split((id, epoch, node, "0"))
    old = seconds(age, 0.0, 1e9)
    return objects.holding.fetch(at.who.user, id, whole(epoch), whole(number), node, old)


VERBS = table(
    Verb("begin ID EPOCH OWNER SERIES PATIENCE VOTERS NEWEST AT ENOUGH", 9, 9, _renew),
    Verb("hold ID EPOCH OWNER SERIES PATIENCE VOTERS NEWEST AT ENOUGH", 9, 9, _renew),
    Verb("may ID EPOCH OWNER SERIES", 4, 4, _ask),
    Verb("take ID EPOCH OWNER SERIES", 4, 4, _ask),
    Verb("drop ID EPOCH OWNER SERIES [keep]", 4, 5, _drop),
    Verb("image ID EPOCH NUMBER NODE AGE", 5, 5, _image),
)
