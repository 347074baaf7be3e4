"""The `lightning` command as a person meets it: each test runs it in a process of its own."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module

from brushwork.trainer import cli

TASK = """
import logging
import sys

log = logging.getLogger("brushwork.probe")


class Brush:
    def __init__(self, width: int, bristles: int = 2):
        self.width = width


def paint(brush, out, strokes=1, colors=()):
    log.info("width %d into %s", brush.width, out)
    assert type(colors) is list
    if strokes == 13:
        raise ValueError("13 strokes are unlucky;\\ngive another number")
    if strokes == 14:
        raise FileNotFoundError("no canvas")
    if strokes == 15:
        raise RuntimeError("a bug")
    sys.stdout.write(" ".join(sys.argv[1:]) + "\\n")
"""
CONFIGS = {
    "paint": """
defaults: [{hydra: default}, {brush: flat}, _self_]
_target_: probe.paint
out: painted
strokes: 1
colors: [red]
""",
    "unfinished": """
defaults: [{hydra: default}, _self_]
_target_: probe.paint
brush: {_target_: probe.Brush, width: '???'}
out: painted
""",
    "brush/flat": "_target_: probe.Brush\nwidth: 8\n",
    "brush/round": "_target_: probe.Brush\nwidth: 3\nbristles: 9\n",
}
PAINT = ("fit", "--config-dir", "configs", "-cn", "paint")


def run(arguments: tuple[str, ...] | list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if key != cli.FULL_ERROR}
    env |= {"PYTHONPATH": str(folder), **environment}
    command = [sys.executable, "-m", "brushwork.trainer", *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that the command says about an error."""
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "Traceback" not in done.stderr, done.stderr
    return errors[0]


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def studio(tmp_path: Path) -> Path:
    """A folder with a task of its own and the configs for it."""
    (tmp_path / "probe.py").write_text(TASK)
    for name, text in CONFIGS.items():
        path = tmp_path / "configs" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_help_names_verbs_and_groups_and_imports_nothing_heavy(tmp_path):
    code = "import sys; sys.argv = ['lightning', '--help']; from brushwork.trainer.cli import main; main();"
    code += "assert not {'torch', 'hydra', 'lightning', 'omegaconf'} & sys.modules.keys()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    groups = {path.name for path in (Path(__file__).parents[2] / "configs").iterdir() if path.is_dir()}
    for word in (*cli.VERBS, *(groups - {"hydra", "__pycache__"}), "--cfg job", "--config-dir", "-m"):
        assert word in done.stdout, word
    nothing = run([], tmp_path)
    assert (nothing.returncode, nothing.stdout, nothing.stderr) == (2, "", done.stdout)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("fti", "no verb 'fti'; nearest: 'fit'"),
        ("draw", "no verb 'draw'; valid: build, export, fit, merge, plan, predict, report, studio, test, validate"),
        ("-m fit", "the verb comes first"),
        ("fit sede=2", "fit has no 'sede'; nearest: 'seed'"),
        ("fit trainer.max_step=2", "nearest: 'trainer.max_steps'"),
        ("fit max_steps=2", "nearest: 'trainer.max_steps'"),
        ("fit optimiser=adamw", "nearest: 'optimizer'"),
        ("fit model=mini trainr=cpu", "nearest: 'trainer'"),
        ("fit model=minni", "no 'minni' in group 'model'; nearest: 'mini'"),
        ("fit -m model=mini,minni", "no 'minni' in group 'model'; nearest: 'mini'"),
        ("fit --config-dir configs +brush=flat brush.widht=2", "nearest: 'brush.width'"),
        ("fit seed", "cannot read 'seed'"),
        ("fit seed=1,2", "--multirun"),
        ("fit --config-dir nowhere", "nowhere' not found"),
        ("fit --config-dir configs -cn paint strokes=${nowhere}", "'nowhere' not found"),
        ("fit --config-dir configs -cn paint +brush.bristle=2", "no 'bristle' (at brush); nearest: 'bristles'"),
        ("fit --config-dir configs -cn paint ~brush.width", "probe.Brush needs 'width' (at brush)"),
        ("fit --config-dir configs -cn unfinished", "unfinished needs brush.width=..."),
    ],
)
def test_misspelt_commands_fail_at_once_naming_the_nearest(studio, command, said):
    done = run(command.split(), studio)
    assert said in error_of(done)
    assert len(done.stderr.splitlines()) == 1
    assert done.returncode == 2
    assert done.stdout == ""


@pytest.mark.parametrize(
    "text",
    [
        "a dog, asleep",
        "it's \\' two\\",
        "[a, b]: {c} = 5?",
        "7",
        "",
        "“x” 圆",
        "'",
        "'tis a dog",
        '"A" to B, please',
        '"A" or "B"',
        "'mixed\"",
    ],
)
def test_a_prompt_is_whatever_is_typed(text):
    with initialize_config_module(cli.CONFIGS, version_base="1.3"):
        assert compose("predict", overrides=[cli.as_typed(f"prompt={text}")]).prompt == text


