"""Commands about users: user, group, passwd."""

from __future__ import annotations

import base64
import getpass
import sys
from collections.abc import Callable, Iterator
from typing import IO

import click

from cloudfs import config, ndb
from cloudfs.cli import Options
from cloudfs.cli.files import Files, Shell, open_files
from cloudfs.cli.show import columns
from cloudfs.errors import CloudError
from cloudfs.who import NOBODY

AS = click.option("--as", "owner", metavar="USER", help="The owner; who types it by default.")
LINES = 1 << 16  # characters of what was granted
LINE = 2048  # characters of a line of standard input


class Asking:
    """Passwords: asked at the terminal, or lines of standard input; never words of a command,
    which other users of the machine can see."""

    def __init__(self) -> None:
        self._tty = sys.stdin.isatty()

    def secret(self, prompt: str, again: bool = False) -> str:
        """One of them.  again: it is new, so a person types it twice."""
        if self._tty:
            found: str = click.prompt(prompt, hide_input=True, confirmation_prompt=again, err=True)
            return found
        line = sys.stdin.readline(LINE)
        if not line.endswith("\n") and len(line) >= LINE - 1:
            raise CloudError("toolong", f"a line of standard input has {LINE} characters or more")
        if not line:
            raise CloudError("bad", f"no {prompt.lower()} came", "write it to standard input")
        return line.rstrip("\n")


def _files(options: Options) -> Files:
    files = open_files(options)
    if isinstance(files, Shell):
        raise CloudError(
            "unsupported", "no shell line seals or signs", f"see: cat {files.name('secstore/help')}"
        )
    return files


def _me(files: Files) -> str:
    """Who types it: the user who is logged in, else the local one."""
    found = files.read("user").strip()
    return getpass.getuser() if found == NOBODY.user else found


def _say(text: str) -> None:
    click.echo(f"cloudfs: {text}", err=True)


# --- users -----------------------------------------------------------------------------------


@click.group()
def user() -> None:
    """Make, list and end users of the cloud.

    A user that is made on one node is known on all.
    """


@user.command("add")
@click.argument("name")
@click.option("--again", is_flag=True, help="Also if there was a user of that name before.")
@click.pass_obj
def user_add(options: Options, name: str, again: bool) -> None:
    """Make a user; on a node that has the cluster's authority, as its owner.

    Asks for a password, at the terminal or as a line of standard input.  The user's key is made
    here and sealed under it; nodes get shares of what hardens the password, so that a few of them
    together cannot try any.  Prints a recovery code, once: whoever has it opens the keys without
    the password, so keep it on paper.
    """
    from cloudfs.cli import secstore
    from cloudfs.factotum import accounts, trust

    accounts.check_name(name)
    by = trust.authority(config.state_dir())
    files = _files(options)
    if not again and name in _gone(files):
        raise CloudError(
            "exists",
            f"{name} was a user before; files and groups may still name that one",
            f"to make another of that name: cloudfs user add --again {name}",
        )
    password = Asking().secret(f"New password of {name}", again=True)
    code = secstore.make_user(files, by, name, password, _say)
    click.echo(f"recovery code of {name}, shown only now:", err=True)
    click.echo(code)


def _gone(files: Files) -> set[str]:
    return {pairs["gone"] for pairs in _records(files.read("secstore/gone"))}


def _records(text: str) -> Iterator[dict[str, str]]:
    return map(ndb.parse, text.splitlines())


@user.command("list")
@click.pass_obj
def user_list(options: Options) -> None:
    """List the users: epoch, groups, and who holds the shares of their keys.

    Reads secstore/users/NAME/status.  HELD is how many holders there are and how many are needed;
    FORKS is - where all is well.
    """
    files = open_files(options)
    if isinstance(files, Shell):
        files.say(f"cat {files.name('secstore/users/*/status')}")
        return
    rows = []
    for name in sorted(files.list("secstore/users")):
        if name != "help":
            has = ndb.parse(files.read(f"secstore/users/{name}/status"))
            holders = has["holders"].split(",") if has["holders"] else []
            held = f"{has['need']} of {len(holders)}"
            forks = "-" if has["heads"] == "1" else has["heads"]
            rows.append((name, has["epoch"], has["groups"] or "-", held, forks))
    for line in columns(("USER", "EPOCH", "GROUPS", "HELD", "FORKS"), rows):
        click.echo(line)


