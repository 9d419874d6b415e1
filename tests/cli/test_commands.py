"""The command line itself: its table, its help, what it takes for a mistake."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from cloudfs.cli import TABLE, cli


@pytest.mark.parametrize("name", TABLE)
def test_every_command_has_help(name: str) -> None:
    done = CliRunner().invoke(cli, [name, "--help"])
    assert done.exit_code == 0
    assert done.output.startswith(f"Usage: cli {name}")


@pytest.mark.parametrize("name", TABLE)
def test_the_line_in_the_table_is_about_the_command(name: str) -> None:
    """Both are read by people: the line of the list and the first words of the page."""
    with click.Context(cli) as ctx:
        command = cli.get_command(ctx, name)  # type: ignore[attr-defined]
    assert command is not None
    assert command.help
    assert len(TABLE[name][1]) <= 65


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["dance"], "no command 'dance'; see: cloudfs --help"),
        (["sto"], "did you mean stop?"),
        (["kill"], "Missing argument"),
        (["run"], "Missing argument"),
        (["run", "--runtime", "rocket", "true"], "'rocket' is not one of"),
        (["unmount", "a", "b", "c"], "unmount takes"),
        (["ps", "extra"], "unexpected extra argument"),
        (["--nonsense"], "No such option"),
    ],
)
def test_wrong_usage_ends_with_2(args: list[str], words: str) -> None:
    done = CliRunner().invoke(cli, args)
    assert done.exit_code == 2
    assert words in done.output


def test_help_imports_nothing_heavy() -> None:
    """What would make it slow: `cloudfs --help` stays near the time of a bare start."""
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom cloudfs.cli import cli\n"
        "CliRunner().invoke(cli, ['--help'])\n"
        "print([m for m in ('trio', 'pyfuse3', 'psutil', 'sqlite3') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
