"""From fits to findings: what is wired right, what is wrong, and what the data do not decide."""

from __future__ import annotations

import math
from collections.abc import Iterator

from odesolve.model.reading_text import typed_path, typed_time
from odesolve.wiring.denoising import Denoising, Fit
from odesolve.wiring.readings import Wiring
from odesolve.wiring.result import Check, Finding
from odesolve.wiring.search import ReadingSearch

ASPECTS = ("prediction", "direction", "path", "time", "input", "sign")
TELLS_LITTLE = (
    # of the knowable: less means an untrained network, or one that learned no more than a linear
    # filter
    0.25
)
SEEN = 3  # questions that decide on that
BADLY = 0.5  # excess above which even the best reading is not trusted
# of the data's standard deviation: the largest spread of data predictions at the noise end
STEADY = 0.5
SIGNAL = 0.2  # of the noise end's noise


def conclude(report: Check, search: ReadingSearch) -> None:
    """Add the findings from the fits to a check."""
    report.fits = search.fits
    report.declared = search.own()
    informed = _informed(search)
    if not search.fits:
        says = "the network answers none of the readings that are in use"
        report.findings.append(
            Finding(
                "training", "unknown", says, "ode.Model(net, your path, predicts=..., time=...)"
            )
        )
        return
    best, same = search.best()
    if informed is not None and informed < TELLS_LITTLE:
        report.findings.append(_untrained(search, informed))
        if not search.denoising.filters(best):
            report.findings += [
                Finding(a, "unknown", "nothing fits an untrained network") for a in ASPECTS[:4]
            ]
            return
    else:
        report.findings.append(_trained(informed, best))
    report.best = best
    report.same = same
    report.model = best.wiring.applied(search.denoising.model)
    report.findings += _aspects(search, report.declared, best)
    report.findings.append(_ends(search.denoising, best.wiring))


def _informed(search: ReadingSearch) -> float | None:
    """How informative the network's answers are, at the best of some questions; None where the data
    do not show it."""
    questions = dict.fromkeys([f.wiring.same_question() for f in search.fits[:200]])
    shares = [search.denoising.informed(w) for w in list(questions)[:SEEN]]
    known = [s for s in shares if s is not None]
    return max(known) if known else None


def _untrained(search: ReadingSearch, informed: float) -> Finding:
    """The finding for a network with uninformative answers."""
    own, (best, _) = search.own(), search.best()
    if own is not None and search.denoising.filters(own):
        says = f"has learned no more than a linear filter: {_share(informed)}"
        return Finding("training", "doubt", says, "load its weights, or train it longer")
    or_little = (
        " or has learned no more than a linear filter" if search.denoising.filters(best) else ""
    )
    return Finding(
        "training",
        "wrong",
        f"looks untrained{or_little}: {_share(informed)}",
        "load its weights, or train it",
    )


def _trained(informed: float | None, best: Fit) -> Finding:
    if informed is None:
        says = (
            "these data are as good as a Gaussian cloud: they do not show whether the network "
            "is trained"
        )
        return Finding("training", "unknown", says, "")
    if best.excess > BADLY:
        more = (
            f"{_share(informed)}; no reading uses it (the best errs {math.exp(best.excess):.1f} "
            "times as much)"
        )
        return Finding(
            "training", "doubt", more, "train it longer, or give the path that it was trained on"
        )
    return Finding("training", "right", _share(informed))


def _share(informed: float) -> str:
    share = "more than" if informed > 1 else f"{max(informed, 0.0):.0%} of what"
    return f"its answers tell {share} the best filter made of the data tells"


def _aspects(search: ReadingSearch, declared: Fit | None, best: Fit) -> Iterator[Finding]:
    wrong = search.beaten(declared, best) and declared is not best
    changed = best.wiring.differs(search.declared) if wrong else []
    worse = (
        "cannot be asked"
        if declared is None
        else f"errs {math.exp(declared.excess - best.excess):.3g} times as much"
    )
    for aspect in ASPECTS:
        if aspect in changed:
            was = _value(aspect, search.declared)
            now = _value(aspect, best.wiring)
            says = f"{now} fits, {was} does not: the declared reading {worse}"
            yield Finding(aspect, "wrong", says, _typed(aspect, best.wiring))
        elif aspect in ASPECTS[:4] or _value(aspect, search.declared) != "none":
            yield Finding(
                aspect,
                "right",
                f"{_value(aspect, search.declared)}{_against(aspect, search, best)}",
            )
    if changed:
        yield Finding("model", "wrong", f"as declared: {search.declared}", str(best.wiring))


def _against(aspect: str, search: ReadingSearch, best: Fit) -> str:
    """By how much the best reading with another value of this aspect is worse."""
    for fit in search.fits:
        if aspect in fit.wiring.differs(best.wiring) and search.beaten(fit, best):
            other = math.exp(fit.excess - best.excess)
            return (
                f" (the next that can be told apart, {_value(aspect, fit.wiring)}, errs "
                f"{other:.3g} times as much)"
            )
    return ""


def _value(aspect: str, wiring: Wiring) -> str:
    if aspect == "prediction":
        return f'"{wiring.predicts}"'
    if aspect == "direction":
        return "data at the end of time (flipped)" if wiring.flipped else "data at t = 0"
    if aspect == "path":
        return typed_path(wiring.base)
    if aspect == "time":
        scale = (
            f" times {wiring.time_scale:g}" if wiring.time == "t" and wiring.time_scale != 1 else ""
        )
        return f"{typed_time(wiring.time)}{scale}"
    if aspect == "sign":
        return "none" if wiring.sign > 0 else "the negated answer"
    if wiring.input_scale is None:
        return "none"
    return f'"{wiring.input_scale}" with sigma_data={wiring.sigma_data:g}'


def _typed(aspect: str, wiring: Wiring) -> str:
    flip = ".flipped()" if wiring.flipped else ""
    if aspect in ("path", "direction"):
        return f"{typed_path(wiring.base)}{flip}"
    if aspect == "prediction":
        return f'predicts="{wiring.predicts}"'
    if aspect == "time":
        scale = f", time_scale={wiring.time_scale:g}" if wiring.time == "t" else ""
        return f"time={typed_time(wiring.time)}{scale}"
    if aspect == "sign":
        return "ode.Model(lambda x, t: -net(x, t), ...)"
    return f"input_scale={wiring.input_scale!r}, sigma_data={wiring.sigma_data:g}"


def _ends(denoising: Denoising, wiring: Wiring) -> Finding:
    """Whether the noise end of the path is pure noise, for data of this standard deviation."""
    path = wiring.path
    deviation = math.sqrt(denoising.without.variance)
    signal = deviation / float(path.rho(path.t_noise))
    says = f"where samples start, the data's deviation is {signal:.2g} of the noise's"
    if signal > SIGNAL:
        return Finding(
            "noise end",
            "doubt",
            f"{says}: samples start from less noise than the data need",
            "smaller data",
        )
    return Finding("noise end", "right", says)
