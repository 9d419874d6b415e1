"""cloudfs run: a new object, set up and started by lines written to its ctl."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from queue import SimpleQueue

import click

from cloudfs import ndb
from cloudfs.cli import Options
from cloudfs.cli.files import Files, Shell, open_files
from cloudfs.cli.objects import copy_output, exit_as_shell, exit_code
from cloudfs.errors import CloudError

RUNTIMES = ("process", "sandbox", "vm")
STREAMS = ("stdout", "stderr")
RESTARTS = ("never", "on-failure", "always")
MANY = 256  # objects that one command may start


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("-w", "--wait", "waits", is_flag=True, help="Stay with it; exit as it does.")
@click.option("--limit", "limits", multiple=True, metavar="NAME=N,...",
              help="cpu in cores, mem in bytes, pids, time in seconds.")  # fmt: skip
@click.option("--app", metavar="NAME", help="The application it belongs to.")
@click.option("--label", "labels", multiple=True, metavar="K=V", help="A label.")
@click.option("--runtime", type=click.Choice(RUNTIMES), help="How it is run.")
@click.option("--restart", type=click.Choice(RESTARTS), help="When it ends by itself.")
@click.option("--availability", "availabilities", multiple=True, metavar="NAME=N,...",
              help="Survive its node: checkpoint=10,replicas=2 are usual.")  # fmt: skip
@click.option("--env", "envs", multiple=True, metavar="K=V", help="A variable.")
@click.option("--dir", "directory", metavar="PATH", help="Where it starts.")
@click.option("-n", "--number", type=click.IntRange(1, MANY), default=1, metavar="N",
              help="So many objects, of one app.")  # fmt: skip
@click.option("--on", metavar="NODE", help="The node it must run on.")
@click.option("--require", "requires", multiple=True, metavar="EXPR",
              help="What its node must meet, as cpus>=4.")  # fmt: skip
@click.option("--prefer", "prefers", multiple=True, metavar="EXPR",
              help="What its node should meet, or sort=ATTRIBUTE.")  # fmt: skip
@click.option("--spread", metavar="ATTRIBUTE",
              help="On nodes that differ in it, as cluster or node.")  # fmt: skip
@click.option("--nice", type=click.IntRange(-20, 19), help="Its priority; 19 is the least.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="CMD ARG...")
@click.pass_obj
def run(
    options: Options,
    /,
    waits: bool,
    number: int,
    command: tuple[str, ...],
    **given: str | int | tuple[str, ...],
) -> None:
    """Run a program as an object and print the object's id.

    With --wait: its output appears here, what is typed here is its standard input, ^C
    kills it, and the exit status is its own (128 and the signal's number if one ended
    it).  Without, it goes on by itself: see ps, logs, wait, kill.

    With -n N so many objects run it, of one app: the program's name, where --app does
    not say.  Their ids are printed, one a line; with --wait their outputs appear mixed,
    their standard input is empty, and the exit status is the highest.  If one of them
    cannot be started, none is left.

    The program's words are taken as they are; for a shell line write sh -c 'LINE'.
    """
    files = open_files(options)
    if number > 1:
        given["app"] = given["app"] or os.path.basename(command[0]).lstrip(".")[:64] or "app"
    lines = (*setup(given), f"exec {' '.join(map(ndb.quote, command))}")
    try:
        if isinstance(files, Shell):
            _as_shell(files, lines, number, waits)
            return
        ids = _begin(files, lines, number)
        if waits:
            raise SystemExit(_stay(files, ids))
        click.echo("\n".join(ids))
    finally:
        files.close()


def _begin(files: Files, lines: Sequence[str], number: int) -> list[str]:
    """Make so many objects and write the lines to each; if one is refused, they go at
    once and nothing is left.  Their ids."""
    ids: list[str] = []
    try:
        for _ in range(number):
            ids.append(files.clone())
            for line in lines:
                files.write(f"proc/{ids[-1]}/ctl", line)
    except CloudError:
        for id in ids:
            with contextlib.suppress(CloudError):
                files.write(f"proc/{id}/ctl", "kill")
        raise
    return ids


def setup(given: dict[str, str | int | tuple[str, ...]]) -> Iterator[str]:
    """The ctl lines that say what the options say, in the order that help gives."""
    limits = [word for text in _many(given["limits"]) for word in text.split(",")]
    terms = [word for text in _many(given["availabilities"]) for word in text.split(",")]
    rows: tuple[tuple[str, list[str]], ...] = (
        ("runtime", _one(given["runtime"])),
        ("app", _one(given["app"])),
        ("label", _many(given["labels"])),
        ("limit", limits),
        ("env", _many(given["envs"])),
        ("dir", _one(given["directory"])),
        ("nice", _one(given["nice"])),
        ("on", _one(given["on"])),
        ("require", _many(given["requires"])),
        ("prefer", _many(given["prefers"])),
        ("spread", _one(given["spread"])),
        ("restart", _one(given["restart"])),
        ("availability", terms),
    )
    for verb, words in rows:
        if words:
            yield " ".join([verb, *map(ndb.quote, words)])


def _one(value: object) -> list[str]:
    return [] if value is None else [str(value)]


def _many(value: object) -> list[str]:
    assert isinstance(value, tuple)
    return list(value)


def _stay(files: Files, ids: Sequence[str]) -> int:
    """Carry the objects' stdio until all have ended; the highest exit status."""
    done: SimpleQueue[Exception | None] = SimpleQueue()

    def copy(id: str, stream: str) -> None:
        try:
            copy_output(files, id, stream, follow=True, to_stderr=stream == "stderr")
        except Exception as error:
            done.put(error)
        else:
            done.put(None)

    copies = [partial(copy, id, stream) for id in ids for stream in STREAMS]
    for work in (*copies, partial(_feed, files, ids)):
        threading.Thread(target=work, daemon=True).start()
    problem = None
    for _ in copies:
        try:
            problem = done.get() or problem
        except KeyboardInterrupt:
            _kill(files, ids)
            problem = done.get() or problem
        if problem is not None:
            _kill(files, ids)  # who reads our output is gone
    if problem is not None and not isinstance(problem, BrokenPipeError):
        raise problem
    return max(_status(files, id) for id in ids)


