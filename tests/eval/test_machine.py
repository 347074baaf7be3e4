"""Facts about the machine name no person, host or folder."""

import getpass
import platform
from pathlib import Path

import pytest

from brushwork.eval.machine import command_line, machine


def test_facts_are_plain_and_impersonal():
    facts = machine()
    assert {"processor", "cores", "system", "python", "torch", "date"} <= set(facts)
    text = " ".join(facts.values())
    assert platform.node() not in text and str(Path.home()) not in text
    assert getpass.getuser() not in text.split()


@pytest.mark.parametrize(
    ("program", "command"),
    [
        ("/anywhere/bin/lightning", "lightning predict 'prompts=[a circle]'"),
        ("/anywhere/trainer/__main__.py", "lightning predict 'prompts=[a circle]'"),
        ("/anywhere/pytest", ""),
    ],
)
def test_only_our_command_is_recorded(monkeypatch, program, command):
    monkeypatch.setattr("sys.argv", [program, "predict", "prompts=[a circle]"])
    assert command_line() == command
