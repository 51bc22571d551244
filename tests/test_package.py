"""What a user gets by installing and importing the package."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

import blackbox_delta

REPOSITORY = Path(__file__).parents[1]
NOT_FOR_A_MERE_IMPORT = {
    "cma",
    "datasets",
    "matplotlib",
    "nevergrad",
    "pandas",
    "scipy",
    "sklearn",
    "torch",
    "transformers",
}
TIMED_IMPORT = """
import json, sys, time
start = time.perf_counter()
import blackbox_delta
print(json.dumps([time.perf_counter() - start, sorted(sys.modules)]))
"""


def files_in(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def files_of_the_package() -> set[str]:
    """Paths as they should be installed; the linked backends count once."""
    own = {
        name for name in files_in(REPOSITORY / "blackbox_delta") if not name.startswith("backends")
    }
    linked = {f"backends/{name}" for name in files_in(REPOSITORY / "backends")}
    return {f"blackbox_delta/{name}" for name in own | linked}


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The names in a wheel built from a copy, so that the checkout stays clean."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("blackbox_delta", "backends"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, copy / name, symlinks=True, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, copy)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "."]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = copy.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_importing_the_package_loads_nothing_heavy() -> None:
    runs = [
        json.loads(subprocess.check_output([sys.executable, "-c", TIMED_IMPORT], cwd="/"))
        for _ in range(3)
    ]
    print(f"import blackbox_delta: {min(seconds for seconds, _ in runs):.3f} s, best of 3")  # noqa: T201
    loaded = {name.split(".")[0] for name in runs[0][1]}
    assert "blackbox_delta" in loaded
    assert not loaded & NOT_FOR_A_MERE_IMPORT


def test_the_version_is_the_installed_one() -> None:
    assert blackbox_delta.__version__ == version("blackbox-delta")


def test_every_module_says_what_it_is() -> None:
    sources = [name for name in files_of_the_package() if name.endswith(".py")]
    trees = {name: ast.parse((REPOSITORY / name).read_text(encoding="utf-8")) for name in sources}
    assert not sorted(name for name, tree in trees.items() if not ast.get_docstring(tree))


def test_the_wheel_holds_every_file_of_the_package_once(wheel_names: list[str]) -> None:
    packaged = [name for name in wheel_names if ".dist-info/" not in name]
    assert sorted(packaged) == sorted(files_of_the_package())


def test_the_wheel_says_that_it_is_typed_and_licensed(wheel_names: list[str]) -> None:
    assert "blackbox_delta/py.typed" in wheel_names
    assert any(name.endswith("licenses/LICENSE") for name in wheel_names)


def test_public_names_are_completed_before_they_are_used() -> None:
    script = "import blackbox_delta as it; print(set(it.__all__) <= set(dir(it)))"
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "True\n"