@user.command("del")
@click.argument("name")
@click.option("--version", metavar="DIGITS", default="",
              help="Which one, by secstore/status, where two have the name.")  # fmt: skip
@click.pass_obj
def user_del(options: Options, name: str, version: str) -> None:
    """End a user, on a node that has the authority of the cluster where it was made.

    The keys are forgotten, and the groups that the user owns; what else is the user's stays.
    """
    from cloudfs.cli import secstore
    from cloudfs.factotum import accounts, trust

    accounts.check_name(name)
    by = trust.authority(config.state_dir())
    files = _files(options)
    heads = [one for one in secstore.records(files, name) if one.digest.startswith(version)]
    first = {one.made[1] for one in heads}
    if len(first) != 1:
        raise CloudError(
            "busy" if first else "absent",
            f"{len(first)} users have the name {name}"
            + (f" and a version that begins with {version}" if version else ""),
            "say which: cloudfs user del --version DIGITS, by cat /cloud/secstore/status",
        )
    files.write("secstore/ctl", accounts.make_gone(by, heads[0]).text().rstrip("\n"))


@user.command("recover")
@click.argument("name")
@click.option("--version", metavar="DIGITS", default="", help="Of sealed keys that have parted.")
@click.pass_obj
def user_recover(options: Options, name: str, version: str) -> None:
    """Give a user a new password by the recovery code.

    Asks for the code and the new password, at the terminal or as two lines of standard input.
    """
    from cloudfs.cli import secstore

    files, asking = _files(options), Asking()
    secstore.records(files, name)  # before anything is asked
    code = asking.secret(f"Recovery code of {name}")
    opened = secstore.unlock(files, name, code=code, version=version, say=_say)
    password = asking.secret(f"New password of {name}", again=True)
    secstore.change_password(files, opened, password, _say)


@click.command()
@click.argument("name", required=False)
@click.option("--version", metavar="DIGITS", default="", help="Of sealed keys that have parted.")
@click.option("--logout", is_flag=True, help="Also void every login and grant that there is.")
@click.pass_obj
def passwd(options: Options, name: str | None, version: str, logout: bool) -> None:
    """Change a user's password: your own, or NAME's.

    Asks for the old one and the new one, at the terminal or as two lines of standard input.
    Where the record or the sealed keys have parted in several versions this ends that.
    """
    from cloudfs.cli import secstore

    files, asking = _files(options), Asking()
    who = name or _me(files)
    secstore.records(files, who)
    old = asking.secret(f"Password of {who}")
    opened = secstore.unlock(files, who, password=old, version=version, say=_say)
    new = asking.secret(f"New password of {who}", again=True)
    secstore.change_password(files, opened, new, _say, logout)


@click.command()
@click.argument("file", type=click.File())
@click.pass_obj
def revoke(options: Options, file: IO[str]) -> None:
    """Take back what you granted.

    FILE has the lines that cloudfs grant printed, which are of no use from then on, wherever they
    are: your record says so, as soon as nodes have it.  Your password is asked for, at the
    terminal or as a line of standard input.
    """
    from cloudfs.cli import secstore
    from cloudfs.factotum import tokens

    found = [_token(line) for line in file.read(LINES).splitlines() if line.strip()]
    users = {tokens.peek(token)[0] for token in found}
    if len(users) != 1:
        raise CloudError(
            "bad", "that is not what one user granted", "give what cloudfs grant printed"
        )
    (who,) = users
    files = _files(options)
    opened = secstore.unlock(files, who, password=Asking().secret(f"Password of {who}"), say=_say)
    secstore.take_back(files, opened, [tokens.ids_of(token)[0] for token in found])


