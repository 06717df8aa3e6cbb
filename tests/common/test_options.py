"""Help is quick and complete, and an unknown option is told with the nearest one."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys

import pytest

from dynamax_lm.common.errors import SettingError
from dynamax_lm.common.options import CommandParser
from scripts.docs_site import COMMANDS, parser_of

HEAVY = ["torch", "transformers", "datasets", "requests", "scipy", "matplotlib"]

STUDIES = ["benchmarks.criteria", "benchmarks.paper", "benchmarks.real"]

HELP = f"""
import contextlib, io, json, runpy, sys
said = {{}}
for name in {sorted([*COMMANDS, *STUDIES])!r}:
    sys.argv = [name, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        except SystemExit as ended:
            assert not ended.code
    said[name] = out.getvalue()
print(json.dumps([said, sorted(set({HEAVY!r}) & set(sys.modules))]))
"""


def test_help_imports_nothing_that_takes_long() -> None:
    """All commands in one process: what one imports would be there at the end."""
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True)
    said, heavy = json.loads(done.stdout)
    assert heavy == []
    assert all(text.startswith("usage: ") for text in said.values())
    for name in COMMANDS:
        assert f"example:\n  python -m {name} " in said[name]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_option_is_in_a_group_and_says_what_it_does(name: str) -> None:
    parser = parser_of(name)
    (_, general, *groups) = parser._action_groups
    assert [action.dest for action in general._group_actions] == ["help"]
    assert all(group.title for group in groups)
    assert all(action.help for action in parser._actions)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_example_is_understood(name: str) -> None:
    lines = parser_of(name).example.replace("\\\n", " ").splitlines()
    for line in lines:
        words = shlex.split(line.replace("$'", "'"))
        assert words[:3] == ["python", "-m", name]
        parser_of(name).parse_args(words[3:])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("--treshold 1", "did you mean --threshold?"),
        ("--output-path=x", "did you mean --output_path?"),
        ("--qqqqq", "--help lists the options"),
    ],
)
def test_an_unknown_option_is_told_with_the_nearest(
    given: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = CommandParser("command", "Text.", "command", abbreviate=False)
    parser.add_argument("--threshold")
    parser.add_argument("--output_path")
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(given.split())
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"unrecognized arguments: {given}; " in line
    assert line.endswith(told)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("--modle=x --threshold 1", "--model; --modle is unknown: did you mean --model?"),
        ("--threshold 1 --treshold 1", "--model; --treshold is unknown: did you mean --threshold?"),
        ("--threshold 1", "required: --model; --help lists the options"),
        ("--thresh 1 --qqqqq", "required: --model; --help lists the options"),
    ],
)
def test_a_misspelt_option_is_told_where_a_required_one_is_missing(
    given: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = CommandParser("command", "Text.", "command")
    parser.add_argument("--model", required=True)
    parser.add_argument("--threshold")
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(given.split())
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(told)


def test_defaults_are_told_once_and_only_where_there_is_one() -> None:
    parser = CommandParser("command", "Text.", "command")
    parser.add_argument("--one", default=3, help="a number")
    parser.add_argument("--two", default=4, help="a number (default: four)")
    parser.add_argument("--three", help="a number")
    parser.add_argument("--four", action="store_true", help="a switch")
    parser.add_argument("--five", default=0, help="nothing")
    text = parser.format_help()
    assert text.count("default") == 3
    assert "nothing (default: 0)" in text
    assert "a number (default: 3)" in text
    assert isinstance(parser, argparse.ArgumentParser)


@pytest.mark.parametrize("name", [b"caf\xe9", b"--output_path=\xff"])
def test_an_argument_that_is_not_utf8_is_refused(name: bytes) -> None:
    """Results contain it, and are UTF-8."""
    parser = CommandParser("prog", "does", "prog x")
    parser.add_argument("words", nargs="*")
    with pytest.raises(SettingError, match="not UTF-8") as caught:
        parser.parse_args(["good", os.fsdecode(name)])
    str(caught.value).encode()
