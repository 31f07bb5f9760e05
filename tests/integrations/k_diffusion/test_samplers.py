"""Every solver of k-diffusion and ours of the same name: results, callbacks, the levels that the
model is called at."""

from __future__ import annotations

import pytest
import torch

from tests.products import diagonal

from .common import DENOISER, LEVELS, TOLERANCE, K, both, float64, gap, peer, start

GRIDS = {
    "karras": LEVELS,
    "exponential": peer.get_sigmas_exponential(7, 0.01, 60.0).double(),
    "stops before the data": LEVELS[:-1],
    "one step": torch.tensor([5.0, 0.0], dtype=torch.float64),
    "one step that stops": torch.tensor([5.0, 2.0], dtype=torch.float64),
}
QUIET = [
    ("euler", {}),
    ("heun", {}),
    ("dpm_2", {}),
    ("lms", {}),
    ("lms", {"order": 1}),
    ("lms", {"order": 2}),
    ("lms", {"order": 6}),
    ("dpmpp_2m", {}),
    ("euler_ancestral", {"eta": 0.0}),
    ("dpmpp_2s_ancestral", {"eta": 0.0}),
    ("dpm_2_ancestral", {"eta": 0.0}),
    ("dpmpp_2m_sde", {"eta": 0.0}),
    ("dpmpp_3m_sde", {"eta": 0.0}),
    ("dpmpp_sde", {"eta": 0.0}),
]
NOISY = [
    ("euler_ancestral", {}),
    ("euler_ancestral", {"eta": 0.4, "s_noise": 1.1}),
    ("dpm_2_ancestral", {}),
    ("dpm_2_ancestral", {"eta": 0.4, "s_noise": 1.1}),
    ("dpmpp_2s_ancestral", {}),
    ("dpmpp_2s_ancestral", {"eta": 0.4, "s_noise": 1.1}),
    ("dpmpp_sde", {}),
    ("dpmpp_sde", {"eta": 0.4, "s_noise": 1.1, "r": 0.3}),
    ("dpmpp_2m_sde", {}),
    ("dpmpp_2m_sde", {"eta": 0.4, "s_noise": 1.1, "solver_type": "heun"}),
    ("dpmpp_3m_sde", {}),
    ("dpmpp_3m_sde", {"eta": 0.4, "s_noise": 1.1}),
]


def label(case) -> str:
    name, options = case
    return "-".join([name, *(f"{k}={v}" for k, v in options.items())])


def assert_same(theirs, ours):
    (want, before), (found, after) = theirs, ours
    assert gap(found, want) < TOLERANCE
    assert after.levels == pytest.approx(before.levels, rel=1e-12)
    assert after.asked == [pytest.approx(pair, rel=1e-12) for pair in before.asked]
    assert len(after.told) == len(before.told)
    for told, wanted in zip(after.told, before.told, strict=True):
        assert told.keys() == wanted.keys()
        assert told["i"] == wanted["i"]
        for key in ("x", "denoised", "sigma", "sigma_hat"):
            assert gap(told[key], wanted[key]) < TOLERANCE
            assert (told[key].dtype, told[key].shape) == (wanted[key].dtype, wanted[key].shape)


@pytest.mark.parametrize(
    ("case", "grid"),
    diagonal(list(QUIET), list(GRIDS), times=2),
)
def test_without_noise(case, grid):
    name, options = case
    with float64():
        more = {"noise_sampler": lambda *_: 0.0} if "eta" in options else {}
        # k-diffusion's have no h to remember there
        if grid == "one step" and name in ("dpmpp_2m_sde", "dpmpp_3m_sde"):
            x = start() * 5.0
            found = getattr(K.sampling, f"sample_{name}")(
                DENOISER, x, GRIDS[grid], disable=True, **options
            )
            assert gap(found, DENOISER(x, x.new_full((len(x),), 5.0))) < TOLERANCE
        else:
            assert_same(*both(name, GRIDS[grid], **options, **more))


