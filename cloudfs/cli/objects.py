"""Commands about objects that are there: ps, status, logs, wait, and the verbs."""

from __future__ import annotations

import json
import re
import signal as signals
import sys
import time
from collections.abc import Iterator

import click

from cloudfs import ndb
from cloudfs.cli import Options
from cloudfs.cli.files import Files, Shell, find_id, ids, open_files, write_each
from cloudfs.cli.groups import ctl_of
from cloudfs.cli.show import columns, size, span
from cloudfs.errors import CloudError

OVER = ("exited", "lost")
NUMBERS = {"pid": int, "started": float, "cpu": float, "mem": int}


@click.command()
@click.option("-a", "--all", "every", is_flag=True, help="Those that have ended too.")
@click.option("--json", "as_json", is_flag=True, help="One JSON list of records.")
@click.pass_obj
def ps(options: Options, every: bool, as_json: bool) -> None:
    """List objects: those that live, or all.

    Reads proc/ID/status and proc/ID/args.
    """
    files = open_files(options)
    if isinstance(files, Shell):
        files.say(f"cat {files.name('proc/*/status')}")
        return
    found = [r for r in records(files) if every or r["state"] not in OVER]
    if as_json:
        click.echo(json.dumps([typed(record) for record in found], indent=1))
        return
    head = ("ID", "NODE", "STATE", "USER", "APP", "AGE", "CPU", "MEM", "EXIT", "COMMAND")
    for line in columns(head, [_row(record, time.time()) for record in found]):
        click.echo(line)


def records(files: Files) -> Iterator[dict[str, str]]:
    """The status of every object, with its args; those that go meanwhile are left out, and
    of one whose node does not answer the args are not known."""
    for id in ids(files):
        record: dict[str, str] = {}
        try:
            record = ndb.parse(files.read(f"proc/{id}/status"))
            record["args"] = files.read(f"proc/{id}/args").strip()
        except CloudError as error:
            if error.kind not in ("absent", "unreachable", "timeout"):
                raise
            if not record or error.kind == "absent":
                continue
        yield {"cpu": "", "mem": "", "args": "", **record}


def typed(record: dict[str, str]) -> dict[str, object]:
    """A record for JSON: numbers are numbers, what is empty is null, args is a list."""
    made: dict[str, object] = {}
    for name, text in record.items():
        made[name] = NUMBERS[name](text) if name in NUMBERS and text else text or None
    made["args"] = ndb.words(record.get("args", ""))
    return made


def _row(record: dict[str, str], now: float) -> tuple[str, ...]:
    age = span(now - float(record["started"])) if record["started"] else "-"
    args = record["args"]
    return (
        record["id"],
        record["node"],
        record["state"],
        record["user"],
        record["app"] or "-",
        age,
        span(float(record["cpu"] or 0)),
        size(float(record["mem"] or 0)),
        record["exit"] or "-",
        args if len(args) <= 60 else args[:57] + "...",
    )


@click.command()
@click.argument("id")
@click.option("--json", "as_json", is_flag=True, help="The record as JSON.")
@click.pass_obj
def status(options: Options, id: str, as_json: bool) -> None:
    """Print an object's status record, proc/ID/status.

    ID may be shortened to a beginning that only one object has.
    """
    files = open_files(options)
    text = files.read(f"proc/{find_id(files, id)}/status")
    if text and as_json:
        made = typed(ndb.parse(text))
        del made["args"]  # status does not tell them
        text = json.dumps(made, indent=1) + "\n"
    click.echo(text, nl=False)


@click.command()
@click.argument("id")
@click.option("-f", "--follow", is_flag=True, help="Go on as it comes, until the end.")
@click.option("--stderr", is_flag=True, help="Standard error instead of standard output.")
@click.pass_obj
def logs(options: Options, id: str, follow: bool, stderr: bool) -> None:
    """Print an object's output, proc/ID/stdout.

    Where the oldest output is no longer kept, that is said on standard error, and the
    rest is printed.
    """
    files = open_files(options)
    copy_output(files, find_id(files, id), "stderr" if stderr else "stdout", follow)


def copy_output(files: Files, id: str, stream: str, follow: bool, to_stderr: bool = False) -> None:
    """Copy one stream of an object to ours, past what is no longer kept."""
    path = f".follow/proc/{id}/{stream}" if follow else f"proc/{id}/{stream}"
    to = sys.stderr.buffer if to_stderr else sys.stdout.buffer
    offset = 0
    while True:
        try:
            for chunk in files.stream(path, offset):
                to.write(chunk)
                to.flush()
                offset += len(chunk)
        except CloudError as error:
            kept = re.search(r"first (\d+) bytes", error.why)
            if error.kind != "nodata" or not kept or int(kept[1]) <= offset:
                raise
            click.echo(f"cloudfs: {error.why}", err=True)
            offset = int(kept[1])
        else:
            return


@click.command()
@click.argument("id")
@click.pass_obj
def wait(options: Options, id: str) -> None:
    """Wait until an object has ended, print how, and exit as it did.

    Prints .follow/proc/ID/wait.  The exit status is the program's own; 128 and the
    signal's number if a signal ended it; 1 if nobody knows.
    """
    files = open_files(options)
    whole = find_id(files, id)
    if isinstance(files, Shell):
        files.say(f"end=$(cat {files.name(f'.follow/proc/{whole}/wait')})")
        files.say('echo "$end"')
        exit_as_shell(files)
        return
    text = files.read(f".follow/proc/{whole}/wait")
    click.echo(text, nl=False)
    raise SystemExit(exit_code(ndb.parse(text)))


def exit_code(end: dict[str, str]) -> int:
    """The exit status of a shell for a `wait` record."""
    if end.get("signal"):
        number = getattr(signals, f"SIG{end['signal']}", None)
        return 128 + int(number or end["signal"])
    return int(end.get("code") or 1)


def exit_as_shell(files: Shell) -> None:
    """The shell lines for exit_code, of the record in $end."""
    files.say("signal=${end#* signal=} signal=${signal%% *}; code=${end#* code=} code=${code%% *}")
    files.say('[ -z "$signal" ] || { sh -c "kill -$signal \\$\\$"; exit $?; } 2>/dev/null')
    files.say('exit "${code:-1}"')


GROUP = "GROUP is app=NAME, label=K=V, node=NAME or user=NAME: all of its objects."


def verb(name: str, line: str, doc: str) -> click.Command:
    """A command that writes one verb to the ctl of each object."""

    @click.command(name=name, help=f"{doc}\n\nWrites {line} to proc/ID/ctl.\n\n{GROUP}")
    @click.argument("ids", nargs=-1, required=True, metavar="ID|GROUP...")
    @click.pass_obj
    def command(options: Options, ids: tuple[str, ...]) -> None:
        each(options, ids, line)

    return command


def each(options: Options, given: tuple[str, ...], line: str) -> None:
    """Write a line to the ctl of each object."""
    files = open_files(options)
    write_each(files, given, lambda id: ctl_of(files, id), line)


kill = verb("kill", "kill", "End objects, with all their processes.")
stop = verb("stop", "stop", "Freeze objects: none of their processes runs until start.")
start = verb("start", "start", "Let stopped objects go on, or run ended ones again.")


@click.command()
@click.argument("name")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.pass_obj
def signal(options: Options, name: str, ids: tuple[str, ...]) -> None:
    """Send a signal, as TERM or 15, to the first process of objects.

    Writes signal NAME to proc/ID/ctl.
    """
    each(options, ids, f"signal {ndb.quote(name)}")
