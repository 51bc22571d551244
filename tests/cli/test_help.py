"""Help and start-up: what a command says of itself, and how fast."""

from __future__ import annotations

import re
import subprocess
import sys

from command_line import run
from typer.testing import CliRunner

from blackbox_delta import __version__
from blackbox_delta.cli import app
from blackbox_delta.settings import PARTS, Settings

ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def test_every_command_explains_itself_without_loading_torch() -> None:
    script = """
import sys
from typer.testing import CliRunner
from blackbox_delta.cli import app
for command in ([], ["tune"], ["compare"], ["eval"], ["predict"], ["demo"]):
    done = CliRunner().invoke(app, [*command, "--help"])
    assert done.exit_code == 0, done.output
    assert "Usage: " in done.output, done.output
heavy = {"torch", "transformers", "sklearn", "scipy", "cma", "nevergrad", "matplotlib"}
print(sorted(heavy & set(sys.modules)))
"""
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "[]\n"


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


def test_the_version_is_the_package_s() -> None:
    assert run("--version").stdout == f"blackbox-delta {__version__}\n"


def test_a_line_that_cannot_be_read_is_a_usage_error() -> None:
    assert run("tune", "--model", "fake").exit_code == 2
    assert run("tune", "--model", "fake", "--data", ".", "--shots", "many").exit_code == 2
    assert run("tune", "--model", "fake", "--data", ".", "--seeds", 0).exit_code == 2
