"""Each package installs alone, without a package index for its siblings, and imports with what it declares.

Third-party packages are not downloaded again: a virtual environment sees those that the package declares, and what they
need in turn, as links into the environment of the test run. Siblings it cannot see; pip has to find them.
"""

import importlib.metadata
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
NEEDS = {
    "tokens": set(),
    "flow": {"tokens"},
    "critic": {"tokens"},
    "data": {"tokens", "critic"},
    "trainer": {"tokens", "flow", "critic", "data"},
    "eval": {"tokens", "flow", "critic", "data"},
}
"""The siblings that come along, near and far."""
RELEASE = "BRUSHWORK_RELEASE"

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> str:
    env = {key: value for key, value in os.environ.items() if key not in (RELEASE, "PYTHONPATH")} | environment
    done = subprocess.run([str(word) for word in command], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def third_party(package: str) -> set[str]:
    """Distributions that a package and its siblings declare, and all that these need; hatchling to build with."""
    waiting = [Requirement("hatchling")]
    for name in (package, *NEEDS[package]):
        project = tomllib.loads((ROOT / "packages" / name / "pyproject.toml").read_text())
        waiting += map(Requirement, project["tool"]["hatch"]["metadata"]["hooks"]["custom"]["dependencies"])
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement = waiting.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in seen or name.startswith("brushwork-"):
            continue
        seen.add((name, extras))
        needs = map(Requirement, importlib.metadata.requires(name) or ())
        waiting += (need for need in needs if applies(need, extras))
    return {name for name, _ in seen}


def applies(requirement: Requirement, extras: frozenset[str]) -> bool:
    """Is it needed on this machine, given the extras that were asked of who needs it?"""
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))


def environment(folder: Path, *packages: str) -> Path:
    """Makes a virtual environment for packages, and returns its Python."""
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv")
    view = folder / "third_party"
    view.mkdir()
    for name in set().union(*map(third_party, packages)):
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (view / top).exists():
                (view / top).symlink_to(Path(str(distribution.locate_file(top))))
    python = folder / "venv" / "bin" / "python"
    site_packages = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    (Path(site_packages) / "third_party.pth").write_text(f"{view}\n")
    return python


def pip_install(python: Path, *arguments: str | Path, **variables: str) -> None:
    pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", "--isolated")
    run(*pip, "install", "--quiet", "--no-index", "--no-build-isolation", *arguments, **variables)


def installed(python: Path) -> set[str]:
    code = (
        "import importlib.metadata as m; print(*{d.name for d in m.distributions() if d.name.startswith('brushwork')})"
    )
    return {name.removeprefix("brushwork-") for name in run(python, "-c", code).split()}


@pytest.fixture(scope="module")
def wheelhouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release wheel of each package."""
    folder = tmp_path_factory.mktemp("wheelhouse")
    packages = [f"./packages/{name}" for name in NEEDS]
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps")
    run(*pip, "--no-build-isolation", "--wheel-dir", folder, *packages, **{RELEASE: "1"})
    return folder


@pytest.mark.parametrize("package", NEEDS)
def test_a_wheel_installs_alone_and_imports_every_module(package, wheelhouse, tmp_path):
    python = environment(tmp_path, package)
    pip_install(python, "--find-links", wheelhouse, f"brushwork-{package}")
    assert installed(python) == {package, *NEEDS[package]}
    assert str(tmp_path / "venv") in run(python, ROOT / ".ci/import_all.py", f"brushwork.{package}", cwd=tmp_path)


@pytest.mark.parametrize("package", NEEDS)
def test_a_folder_installs_alone_with_its_siblings_from_beside_it(package, tmp_path):
    python = environment(tmp_path, package)
    pip_install(python, f"./packages/{package}")
    assert installed(python) == {package, *NEEDS[package]}


def test_editable_folders_install_together(tmp_path):
    python = environment(tmp_path, "trainer")
    pip_install(python, *(word for name in (*NEEDS["trainer"], "trainer") for word in ("-e", f"./packages/{name}")))
    where = run(python, "-c", "import brushwork.flow.path as m; print(m.__file__)", cwd=tmp_path).strip()
    assert Path(where) == ROOT / "packages/flow/src/brushwork/flow/path.py"
    assert "max_steps" in run(tmp_path / "venv/bin/lightning", "fit", "--cfg", "job", cwd=tmp_path)


def test_the_command_works_from_wheels_and_names_what_is_missing(wheelhouse, tmp_path):
    python = environment(tmp_path, "trainer")
    pip_install(python, "--find-links", wheelhouse, "brushwork-trainer")
    lightning = tmp_path / "venv/bin/lightning"
    assert "max_steps" in run(lightning, "fit", "--cfg", "job", cwd=tmp_path)
    assert run(lightning, "--help", cwd=tmp_path) == run(python, "-m", "brushwork.trainer", "--help", cwd=tmp_path)
    missing = subprocess.run([lightning, "report"], cwd=tmp_path, capture_output=True, text=True)
    assert missing.returncode == 1
    assert missing.stderr == "error: lightning report needs brushwork-eval: pip install brushwork-eval\n"


def test_a_model_comes_along_and_draws_at_once(tmp_path):
    python = environment(tmp_path, "trainer", "eval")
    pip_install(python, "./packages/trainer", "./packages/eval")
    said = run(tmp_path / "venv/bin/lightning", "predict", "prompt=a red circle left of a blue square", cwd=tmp_path)
    pictures = [tmp_path / line for line in said.splitlines()[-2:]]
    assert [path.name for path in pictures] == ["answer.png", "trajectory.png"] and all(map(Path.is_file, pictures))


@pytest.mark.parametrize("package", NEEDS)
def test_a_release_names_no_folder_and_carries_its_licence(package, wheelhouse, tmp_path):
    (wheel,) = wheelhouse.glob(f"brushwork_{package}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (archive.read(name).decode() for name in names if name.endswith(".dist-info/METADATA"))
    assert "file:" not in metadata
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "brushwork/__init__.py" not in names
    if package == "flow":
        assert {f"brushwork/flow/models/{model}/ema.safetensors" for model in ("mini", "mini_base")} <= set(names)

    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", tmp_path, cwd=ROOT / "packages" / package,
        **{RELEASE: "1"})  # fmt: skip
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        assert not [member.name for member in archive if member.issym()], "an sdist stands alone"
        assert {"LICENSE", "hatch_build.py"} <= {Path(member.name).name for member in archive}
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps")
    run(*pip, "--no-build-isolation", "--wheel-dir", tmp_path, sdist)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as archive:
        assert set(archive.namelist()) == set(names)
