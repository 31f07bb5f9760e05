"""Processes that work at one small job, and what may befall them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
import warnings

import torch
import torch.distributed as dist
from torch import nn

import odesolve as ode
from tests.jobs.nets import model

N, BATCH, SHARD, LIMIT = 48, 4, 8, 60.0
FORK = multiprocessing.get_context("fork")


class Slow(nn.Module):
    """A network with a buffer, whose calls take their time; ``before()`` is called before each, and
    makes it no other."""

    def __init__(self, seconds=0.0, before=None):
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.seconds, self.before = nn.Linear(3, 3), seconds, before
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x, t):
        if self.before is not None:
            self.before()
        time.sleep(self.seconds)
        return torch.tanh(self.inner(x)) * (1.0 - 0.5 * t.view(-1, *[1] * (x.dim() - 1)))

    def __fingerprint__(self):
        return dict(self.state_dict())


class Calls:
    """Counts calls for other processes to see; sends its own a signal at one of them."""

    def __init__(self, number=None, at=0):
        self.held, self.number, self.at = FORK.Value("i", 0), number, at

    @property
    def value(self):
        return self.held.value

    def __call__(self):
        with self.held.get_lock():
            self.held.value += 1
        if self.value == self.at:
            os.kill(os.getpid(), self.number)


class Net(nn.Module):
    """Without a fingerprint of its own."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(3, 3)

    def forward(self, x, t):
        return self.inner(x)


class Holder(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x, t):
        return self.inner(x, t)


def ddp(net):
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    return nn.parallel.DistributedDataParallel(net)


def in_lambda(net):
    return lambda x, t: net(x, t)


OUTSIDE = {"bare": lambda net: net, "ddp": ddp}


def draw(out, net, n=N, **options):
    options = {"seed": 5, "shard": SHARD, "progress": False, **options}
    return ode.jobs.sample(model(net), (BATCH, 1, 3), "ddim(eta=1)", 2, n=n, out=out, **options)


def run(work, number=0, world=1):
    """Call ``work()`` in this process as one of so many ranks."""
    torch.set_num_threads(1)
    warnings.simplefilter("default")  # what is told of a process that does not move is no error
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(world)}
    work()


def start(work, world=1):
    ranks = [FORK.Process(target=run, args=(work, k, world), daemon=True) for k in range(world)]
    for p in ranks:
        p.start()
    return ranks


def until(condition, seconds=LIMIT):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def stop(p):
    _send(p, signal.SIGSTOP)


def go_on(p):
    _send(p, signal.SIGCONT)


def _send(p, signum):
    # it may have done its work before the signal, and be gone
    with contextlib.suppress(ProcessLookupError):
        os.kill(p.pid, signum)


def left(out):
    return len(ode.jobs.Job(out).left()) if (out / "job.json").exists() else N // SHARD