@pytest.mark.parametrize(
    "argument", ["prompt='a, b'", 'prompt="it\'s \\"A\\""', "prompt=null", "prompts=[a, b]", "seed=1", "-m"]
)
def test_what_is_quoted_or_no_prompt_stays_as_it_is(argument):
    assert cli.as_typed(argument) == argument


def test_a_run_writes_its_config_and_log_into_out_and_keeps_stdout_clean(studio):
    done = run((*PAINT, "brush=round", "out=gallery/one"), studio)
    assert done.returncode == 0, done.stderr
    assert done.stdout == " ".join((*PAINT, "brush=round", "out=gallery/one")) + "\n", "argv must hold the verb again"
    assert done.stderr.count("width 3 into gallery/one") == 1
    assert files(studio / "gallery") == {"one/paint.yaml", "one/paint.log"}
    assert "width: 3" in (studio / "gallery/one/paint.yaml").read_text()
    assert "width 3" in (studio / "gallery/one/paint.log").read_text()


def test_a_sweep_gives_each_job_a_folder(studio):
    done = run((*PAINT, "-m", "brush=flat,round", "strokes=2"), studio)
    assert done.returncode == 0, done.stderr
    folders = {"brush-flat+strokes-2", "brush-round+strokes-2"}
    expected = {f"{folder}/{name}" for folder in folders for name in ("paint.yaml", "paint.log")}
    assert files(studio / "painted") == expected | {"multirun.yaml"}
    assert "out: painted/brush-round+strokes-2" in (studio / "painted/brush-round+strokes-2/paint.yaml").read_text()


def test_bad_input_is_one_line_and_a_bug_is_a_traceback(studio):
    for strokes, said in ((13, "13 strokes are unlucky; give another number"), (14, "no canvas")):
        done = run((*PAINT, f"strokes={strokes}"), studio)
        assert (done.returncode, error_of(done)) == (1, f"error: {said}")
    bug = run((*PAINT, "strokes=15"), studio)
    assert bug.returncode == 1
    assert bug.stderr.rstrip().endswith("RuntimeError: a bug")
    wanted = run((*PAINT, "strokes=13"), studio, HYDRA_FULL_ERROR="1")
    assert wanted.returncode == 1
    assert "Traceback" in wanted.stderr and "ValueError" in wanted.stderr


def test_cfg_job_prints_the_config_and_runs_nothing(studio):
    done = run((*PAINT, "brush=round", "--cfg", "job", "-p", "brush"), studio)
    assert done.stdout == "# @package brush\n_target_: probe.Brush\nwidth: 3\nbristles: 9\n"
    assert not (studio / "painted").exists()


def test_completion(studio):
    def suggestions(line: str) -> list[str]:
        done = run(("-sc", "query=bash"), studio, COMP_LINE=line)
        assert done.returncode == 0 and not done.stderr, done.stderr
        return done.stdout.split()

    assert suggestions("lightning ") == list(cli.VERBS)
    assert suggestions("lightning pre") == ["predict"]
    assert suggestions("lightning frob ou") == []
    assert suggestions("lightning fit ou") == ["out="]
    assert suggestions("lightning fit --config-dir configs br") == []  # hydra looks at the packaged configs alone
    installed = run(("-sc", "install=bash"), studio)
    assert "complete -o nospace" in installed.stdout


def test_a_verb_whose_package_is_missing_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "brushwork.eval", None)  # test_install.py leaves it out for real
    monkeypatch.setattr(sys, "argv", ["lightning", "report"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 1
    assert capsys.readouterr().err == "error: lightning report needs brushwork-eval: pip install brushwork-eval\n"


def test_the_script_is_ours_and_the_same(studio):
    scripts = importlib.metadata.entry_points(group="console_scripts", name="lightning")
    assert [script.value for script in scripts] == ["brushwork.trainer.cli:main"]
    script = subprocess.run([Path(sys.executable).with_name("lightning"), "--help"], capture_output=True, text=True)
    assert script.stdout == run(["--help"], studio).stdout


@pytest.mark.slow
def test_every_process_of_a_distributed_run_understands_the_command(studio):
    (studio / "probe.py").write_text("""
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel


def paint(out, **_):
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "default_root_dir": out}
    Trainer(accelerator="cpu", devices=2, strategy="ddp", max_steps=2, **options).fit(BoringModel())
""")
    done = run((*PAINT, "~brush"), studio)
    assert done.returncode == 0, done.stderr
    assert "MEMBER: 2/2" in done.stderr
    assert files(studio / "painted") == {"paint.yaml", "paint.log", "train_ddp_process_1.log"}


@pytest.mark.parametrize(
    ("told", "chosen"),
    [
        ({}, []),
        ({"LOCAL_RANK": "0"}, []),
        ({"LOCAL_RANK": "3", "SLURM_LOCALID": "1"}, [3]),
        ({"SLURM_LOCALID": "2"}, [2]),
    ],
)
def test_each_process_of_predict_loads_on_its_own_gpu(monkeypatch, told, chosen):
    """A sampler is loaded before Lightning has met the other processes and chosen for them."""
    import torch

    seen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", seen.append)
    for name in ("LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    cli.choose_gpu()
    assert seen == chosen
