"""``odesolve profile --diffusers``: a pipeline in a folder in the place of a factory."""

import json

import numpy as np
import pytest

from odesolve.cli import main

diffusers = pytest.importorskip(
    "diffusers", reason="the peers are an extra: pip install odesolve[peers]"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    blocks = {
        "down_block_types": ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",),
        "block_out_channels": (4,),
    }
    unet = diffusers.UNet2DModel(
        sample_size=8, layers_per_block=1, norm_num_groups=2, attention_head_dim=2, **blocks
    )
    unet.conv_out.weight.data *= 0.01  # so that its flow is smooth, and the reference soon found
    pipe = diffusers.DDPMPipeline(unet.eval(), diffusers.DDPMScheduler())
    where = tmp_path_factory.mktemp("pipeline")
    pipe.save_pretrained(where)
    return str(where)


def run(capsys, *words):
    code = main(words)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_pipeline_is_profiled(capsys, folder):
    words = ["--solvers", "ddim", "--grids", "karras", "--nfe", "4", "--json"]
    code, out, _ = run(capsys, "profile", "--diffusers", folder, *words)
    assert code == 0
    (row,) = json.loads(out)["rows"]
    assert (row["solver"], row["status"]) == ("ddim", "ok")


def test_a_pipeline_is_sampled(capsys, folder, tmp_path):
    out = tmp_path / "x.npz"
    assert (
        run(
            capsys,
            "sample",
            "--diffusers",
            folder,
            "--solver",
            "ddim",
            "--steps",
            "3",
            "--out",
            str(out),
        )[0]
        == 0
    )
    (drawn,) = np.load(out).values()
    assert drawn.shape == (4, 3, 8, 8)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--call", "prompt"], "NAME=VALUE"),
        (["--call", "nonsense=1"], "nonsense"),
        (["--shape", "2,3,9,9"], "leave it out"),
        (["user_models:factory"], "two models"),
    ],
)
def test_what_cannot_be_is_told(capsys, folder, words, message):
    code, _, err = run(capsys, "profile", "--diffusers", folder, *words)
    assert code == 2
    assert message in err


def test_a_folder_without_a_pipeline(capsys, tmp_path):
    code, _, err = run(capsys, "profile", "--diffusers", str(tmp_path))
    assert code == 2
    assert "save_pretrained" in err
