"""The program around the commands: its ends, its streams, its version, what shells complete."""

import os
import shlex
import shutil
import subprocess
import sys

import pytest

import odesolve as ode
from odesolve import cli
from odesolve.cli.parser import EXAMPLES, parser
from tests.rows import rows

PROGRAM = f"{shlex.quote(sys.executable)} -m odesolve"


def shell(line, **more):
    """What bash says of a command line: exit code, stdout and stderr."""
    env = {**os.environ, "PYTHONUNBUFFERED": "", **more.pop("env", {})}
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, env=env, **more
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "words", ["solvers", pytest.param("sample --help", marks=pytest.mark.long)]
)
def test_a_reader_that_leaves_ends_it_quietly(words):
    # The pipe is closed before anything is written, so that nothing depends on who is faster.
    code, out, err = shell(f"(sleep 0.2; exec {PROGRAM} {words}) | (exec 0<&-; true)")
    assert (code, out, err) == (141, "", "")


def test_a_full_disk_is_one_line():
    code, _, err = shell(f"{PROGRAM} solvers > /dev/full")
    assert (code, err) == (2, "odesolve: error: No space left on device\n")


@pytest.mark.long  # test_warnings_are_one_line has such streams, too
def test_streams_that_know_few_letters(tmp_path):
    code, _, err = shell(
        f"{PROGRAM} plan 'é\udcff'", env={"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}, cwd=tmp_path
    )
    assert code == 2
    assert err.startswith("odesolve: error: unknown solver")
    assert err.count("\n") == 1


def test_warnings_are_one_line(tmp_path):
    (tmp_path / "nets.py").write_text(
        "import torch, odesolve as ode\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.drop = torch.nn.Dropout(0.5)\n"
        "    def forward(self, x, t):\n"
        "        return self.drop(x)\n"
        "model = ode.Model(Net(), ode.paths.VP(), predicts='noise')\n"
    )
    code, out, err = shell(
        f"{PROGRAM} sample nets.py:model --shape 2,3 --out é.npz",
        env={"PYTHONIOENCODING": "ascii", "LC_ALL": "C"},
        cwd=tmp_path,
    )
    assert code == 0
    assert out.startswith("out \\xe9.npz, shape [2, 3]")
    assert err.startswith("odesolve: note: ")
    assert err.count("\n") == 1


def test_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"odesolve {ode.__version__}\n"


@rows("name", ["solvers_command", "plan_command"])
@rows(
    "error", [ZeroDivisionError("of\nours"), RuntimeError(), KeyError("k"), RecursionError("deep")]
)
def test_what_nobody_foresaw_is_one_line_too(capsys, monkeypatch, name, error):
    def broken(given):
        raise error

    monkeypatch.setattr(cli.commands, name, broken)
    words = ["solvers"] if name == "solvers_command" else ["plan", "ddim"]
    assert cli.main(words) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith(f"odesolve: error: {type(error).__name__}: ")
    assert "ODESOLVE_TRACEBACK=1" in err
    monkeypatch.setenv("ODESOLVE_TRACEBACK", "1")
    assert cli.main(words) == 2
    err = capsys.readouterr().err
    assert err.startswith("Traceback (most recent call last)")
    assert "in broken" in err


def test_memory_is_named(capsys, monkeypatch):
    def greedy(given):
        raise MemoryError

    monkeypatch.setattr(cli.commands, "solvers_command", greedy)
    assert cli.main(["solvers"]) == 2
    assert "not enough memory: give a smaller batch" in capsys.readouterr().err


def actions(made):
    """Every action of the parser and of its commands."""
    for action in made._actions:
        yield action
        for inner in action.choices.values() if isinstance(action.choices, dict) else ():
            yield from actions(inner)


@rows("name", ["bash", "zsh", "tcsh"])
def test_completion(capsys, tmp_path, name):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--print-completion", name])
    assert stopped.value.code == 0
    script = capsys.readouterr().out
    for action in actions(parser()):
        for option in action.option_strings:
            assert option.lstrip("-") in script
    assert all(command in script for command in EXAMPLES)
    if shutil.which(name):
        (tmp_path / "script").write_text(script)
        assert (
            subprocess.run([name, "-n", tmp_path / "script"], capture_output=True).returncode == 0
        )


@rows(
    ("typed", "found"),
    [
        (["sam"], {"sample"}),
        (["sample", "--sol"], {"--solver"}),
        (["loglik", "--data", "x"], {"x.npz"}),
        (["sample", "--out", ""], {"x.npz", "folder"}),
        (["job", ""], {"folder"}),
        (["check", "n"], {"nets.py"}),
    ],
)
def test_bash_completes_commands_options_and_files(capsys, tmp_path, typed, found):
    with pytest.raises(SystemExit):
        cli.main(["--print-completion", "bash"])
    (tmp_path / "script").write_text(capsys.readouterr().out)
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    for name in ("x.npz", "nets.py"):
        (root / name).touch()
    words = " ".join(map(shlex.quote, ["odesolve", *typed]))
    ask = (
        f"COMP_WORDS=({words}); COMP_CWORD={len(typed)}; _shtab_odesolve; printf '%s\\n' "
        f'"${{COMPREPLY[@]}}"'
    )
    code, out, _ = shell(f"source {tmp_path / 'script'}; {ask}", cwd=root)
    assert code == 0
    assert found <= {line.rstrip("/ ") for line in out.splitlines()}
    assert not (typed == ["job", ""] and "x.npz" in out)


@pytest.mark.parametrize(
    "command",
    [pytest.param(c, marks=[pytest.mark.long] * (c == "check")) for c in sorted(EXAMPLES)],
)
def test_the_example_of_its_help_runs(capsys, monkeypatch, tmp_path, command):
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    _, example = capsys.readouterr().out.split("example:\n")
    lines = [shlex.split(line) for line in example.splitlines() if line.strip()]
    assert lines
    assert any(line[1] == command for line in lines)
    monkeypatch.chdir(tmp_path)
    for program, *words in lines:
        assert program == "odesolve"
        assert cli.main(words) == 0
    assert capsys.readouterr().out


def test_every_command_has_an_example():
    (verbs,) = [a.choices for a in parser()._actions if isinstance(a.choices, dict)]
    assert verbs.keys() == EXAMPLES.keys()
