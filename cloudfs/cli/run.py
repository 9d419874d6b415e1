"""cloudfs run: a new object, set up and started by lines written to its ctl."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator
from functools import partial
from queue import SimpleQueue

import click

from cloudfs import ndb
from cloudfs.cli import Options
from cloudfs.cli.files import Files, Shell, open_files
from cloudfs.cli.objects import copy_output, exit_as_shell, exit_code
from cloudfs.errors import CloudError

RUNTIMES = ("process", "sandbox")
STREAMS = ("stdout", "stderr")
RESTARTS = ("never", "on-failure", "always")


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("-w", "--wait", "waits", is_flag=True, help="Stay with it; exit as it does.")
@click.option("--limit", "limits", multiple=True, metavar="NAME=N,...",
              help="cpu in cores, mem in bytes, pids, time in seconds.")  # fmt: skip
@click.option("--app", metavar="NAME", help="The application it belongs to.")
@click.option("--label", "labels", multiple=True, metavar="K=V", help="A label.")
@click.option("--runtime", type=click.Choice(RUNTIMES), help="How it is run.")
@click.option("--restart", type=click.Choice(RESTARTS), help="When it ends by itself.")
@click.option("--env", "envs", multiple=True, metavar="K=V", help="A variable.")
@click.option("--dir", "directory", metavar="PATH", help="Where it starts.")
@click.option("--nice", type=click.IntRange(-20, 19), help="Its priority; 19 is the least.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="CMD ARG...")
@click.pass_obj
def run(
    options: Options,
    /,
    waits: bool,
    command: tuple[str, ...],
    **given: str | int | tuple[str, ...],
) -> None:
    """Run a program as an object and print the object's id.

    With --wait: its output appears here, what is typed here is its standard input, ^C
    kills it, and the exit status is its own (128 and the signal's number if one ended
    it).  Without, it goes on by itself: see ps, logs, wait, kill.

    The program's words are taken as they are; for a shell line write sh -c 'LINE'.
    """
    files = open_files(options)
    try:
        id = files.clone()
        _begin(files, id, (*setup(given), f"exec {' '.join(map(ndb.quote, command))}"))
        if not waits:
            click.echo("echo $id" if isinstance(files, Shell) else id)
        elif isinstance(files, Shell):
            _stay_as_shell(files, id)
        else:
            raise SystemExit(_stay(files, id))
    finally:
        files.close()


def _begin(files: Files, id: str, lines: Iterable[str]) -> None:
    """Write the lines; if one is refused, the object goes at once and nothing is left."""
    try:
        for line in lines:
            files.write(f"proc/{id}/ctl", line)
    except CloudError:
        with contextlib.suppress(CloudError):
            files.write(f"proc/{id}/ctl", "kill")
        raise


def setup(given: dict[str, str | int | tuple[str, ...]]) -> Iterator[str]:
    """The ctl lines that say what the options say, in the order that help gives."""
    limits = [word for text in _many(given["limits"]) for word in text.split(",")]
    rows: tuple[tuple[str, list[str]], ...] = (
        ("runtime", _one(given["runtime"])),
        ("app", _one(given["app"])),
        ("label", _many(given["labels"])),
        ("limit", limits),
        ("env", _many(given["envs"])),
        ("dir", _one(given["directory"])),
        ("nice", _one(given["nice"])),
        ("restart", _one(given["restart"])),
    )
    for verb, words in rows:
        if words:
            yield " ".join([verb, *map(ndb.quote, words)])


def _one(value: object) -> list[str]:
    return [] if value is None else [str(value)]


def _many(value: object) -> list[str]:
    assert isinstance(value, tuple)
    return list(value)


def _stay(files: Files, id: str) -> int:
    """Carry the object's stdio until it ends; its exit status."""
    done: SimpleQueue[Exception | None] = SimpleQueue()

    def copy(stream: str) -> None:
        try:
            copy_output(files, id, stream, follow=True, to_stderr=stream == "stderr")
        except Exception as error:
            done.put(error)
        else:
            done.put(None)

    for work in (*(partial(copy, stream) for stream in STREAMS), partial(_feed, files, id)):
        threading.Thread(target=work, daemon=True).start()
    problem = None
    for _ in STREAMS:
        try:
            problem = done.get() or problem
        except KeyboardInterrupt:
            _kill(files, id)
            problem = done.get() or problem
        if problem is not None:
            _kill(files, id)  # who reads our output is gone
    if problem is not None and not isinstance(problem, BrokenPipeError):
        raise problem
    end = ndb.parse(files.read(f".follow/proc/{id}/wait"))
    if end.get("why"):
        click.echo(f"cloudfs: {id}: {end['why']}", err=True)
    return exit_code(end)


def _kill(files: Files, id: str) -> None:
    try:
        files.write(f"proc/{id}/ctl", "kill")
    except CloudError as error:
        if error.kind != "busy":  # it has ended by itself meanwhile
            raise


def _feed(files: Files, id: str) -> None:
    """Carry our standard input to the object's, and its end."""
    try:
        while data := os.read(0, 1 << 16):
            files.put(f"proc/{id}/stdin", data)
        files.write(f"proc/{id}/ctl", "close stdin")
    except (CloudError, OSError):
        return  # it has ended, or does not read


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
