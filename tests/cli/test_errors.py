"""An error is one line on stderr that says what to type, and exit code 2."""

import pytest

from odesolve import cli
from odesolve.cli import commands, parser
from tests.rows import rows


@rows(
    ("words", "message"),
    [
        (["plan", "ddimm"], "did you mean 'ddim'"),
        (["plan", "ddim", "--path", "vpp"], "unknown path 'vpp'"),
        (["plan", "ddim", "--grid", "karas"], "unknown grid"),
        (["plan", "ddim", "--steps", "0"], "--steps: '0' was given"),
        (["profile", "nowhere:model", "--shape", "2,3"], "No module named 'nowhere'"),
        (["profile", "user_models:nothing", "--shape", "2,3"], "nothing"),
        (["profile", "user_models:wrong", "--shape", "2,3"], "returned int"),
        (["profile", "user_models:raising", "--shape", "2,3"], "KeyError"),
        (["profile", "user_models", "--shape", "2,3"], "package.module:factory"),
        (["profile", "user_models:model"], "--shape"),
        (["profile", "--resume"], "give --out DIR"),
        (["profile", "user_models:model", "--shape", "2,x"], "whole numbers"),
        (["profile", "--nfe", "5,ten"], "whole numbers"),
        (["profile", "--solvers", "ddim", "--grids", "nope"], "unknown grid"),
        (["sample", "user_models:model", "--shape", "2,1,4,4", "--out", "x.jpg"], ".npz"),
        (
            [
                "sample",
                "user_models:model",
                "--shape",
                "2,4",
                "--out",
                "x.npz",
                "--solver",
                "ddim(x=1)",
            ],
            "option 'x'",
        ),
        (["loglik", "user_models:model"], "give --data"),
        (["loglik", "--data", "x.jpg"], ".npz, .npy or .pt"),
        (["loglik", "--data", "missing.npz"], "missing.npz"),
        (["loglik", "--out", "values.txt"], "in .npz or .csv"),
        (["loglik", "--resume"], "give --out values.npz"),
        (["loglik", "--batch", "0"], "at least 1"),
        (["loglik", "--limit", "0"], "at least 1"),
        (["loglik", "--limit", "2", "--trace", "xtrac"], "did you mean 'xtrace'"),
        (["loglik", "--limit", "2", "--levels", "17"], "lies off the 17 values"),
        (["sample", "--sampler", "ddim", "--out", "x.npz"], "'--sampler': give --solver"),
        (["sample", "--num-inference-steps=20", "--out", "x.npz"], "give --steps"),
        (["sample", "--batch-size", "4", "--out", "x.npz"], "give --shape"),
        (["sample", "--guidance-scale", "4", "--out", "x.npz"], "give --guidance"),
        (["profile", "--num-steps", "4"], "give --nfe"),
        (["sample", "--qqq", "4", "--out", "x.npz"], "choose from"),
        (["sample", "missing.py:model", "--shape", "2,4", "--out", "x.npz"], "missing.py"),
    ],
)
def test_errors_are_one_line(capsys, module, words, message):
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("odesolve: error: ")
    assert message in err


def test_wrong_usage_exits_with_2(capsys):
    assert cli.main(["plan"]) == 2
    assert "usage: odesolve plan" in capsys.readouterr().err


@rows("command", ["profile", "sample", "loglik", "job", "solvers", "plan"])
def test_every_command_has_help(capsys, command):
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert f"usage: odesolve {command}" in text
    assert "--json" in text


@rows(
    ("words", "said"),
    [
        (["sampl"], "unknown command 'sampl': did you mean 'sample'?"),
        (["profiel"], "unknown command 'profiel': did you mean 'profile'?"),
        (["likelihood"], "unknown command 'likelihood': choose from check, job, loglik"),
        (
            ["profile", "--metric", "medain"],
            "unknown value of --metric 'medain': did you mean 'median'?",
        ),
        (
            ["--print-completion", "bassh"],
            "unknown value of --print-completion 'bassh': did you mean 'bash'?",
        ),
    ],
)
def test_slips_of_commands_and_choices(capsys, words, said):
    assert cli.main(words) == 2
    assert said in capsys.readouterr().err


@rows(
    ("words", "goes_on"),
    [
        (
            ["sample", "--out", "digits", "--n", "64"],
            ": the same command goes on with the job in digits where it stopped",
        ),
        (
            ["loglik", "--out", "values"],
            ": the same command goes on with the job in values where it stopped",
        ),
        (
            ["loglik", "--out", "values.npz"],
            ": the same command with --resume goes on from values.npz",
        ),
        (["profile", "--out", "found"], ": the same command with --resume goes on from found"),
        (["sample", "--out", "x.npz"], ""),
        (["loglik", "--out", "values.csv"], ""),
        (["loglik"], ""),
        (["profile"], ""),
    ],
)
def test_ctrl_c_says_how_to_go_on(capsys, monkeypatch, words, goes_on):
    def interrupted(given):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, f"{words[0]}_command", interrupted, raising=False)
    monkeypatch.setattr(parser, "loglik_command", interrupted)
    assert cli.main(words) == 130
    assert capsys.readouterr().err == f"odesolve: interrupted{goes_on}\n"


def test_ctrl_c_is_no_traceback(capsys, monkeypatch):
    def interrupted(given):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "solvers_command", interrupted)
    assert cli.main(["solvers"]) == 130
    assert capsys.readouterr().err == "odesolve: interrupted\n"
