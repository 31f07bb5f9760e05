"""Embedded explicit Runge-Kutta pairs: a method, the estimate of its local error, and its dense
output."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from odesolve.doors.values import whole
from odesolve.methods.tableaus import Row, Tableau, elementary_weights, weigh


@dataclass(frozen=True)
class Pair(Tableau):
    """An explicit Runge-Kutta method with an embedded error estimate; as a ``Tableau`` it serves
    fixed steps too.

    The stages of a step of size h are k_1 ... k_s of the tableau, k_{s+1} = f(t + h, y1), which is
    the first stage of the next step, and then the ``extra`` stages.

    Args:
        error: weights of the local error h sum_j error_j k_j over the first s + 1 stages: the
            method minus the embedded one.
        error_order: the local error behaves as h^error_order, as a controller needs it: 5 for
            dopri5.
        dense: rows over all stages with y(t + theta h) = y0 + h sum_j k_j sum_p dense[j][p]
            theta^(p+1); empty without a published one: then the cubic Hermite polynomial of y0, y1,
            k_1 and k_{s+1} serves.
        error_third: weights e3 of a second estimate, for err = e^2 / sqrt(e^2 + 0.01 e3^2) on the
            norms; None for most.
        extra: (c, row of a) of each stage that only the dense output needs, rows over the stages
            before it.

    Raises OdesolveError if ``error_order`` is no whole number of at least 1, and ValueError if a
    stage count is wrong, if an order condition of the method fails, or if an estimate does not
    vanish as its order requires.
    """

    error: Row = ()
    error_order: int = 0
    dense: tuple[Row, ...] = ()
    error_third: Row | None = None
    extra: tuple[tuple[float, Row], ...] = ()

    # every pair here shares its last stage with the next step, at no cost: a rejected step keeps
    # k_1
    fsal = True

    def __post_init__(self):
        super().__post_init__()
        whole(f"pair {self.name}: error_order", self.error_order, 1)
        object.__setattr__(self, "error", tuple(map(float, self.error)))
        object.__setattr__(self, "dense", tuple(tuple(map(float, row)) for row in self.dense))
        stages = self.stages + 1
        if len(self.error) != stages or len(self.error_third or self.error) != stages:
            raise ValueError(
                f"pair {self.name}: an error estimate needs {stages} weights, one per stage and one "
                "for f(t1, y1)"
            )
        if not any(self.error):
            raise ValueError(
                f"pair {self.name}: the weights of its error are all 0, so no step would ever be "
                "too long: give those of the method less the embedded one"
            )
        if self.dense and len(self.dense) != stages + len(self.extra):
            raise ValueError(
                f"pair {self.name}: dense has {len(self.dense)} rows for "
                f"{stages + len(self.extra)} stages"
            )
        for n, _, phi in elementary_weights((*self.a, self.b), self.embedded_order):
            if abs(residual := weigh(self.error, phi)) > 1e-14 * self.scale:
                raise ValueError(
                    f"pair {self.name}: the embedded order {n} fails by {residual:.1e}"
                )

    @property
    def embedded_order(self) -> int:
        """Order of the embedded method; with a second estimate, of the better of the two."""
        return self.error_order - (1 if self.error_third is None else 3)


def _row(text: str) -> Row:
    return tuple(float(Fraction(word)) for word in text.split())


def _rows(text: str) -> tuple[Row, ...]:
    return tuple(_row(line) for line in text.split(";"))


def _minus(left: Row, right: Row) -> Row:
    return tuple(a - b for a, b in zip(left, right, strict=True))


def _product(*factors: Row) -> Row:
    """Coefficients of a product of polynomials, lowest first."""
    out: Row = (1.0,)
    for factor in factors:
        terms = [[a * b for b in factor] for a in out]
        out = tuple(
            sum(row[k - i] for i, row in enumerate(terms) if 0 <= k - i < len(factor))
            for k in range(len(out) + len(factor) - 1)
        )
    return out


ADAPTIVE_HEUN = Pair(
    name="adaptive_heun",
    order=2,
    c=(0, 1),
    a=((), (1,)),
    b=(1 / 2, 1 / 2),
    source="Heun 1900, with Euler's method as its estimate",
    error=(-1 / 2, 1 / 2, 0),
    error_order=2,
)

FEHLBERG2 = Pair(
    name="fehlberg2",
    order=2,
    c=(0, 1 / 2, 1),
    a=((), (1 / 2,), (1 / 256, 255 / 256)),
    b=(1 / 512, 255 / 256, 1 / 512),
    source="Fehlberg 1969, RK1(2), the second order taken",
    error=(-1 / 512, 0, 1 / 512, 0),
    error_order=2,
)

BOSH3 = Pair(
    name="bosh3",
    order=3,
    c=(0, 1 / 2, 3 / 4),
    a=((), (1 / 2,), (0, 3 / 4)),
    b=(2 / 9, 1 / 3, 4 / 9),
    source="Bogacki and Shampine 1989",
    error=_row("-5/72 1/12 1/9 -1/8"),
    error_order=3,
)

_B5 = _row("35/384 0 500/1113 125/192 -2187/6784 11/84")
# Estimate and dense output: Shampine 1986, "Some practical Runge-Kutta formulas". The estimate is
# two thirds of Dormand and Prince's (scipy's): at equal tolerance a twelfth fewer steps, and the
# same step for the same tolerance as torchdiffeq.
DOPRI5 = Pair(
    name="dopri5",
    order=5,
    c=_row("0 1/5 3/10 4/5 8/9 1"),
    a=_rows(
        """;
        1/5;
        3/40 9/40;
        44/45 -56/15 32/9;
        19372/6561 -25360/2187 64448/6561 -212/729;
        9017/3168 -355/33 46732/5247 49/176 -5103/18656"""
    ),
    b=_B5,
    source="Dormand and Prince 1980",
    error=_minus((*_B5, 0.0), _row("1951/21600 0 22642/50085 451/720 -12231/42400 649/6300 1/60")),
    error_order=5,
    dense=_rows(
        """1 -8048581381/2820520608 8663915743/2820520608 -12715105075/11282082432;
        0 0 0 0;
        0 131558114200/32700410799 -68118460800/10900136933 87487479700/32700410799;
        0 -1754552775/470086768 14199869525/1410260304 -10690763975/1880347072;
        0 127303824393/49829197408 -318862633887/49829197408 701980252875/199316789632;
        0 -282668133/205662961 2019193451/616988883 -1453857185/822651844;
        0 40617522/29380423 -110615467/29380423 69997945/29380423"""
    ),
)

TSIT5 = Pair(
    name="tsit5",
    order=5,
    c=(0, 0.161, 0.327, 0.9, 0.9800255409045097, 1),
    a=_rows(
        """;
        0.161;
        -0.008480655492356989 0.335480655492357;
        2.8971530571054935 -6.359448489975075 4.3622954328695815;
        5.325864828439257 -11.748883564062828 7.4955393428898365 -0.09249506636175525;
        5.86145544294642 -12.92096931784711 8.159367898576159 -0.071584973281401 -0.02826905039406838"""
    ),
    b=_row(
        "0.09646076681806523 0.01 0.4798896504144996 1.379008574103742 -3.290069515436081 "
        "2.324710524099774"
    ),
    source="Tsitouras 2011",
    error=_row(
        """0.00178001105222577714 0.0008164344596567469 -0.007880878010261995 0.1447110071732629
        -0.5823571654525552 0.45808210592918697 -1/66"""
    ),
    error_order=5,
    dense=(
        _product(
            (-1.0530884977290216,),
            (-1.3299890189751412, 1),
            (0.7139816917074209, -1.4364028541716351, 1),
        ),
        _product((0, 0.1017), (1.2949852507374631, -2.1966568338249754, 1)),
        _product((0, 2.490627285651252793), (1.57803468208092486, -2.38535645472061657, 1)),
        _product((0, -16.54810288924490272), (-1.21712927295533244, 1), (-0.61620406037800089, 1)),
        _product((0, 47.37952196281928122), (-1.203071208372362603, 1), (-0.658047292653547382, 1)),
        _product((0, -34.87065786149660974), (-1.2, 1), (-2 / 3, 1)),
        _product((0, 2.5), (-1, 1), (-0.6, 1)),
    ),
)

# DOP853 of Hairer, Norsett and Wanner (1993), "Solving ordinary differential equations I", II.5 and
# II.6; the figures are those of its program, of 24 to 30 digits, rounded to float64.
_A8 = _rows(
    """
    ;
    0.05260015195876773;
    0.0197250569845379 0.0591751709536137;
    0.02958758547680685 0 0.08876275643042054;
    0.2413651341592667 0 -0.8845494793282861 0.924834003261792;
    0.037037037037037035 0 0 0.17082860872947386 0.12546768756682242;
    0.037109375 0 0 0.17025221101954405 0.06021653898045596 -0.017578125;
    0.03709200011850479 0 0 0.17038392571223998 0.10726203044637328 -0.015319437748624402 0.008273789163814023;
    0.6241109587160757 0 0 -3.3608926294469414 -0.868219346841726 27.59209969944671 20.154067550477894
    -43.48988418106996;
    0.47766253643826434 0 0 -2.4881146199716677 -0.590290826836843 21.230051448181193 15.279233632882423
    -33.28821096898486 -0.020331201708508627;
    -0.9371424300859873 0 0 5.186372428844064 1.0914373489967295 -8.149787010746927 -18.52006565999696
    22.739487099350505 2.4936055526796523 -3.0467644718982196;
    2.273310147516538 0 0 -10.53449546673725 -2.0008720582248625 -17.9589318631188 27.94888452941996
    -2.8589982771350235 -8.87285693353063 12.360567175794303 0.6433927460157636
    """
)
_B8 = _row(
    """
    0.054293734116568765 0 0 0 0 4.450312892752409 1.8915178993145003 -5.801203960010585 0.3111643669578199
    -0.1521609496625161 0.20136540080403034 0.04471061572777259
    """
)
_EXTRA8 = _rows(
    """
    0.056167502283047954 0 0 0 0 0 0.25350021021662483 -0.2462390374708025 -0.12419142326381637 0.15329179827876568
    0.00820105229563469 0.007567897660545699 -0.008298;
    0.03183464816350214 0 0 0 0 0.028300909672366776 0.053541988307438566 -0.05492374857139099 0 0
    -0.00010834732869724932 0.0003825710908356584 -0.00034046500868740456 0.1413124436746325;
    -0.42889630158379194 0 0 0 0 -4.697621415361164 7.683421196062599 4.06898981839711 0.3567271874552811 0 0 0
    -0.0013990241651590145 2.9475147891527724 -9.15095847217987
    """
)
# Rows of the upper four polynomials of the dense output, over twelve stages, f(t1, y1) and three
# extra stages.
_D8 = _rows(
    """
    -8.428938276109013 0 0 0 0 0.5667149535193777 -3.0689499459498917 2.38466765651207 2.117034582445028
    -0.871391583777973 2.2404374302607883 0.6315787787694688 -0.08899033645133331 18.148505520854727
    -9.194632392478356 -4.436036387594894;
    10.427508642579134 0 0 0 0 242.28349177525817 165.20045171727028 -374.5467547226902 -22.113666853125306
    7.733432668472264 -30.674084731089398 -9.332130526430229 15.697238121770845 -31.139403219565178
    -9.35292435884448 35.81684148639408;
    19.985053242002433 0 0 0 0 -387.0373087493518 -189.17813819516758 527.8081592054236 -11.57390253995963
    6.8812326946963 -1.0006050966910838 0.7777137798053443 -2.778205752353508 -60.19669523126412 84.32040550667716
    11.99229113618279;
    -25.69393346270375 0 0 0 0 -154.18974869023643 -231.5293791760455 357.6391179106141 93.40532418362432
    -37.45832313645163 104.0996495089623 29.8402934266605 -43.53345659001114 96.32455395918828 -39.17726167561544
    -149.72683625798564
    """
)


def _dense8() -> tuple[Row, ...]:
    """Powers of theta from the published nested form, whose lower three rows follow from y0, y1,
    k_1 and f(t1, y1)."""
    b, first, last = (
        (*row, *(0.0,) * (16 - len(row))) for row in (_B8, (1.0,), (*(0.0,) * 12, 1.0))
    )
    bend = tuple(2 * v - f - g for v, f, g in zip(b, first, last, strict=True))
    rows = (b, _minus(first, b), bend, *_D8)
    down = (1.0, -1.0)
    basis = [
        _product((0.0, 1.0), *[(0.0, 1.0)] * (i // 2), *[down] * ((i + 1) // 2))[1:]
        for i in range(7)
    ]
    return tuple(
        tuple(
            sum(row[j] * p[k] for row, p in zip(rows, basis, strict=True) if k < len(p))
            for k in range(7)
        )
        for j in range(16)
    )


DOPRI8 = Pair(
    name="dopri8",
    order=8,
    c=_row(
        """
    0 0.05260015195876773 0.0789002279381516 0.1183503419072274 0.2816496580927726 0.3333333333333333 0.25
    0.3076923076923077 0.6512820512820513 0.6 0.8571428571428571 1.0
        """
    ),
    a=_A8,
    b=_B8,
    source="Hairer, Norsett and Wanner 1993, DOP853",
    error=_row(
        """
    0.01312004499419488 0 0 0 0 -1.2251564463762044 -0.4957589496572502 1.6643771824549864 -0.35032884874997366
    0.3341791187130175 0.08192320648511571 -0.022355307863886294 0
        """
    ),
    error_order=8,
    dense=_dense8(),
    error_third=_minus(
        (*_B8, 0.0),
        _row("0.2440944881889764 0 0 0 0 0 0 0 0.7338466882816118 0 0 0.022058823529411766 0"),
    ),
    extra=tuple(zip((1 / 10, 1 / 5, 7 / 9), _EXTRA8, strict=True)),
)

PAIRS = {pair.name: pair for pair in (ADAPTIVE_HEUN, FEHLBERG2, BOSH3, DOPRI5, TSIT5, DOPRI8)}
