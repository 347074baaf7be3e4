"""What the documents tell a reader to type exists: verbs, groups, keys, make targets, folders and links."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module

from brushwork.trainer import cli

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("packages/*/README.md"))]
MAKE_TARGETS = set(" ".join(re.findall(r"^([\w -]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE)).split())


def commands(document: Path) -> list[str]:
    """The lines of its bash blocks, continued lines joined, comments left out."""
    blocks = re.findall(r"^```(?:bash|sh|console)\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line.removeprefix("$ ").strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def all_commands() -> list[tuple[str, list[str]]]:
    found = []
    for document in DOCUMENTS:
        for line in commands(document) if document.exists() else []:
            for part in re.split(r"&&|;|\|", line):
                words = shlex.split(part, comments=True)
                if words:
                    found.append((document.relative_to(ROOT).as_posix(), words))
    return found


COMMANDS = all_commands()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(document):
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", document.read_text())
    assert not [link for link in links if not (document.parent / link).exists()]


def test_lightning_commands_compose():
    assert any(words[0] == "lightning" for _, words in COMMANDS)
    for document, words in COMMANDS:
        if words[:3] == ["python", "-m", "brushwork.trainer"]:
            words = ["lightning", *words[3:]]
        if words[0] != "lightning" or {"...", "--config-dir"} & {*words} or words[1:2] in (["--help"], ["-sc"]):
            continue
        assert words[1] in cli.VERBS, f"{document}: {' '.join(words)}"
        overrides = [word for word in words[2:] if "=" in word]
        if "-m" in words:  # one job of the sweep
            overrides = [word.partition(",")[0] for word in overrides]
        with initialize_config_module(cli.CONFIGS, version_base="1.3"):
            compose(words[1], overrides=overrides)


def test_the_example_of_an_editor_works_as_written(tmp_path):
    """One file and one YAML outside of the repository, then the command below them."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for path, content in re.findall(r"^```(?:python|yaml)\n# (mine/\S+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    (line,) = [line for line in commands(ROOT / "CONTRIBUTING.md") if "--config-dir" in line]
    variable, name, *words = shlex.split(line)
    assert name == "lightning" and (tmp_path / "mine/editor/shaky.yaml").exists()
    key, _, value = variable.partition("=")
    command = [sys.executable, "-m", "brushwork.trainer", *words]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, key: value}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "outputs" / "shaky" / "manifest.json").read_text())
    assert manifest["splits"]["train"]["samples"] == 8
    assert manifest["config"]["subset"]["drawing"]["editor"]["_target_"] == "shaky.ShakyEditor"


def test_make_targets_exist():
    assert any(words[0] == "make" for _, words in COMMANDS)
    for document, words in COMMANDS:
        if words[0] == "make":
            targets = [word for word in words[1:] if "=" not in word and not word.startswith("-")]
            assert set(targets) <= MAKE_TARGETS, f"{document}: {' '.join(words)}"


def test_named_folders_and_files_exist():
    for document, words in COMMANDS:
        for word in words:
            if word.startswith(("./packages/", "packages/", "./configs", "configs/", "tests/", "benchmarks/")):
                path = word.partition("[")[0].partition("::")[0]
                assert list(ROOT.glob(path.removeprefix("./"))) or "{" in path, f"{document}: {word}"
