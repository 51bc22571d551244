"""Imports go downwards only. The tables below say what "down" means; extend them here."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGE = "blackbox_delta"

# A unit is a module or subpackage directly under blackbox_delta; "__init__" is the package itself.
FOUNDATION = frozenset({"types", "errors", "geometry", "tensors", "slices"})
PARTS = frozenset(
    {
        "tasks",
        "deltas",
        "subspaces",
        "optimizers",
        "heads",
        "objectives",
        "budget",
        "forwarding",
        "journal",
        "history",
        "prices",
        "probing",
    }
)
LIBRARY = FOUNDATION | PARTS | {"settings", "forecast"}
BELOW_FACES = LIBRARY | {
    "problem",
    "members",
    "artifact",
    "earlier",
    "tuner",
    "auto",
    "runs",
    "report",
    "tuned_model",
    "metered",
    "beforehand",
    "api",
    "backends",
    "data",
}

MAY_IMPORT: dict[str, frozenset[str]] = {
    "geometry": frozenset(),
    "tensors": frozenset(),
    "slices": frozenset(),
    "types": frozenset({"geometry", "tensors"}),
    "errors": frozenset(),
    "data": frozenset(),
    **dict.fromkeys(PARTS, FOUNDATION),
    # What a budget, a run's settings and a forecast in money rest on.
    **dict.fromkeys(("budget", "settings", "forecast"), FOUNDATION | {"prices"}),
    # A backend before another one.
    "journal": FOUNDATION | {"forwarding"},
    "metered": FOUNDATION | {"forwarding"},
    "backends": FOUNDATION,
    "_backend_contract": FOUNDATION,
    "testing": FOUNDATION | {"_backend_contract"},
    "problem": LIBRARY,
    "members": LIBRARY | {"problem"},
    "artifact": LIBRARY | {"problem", "members"},
    "earlier": LIBRARY | {"problem", "artifact", "runs"},
    "tuner": LIBRARY | {"problem", "members", "report"},
    "auto": LIBRARY | {"problem", "members", "tuner", "report"},
    "runs": LIBRARY | {"artifact"},
    "beforehand": LIBRARY | {"problem", "runs"},
    "report": LIBRARY | {"problem", "members"},
    "tuned_model": LIBRARY | {"problem", "members", "artifact", "runs", "backends"},
    "tuned_models": LIBRARY | {"problem", "members", "artifact", "runs", "tuned_model", "backends"},
    "exports": LIBRARY | {"members", "artifact", "tuned_model", "backends"},
    "api": BELOW_FACES - {"api", "data"},
    "display": BELOW_FACES,
    "estimator": BELOW_FACES,
    "seeds": BELOW_FACES,
    # The yardstick beside the product: nothing but its command may import it.
    "compare": BELOW_FACES - {"data"},
    "demo": BELOW_FACES,
    "cli": BELOW_FACES | {"display", "demo", "seeds", "compare", "exports", "__init__"},
    "__main__": frozenset({"cli"}),
    "__init__": BELOW_FACES | {"estimator", "tuned_models"},
}

# Other people's libraries that only one corner may know, wherever the import stands.
_GRADIENTS = "blackbox_delta.compare.gradients"
CONFINED = {
    "torch": ("blackbox_delta.backends.local", _GRADIENTS),
    "transformers": ("blackbox_delta.backends.local", _GRADIENTS),
    "peft": (_GRADIENTS,),
    "matplotlib": ("blackbox_delta.compare",),
}

# Libraries that are slow to import: inside functions only, but for the modules named here.
HEAVY = frozenset(
    {
        "cma",
        "datasets",
        "gguf",
        "matplotlib",
        "nevergrad",
        "pandas",
        "peft",
        "sklearn",
        "tokenizers",
        "torch",
        "transformers",
    }
)
HEAVY_AT_THE_TOP = {
    "blackbox_delta.backends.local": frozenset({"torch", "transformers"}),
    "blackbox_delta.compare.gradients": frozenset({"peft", "torch", "transformers"}),
    "blackbox_delta.estimator": frozenset({"sklearn"}),
}


@dataclass(frozen=True)
class Import:
    """One imported name, and whether the statement runs when its module is imported."""

    target: str
    line: int
    at_the_top: bool


class ImportCollector(ast.NodeVisitor):
    """Collects a module's imports, those inside functions and ``TYPE_CHECKING`` blocks too."""

    def __init__(self, module: str, is_package: bool) -> None:
        self.found: list[Import] = []
        self._package = module.split(".") if is_package else module.split(".")[:-1]
        self._late = 0

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(alias.name, node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        here = self._package[: len(self._package) - node.level + 1] if node.level else []
        origin = ".".join([*here, *([node.module] if node.module else [])])
        for alias in node.names:
            self._add(f"{origin}.{alias.name}", node)

    def visit_Call(self, node: ast.Call) -> None:
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        if name in {"import_module", "__import__"} and node.args:
            target = node.args[0]
            if isinstance(target, ast.Constant) and isinstance(target.value, str):
                self._add(target.value, node)
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        if "TYPE_CHECKING" in ast.unparse(node.test):
            self._visit_late(node)
        else:
            self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._visit_late(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._visit_late(node)

    def _visit_late(self, node: ast.AST) -> None:
        self._late += 1
        self.generic_visit(node)
        self._late -= 1

    def _add(self, target: str, node: ast.stmt | ast.expr) -> None:
        self.found.append(Import(target, node.lineno, at_the_top=not self._late))


def imports_of(source: str, module: str, *, is_package: bool = False) -> list[Import]:
    collector = ImportCollector(module, is_package)
    collector.visit(ast.parse(source))
    return collector.found


def is_within(module: str, ancestor: str) -> bool:
    return module == ancestor or module.startswith(f"{ancestor}.")


def unit_of(module: str) -> str:
    """``blackbox_delta.heads.ridge`` -> ``heads``, ``…_delta._settings_file`` -> ``settings``.

    A private module belongs to the unit it is named after; a name defined by the package itself,
    like ``blackbox_delta.__version__``, belongs to ``__init__``.
    """
    name = module.removeprefix(PACKAGE).removeprefix(".").split(".")[0]
    if name not in MAY_IMPORT and name.startswith("_"):
        name = next((unit for unit in MAY_IMPORT if f"{name}_".startswith(f"_{unit}_")), name)
    return name if name in MAY_IMPORT else "__init__"


def upward(module: str, found: Import) -> str | None:
    if not is_within(found.target, PACKAGE):
        return None
    source, target = unit_of(module), unit_of(found.target)
    if source == target or target in MAY_IMPORT[source]:
        return None
    return f"'{source}' may not import '{target}'"


def bare(_module: str, found: Import) -> str | None:
    if not is_within(found.target, "backends"):
        return None
    return "'backends' must be imported as blackbox_delta.backends"


def escaped(module: str, found: Import) -> str | None:
    library = found.target.split(".")[0]
    homes = CONFINED.get(library)
    if homes is None or any(is_within(module, home) for home in homes):
        return None
    return f"'{library}' belongs to {' and '.join(homes)}"


def early(module: str, found: Import) -> str | None:
    library = found.target.split(".")[0]
    if library not in HEAVY or not found.at_the_top:
        return None
    if any(
        is_within(module, home) for home, allowed in HEAVY_AT_THE_TOP.items() if library in allowed
    ):
        return None
    return f"'{library}' is heavy: import it inside the function that uses it"


RULES = (upward, bare, escaped, early)


def violations(source: str, module: str, *, is_package: bool = False) -> list[str]:
    found = imports_of(source, module, is_package=is_package)
    broken = [(one.line, rule(module, one)) for one in found for rule in RULES]
    return sorted({f"line {line}: {what}" for line, what in broken if what})


def source_files() -> dict[str, Path]:
    """Module name to file. The linked backends are read once, from where they really are."""
    files = {}
    for folder, name in ((PACKAGE, PACKAGE), ("backends", f"{PACKAGE}.backends")):
        root = REPOSITORY / folder
        for path in sorted(root.rglob("*.py")):
            relative = path.relative_to(root).with_suffix("").parts
            if folder == PACKAGE and relative[0] == "backends":
                continue
            parts = relative[:-1] if relative[-1] == "__init__" else relative
            files[".".join([name, *parts])] = path
    return files


SOURCES = source_files()
OUTSIDE = sorted(
    path
    for folder in ("tests", "examples", "benchmarks")
    for path in (REPOSITORY / folder).rglob("*.py")
)


def test_every_unit_has_its_place_in_the_table() -> None:
    strays = [module for module in SOURCES if module != PACKAGE and unit_of(module) == "__init__"]
    assert not strays, f"say in MAY_IMPORT what these may import: {strays}"


@pytest.mark.parametrize("module", SOURCES)
def test_module_imports_downwards_only(module: str) -> None:
    path = SOURCES[module]
    assert not violations(
        path.read_text(encoding="utf-8"), module, is_package=path.name == "__init__.py"
    )


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_nothing_imports_backends_by_its_bare_name(path: Path) -> None:
    assert not [
        one
        for one in imports_of(path.read_text(encoding="utf-8"), path.stem)
        if bare(path.stem, one)
    ]


def test_the_table_has_no_cycles() -> None:
    left = dict(MAY_IMPORT)
    while left:
        free = [unit for unit, below in left.items() if not below & left.keys()]
        assert free, f"a cycle among {sorted(left)}"
        left = {unit: below for unit, below in left.items() if unit not in free}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("blackbox_delta.types", "from blackbox_delta.errors import ConfigError"),
        ("blackbox_delta.heads.ridge", "from blackbox_delta.objectives import cross_entropy"),
        ("blackbox_delta.heads.ridge", "from blackbox_delta import objectives"),
        ("blackbox_delta.heads.ridge", "from ..tasks import splits"),
        ("blackbox_delta.heads.ridge", "from .. import tasks"),
        ("blackbox_delta.heads.ridge", "def f():\n    import blackbox_delta.tuner"),
        ("blackbox_delta.journal", "from blackbox_delta import __version__"),
        ("blackbox_delta.journal", "import_module('blackbox_delta.cli')"),
        ("blackbox_delta.backends.fake", "from blackbox_delta.tasks import splits"),
        ("blackbox_delta.tuner", "from blackbox_delta.cli import app"),
        ("blackbox_delta.tuner", "from blackbox_delta.backends import open_backend"),
        ("blackbox_delta.tuner", "from backends.fake import FakeBackend"),
        ("blackbox_delta.tuner", "def f():\n    import torch"),
        ("blackbox_delta.backends.fake", "if TYPE_CHECKING:\n    import transformers"),
        ("blackbox_delta.heads.logistic", "from sklearn.linear_model import LogisticRegression"),
    ],
)
def test_the_rules_find_what_they_forbid(module: str, source: str) -> None:
    assert len(violations(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("blackbox_delta.heads.ridge", "from blackbox_delta.types import Evidence"),
        ("blackbox_delta.heads.ridge", "from .probabilities import log_softmax"),
        ("blackbox_delta.settings", "from blackbox_delta._settings_file import read_settings"),
        ("blackbox_delta.heads.ridge", "def f():\n    import sklearn.linear_model"),
        ("blackbox_delta.backends.local.causal", "import torch\nimport transformers"),
        ("blackbox_delta.estimator", "from sklearn.base import BaseEstimator"),
        ("blackbox_delta.tuner", "from blackbox_delta.settings import Settings"),
        ("blackbox_delta.cli", "from blackbox_delta import __version__, tuner"),
    ],
)
def test_the_rules_allow_what_they_should(module: str, source: str) -> None:
    assert violations(source, module) == []
