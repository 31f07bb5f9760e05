"""How the Triton kernels are started, with a kernel that only remembers: no call may meet a form
compiled for another."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path

import pytest
import torch
from odesolve.kernels import philox
from odesolve.kernels.reference import ErrorNorm

pytest.importorskip(
    "triton", reason="triton is not installed: it is in the test extra, on Linux only"
)
from odesolve.kernels.triton import backend, launch, reductions, series

pytestmark = pytest.mark.skipif(
    launch.INTERPRETING, reason="interpreted kernels have no compiled form"
)
LAUNCHERS = (
    backend._combine,
    backend._normal,
    series._window,
    *reductions.launchers(),
)
KEYS = philox.keys(0, torch.arange(2))


@pytest.fixture
def source():
    """What Triton's JIT makes of arguments."""
    spec = importlib.util.spec_from_file_location(
        "triton_builds", Path(__file__).with_name("triton_builds.py")
    )
    builds = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(builds)
    return builds.source


class Compiled:
    """A compiled form that remembers what it is run with."""

    function, packed_metadata = "function", "metadata"

    def __init__(self, args):
        self.args, self.runs = args, []

    def run(self, *args):
        self.runs.append(args)


class Kernel:
    """In the place of a kernel: ``kernel[grid](...)`` compiles and starts."""

    def __init__(self):
        self.forms = []

    def __getitem__(self, grid):
        def start(*args, **options):
            self.forms.append(Compiled(args))
            return self.forms[-1]

        return start


@pytest.fixture
def kernels(monkeypatch):
    made = {}
    for launcher in LAUNCHERS:
        made[launcher.kernel.__name__] = fake = Kernel()
        monkeypatch.setattr(launcher, "kernel", fake)
        monkeypatch.setattr(launcher, "ready", {})
        monkeypatch.setattr(launcher, "direct", True)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: 77, raising=False)
    return made


def as_pointers(args):
    return [a.data_ptr() if isinstance(a, torch.Tensor) else a for a in args]


def test_later_calls_hand_over_what_the_first_did(kernels):
    x, out = torch.ones(2, 4096), torch.empty(2, 4096)
    for _ in range(3):
        backend.combine([out], [x, x], [[0.5, 0.25, 1.0]], [0], KEYS, (3,))
    (form,) = kernels["combine_kernel"].forms
    assert len(form.runs) == 2
    programs, *_ = form.runs[0]
    assert form.runs[0][:9] == (programs, 1, 1, 77, "function", "metadata", None, None, None)
    assert programs == 2 * 4
    assert list(form.runs[0][9:]) == as_pointers(form.args)


def test_numbers_compile_nothing(kernels):
    """Weights, bases, streams and seeds are read on the device."""
    x, out = torch.ones(2, 4096), torch.empty(2, 4096)
    for k in range(4):
        backend.combine([out], [x, x], [[0.5 * k, 0.25, 1.0]], [k % 3 - 1], KEYS + k, (3 * k,))
        backend.combine([out], [x, x], torch.rand(2, 1, 3, dtype=torch.float64), [0], KEYS, (3,))
    assert len(kernels["combine_kernel"].forms) == 1


def shifted(x):
    return torch.empty(x.numel() + 1, dtype=x.dtype)[1:].view(x.shape)


def calls():
    """Calls of many kinds: types, alignment, sizes, layouts, tables."""
    single, half = torch.float32, torch.bfloat16
    for n, kind, noisy, odd, error in itertools.product(
        (1, 37, 48, 4096), (single, half), (0, 1), (0, 1), (0, 1)
    ):
        x, out = torch.empty(2, n, dtype=kind), torch.empty(2, n)
        given = shifted(x) if odd else x
        streams = (3,) if noisy else ()
        norm = ErrorNorm(torch.empty(2), 1e-3, torch.ones(2)) if error else None
        for w in (
            [[1.0] * (1 + noisy)] * (1 + error),
            torch.ones(1 + error, 1 + noisy),
            torch.ones(2, 1 + error, 1 + noisy),
        ):
            yield lambda a=(out, given, w, streams, norm): backend.combine(
                [a[0]], [a[1]], a[2], [0], KEYS, a[3], a[4]
            )
        yield lambda out=out: backend.combine(
            [out, out], [out.t().contiguous().t()], [[1.0]] * 2, [0, 0]
        )
        yield lambda x=given: backend.normal(x, KEYS, 3)
        yield lambda x=given: backend.quadratic_form(
            torch.empty(2, dtype=torch.float64), x, KEYS, 3, "normal"
        )
        yield lambda x=given, y=out: backend.inner(torch.empty(2), x, y)
        yield lambda x=given, y=out: backend.rms(torch.empty(2), x, y, y, 1.0, torch.ones(2))
        table, codes = (
            torch.ones(3, 1, 1 + noisy, dtype=torch.float64),
            torch.zeros(3, 1 + noisy, dtype=torch.int64),
        )
        yield lambda a=(out, given, table, codes): backend.combine_row(
            [a[0]], [a[1]], *a[2:], a[3][:1, 0], KEYS
        )
        old, w = torch.empty(3, 2, n, dtype=kind), torch.ones(3, 1)
        yield lambda o=old, w=w: backend.window(
            o, torch.empty(3, 2), o[0], o, [o], w, w[:, 0].double()
        )


def test_a_key_says_all_that_a_form_depends_on(monkeypatch, source):
    seen = {}

    def start(self, key, device, work, args, written=()):
        made = source(self.kernel, (*args, work.block))
        what = (
            made.signature,
            sorted(made.attrs.items()),
            sorted((k, str(v)) for k, v in made.constants.items()),
            work.warps,
        )
        assert seen.setdefault((self.kernel.__name__, key), what) == what

    monkeypatch.setattr(launch.Launcher, "start", start)
    for call in calls():
        assert call() is None
    assert len(seen) > 60


def test_tables_belong_to_a_stream_of_the_device(monkeypatch):
    """What one stream uploads another must not read early; a captured graph keeps what it read for
    good."""
    uploads, state = [], {"stream": 1, "capturing": False}

    def upload(values, dtype, device):
        uploads.append(values)
        return torch.tensor(values, dtype=dtype)

    monkeypatch.setattr(launch, "upload", upload)
    monkeypatch.setattr(
        torch._C, "_cuda_getCurrentRawStream", lambda index: state["stream"], raising=False
    )
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: state["capturing"])
    table = lambda: launch.table((0.5, 41.0), torch.float64, torch.device("cuda:0"))
    first = table()
    assert table() is first
    state["stream"] = 2
    second = table()
    assert second is not first
    state.update(stream=3, capturing=True)
    captured = table()
    assert len(uploads) == 2
    assert any(t is captured for t in launch._captured)


def test_refusal(monkeypatch):
    if not torch.cuda.is_available():
        assert launch.refusal() == "no CUDA or ROCm device"
    monkeypatch.setattr(launch, "VERSION", (3, 3))
    assert "is older than 3.4" in launch.refusal()
