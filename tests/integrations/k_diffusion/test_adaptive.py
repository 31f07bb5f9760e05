"""DPM-Solver-fast and the adaptive ones: steps, counts, callbacks and noise of k-diffusion."""

from __future__ import annotations

import pytest
import torch

import odesolve as ode

from .common import DENOISER, TOLERANCE, K, Tape, float64, gap, peer, start


def run(module, name, noisy, *arguments, **options):
    tape = Tape()
    more = {"noise_sampler": tape.noise} if noisy else {}
    f = getattr(module, f"sample_{name}")
    high = arguments[1]
    return f(
        tape.model, start() * high, *arguments, None, tape.callback, True, **options, **more
    ), tape


def assert_told_alike(mine, theirs):
    assert len(mine) == len(theirs)
    for told, wanted in zip(mine, theirs, strict=True):
        assert told.keys() == wanted.keys()
        for key, value in wanted.items():
            if key == "error":  # a small difference, in units of the tolerance
                assert float(told[key]) == pytest.approx(float(value), rel=TOLERANCE, abs=TOLERANCE)
            elif isinstance(value, torch.Tensor):
                assert gap(told[key], value) < TOLERANCE
                assert (told[key].dtype, told[key].shape) == (value.dtype, value.shape)
            else:
                assert told[key] == pytest.approx(value, rel=TOLERANCE)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 9])
@pytest.mark.parametrize(("low", "high"), [(0.03, 14.6), (14.6, 0.03)])
def test_fast(n, low, high):
    with float64():
        theirs, before = run(peer, "dpm_fast", False, low, high, n)
        ours, after = run(K.sampling, "dpm_fast", False, low, high, n)
    assert gap(ours, theirs) < TOLERANCE
    assert after.levels == pytest.approx(before.levels, rel=1e-12)
    assert_told_alike(after.told, before.told)


@pytest.mark.parametrize("n", [7, 8, 9])
@pytest.mark.parametrize("options", [{"eta": 1.0}, {"eta": 0.5, "s_noise": 1.1}])
def test_fast_with_noise(n, options):
    with float64():
        theirs, before = run(peer, "dpm_fast", True, 0.03, 14.6, n, **options)
        ours, after = run(K.sampling, "dpm_fast", True, 0.03, 14.6, n, **options)
    assert gap(ours, theirs) < TOLERANCE
    # Theirs also asks for noise that it multiplies by 0, at the end.
    assert after.asked == [pytest.approx(pair, rel=1e-12) for pair in before.asked[:-1]]
    assert_told_alike(after.told, before.told)


CONTROLS = {
    "as given": {},
    "pi": {"pcoeff": 0.3, "icoeff": 0.4},
    "pid": {"pcoeff": 0.2, "icoeff": 0.7, "dcoeff": -0.1, "h_init": 0.5},
    "rejecting": {"accept_safety": 0.95, "h_init": 2.0},
    "tight": {"rtol": 1e-3, "atol": 1e-4},
}


@pytest.mark.few(7)
@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize(("low", "high"), [(0.03, 14.6), (14.6, 0.03)])
def test_adaptive(order, control, low, high):
    options = {"order": order, "return_info": True, **CONTROLS[control]}
    with float64():
        (theirs, counts), before = run(peer, "dpm_adaptive", False, low, high, **options)
        (ours, found), after = run(K.sampling, "dpm_adaptive", False, low, high, **options)
    assert gap(ours, theirs) < TOLERANCE
    assert found == counts
    assert after.levels == pytest.approx(before.levels, rel=TOLERANCE)
    assert_told_alike(after.told, before.told)


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("options", [{"eta": 1.0}, {"eta": 0.5, "s_noise": 1.1, "h_init": 1.0}])
def test_adaptive_with_noise(order, options):
    options = {"order": order, "return_info": True, **options}
    with float64():
        (theirs, counts), before = run(peer, "dpm_adaptive", True, 0.03, 14.6, **options)
        (ours, found), after = run(K.sampling, "dpm_adaptive", True, 0.03, 14.6, **options)
    assert gap(ours, theirs) < TOLERANCE
    assert found == counts
    assert after.asked == [
        pytest.approx(pair, rel=TOLERANCE) for pair in before.asked[: len(after.asked)]
    ]
    assert_told_alike(after.told, before.told)


def test_some_attempts_are_rejected():
    with float64():
        (_, counts), _ = run(
            K.sampling, "dpm_adaptive", False, 0.03, 14.6, return_info=True, **CONTROLS["rejecting"]
        )
    assert counts["n_reject"] > 0
    assert counts["steps"] == counts["n_accept"] + counts["n_reject"]


def test_noise_by_seed():
    def denoiser(x, sigma, seed=None):
        return DENOISER(x, sigma)

    x = start().float() * 14.6
    one, same, other = (
        K.sampling.sample_dpm_adaptive(denoiser, x, 0.03, 14.6, {"seed": s}, disable=True, eta=1.0)
        for s in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert gap(one, other) > 0.1


@pytest.mark.parametrize("ends", [(0.0, 14.6), (0.03, 0.0), (-1.0, 2.0), (3.0, 3.0)])
@pytest.mark.parametrize("name", ["dpm_fast", "dpm_adaptive"])
def test_levels_without_a_logarithm(name, ends):
    more = (8,) if name == "dpm_fast" else ()
    with pytest.raises(ode.OdesolveError, match="give two different positive noise levels"):
        getattr(K.sampling, f"sample_{name}")(DENOISER, start(), *ends, *more)


def test_what_cannot_be_asked_for():
    f, fast = K.sampling.sample_dpm_adaptive, K.sampling.sample_dpm_fast
    with pytest.raises(ode.OdesolveError, match="order=4: give a whole number of at most 3"):
        f(DENOISER, start(), 0.03, 14.6, order=4)
    with pytest.raises(ode.OdesolveError, match="noise is drawn on the way to the data"):
        f(DENOISER, start(), 14.6, 0.03, eta=1.0)
    with pytest.raises(ode.OdesolveError, match="goes from noise to data"):
        fast(DENOISER, start(), 14.6, 0.03, 8, eta=1.0)
    with pytest.raises(ode.OdesolveError, match="n=0: give the number of evaluations"):
        fast(DENOISER, start(), 0.03, 14.6, 0)