def _token(line: str) -> bytes:
    word, _, text = line.strip().partition(" ")
    try:
        if word == "granted":
            return base64.b64decode(text, validate=True)
    except ValueError:
        pass
    raise CloudError("bad", f"{line[:40]!r} was not granted", "give what cloudfs grant printed")


# --- groups ----------------------------------------------------------------------------------


@click.group()
def group() -> None:
    """Make, list and end groups of users.

    A group is its owner's, who signs who is in it; it counts on every node.
    """


@group.command("add")
@click.argument("name")
@click.argument("members", nargs=-1, metavar="MEMBER...")
@AS
@click.pass_obj
def group_add(options: Options, name: str, members: tuple[str, ...], owner: str | None) -> None:
    """Make a group, or add members to one that there is.

    Asks for the owner's password, at the terminal or as a line of standard input.
    """
    files = _files(options)
    for member in members:
        _exists(files, member)
    if name in files.list("secstore/users"):
        raise CloudError("exists", f"{name} is a user's name", "take another")
    if not members:
        raise CloudError("bad", "a group has at least one member", "cloudfs group add NAME MEMBER")
    _change(files, name, owner, lambda old: old | set(members), new=True)


@group.command("del")
@click.argument("name")
@click.argument("members", nargs=-1, metavar="MEMBER...")
@AS
@click.pass_obj
def group_del(options: Options, name: str, members: tuple[str, ...], owner: str | None) -> None:
    """Take members out of a group, or without any end it.

    Asks for the owner's password, at the terminal or as a line of standard input.
    """
    files = _files(options)
    _change(files, name, owner, lambda old: old - set(members) if members else set(), new=False)


@group.command("list")
@click.pass_obj
def group_list(options: Options) -> None:
    """List the groups, with owner and members.

    Reads secstore/groups/NAME.
    """
    files = open_files(options)
    if isinstance(files, Shell):
        files.say(f"cat {files.name('secstore/groups/*')}")
        return
    rows = []
    for name in sorted(files.list("secstore/groups")):
        if name != "help":
            has = ndb.parse(files.read(f"secstore/groups/{name}"))
            rows.append((name, has["owner"], has["members"].replace(",", " ")))
    for line in columns(("GROUP", "OWNER", "MEMBERS"), rows):
        click.echo(line)


def _change(
    files: Files,
    name: str,
    owner: str | None,
    members: Callable[[set[str]], set[str]],
    new: bool,
) -> None:
    """Sign the next version of a group.  new: it may be the first one."""
    from cloudfs.cli import secstore
    from cloudfs.factotum import accounts

    who = owner or _me(files)
    accounts.check_name(name)
    heads = [
        accounts.parse_group(line)
        for line in files.read("secstore/signed").splitlines(keepends=True)
        if line.startswith(f"group={name} ")
    ]
    own = [one for one in heads if one.owner == who]
    live = [one for one in heads if one.members]
    if live and not own:
        raise CloudError(
            "exists",
            f"the group {name} is {live[0].owner}'s",
            "take another name" if new else f"only {live[0].owner} may change it",
        )
    if not new and not own:
        raise CloudError("absent", f"there is no group {name}", "see: cloudfs group list")
    wanted = members({member for one in own for member in one.members})
    password = Asking().secret(f"Password of {who}")
    opened = secstore.unlock(files, who, password=password, say=_say)
    made = accounts.make_group(name, who, sorted(wanted), opened.secret, own)
    files.write("secstore/ctl", made.text().rstrip("\n"))


def _exists(files: Files, name: str) -> None:
    if name not in files.list("secstore/users"):
        raise CloudError("absent", f"there is no user {name[:40]!r}", "see: cloudfs user list")
