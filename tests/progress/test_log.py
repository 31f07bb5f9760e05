"""Progress in a log: lines now and then, none of short work, no carriage returns; bars on terminals
stay bars."""

import io
import os
import sys

import pytest

import odesolve as ode
from odesolve.process import progress
from odesolve.process.progress import Bar, Forecast, Log
from tests.rows import rows


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def told(monkeypatch, total, steps, unit="step"):
    """The lines of work that comes to each n after so many seconds more."""
    clock, err = Clock(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", err)
    log = Log(total, unit, clock)
    for n, seconds in steps:
        clock.now += seconds
        log(n)
    log.close(whole=True)
    return err.getvalue().splitlines()


def test_long_work_has_a_line_for_each_tenth(monkeypatch):
    lines = told(monkeypatch, 200, [(n, 1.0) for n in range(1, 201)])
    assert lines[0] == "odesolve: 21 of 200 step, 10 % after 0:00:21, about 0:02:59 left"
    assert len(lines) == 10
    assert lines[-1] == "odesolve: 200 of 200 step, 100 % after 0:03:20"


def test_very_long_work_has_a_line_each_half_minute(monkeypatch):
    lines = told(monkeypatch, 10_000, [(n, 7.0) for n in range(1, 61)])
    assert len(lines) == 60 * 7 // 35 + 1
    assert lines[0].startswith("odesolve: 5 of 10000 step, 0 % after 0:00:35, about ")


def test_short_work_has_none(monkeypatch):
    assert told(monkeypatch, 10, [(n, 0.45) for n in range(1, 11)]) == []


def test_work_that_is_taken_up_again_counts_from_there(monkeypatch):
    lines = told(monkeypatch, 100, [(50, 1.0), (60, 10.0), (70, 10.0)], " samples")
    assert lines[0] == "odesolve: 60 of 100 samples, 60 % after 0:00:11, about 0:00:40 left"


@rows("total", [0, 100.0])
def test_shares_alone(monkeypatch, total):
    lines = told(monkeypatch, total, [(0, 1.0), (25.0, 40.0)], "%")
    assert lines[0].startswith("odesolve: 25 % after" if total else "odesolve: 100 % after")


def _failing():
    with Bar(10, None, "step") as tick:
        assert tick is not None
        tick(1)
        tick(4)
        raise KeyError


def test_work_that_fails_has_no_last_line(monkeypatch, tmp_path):
    monkeypatch.setattr(progress, "EARLIEST", 0.0)
    with (tmp_path / "log").open("w") as log:
        monkeypatch.setattr(sys, "stderr", log)
        with pytest.raises(KeyError):
            _failing()
    assert (tmp_path / "log").read_text().count("\n") == 1


@rows("show", [None, True, False])
def test_a_solve_writes_lines_into_a_file(monkeypatch, tmp_path, show):
    monkeypatch.setattr(progress, "EARLIEST", 0.0)
    model = ode.problems.gaussian(mean=0.3, std=0.5, shape=(2,)).model(ode.paths.VP())
    with (tmp_path / "log").open("w") as log:
        monkeypatch.setattr(sys, "stderr", log)
        ode.sample(model, (4, 2), "ddim", 40, seed=0, progress=show)
    text = (tmp_path / "log").read_text()
    assert "\r" not in text
    assert text.count("\n") == (0 if show is False else 10)
    assert show is False or "100 %" in text.splitlines()[-1]


def test_a_pipe_gets_lines(monkeypatch):
    monkeypatch.setattr(progress, "EARLIEST", 0.0)
    ends = os.pipe()
    with open(ends[0]) as out, open(ends[1], "w") as err:
        monkeypatch.setattr(sys, "stderr", err)
        with Bar(10, None, "step") as tick:
            for n in range(1, 11):
                tick(n)
        err.close()
        text = out.read()
    assert "100 %" in text.splitlines()[-1]
    assert "\r" not in text


def test_work_goes_on_where_nobody_reads_any_more(monkeypatch):
    monkeypatch.setattr(progress, "EARLIEST", 0.0)
    ends = os.pipe()
    os.close(ends[0])
    pipe = io.FileIO(ends[1], "w")
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(pipe, write_through=True))
    with Bar(10, None, "step") as tick:
        for n in range(1, 11):
            tick(n)
    assert tick.lines > 0
    pipe.close()


def test_a_notebooks_stream_is_no_log_whatever_it_is_written_to(monkeypatch, tmp_path):
    with (tmp_path / "log").open("w") as log:

        class Stream(io.TextIOBase):
            def fileno(self):
                return log.fileno()

        monkeypatch.setattr(sys, "stderr", Stream())
        with Bar(10, None, "step") as tick:
            assert tick is None


@rows(
    ("seconds", "said"),
    [
        (0.5, "odesolve: 100 network calls of 5e+02 ms each: about 0:00:50\n"),
        (30.0, "odesolve: 100 network calls of 30.0 s each: about 0:50:00\n"),
        (0.01, ""),
    ],
)
def test_long_work_says_at_its_start_how_long_it_takes(monkeypatch, seconds, said):
    clock, err, seen = Clock(), io.StringIO(), []
    monkeypatch.setattr(sys, "stderr", err)
    forecast = Forecast(seen.append, 100, "network calls", clock)
    for n in range(1, 101):
        clock.now += 60.0 if n == 1 else seconds if n == 2 else 1e6  # the first call compiles
        forecast(n)
        assert err.getvalue() == (said if n > 1 else "")
    assert seen == [*range(1, 101)]


@rows("stream", [None, io.StringIO()])
def test_what_is_no_file_gets_nothing(monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream)
    with Bar(10, None, "step") as tick:
        assert tick is None


def test_a_terminal_gets_the_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    with Bar(10, None, "step") as tick:
        assert tick is not None
        assert not isinstance(tick, Log)
