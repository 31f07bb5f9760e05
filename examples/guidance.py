"""Classifier-free guidance on a mixture with two labels, where the answer is known."""

import torch

import odesolve as ode

path = ode.paths.VP()
both = ode.problems.mixture([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.0]], std=0.3)
left = ode.problems.gaussian([-1.0, 0.0], std=0.3)


def net(x, t, label):
    """Label 0 is unconditional, label 1 asks for the left component."""
    free, asked = both.noise(x, path, t), left.noise(x, path, t)
    return torch.where(label[:, None] == 1, asked, free)


model = ode.Model(net, path, predicts="noise")
noise = torch.randn(512, 2, generator=torch.Generator().manual_seed(0))
label = torch.ones(512, dtype=torch.long)
for scale in (0.0, 1.0, 2.0):
    guided = model.guided(scale, cond={"label": label}, uncond={"label": 0 * label})
    x = ode.sample(guided, noise, steps=20)
    print(
        f"scale {scale:.0f}: {(x[:, 0] < 0).float().mean():.2f} on the left, mean x "
        f"{x[:, 0].mean():+.3f}"
    )
