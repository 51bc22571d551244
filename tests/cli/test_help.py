"""Help and start-up: what a command says of itself, and how fast."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from command_line import PROGRAM, run
from typer.main import get_command
from typer.testing import CliRunner

from blackbox_delta import __version__
from blackbox_delta.backends.remote import Endpoint
from blackbox_delta.cli import app
from blackbox_delta.settings import PARTS, Settings

ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def test_every_command_explains_itself_without_loading_torch() -> None:
    script = """
import sys
from typer.testing import CliRunner
from blackbox_delta.cli import app
from typer.main import get_command
commands = sorted(get_command(app).commands)
assert "export" in commands, commands
for command in ("", *commands):
    done = CliRunner().invoke(app, [*command.split(), "--help"])
    assert done.exit_code == 0, done.output
    assert "Usage: " in done.output, done.output
heavy = {"torch", "transformers", "sklearn", "scipy", "cma", "nevergrad", "matplotlib"}
print(sorted(heavy & set(sys.modules)))
"""
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "[]\n"


def test_signs_that_the_output_s_encoding_lacks_are_written_out() -> None:
    """On Windows, for one, what is redirected is not in UTF-8: answers must not be lost over it."""
    surroundings = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [*PROGRAM, "tune", "--help"]
    shown = subprocess.check_output(command, env=surroundings, text=True, encoding="ascii")
    assert r"\u03b1: size of the first steps" in shown


def test_the_help_shows_every_setting_with_its_default() -> None:
    done = CliRunner().invoke(app, ["tune", "--help"], env={"COLUMNS": "200"})
    # Some build servers make the help colourful.
    lines = ESCAPES.sub("", done.output).splitlines()
    rows = {line.split()[1]: line for line in lines if "│ --" in line}
    for name, field in Settings.model_fields.items():
        row = rows["--set" if name == "delta_settings" else "--" + name.replace("_", "-")]
        if field.default is not None:
            assert f"[default: {field.default}]" in row


def test_the_help_names_all_parts_that_can_be_left_out() -> None:
    done = CliRunner().invoke(app, ["tune", "--help"], env={"COLUMNS": "300"})
    [row] = [line for line in ESCAPES.sub("", done.output).splitlines() if "│ --without" in line]
    assert ", ".join(PARTS) in row


def test_predict_reads_no_labels_and_has_no_option_for_them() -> None:
    wide = {"COLUMNS": "200"}
    shown = {
        command: ESCAPES.sub("", CliRunner().invoke(app, [command, "--help"], env=wide).output)
        for command in ("predict", "eval")
    }
    assert "--text-column" in shown["predict"]
    assert "--pair-column" in shown["predict"]
    assert "--label-column" not in shown["predict"]
    assert "--label-column" in shown["eval"]


def test_the_version_is_the_package_s() -> None:
    assert run("--version").stdout == f"blackbox-delta {__version__}\n"


def test_a_line_that_cannot_be_read_is_a_usage_error() -> None:
    assert run("tune", "--model", "fake").exit_code == 2
    assert run("tune", "--model", "fake", "--data", ".", "--shots", "many").exit_code == 2
    assert run("tune", "--model", "fake", "--data", ".", "--seeds", 0).exit_code == 2


@pytest.mark.parametrize("command", sorted(get_command(app).commands))  # type: ignore[attr-defined]
def test_every_option_is_explained_on_an_ordinary_terminal(command: str) -> None:
    done = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "80"})
    assert done.exit_code == 0, done.output
    lines = ESCAPES.sub("", done.output).splitlines()
    assert max(map(len, lines)) <= 80
    parameters = get_command(app).commands[command].params  # type: ignore[attr-defined]
    for parameter in parameters:
        assert getattr(parameter, "help", None), parameter.name


def test_the_server_s_options_are_the_endpoint_s_fields() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for command, missing in (("tune", set()), ("probe", {"base_url"})):
        names = {parameter.name for parameter in commands[command].params}
        assert set(Endpoint.model_fields) - names == missing