def _status(files: Files, id: str) -> int:
    """The exit status of one, once it has ended."""
    end = ndb.parse(files.read(f".follow/proc/{id}/wait"))
    if end.get("why"):
        click.echo(f"cloudfs: {id}: {end['why']}", err=True)
    return exit_code(end)


def _kill(files: Files, ids: Sequence[str]) -> None:
    for id in ids:
        try:
            files.write(f"proc/{id}/ctl", "kill")
        except CloudError as error:
            if error.kind != "busy":  # it has ended by itself meanwhile
                raise


def _feed(files: Files, ids: Sequence[str]) -> None:
    """Carry our standard input to the object's, and its end; to several only an end."""
    for id in ids:
        try:
            while len(ids) == 1 and (data := os.read(0, 1 << 16)):
                files.put(f"proc/{id}/stdin", data)
            files.write(f"proc/{id}/ctl", "close stdin")
        except (CloudError, OSError):
            continue  # it has ended, or does not read


def _as_shell(files: Shell, lines: Sequence[str], number: int, waits: bool) -> None:
    """The shell lines for all of it."""
    if number == 1:
        _begin(files, lines, 1)
        if waits:
            _stay_as_shell(files, "$id")
        else:
            files.say("echo $id")
        return
    files.say(f"for n in $(seq {number}); do")
    _begin(files, lines, 1)
    if not waits:
        files.say("echo $id; done")
        return
    # No job in the background before all are begun: its end would interrupt the shell in
    # a write that waits.
    ctl = files.name("proc/$id/ctl")
    files.say('ids="$ids $id"; done')
    files.say(f"for id in $ids; do {{ echo close stdin > {ctl}; }} 2>/dev/null; done")
    files.say("for id in $ids; do")
    for stream, to in (("stdout", ""), ("stderr", " >&2")):
        files.say(f"cat {files.name(f'.follow/proc/$id/{stream}')}{to} &")
    files.say("done")
    kill = f"for id in $ids; do echo kill > {ctl}; done"
    files.say(f"trap '{kill}' INT; wait; worst=0")
    files.say("for id in $ids; do (")
    files.say(f"end=$(cat {files.name('.follow/proc/$id/wait')})")
    exit_as_shell(files)
    files.say(") || { s=$?; [ $s -le $worst ] || worst=$s; }; done; exit $worst")


def _stay_as_shell(files: Shell, id: str) -> None:
    """The shell lines for _stay."""
    ctl = files.name(f"proc/{id}/ctl")
    files.say(f"cat {files.name(f'.follow/proc/{id}/stdout')} & out=$!")
    files.say(f"cat {files.name(f'.follow/proc/{id}/stderr')} >&2 & err=$!")
    stdin = files.name(f"proc/{id}/stdin")
    files.say(f"exec 3<&0; {{ cat <&3 > {stdin} && echo close stdin > {ctl}; }} & in=$!")
    files.say(f"trap 'echo kill > {ctl}' INT")
    files.say("wait $out $err; kill $in 2>/dev/null")
    files.say(f"end=$(cat {files.name(f'.follow/proc/{id}/wait')})")
    exit_as_shell(files)
