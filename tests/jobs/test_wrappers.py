"""What users add to wrappers of networks counts: two that answer otherwise are two, however little
of them is the network's."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.distributed as dist
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.parallel import DistributedDataParallel

from odesolve.fingerprints.fingerprint import fingerprint
from tests.jobs.ranks import Net


@pytest.fixture
def group():
    """A process group of this process alone, which DistributedDataParallel asks for."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Scaled(torch.nn.DataParallel):
    """A wrapper with a method of the user's, whose forward is torch's."""

    def __init__(self, net, scale):
        super().__init__(net)
        self.scale = scale

    def scaled(self, x, t):
        return self.scale * self.module(x, t)


class Called(DistributedDataParallel):
    def __call__(self, x, t):
        return 2.0 * super().__call__(x, t)


def set_on(wrap, add):
    """A function of a wrapper that something was added to."""

    def made(scale):
        wrapped = wrap(Net())
        add(wrapped, scale)
        return lambda x, t: wrapped.scale * wrapped(x, t)

    return made


def as_buffer(wrapper, scale):
    wrapper.register_buffer("scale", torch.tensor(float(scale)))


def as_module(wrapper, scale):
    wrapper.add_module("scale", torch.nn.Linear(3, scale))


def as_attribute(wrapper, scale):
    wrapper.scale = scale


def as_forward(wrapper, scale):
    wrapper.forward = lambda x, t: scale * x


def with_copied_attributes(transform):
    """A function of a compiled one, with its attributes, as functools.wraps copies them."""

    def net(x, t):
        return -x

    return functools.wraps(net)(transform(torch.compile(net)))


def compiled_with_attribute(scale):
    net = torch.compile(lambda x, t: -x)
    net.scale = scale
    return lambda x, t: net.scale * net(x, t)


def scaled(scale):
    return lambda f: functools.wraps(f)(lambda x, t: scale * f(x, t))


BY_USERS = [
    *(set_on(wrap, add) for wrap in (DistributedDataParallel, torch.nn.DataParallel, checkpoint_wrapper) for add in (
        as_attribute, as_buffer, as_module, as_forward)),
    set_on(torch.compile, as_attribute),
    set_on(torch.compile, as_buffer),
    set_on(torch.compile, as_forward),
    compiled_with_attribute,
    lambda scale: Scaled(Net(), scale).scaled,
    lambda scale: [Scaled(Net(), scale)],
    lambda scale: with_copied_attributes(scaled(scale)),
    lambda scale: with_copied_attributes((torch.func.vmap, torch.func.grad, torch.func.jacrev)[scale]),
]  # fmt: skip


@pytest.mark.few(7)
@pytest.mark.parametrize("made", BY_USERS)
def test_what_users_add_to_wrappers_makes_another(group, made):
    assert fingerprint(made(1)) == fingerprint(made(1)) != fingerprint(made(2))


def test_a_class_of_wrappers_with_a_call_of_its_own_is_another(group):
    assert fingerprint(Called(Net())) not in (
        fingerprint(Net()),
        fingerprint(DistributedDataParallel(Net())),
    )


@pytest.mark.parametrize("options", [{}, {"static_graph": True}, {"gradient_as_bucket_view": True}])
def test_wrappers_that_have_trained_make_no_other_fingerprint(group, options):
    net = DistributedDataParallel(Net(), **options)
    for _ in range(3):
        net(torch.ones(2, 3), None).sum().backward()
    net.zero_grad()
    assert fingerprint(net) == fingerprint(net.module)