@pytest.mark.few(8)
@pytest.mark.parametrize(
    ("case", "grid"),
    diagonal(list(NOISY), ["karras", "stops before the data", "one step that stops"], times=2),
)
def test_with_a_noise_sampler(case, grid):
    name, options = case
    with float64():
        theirs, ours = both(name, GRIDS[grid], noisy=True, **options)
        assert ours[1].asked
        assert_same(theirs, ours)


@pytest.mark.parametrize("window", [{}, {"s_tmin": 0.1, "s_tmax": 10.0, "s_noise": 1.003}])
@pytest.mark.parametrize("name", ["euler", "heun", "dpm_2"])
def test_churn(name, window, monkeypatch):
    """k-diffusion draws at every step, also where it adds nothing; ours asks only for what is
    added."""
    low, high = window.get("s_tmin", 0.0), window.get("s_tmax", float("inf"))
    steps = [k for k, s in enumerate(LEVELS[:-1]) if low <= s <= high]
    numbers = iter(range(99))
    drawn = {
        k: torch.randn(start().shape, dtype=torch.float64, generator=torch.manual_seed(k))
        for k in range(8)
    }
    monkeypatch.setattr(torch, "randn_like", lambda x: drawn[next(numbers)])
    with float64():
        want = peer.sample_heun if name == "heun" else getattr(peer, f"sample_{name}")
        x, told, mine = start() * LEVELS[0], [], []
        theirs = want(
            DENOISER, x, LEVELS, callback=told.append, disable=True, s_churn=5.0, **window
        )
        asked = []

        def noise(sigma, sigma_hat):
            asked.append((float(sigma), float(sigma_hat)))
            return drawn[steps[len(asked) - 1]]

        f = getattr(K.sampling, f"sample_{name}")
        ours = f(
            DENOISER, x, LEVELS, None, mine.append, True, s_churn=5.0, noise_sampler=noise, **window
        )
    assert gap(ours, theirs) < TOLERANCE
    assert [a for a, _ in asked] == [float(LEVELS[k]) for k in steps]
    for a, b in zip(mine, told, strict=True):
        assert gap(a["sigma_hat"], b["sigma_hat"]) < 1e-12
        assert gap(a["x"], b["x"]) < TOLERANCE


def test_extra_arguments_reach_the_model():
    with float64():
        theirs, ours = both("heun", extra={"scale": 0.9})
        assert_same(theirs, ours)
        assert gap(ours[0], both("heun")[1][0]) > 1e-3


@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp_2m", "lms"])
def test_upwards(name):
    """Rising levels encode: x at the last, noisier one."""
    rising = LEVELS[:-1].flip(0)
    with float64():
        x = 0.3 * start()
        theirs = getattr(peer, f"sample_{name}")(DENOISER, x, rising, disable=True)
        assert (
            gap(getattr(K.sampling, f"sample_{name}")(DENOISER, x, rising, disable=True), theirs)
            < TOLERANCE
        )


@pytest.mark.parametrize("name", ["euler_ancestral", "dpmpp_2m"])
def test_a_callback_may_change_the_state(name):
    """As masks of inpainting do: in k-diffusion the x that it is given is the state."""
    with float64():
        out = []
        for module in (peer, K.sampling):
            more = {"eta": 0.0} if "ancestral" in name else {}
            f = getattr(module, f"sample_{name}")
            out.append(
                f(
                    DENOISER,
                    start() * LEVELS[0],
                    LEVELS,
                    None,
                    lambda info: info["x"].mul_(0.9),
                    True,
                    **more,
                )
            )
        assert gap(out[1], out[0]) < TOLERANCE


def test_what_a_model_is_given_stays_as_it_is():
    seen = []

    def model(x, sigma):
        seen.append((x, x.clone(), sigma, sigma.clone()))
        return DENOISER(x, sigma)

    with float64():
        K.sampling.sample_dpmpp_2m(model, start() * LEVELS[0], LEVELS, disable=True)
    assert all(torch.equal(x, kept) and torch.equal(sigma, level) for x, kept, sigma, level in seen)
