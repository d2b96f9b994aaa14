"""What the README shows: its commands are there, its files too, its example prints what it says."""

import re
import shlex
from pathlib import Path

import click
import pytest
import typer

from rewardds.cli import app

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```.*?\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
PROSE = re.sub(r"^```.*?^```", "", TEXT, flags=re.DOTALL | re.MULTILINE)
INLINE = re.findall(r"`([^`\n]+)`", PROSE)


def joined(block: str) -> str:
    """Lines that a backslash continues, as one."""
    return re.sub(r"\\\n\s*", "", block)


COMMANDS = [
    line.removeprefix("$ ").strip()
    for line in [*(line for block in BLOCKS for line in joined(block).splitlines()), *INLINE]
    if re.match(r"(\$ )?rewardds ", line)
]


def parsed(command: click.Command, name: str, arguments: list[str]) -> None:
    """Read arguments as the command would, and run nothing."""
    context = command.make_context(name, arguments)
    if isinstance(command, click.Group):
        rest = [*context._protected_args, *context.args]
        found, inner, left = command.resolve_command(context, rest)
        assert inner is not None
        parsed(inner, found or name, left)


def all_commands(command: click.Command) -> list[click.Command]:
    inner = command.commands.values() if isinstance(command, click.Group) else ()
    return [command, *(found for each in inner for found in all_commands(each))]


@pytest.mark.parametrize("line", dict.fromkeys(COMMANDS))
def test_a_command_reads_what_is_written(line):
    name, *arguments = shlex.split(line, comments=True)
    # A shell's signs would be taken for arguments here, and no command reads what another prints.
    assert not {"|", "&&", ";", ">"} & set(arguments), line
    parsed(typer.main.get_command(app), name, arguments)


def test_the_commands_of_every_part_are_shown():
    shown = {line.split()[1] for line in COMMANDS if len(line.split()) > 1}
    assert shown >= {"plan", "client", "verify", "sample", "filter", "refine", "finetune", "run"}
    assert shown >= {"plant", "audit", "scan", "eval", "demo"}


def test_a_command_that_is_not_there_would_be_seen():
    for wrong in (["plant"], ["plam", "--n", "3"], ["plan", "--n", "three"], ["plan", "--m", "3"]):
        with pytest.raises(click.UsageError):
            parsed(typer.main.get_command(app), "rewardds", wrong)


def test_options_and_files_that_are_named_are_there():
    known = {
        option
        for command in all_commands(typer.main.get_command(app))
        for parameter in command.params
        for option in parameter.opts
    }
    named = set(re.findall(r"--[a-z][a-z-]+", " ".join(INLINE)))
    assert named <= known
    own = re.findall(r"packages/rewardds/[\w./-]+", TEXT)
    for path in own:
        assert (README.parent / path.removeprefix("packages/rewardds/")).exists(), path


def test_the_example_prints_what_is_printed_there(tmp_path, monkeypatch, capsys):
    (found,) = re.findall(r"```python\n(.*?)```\n\n```\n(.*?)```", TEXT, re.DOTALL)
    code, printed = found
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README", "exec"), {})
    assert capsys.readouterr().out == printed
    assert not any(tmp_path.iterdir())
