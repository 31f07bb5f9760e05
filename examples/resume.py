"""Stop a solve in the middle, save it to a file, and finish it elsewhere: bitwise the same
sample."""

import io

import torch

import odesolve as ode

model = ode.problems.digits().model(ode.paths.VP(), predicts="noise")
noise = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
whole = ode.sample(model, noise, "dpmpp_2m", steps=12, grid="karras")

file = io.BytesIO()
for step in ode.iterate(model, noise, "dpmpp_2m", steps=12, grid="karras"):
    if step.index == 5:
        torch.save(step.cursor.state_dict(), file)
        break

file.seek(0)
finished = ode.resume(model, torch.load(file))
print("bitwise equal:", torch.equal(whole, finished))
assert torch.equal(whole, finished)
