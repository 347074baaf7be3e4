"""The house rules that a machine can check."""

import ast
import importlib.metadata
import re
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("tokens", "flow", "critic", "data", "trainer", "eval")
MAY_IMPORT = {
    "tokens": set(),
    "flow": {"tokens"},
    "critic": {"tokens"},
    "data": {"tokens", "critic"},
    "trainer": {"tokens", "flow", "data"},
    "eval": {"tokens", "flow", "critic", "data"},
}
FRAMEWORKS = {"hydra", "omegaconf", "lightning", "pytorch_lightning", "webdataset"}
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:root|home|Users|work|opt|farm)/\w")
CONFIG_NEEDS = {
    "trainer": {"tensorboard"},  # Lightning's logger of that name
}
"""What a package uses by a `_target_` of the configs alone."""


def tracked(*patterns: str) -> list[Path]:
    """Files that git knows or would add: nothing that a build or a run leaves behind."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    paths = [ROOT / line for line in listing.stdout.splitlines()]
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def sources(package: str) -> list[Path]:
    return tracked(f"packages/{package}/src/**/*.py", f"packages/{package}/src/*.py")


def where(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> Iterator[str]:
    """Dotted names that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{where(path)}:{node.lineno} imports relatively"
            yield node.module or ""


def test_sources_are_found():
    assert all(sources(package) for package in PACKAGES)


def test_files_have_at_most_400_lines():
    long = {where(path): lines for path in tracked("*.py") if (lines := len(path.read_text().splitlines())) > 400}
    assert not long


def test_functions_have_at_most_80_lines():
    long = {}
    for path in tracked("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > 80:
                    long[f"{where(path)}:{node.lineno} {node.name}"] = lines
    assert not long


def test_init_holds_one_docstring_alone():
    wrong = []
    for path in tracked("packages/**/__init__.py", "configs/__init__.py"):
        body = ast.parse(path.read_text()).body
        docstring = len(body) == 1 and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)
        if not docstring:
            wrong.append(where(path))
    assert not wrong


def test_the_namespace_has_no_init():
    assert not tracked("packages/*/src/brushwork/__init__.py"), "PEP 420: it would hide the sibling packages"


def test_every_module_opens_with_a_docstring():
    modules = tracked("packages/*.py", "benchmarks/*.py", "configs/*.py", ".ci/*.py")
    assert not [where(path) for path in modules if not ast.get_docstring(ast.parse(path.read_text()))]


def test_benchmarks_can_be_imported(monkeypatch):
    """What they measure may have moved since."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    for path in tracked("benchmarks/*.py"):
        runpy.run_path(str(path), run_name="checked")


def test_packages_do_not_print():
    printing = [
        f"{where(path)}:{node.lineno}"
        for path in tracked("packages/*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not printing, "use logging"


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_follow_the_arrows(package):
    forbidden = {f"brushwork.{other}" for other in PACKAGES} - {f"brushwork.{name}" for name in MAY_IMPORT[package]}
    forbidden -= {f"brushwork.{package}"}
    if package in ("tokens", "flow", "critic"):
        forbidden |= FRAMEWORKS
    wrong = [
        f"{where(path)} imports {name}"
        for path in sources(package)
        for name in imports(path)
        if any(name == module or name.startswith(f"{module}.") for module in forbidden)
    ]
    assert not wrong


@pytest.mark.parametrize("package", PACKAGES)
def test_dependencies_are_what_is_imported(package):
    """Each imported distribution is declared, each declared one imported (an extra may wait for its code)."""
    project = tomllib.loads((ROOT / "packages" / package / "pyproject.toml").read_text())
    hook = project["tool"]["hatch"]["metadata"]["hooks"]["custom"]
    extras = project["project"].get("optional-dependencies", {})
    declared = {distribution_name(requirement) for requirement in hook["dependencies"]}
    optional = {distribution_name(requirement) for extra in extras.values() for requirement in extra}

    used = set()
    distributions = importlib.metadata.packages_distributions()
    for path in sources(package):
        for name in imports(path):
            top, _, rest = name.partition(".")
            if top == "brushwork":
                used.add(f"brushwork-{rest.partition('.')[0]}")
            elif top not in sys.stdlib_module_names:
                used.add(distribution_name(distributions.get(top, [top])[0]))
    used -= {f"brushwork-{package}"}
    assert used - declared - optional == set(), "imported, not declared"
    assert declared - used - CONFIG_NEEDS.get(package, set()) == set(), "declared, not imported"


def distribution_name(requirement: str) -> str:
    match = re.match(r"[\w.-]+", requirement)
    assert match, requirement
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def test_no_path_of_a_machine():
    named = []
    for path in tracked("*.py", "*.md", "*.toml", "*.yaml", "*.yml", "*.txt", "*.ipynb", "Makefile", ".ci/*"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if MACHINE_PATH.search(line):
                named.append(f"{where(path)}:{number}")
    assert not named


def test_packages_share_one_build_hook_and_one_licence():
    for package in PACKAGES:
        folder = ROOT / "packages" / package
        assert (folder / "hatch_build.py").resolve() == ROOT / "packages" / "hatch_build.py"
        assert (folder / "LICENSE").resolve() == ROOT / "LICENSE"
    configs = ROOT / "packages/trainer/src/brushwork/trainer/configs"
    assert configs.resolve() == ROOT / "configs"


def test_packages_have_one_version():
    versions = {
        tomllib.loads((ROOT / "packages" / package / "pyproject.toml").read_text())["project"]["version"]
        for package in PACKAGES
    }
    assert len(versions) == 1, f"siblings are pinned to each other's version, so all must agree: {versions}"
