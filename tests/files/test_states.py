"""Cursors, loops of schedulers, averages and checkpoints from tampered states: refused, and what
was there stays as it was."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from safetensors.torch import save_file

import odesolve as ode
from odesolve.integrations.diffusers import OdesolveScheduler
from odesolve.lowering.lower import lower
from odesolve.objectives.times import Importance
from odesolve.plans.plan import Plan
from odesolve.run import Cursor
from odesolve.training import EMA, checkpoint, fit
from tests.files.tamper import (
    WRONG,
    all_refused,
    at,
    cuts,
    deletions,
    flips,
    looked_at,
    none_raw,
    outcome,
    swaps,
    things,
)
from tests.rows import rows

MIXTURE = ode.problems.mixture([0.4, 0.6], [[-1.0, 0.5, 0.1], [1.0, -0.2, 0.3]], std=(0.3, 0.5))
MODEL = MIXTURE.model(ode.paths.VP(), "noise")
TENSORS = [
    None,
    "x",
    3,
    [1.0],
    {},
    True,
    torch.ones(()),
    torch.ones(2, 3),
    torch.ones(4, 3, 1),
    torch.ones(0),
]
TENSORS += [torch.ones(4, 3, dtype=d) for d in (torch.int64, torch.bool, torch.complex64)]
TENSORS += [torch.ones(4, 3, device="meta"), torch.eye(4, 3).to_sparse()]


def cursor(solver="dpmpp_2m_sde", **options):
    steps = ode.iterate(MODEL, torch.ones(4, 3), solver, 5, seed=1, **options)
    return [step.cursor for step in steps][1].state_dict()


CURSOR_FIELDS = {
    ("plan",): "text",
    ("observe",): "flag",
    ("stats",): "flag",
    ("position",): "whole",
    ("slots",): "object",
    ("dtypes",): "list",
    ("dtypes", 0): "text",
}


def cursor_cases(state):
    yield from swaps(state, CURSOR_FIELDS)
    yield from deletions(state, [(key,) for key in state])
    yield "more", {**state, "more": 1}, "more"
    for slot in state["slots"]:
        yield f"without slot {slot}", at(state, ("slots", slot), delete=True), "slots"
        yield from (
            (f"slot {slot} is {str(v)[:30]}", at(state, ("slots", slot), v), None) for v in TENSORS
        )
    yield from (
        (f"position {k}", {**state, "position": k}, None)
        for k in range(60)
        if k != state["position"]
    )
    dtypes = (
        ["float32"],
        ["float32"] * 3,
        ["float33", "float32"],
        ["float64", "float32"],
        ["float32", "float16"],
    )
    yield from (
        (str(held), {**state, "dtypes": held}, None)
        for held in (*dtypes, ["load", "load"], ["int64"] * 2)
    )
    yield from (
        (f"a slot named {k!r}", {**state, "slots": {**state["slots"], k: torch.ones(4, 3)}}, None)
        for k in SLOTS
    )
    yield "no slots", {**state, "slots": {}}, None
    keys = [
        torch.ones(4, 2),
        torch.ones(3, 2, dtype=torch.int64),
        torch.ones(4, dtype=torch.int64),
        None,
        3,
        "x",
        [],
    ]
    yield from ((f"keys {str(k)[:30]}", {**state, "keys": k}, "keys") for k in keys)
    yield "another plan", {**state, "plan": ode.plan("ddim", MODEL.path, 3).to_json()}, None
    yield "a plan cut", {**state, "plan": state["plan"][:-9]}, None


# what cannot be told from a good one, or is not read
UNKNOWN = ("position", "another plan", "['float32', 'float16']")
SLOTS = (-1, 10**6, 10**400, "a", "1.5", 1.5, None, (1,))


def test_cursors():
    state = cursor()
    plan = Plan.from_json(state["plan"], MODEL.path)
    program = lower(plan, MODEL.path, MODEL.reading_for(torch.float32), True)
    for read in (lambda saved: ode.resume(MODEL, saved), lambda saved: Cursor.load(program, saved)):
        # Elsewhere a plan may wait too, with slots of as good a shape: what was there before is not
        # known.
        cases = [case for case in cursor_cases(state) if not case[0].startswith(UNKNOWN)]
        all_refused(read, cases, least=80)
        none_raw(read, [(name, held) for name, held, _ in cursor_cases(state)])
        odd = [None, 3, "x", [], [state], {}, b"x", object()]
        all_refused(read, [(repr(held), held, None) for held in odd], least=8)


@rows("solver", ["ddim", "unipc_3", "heun", "dpmpp_2m_sde"])
def test_cursors_read_as_they_were(solver):
    """Also with slots under names of text, as JSON has them, and from another kind of mapping."""
    from types import MappingProxyType

    want = ode.sample(MODEL, torch.ones(4, 3), solver, 5, seed=1)
    state = cursor(solver)
    named = {
        **state,
        "slots": {str(k): v for k, v in state["slots"].items()},
        "dtypes": tuple(state["dtypes"]),
    }
    for held in (state, named, MappingProxyType(state)):
        assert torch.equal(ode.resume(MODEL, held), want)


def scheduler(solver="dpmpp_2m_sde", steps=5):
    made = OdesolveScheduler(solver=solver)
    made.set_timesteps(steps)
    return made


def walked(made, until=None):
    x = torch.ones(4, 3)
    generator = torch.Generator().manual_seed(0)
    for t in made.timesteps[:until]:
        x = made.step(0.1 * x, t, x, generator=generator).prev_sample
    return x


STATE_FIELDS = {
    ("asked",): "list",
    ("asked", 0): "whole",
    ("asked", 1): "number",
    ("asked", 3): "number?",
    ("device",): "text",
    ("index",): "whole?",
    ("loop",): "object?",
    ("loop", "at"): "whole",
    ("loop", "begun"): "list",
    ("loop", "begun", 0): "whole",
    ("loop", "begun", 1): "flag",
    ("loop", "begun", 2): "number",
    ("loop", "cursor"): "object",
}


def listed(state):
    """The same with lists for tuples, to be changed."""
    return {
        **state,
        "asked": list(state["asked"]),
        "loop": {**state["loop"], "begun": list(state["loop"]["begun"])},
    }


def test_loops_of_schedulers():
    """What is refused leaves the loop where it stands."""
    made = scheduler()
    walked(made, 2)
    state = listed(made.state_dict())
    cases = [(name, held, None) for name, held, _ in swaps(state, STATE_FIELDS)]
    cases += deletions(state, [(key,) for key in ("asked", "device", "index", "begin_index")])
    cases += deletions(state, [("loop", key) for key in state["loop"]])
    cases += [
        (f"loop: {name}", at(state, ("loop", "cursor"), held), None)
        for name, held, _ in cursor_cases(state["loop"]["cursor"])
    ]
    cases += [(f"{n} steps", at(state, ("asked", 0), n), None) for n in (0, 1, 2, 4, 6, 10**9)]
    cases += [
        (f"device {d}", {**state, "device": d}, None) for d in ("", "nowhere", "cuda:99", "cpu:x")
    ]
    cases += [(f"index {k}", {**state, "index": k}, None) for k in (1, 3, 99)]
    cases += [(repr(held), held, None) for held in (None, 3, "x", [], {})]
    cases = [case for case in cases if not case[0].removeprefix("loop: ").startswith(UNKNOWN)]
    before = made.state_dict()
    all_refused(made.load_state_dict, cases, least=100)
    after = made.state_dict()
    assert after["loop"].keys() == before["loop"].keys()
    assert all(
        torch.equal(after["loop"]["cursor"]["slots"][k], v)
        for k, v in before["loop"]["cursor"]["slots"].items()
    )
    other = scheduler("ddim", 7)
    other.load_state_dict({**other.state_dict()})
    assert outcome(scheduler("ddim").load_state_dict, state) is not None


CONFIG = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
}
CONFIG |= {
    "prediction_type": "epsilon",
    "steps_offset": 0,
    "clip_sample": False,
    "timestep_spacing": "leading",
}
CONFIG_FIELDS = {
    ("num_train_timesteps",): "whole",
    ("beta_start",): "number",
    ("beta_end",): "number",
    ("beta_schedule",): "text?",
    ("prediction_type",): "text?",
    ("timestep_spacing",): "text?",
    ("steps_offset",): "whole?",
    ("clip_sample",): "flag?",
    ("trained_betas",): "list?",
    ("sigma_data",): "number?",
    ("shift",): "number?",
    ("use_karras_sigmas",): "flag?",
    ("thresholding",): "flag?",
}


def test_configs():
    body = {**dict.fromkeys(k for (k,) in CONFIG_FIELDS), **CONFIG}
    cases = list(swaps(body, CONFIG_FIELDS))
    cases += [(f"{k}={v}", {**CONFIG, k: v}, k) for k, v in OTHER_CONFIGS]

    def read(config):
        OdesolveScheduler.from_config(
            {k: v for k, v in config.items() if v is not None or k in CONFIG}, solver="ddim"
        )

    all_refused(read, cases)
    folders = [None, 3, [], {}, {"solver": 3}]
    none_raw(
        lambda config: OdesolveScheduler.from_config(config),
        [(repr(c), c) for c in folders],
        least=5,
    )


OTHER_CONFIGS = [
    ("num_train_timesteps", 0),
    ("num_train_timesteps", 10**9),
    ("beta_start", -0.1),
    ("beta_end", 1.5),
    ("trained_betas", []),
    ("trained_betas", [0.1, "a"]),
    ("trained_betas", [0.1, float("nan")]),
    ("trained_betas", [[0.1], [0.2]]),
    ("sigma_data", -1.0),
    ("shift", 0.0),
]


class Net(torch.nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.inner = torch.nn.Linear(2, width)
        self.outer = torch.nn.Linear(width, 2)

    def forward(self, x, t):
        return self.outer(torch.tanh(self.inner(x)))


def run(folder, steps=3, **more):
    net = Net()
    optimiser = torch.optim.Adam(net.parameters(), 1e-3)
    generator = torch.Generator().manual_seed(0)
    ema = EMA(net, 0.9)
    data = torch.linspace(-1.0, 1.0, 40).reshape(20, 2)
    fit(
        lambda x, generator=None: net(x, None).square().mean(),
        data,
        steps,
        optimiser=optimiser,
        network=net,
        ema=ema,
        batch=4,
        warmup=2,
        generator=generator,
        folder=folder,
        progress=False,
        **more,
    )
    return net


def header_of(file):
    body = file.read_bytes()
    size = int.from_bytes(body[:8], "little")
    return json.loads(json.loads(body[8 : 8 + size])["__metadata__"]["odesolve"]), body


HEADER_FIELDS = {
    ("format",): "whole",
    ("step",): "whole",
    ("configuration",): "object",
    ("states",): "object",
    ("states", 0): "text",
    ("states", 1): "list",
    ("states", 1, 0): "text",
    ("states", 1, 0, 0): "list",
    ("states", 1, 0, 1): "list",
    ("facts", 0): "text",
    ("facts", 1): "list",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("trained")
    run(folder)
    return folder / "checkpoint.safetensors"


def test_headers_of_checkpoints(trained, tmp_path):
    held, body = header_of(trained)
    tensors = checkpoint._safetensors().torch.load(body)
    file = tmp_path / "checkpoint.safetensors"

    def read(header):
        metadata = (
            header if isinstance(header, dict) and "whole" in header else {"odesolve": header}
        )
        save_file(tensors, file, metadata.get("whole", metadata))
        before = looked_at(tmp_path)
        try:
            run(tmp_path)
        finally:
            assert looked_at(tmp_path) == before

    cases = [(name, json.dumps(h), word) for name, h, word in swaps(held, HEADER_FIELDS)]
    cases = [(name, text, None if "states" in name else word) for name, text, word in cases]
    cases += [
        (name, json.dumps(h), None) for name, h, _ in deletions(held, [(key,) for key in held])
    ]
    text = json.dumps(held)
    cases += [(f"cut at {k}", text[: len(text) * k // 12], None) for k in range(12)]
    cases += [("more", json.dumps({**held, "more": 1}), "more"), ("deep", "[" * 50_000, None)]
    cases += [
        (
            "deep and closed",
            json.dumps({**held, "facts": 0})[:-1].replace('"facts": 0', DEEP) + "}",
            None,
        )
    ]
    cases += [("no header of ours", {"whole": {"x": "y"}}, None)]
    cases += [(f"{a} for {b}", text.replace(b, a), None) for a, b in TURNED if b in text]
    all_refused(read, cases, least=80)
    save_file(tensors, file, {"odesolve": text})
    run(tmp_path, 5)


DEEP = '"facts": ' + '["list", [' * 20_000 + "]]" * 20_000
TURNED = [
    ('"tensr"', '"tensor"'),
    ('"set"', '"dict"'),
    ('"tensor", "nowhere', '"tensor", "states'),
    ('"exp"', '"exp_avg"'),
    ('"params": ["list", []]', '"params": ["list", [0, 1, 2, 3]]'),
    ('"losses": null, "x"', '"losses"'),
    ('["seed", "a"], ["s"', '["seed"'),
]


def test_files_of_checkpoints(trained, tmp_path):
    file = tmp_path / "checkpoint.safetensors"
    body = trained.read_bytes()

    def read(given):
        file.write_bytes(given)
        checkpoint.read(file)

    cases = [*cuts(body, 40), ("a text", b"hello", None), ("zeros", bytes(100), None)]
    cases += [("a header of an exabyte", (2**60).to_bytes(8, "little") + body[8:], None)]
    cases += [("a header of 99 MB", (99 * 2**20).to_bytes(8, "little") + body[8:], None)]
    cases += [("bytes after it", body + b"x", None)]
    all_refused(read, cases)
    none_raw(read, flips(body, 200))
    file.unlink()
    for name in things(tmp_path, "x"):
        folder = tmp_path / name.replace(" ", "-")
        folder.mkdir()
        things(folder, file.name)[name](folder / file.name)
        before = looked_at(folder)
        assert file.name in (outcome(checkpoint.read, folder / file.name) or ""), name
        assert name == "nothing" or file.name in (outcome(run, folder) or ""), name
        assert looked_at(folder) == before


def parts():
    net = Net()
    optimiser = torch.optim.Adam(net.parameters(), 1e-3)
    net(torch.ones(3, 2), None).sum().backward()
    optimiser.step()
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, 2)
    scaler = torch.amp.GradScaler("cpu")
    made = {
        "network": net,
        "ema": EMA(net, 0.9),
        "optimiser": optimiser,
        "schedule": schedule,
        "scaler": scaler,
    }
    made |= {
        "generator": torch.Generator().manual_seed(3),
        "times": Importance(4, 3),
        "torch": checkpoint.TorchRandom(),
    }
    return made


def states_of(made):
    return {
        k: p.get_state() if isinstance(p, torch.Generator) else copy.deepcopy(p.state_dict())
        for k, p in made.items()
    }


def state_cases(states):
    for name, state in states.items():
        yield from (
            (f"{name} is {str(v)[:20]}", {**states, name: v}, name)
            for v in (None, 3, "x", [1], True)
        )
        yield f"{name} is empty", {**states, name: {}}, name
        for key in ("inner.weight", "module.inner.weight") if name in ("network", "ema") else ():
            if key in state:
                yield f"{name} without {key}", at(states, (name, key), delete=True), name
                for other in (torch.ones(1), torch.ones(4, 2, dtype=torch.int64), "x", None, [1.0]):
                    yield f"{name}.{key} is {str(other)[:20]}", at(states, (name, key), other), name
    for key, kind in {"param_groups": "list", "state": "object"}.items():
        yield from (
            (f"optimiser.{key} is {v}", at(states, ("optimiser", key), v), "optimiser")
            for v in WRONG[kind]
        )
    yield from (
        (f"lr {v}", at(states, ("optimiser", "param_groups", 0, "lr"), v), "optimiser")
        for v in ("a", [], {})
    )
    for value in ([0], [0, 1, 2, 3, 4], "x", 3):
        yield (
            f"params {value}",
            at(states, ("optimiser", "param_groups", 0, "params"), value),
            "optimiser",
        )
    for value in (torch.ones(1), "x", 3.0, [1.0]):
        yield (
            f"exp_avg {value}",
            at(states, ("optimiser", "state", 0, "exp_avg"), value),
            "optimiser",
        )
    for key in (9, "a"):
        held = {**states["optimiser"]["state"], key: {}}
        yield f"state of {key}", at(states, ("optimiser", "state"), held), "optimiser"
    for key in ("last_epoch", "step_size", "gamma"):
        yield from (
            (f"{key} {v}", at(states, ("schedule", key), v), "schedule") for v in ("a", [], {})
        )
    yield "base_lrs", at(states, ("schedule", "base_lrs"), []), "schedule"
    yield from ((f"scale {v}", at(states, ("scaler", "scale"), v), "scaler") for v in ("a", [], {}))
    for value in (torch.ones(3), torch.zeros(10, dtype=torch.uint8)):
        yield f"generator {value}", {**states, "generator": value}, "generator"
        yield f"torch {value}", at(states, ("torch", "cpu"), value), "torch"
    for value in (torch.ones(3), torch.ones(4, 3), torch.zeros(4, 3, dtype=torch.int64), 3, None):
        yield f"losses {value}", at(states, ("times", "losses"), value), "times"
        yield f"seen {value}", at(states, ("times", "seen"), value), "times"


def same(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (a != a and b != b)


def test_states_of_parts(tmp_path):
    """Refused with every part of the run as it was: none is set before all can be."""
    made = parts()
    states = states_of(made)
    # A scaler that is off keeps nothing, and takes anything.
    cases = [c for c in state_cases(states) if "scaler" not in c[0] or states["scaler"]]
    mine = parts()
    before = states_of(mine)

    def read(held):
        found = checkpoint.Checkpoint(tmp_path / "x.safetensors", 1, {}, {}, held)
        try:
            found.restore(mine)
        finally:
            assert same(states_of(mine), before)

    all_refused(read, cases, least=80)
    checkpoint.Checkpoint(tmp_path / "x.safetensors", 1, {}, {}, states).restore(mine)
    assert same(states_of(mine), states)


def test_states_by_themselves():
    """Of an average and of a law of times, without a file."""
    made = parts()
    for name in ("ema", "times"):
        state = states_of(made)[name]
        cases = [(str(v)[:20], v, None) for v in (None, 3, "x", [1], {})]
        for key in state:
            cases += [
                (f"{key} is {str(v)[:20]}", {**state, key: v}, None)
                for v in (*TENSORS[:9], torch.ones(9, 9))
            ]
            cases += [(f"without {key}", at(state, (key,), delete=True), None)]
        cases += [("more", {**state, "more": torch.ones(1)}, "more")]
        cases = [c for c in cases if not (name == "ema" and "n_averaged is tensor" in c[0])]
        all_refused(made[name].load_state_dict, cases, least=25)
        assert same(states_of(made)[name], state)
        made[name].load_state_dict(state)
