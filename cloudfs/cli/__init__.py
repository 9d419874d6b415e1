"""The command line: each command is a thin reader or writer of files.

A command's module is imported when the command is called, so that the others cost
nothing: `TABLE` says where each is, and its line of help.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import click

from cloudfs.errors import CloudError

# command: (module in cloudfs.cli, line of help); the object in it is named as the
# command.
TABLE: dict[str, tuple[str, str]] = {
    "up": ("up", "Start this machine's node and mount its tree."),
    "down": ("up", "Stop the node; its objects go on."),
    "mount": ("mounts", "Mount a tree at a directory."),
    "unmount": ("mounts", "Undo a bind, or end a mount."),
    "bind": ("mounts", "Show one file or directory at another's place."),
    "ns": ("mounts", "Print the lines that rebuild this name space."),
    "shell": ("shell", "A shell with a name space of its own."),
    "run": ("run", "Run a program as an object."),
    "ps": ("objects", "List objects."),
    "status": ("objects", "Print an object's status record."),
    "logs": ("objects", "Print an object's output."),
    "bill": ("bill", "Print what an object has cost, signed by its node, and check it."),
    "wait": ("objects", "Wait for an object's end; exit as it did."),
    "kill": ("objects", "End objects, with all their processes."),
    "stop": ("objects", "Freeze objects."),
    "start": ("objects", "Let stopped objects go on, or run ended ones again."),
    "signal": ("objects", "Send a signal to objects."),
    "move": ("moving", "Have an object, or a group of them, go on at another node."),
    "copy": ("moving", "Have copies of an object go on."),
    "checkpoint": ("moving", "Keep an image of a running object."),
    "restore": ("moving", "Have an object go on from an image."),
    "nodes": ("nodes", "List the nodes of the cloud."),
    "init": ("places", "Begin a cloud."),
    "invite": ("places", "Print a join file, with which another machine joins."),
    "join": ("places", "Join a cloud."),
    "leave": ("nodes", "Leave the cloud."),
    "node": ("places", "Take a node's place in the cloud away."),
    "login": ("login", "Be a user of the cloud on this machine."),
    "logout": ("login", "End that, and forget the keys."),
    "keys": ("login", "List your keys, or add some."),
    "grant": ("login", "Let another user do some of what you may."),
    "revoke": ("users", "Take back what you granted."),
    "user": ("users", "Make, list and end users of the cloud."),
    "group": ("users", "Make, list and end groups of users."),
    "passwd": ("users", "Change a user's password."),
    "drain": ("nodes", "Have nodes take no new objects, and move theirs away."),
    "undrain": ("nodes", "Have drained nodes take objects again."),
    "balance": ("nodes", "Have objects leave busy or dear nodes by themselves."),
    "find": ("net", "Find nodes that meet conditions, best first."),
    "top": ("nodes", "Watch the nodes and the busiest objects."),
    "net": ("net", "Show what the network costs, nearest nodes first."),
    "why": ("manual", "Print the reason of the last refusal."),
    "demo": ("demo", "A cloud of several nodes on this machine, to try."),
    "doctor": ("doctor", "Check what this machine can do; each lack has its fix."),
    "9p": ("ninep", "A small 9P client: ls, cat, write, stat."),
    "help": ("manual", "Manual pages: of a command, a directory, or cloudfs itself."),
    "version": ("manual", "Print the version."),
}
# Names that Python cannot have.
_NAMES = {"9p": "ninep", "help": "show_help"}


@dataclass(slots=True)
class Options:
    """What stands before the command: explain (-x) prints shell lines instead."""

    explain: bool = False


class Commands(click.Group):
    """A group whose commands are in TABLE and are imported when called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(TABLE)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in TABLE:
            return None
        module = import_module(f"cloudfs.cli.{TABLE[name][0]}")
        command = getattr(module, _NAMES.get(name, name))
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in TABLE and not args[0].startswith("-"):
            near = [name for name in TABLE if name.startswith(args[0])]
            hint = f"did you mean {' or '.join(near)}?" if near else "see: cloudfs --help"
            ctx.fail(f"There is no command {args[0]!r}; {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in TABLE.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CloudError as error:
            click.echo(f"cloudfs: {error}", err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            ctx.exit(130)


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-x", "explain", is_flag=True, help="Print the shell lines that do the same.")
@click.version_option(package_name="cloudfs", message="%(package)s %(version)s")
@click.pass_context
def cli(ctx: click.Context, explain: bool) -> None:
    """The Cloud Operating System, seen as files.

    A node runs on this machine (`cloudfs up`) and serves a tree of files; every
    command below reads and writes those files, and -x prints the shell lines that do
    the same.  The manual: cloudfs help, cloudfs COMMAND --help, and the file help in
    every directory of the tree.

    CLOUDFS_STATE is the node's state directory, CLOUDFS_MOUNT its mount point.
    """
    ctx.obj = Options(explain)


def main() -> None:
    """The entry point of the program cloudfs."""
    sys.exit(cli(prog_name="cloudfs"))
