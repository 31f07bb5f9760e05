"""Plans, paths and profiles from tampered text: refused in a sentence, and good text read as
ever."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

import odesolve as ode
from odesolve.paths import from_spec
from odesolve.planning.planner import load_plan
from odesolve.plans.plan import Plan
from odesolve.profile import Profile
from odesolve.profile.reference import Certificate
from odesolve.profile.result import Parallel, Row
from tests.files.tamper import (
    all_refused,
    deletions,
    dumped,
    flips,
    looked_at,
    none_raw,
    other_bytes,
    outcome,
    swaps,
    texts,
    things,
)
from tests.products import LONG
from tests.rows import rows

MANY = 100_000 if LONG else 20_000  # rows
PLANS = {
    "data": ode.plan("dpmpp_2m_sde", ode.paths.VP(), 4),
    "velocity": ode.plan("heun", ode.paths.Linear().flipped(), 3),
}


def rows_of(body, tag):
    return next(k for k, row in enumerate(body["rows"]) if row[0] == tag)


def plan_fields(body):
    e, c = rows_of(body, "E"), rows_of(body, "C")
    drawn = next(
        (
            k
            for k, row in enumerate(body["rows"])
            if any(n[0] == "~" for n in row[2]) and row[0] == "C"
        ),
        c,
    )
    return {
        ("solver",): "text",
        ("path",): "object",
        ("grid",): "list",
        ("grid", 1): "number",
        ("rows",): "list",
        ("rows", 0): "list",
        ("result",): "text",
        ("rows", e, 0): "text",
        ("rows", e, 1): "text",
        ("rows", e, 2): "text",
        ("rows", e, 3): "number",
        ("rows", e, 4): "text",
        ("rows", c, 1): "list",
        ("rows", c, 1, 0): "list",
        ("rows", c, 1, 0, 0): "text",
        ("rows", c, 2): "list",
        ("rows", c, 2, 0): "text",
        ("rows", drawn, 3): "list",
        ("rows", drawn, 3, 0): "list",
        ("rows", drawn, 3, 0, 0): "number",
    }


@rows("name", PLANS)
@rows("read", [load_plan, Plan.from_json])
def test_plans(name, read):
    text = PLANS[name].to_json()
    body = json.loads(text)
    cases = dumped(swaps(body, plan_fields(body)))
    cases += dumped(deletions(body, [(key,) for key in body]))
    cases += dumped((f"{key} more", {**body, key: 1}, key) for key in ("rowz", "version", ""))
    cases += [*texts(text), *other_bytes(text.encode())]
    cases += [
        (f"{given!r}", given, None)
        for given in (None, 3, 1.5, True, [], {}, Path("plan.json"), object())
    ]
    cases += [(str(k), text.replace(old, new, 1), None) for k, (old, new) in enumerate(OTHER_WORDS)]
    all_refused(read, [case for case in cases if case[1] != text], least=200)


OTHER_WORDS = [
    ('["E"', '["Q"'),
    ('["E"', '["e"'),
    ('["E"', "["),
    ('["E"', '["C"'),
    ('["E"', '[["E"]'),
    ('"x0"', '"x9"'),
    ('"x0"', '""'),
    ('"x0"', '"~1"'),
    ('"~', '"~~'),
    ('"~', '"~-'),
    ('"~', '"~1e'),
    ('"~', '"~' + "9" * 30),
    ('"data"', '"dta"'),
    ('"velocity"', '"speed"'),
    ('"result":"x', '"result":"y'),
    ('"grid":[', '"grid":[1e999,'),
    ('"grid":[', '"grid":[0.3],"other":['),
]


def test_plans_on_tampered_paths():
    body = json.loads(PLANS["data"].to_json())
    numbers = ({"beta_min": v} for v in ("a", None, [], {}, True, 10**400, -1, 1e9))
    parts = [
        *numbers,
        {"name": 3},
        {"name": None},
        {"name": []},
        {"name": "vp"},
        {"more": 1},
        {"name": "Discrete"},
    ]
    specs = [
        *({**body["path"], **part} for part in parts),
        {"name": "Flipped"},
        {"name": "Flipped", "base": 3},
    ]
    specs += [
        {"name": "Flipped", "base": {}},
        {"name": "Discrete", "label": []},
        {"name": "Discrete", "label": "x"},
    ]
    specs += [None, 3, [], "VP"]
    nested = body["path"]
    for _ in range(901):
        nested = {"name": "Flipped", "base": nested}
    all_refused(from_spec, [(str(spec), spec, None) for spec in specs], least=20)
    all_refused(
        load_plan,
        dumped((str(spec), {**body, "path": spec}, None) for spec in [*specs, nested]),
        least=20,
    )
    assert from_spec(nested) == ode.paths.VP().flipped()


@rows("name", PLANS)
def test_turned_bits_of_plans(name):
    body = PLANS[name].to_json().encode()
    assert none_raw(load_plan, flips(body, 400), least=400) > 200


def test_plans_that_read():
    """Text and bytes, laid out as anybody may, to the very plan."""
    for plan in PLANS.values():
        text = plan.to_json()
        for given in (text, text.encode(), json.dumps(json.loads(text), indent=2), f"\n{text} \n"):
            again = load_plan(given)
            assert again == plan
            assert again.digest == plan.digest
            assert again.to_json() == text
        renamed = text.replace('"solver":"', '"solver":"mine: a \\"x\\": ')
        assert load_plan(renamed).solver.startswith('mine: a "x": ')


@rows("kind", ["chain", "noise", "steps"])
def test_many_rows_are_soon_done(kind):
    """Draws that never end in a step would pile up by the square."""
    n, rows, last = MANY // 2, [], "x0"
    for k in range(1, n + 1):
        made, other = (f"x{k}" if kind == "steps" else f"y{k}"), f"D{k}"
        if kind == "noise":
            other = f"~{k}"
        else:
            rows.append(["E", last, other, 1 - k / (n + 1), "data"])
        rows.append(["C", [[made, 1 - k / (n + 1)]], [last, other], [[1.0, 0.0]]])
        last = made
    grid = [1 - k / (n + 1) for k in range(n + 1)] if kind == "steps" else [1.0, 0.5]
    body = {
        "solver": "mine",
        "path": {"name": "Linear"},
        "grid": grid,
        "rows": rows,
        "result": last,
    }
    text = json.dumps(body)
    begin = time.process_time()
    assert outcome(load_plan, text) is not None
    # an eighth of that where nothing else runs; by the square many times as much
    assert time.process_time() - begin < 8.0 * MANY / 100_000


def profile():
    rows = [
        Row(
            "ddim",
            "karras",
            5,
            {"eta": 0.5, "w": [1, 2]},
            steps=5,
            calls=5,
            counted=5,
            rmse=0.1,
            median=0.2,
            flags=("plateau",),
        ),
        Row("heun", "uniform", 10, status="error", message='KeyError: "a": 3'),
    ]
    parallel = [Parallel("ddim", "karras", 5, 4, 5, 3, 9.0, 0.1, 0.2, 1e-6, 1.5)]
    certificate = Certificate(1e-6, 1e-6, 2e-6, 512, True, "two solves: a and b")
    return Profile(
        rows,
        certificate,
        1e-7,
        {"path": {"name": "VP"}, "device": "cpu (x, 2 threads)"},
        parallel=parallel,
    )


PROFILE_FIELDS = {
    ("version",): "whole",
    ("problem",): "object",
    ("certificate",): "object",
    ("certificate", "rms"): "number",
    ("certificate", "calls"): "whole",
    ("certificate", "agreed"): "flag",
    ("certificate", "how"): "text",
    ("rounding",): "number",
    ("parallel",): "list",
    ("parallel", 0): "object",
    ("parallel", 0, "rounds"): "whole",
    ("parallel", 0, "seconds"): "number",
    ("rows",): "list",
    ("rows", 0): "object",
    ("rows", 0, "solver"): "text",
    ("rows", 0, "nfe"): "whole",
    ("rows", 0, "options"): "object",
    ("rows", 0, "status"): "text",
    ("rows", 0, "message"): "text",
    ("rows", 0, "counted"): "number",
    ("rows", 0, "median"): "number",
    ("rows", 0, "flags"): "list",
    ("rows", 0, "flags", 0): "text",
}


MEASURES = (
    "rmse",
    "trimmed",
    "median",
    "worst",
    "sliced",
    "frechet",
    "counted",
    "calls",
    "network_seconds",
    "rest_seconds",
)


@rows("key", MEASURES)
def test_errors_counts_and_seconds_are_not_negative(key):
    body = json.loads(profile().to_json())
    for wrong in (-1, -0.5, -1e-300):
        body["rows"][0][key] = wrong
        with pytest.raises(ode.OdesolveError, match=rf"rows\[0\]\.{key} is -.*expected a"):
            Profile.from_json(json.dumps(body))
    for name in ("rms", "median", "worst", "calls"):
        body = json.loads(profile().to_json())
        body["certificate"][name] = -1
        with pytest.raises(ode.OdesolveError, match=rf"certificate\.{name} is -1: expected a"):
            Profile.from_json(json.dumps(body))


def test_profiles(tmp_path):
    """As text, and as the file that a measurement goes on with."""
    text = profile().to_json()
    body = json.loads(text)
    cases = dumped(swaps(body, PROFILE_FIELDS))
    cases += dumped(deletions(body, [(key,) for key in body if key != "parallel"]))
    cases += dumped(
        deletions(body, [("rows", 0, "solver"), ("rows", 0, "nfe"), ("certificate", "how")])
    )
    cases += dumped((f"{key} more", {**body, key: 1}, key) for key in ("row", "verson"))
    cases += dumped(
        [
            ("an old version", {**body, "version": 0}, "version"),
            ("a new one", {**body, "version": 2}, "version"),
        ]
    )
    cases += list(texts(text))
    as_text = [case for case in cases if case[1][:1] == "{"]
    all_refused(Profile.from_json, as_text, least=150)
    odd = [
        None,
        3,
        True,
        [],
        {},
        object(),
        b"\xff",
        b"[]",
        "[]",
        "",
        "  ",
        "\ufeff" + text,
        "x" * 5000,
        "a\0b",
    ]
    all_refused(Profile.from_json, [(repr(given)[:30], given, None) for given in odd], least=14)
    file = tmp_path / "profile.json"

    def read(given):
        file.write_bytes(
            given if isinstance(given, bytes) else given.encode("utf-8", "surrogatepass")
        )
        before = looked_at(tmp_path)
        try:
            Profile.from_json(file)
        finally:
            assert looked_at(tmp_path) == before

    all_refused(
        read,
        [*((n, t, "profile.json") for n, t, _ in cases), *other_bytes(text.encode())],
        least=150,
    )
    assert none_raw(read, flips(text.encode(), 100)) > 20


def resumed(file):
    model = ode.problems.mixture([1.0], [[0.5, 0.1]], std=(0.3,)).model(ode.paths.VP(), "noise")
    return ode.profile(
        model,
        ["ddim"],
        2,
        ["uniform"],
        noise=(2, 2),
        timing=0,
        limit=256,
        resume=file,
        progress=False,
    )


def test_what_lies_at_a_profiles_name(tmp_path):
    for name, lay in things(tmp_path, "p.json").items():
        folder = tmp_path / name.replace(" ", "-")
        folder.mkdir()
        things(folder, "p.json")[name](folder / "p.json")
        before = looked_at(folder)
        for given in (folder / "p.json", str(folder / "p.json")):
            all_refused(Profile.from_json, [(name, given, "p.json")], least=1)
        if name != "nothing":
            all_refused(resumed, [(name, folder / "p.json", "p.json")], least=1)
        assert looked_at(folder) == before
        assert callable(lay)


def test_profiles_that_read(tmp_path):
    found = profile()
    found.to_json(tmp_path / "p.json")
    text = found.to_json()
    for given in (
        text,
        text.encode(),
        tmp_path / "p.json",
        str(tmp_path / "p.json"),
        json.dumps(json.loads(text)),
    ):
        again = Profile.from_json(given)
        assert again.to_json() == text
        assert again.rows[0].label == found.rows[0].label
        assert type(again.rows[0].counted) is int
        assert again.parallel == found.parallel
    old = json.loads(text)
    del old["parallel"], old["rows"][0]["flags"], old["rows"][0]["order"]
    assert Profile.from_json(json.dumps(old)).rows[0].flags == ()


def test_a_profile_of_many_rows_is_soon_read():
    text = Profile([profile().rows[0]] * MANY).to_json()
    begin = time.process_time()
    assert len(Profile.from_json(text).rows) == MANY
    assert time.process_time() - begin < 8.0 * MANY / 100_000
