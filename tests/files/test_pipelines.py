"""Pipelines saved by diffusers whose files are tampered with: one sentence, whatever diffusers made
of them."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from odesolve.integrations.diffusers import load_pipeline
from tests.files.tamper import all_refused, flips, looked_at, none_raw, outcome, texts

diffusers = pytest.importorskip(
    "diffusers", reason="the peers are an extra: pip install odesolve[peers]"
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    blocks = {
        "down_block_types": ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",),
        "block_out_channels": (4,),
    }
    unet = diffusers.UNet2DModel(
        sample_size=8, layers_per_block=1, norm_num_groups=2, attention_head_dim=2, **blocks
    )
    where = tmp_path_factory.mktemp("pipeline")
    diffusers.DDPMPipeline(unet.eval(), diffusers.DDPMScheduler()).save_pretrained(where)
    return where


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "pipeline")


NAMES = ("model_index.json", "scheduler/scheduler_config.json", "unet/config.json")
CONFIGS = [
    *({"num_train_timesteps": v} for v in (None, "a", 0, -1, 1.5, [], {}, 10**9)),
    *({"beta_start": v} for v in ("a", -1, 5, [], {})),
    *({"trained_betas": v} for v in ("a", [], [0.1, "b"], [[0.1]], {}, 3)),
    *({"prediction_type": v} for v in ("eps", 3, [], {})),
    *({"beta_schedule": v} for v in ("lin", 3, [])),
    *({"steps_offset": v} for v in ("a", -1, 1.5)),
    *({"clip_sample": v} for v in ("yes", 3, [])),
]


@pytest.mark.parametrize("name", NAMES)
def test_texts(folder, name):
    file = folder / name
    text = file.read_text()

    def read(given):
        file.write_bytes(
            given if isinstance(given, bytes) else given.encode("utf-8", "surrogatepass")
        )
        before = looked_at(folder)
        try:
            load_pipeline(str(folder))
        finally:
            assert looked_at(folder) == before

    # What diffusers makes something of is not ours to refuse: an object without our keys, keys that
    # are there twice.
    lenient = (
        "an empty object",
        "a key twice",
        "half a character",
        "a number of 5000 digits",
        "a list of it",
    )
    cases = [case for case in texts(text) if not case[0].startswith(lenient)]
    all_refused(read, cases, least=25)
    none_raw(read, [*(case[:2] for case in texts(text)), *flips(text.encode(), 20)])


def test_configs_of_schedulers(folder):
    file = folder / "scheduler" / "scheduler_config.json"
    body = json.loads(file.read_text())

    def read(change):
        file.write_text(json.dumps({**body, **change}))
        load_pipeline(str(folder))

    all_refused(read, [(str(change), change, None) for change in CONFIGS], least=30)
    assert outcome(read, {}) is None


def test_what_would_be_waited_for(folder):
    for name in (*NAMES, "unet/diffusion_pytorch_model.safetensors"):
        kept = (folder / name).read_bytes()
        (folder / name).unlink()
        assert outcome(load_pipeline, str(folder)) is not None
        os.mkfifo(folder / name)
        assert "give a folder that save_pretrained wrote" in (
            outcome(load_pipeline, str(folder)) or ""
        )
        (folder / name).unlink()
        (folder / name).symlink_to(folder / "nowhere")
        assert outcome(load_pipeline, str(folder)) is not None
        (folder / name).unlink()
        (folder / name).write_bytes(kept)
    for given in (str(folder / "nothing"), str(folder / "model_index.json"), "/dev/null", ""):
        assert outcome(load_pipeline, given) is not None
    assert outcome(load_pipeline, str(folder)) is None
