"""Problems with known answers: Gaussians and Gaussian mixtures, whose score, flow and density are
exact on every path.

Example:
    >>> import odesolve as ode
    >>> problem = ode.problems.mixture([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.5]], std=0.2)
    >>> model = problem.model(ode.paths.VP(), "noise")
    >>> problem.sample(4).shape, problem.log_prob(problem.sample(4)).shape
    (torch.Size([4, 2]), torch.Size([4]))
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from odesolve import run
from odesolve.doors.annotations import meant, number
from odesolve.doors.values import numbers, short, whole
from odesolve.doors.words import fits, fits_as
from odesolve.errors import OdesolveError
from odesolve.grids import Asinh
from odesolve.lowering.lower import Reading, lower
from odesolve.model.model import Model
from odesolve.paths import Path, prediction_named
from odesolve.planning.planner import plan

Time = float | Tensor


def _finite(name: str, given: Any, expected: str) -> Tensor:
    """Finite real numbers as float64. Raises OdesolveError for others."""
    values = numbers(name, given, f"finite numbers {expected}")
    if not bool(values.isfinite().all()) or (values.dim() == 0 and name != "std"):
        raise OdesolveError(f"{name}={given!r}: give finite numbers {expected}")
    return values


@fits
class Mixture:
    """Data drawn from sum_k w_k N(m_k, C_k).

    Args:
        weights: shape (K,), made to sum to 1.
        means: shape (K, ...); the rest is the shape of one sample.
        std: standard deviation of every component (one number, or shape (K,)) for isotropic
            covariances,
        cov: or covariances of shape (K, D, D), D the size of one sample.
    """

    def __init__(
        self,
        weights: Any,
        means: Any,
        *,
        std: float | Sequence[float] | Tensor | None = None,
        cov: Any = None,
    ):
        means = _finite("means", means, "(K, ...)").detach()
        w = _finite("weights", weights, "(K,)").detach()
        self.event = tuple(means.shape[1:])
        self.means = means.reshape(means.shape[0], -1)
        if w.shape != (self.means.shape[0],) or not bool((w > 0).all()):
            raise OdesolveError(
                f"weights of shape {tuple(w.shape)} for {len(means)} means: give one positive "
                "weight each"
            )
        if (std is None) == (cov is None):
            raise OdesolveError("give either std= or cov=")
        self.log_weights = torch.log(w / w.sum())
        count, dim = self.means.shape
        if cov is None:
            widths = _finite("std", std, "standard deviations of at least 0").detach()
            if not bool((widths >= 0).all()):
                raise OdesolveError(f"std={std}: give standard deviations of at least 0")
            self.variances = (widths**2).expand(count)[:, None]
            self.vectors = None
        else:
            cov = _finite("cov", cov, "(K, D, D)").detach()
            if cov.shape != (count, dim, dim):
                raise OdesolveError(
                    f"cov has shape {tuple(cov.shape)}: give ({count}, {dim}, {dim})"
                )
            self.variances, self.vectors = torch.linalg.eigh(cov)
            if not bool((self.variances > 0).all()):
                raise OdesolveError(
                    "a covariance is not positive definite: add a small multiple of the identity"
                )
        self._cache: dict[tuple, tuple[Tensor, Tensor, Tensor, Tensor | None]] = {}

    def __fingerprint__(self) -> tuple[Any, ...]:
        """What decides its answers: not what it keeps of earlier ones."""
        return self.event, self.log_weights, self.means, self.variances, self.vectors

    @property
    def dim(self) -> int:
        """Size of one sample."""
        return self.means.shape[1]

    @property
    def data_std(self) -> float:
        """Standard deviation of the data around their mean, over all coordinates."""
        w = self.log_weights.exp()
        mean = w @ self.means
        spread = ((self.means - mean) ** 2).mean(1) + self.variances.mean(1)
        return math.sqrt(float(w @ spread))

    @fits_as("problem.sample")
    def sample(self, n: int, seed: int = 0) -> Tensor:
        """n exact samples of the data, float64, shape (n, ...)."""
        n = whole("n", n, 0)
        seed = whole("seed", seed, 0, 2**63 - 1)
        g = torch.Generator().manual_seed(seed)
        k = torch.multinomial(self.log_weights.exp(), n, replacement=True, generator=g)
        std = self.variances[k].sqrt()
        z = torch.randn(n, self.dim, dtype=torch.float64, generator=g) * std
        if self.vectors is not None:
            z = torch.einsum("nij,nj->ni", self.vectors[k], z)
        return (self.means[k] + z).reshape(n, *self.event)

    @fits_as("problem.data")
    def data(self, x: Tensor, path: Path, t: Time) -> Tensor:
        """Posterior mean E[x0 | x_t = x]; finite at both ends of every path."""
        return self._posterior(x, path, t)[0].reshape(x.shape)

    @fits_as("problem.noise")
    def noise(self, x: Tensor, path: Path, t: Time) -> Tensor:
        """Posterior mean E[eps | x_t = x]."""
        sigma = self._scale(path.sigma, x, t)
        score = self._posterior(x, path, t)[1]
        return -(sigma * score).reshape(x.shape)

    @fits_as("problem.score")
    def score(self, x: Tensor, path: Path, t: Time) -> Tensor:
        """Gradient of log p_t at x."""
        return self._posterior(x, path, t)[1].reshape(x.shape)

    @fits_as("problem.velocity")
    def velocity(self, x: Tensor, path: Path, t: Time) -> Tensor:
        """Marginal velocity E[alpha' x0 + sigma' eps | x_t = x]."""
        return self._predict(x, path, t, "velocity")

    @fits_as("problem.log_prob")
    def log_prob(self, x: Tensor, path: Path | None = None, t: Time = 0.0) -> Tensor:
        """Log-density in nats of the path's marginal at time t (of the data themselves without a
        path), shape (B,)."""
        flat = x.reshape(x.shape[0], -1)
        a = torch.ones_like(flat[:, :1])
        s = torch.zeros_like(flat[:, :1])
        if path is not None:
            a = self._scale(path.alpha, x, t)
            s = self._scale(path.sigma, x, t)
        logits = (
            self._logits_shared(flat, a, s) if self._shared else self._components(flat, a, s)[0]
        )
        return torch.logsumexp(logits, 1) - 0.5 * self.dim * math.log(2 * math.pi)

    @property
    def _shared(self) -> bool:
        """Whether all components are isotropic with one variance."""
        return self.vectors is None and bool((self.variances == self.variances[0]).all())

    @fits_as("problem.solution")
    def solution(
        self,
        x: Tensor,
        path: Path,
        t: float,
        r: float,
        tolerance: float = 1e-5,
    ) -> Tensor:
        """The probability-flow map from time t to r, float64: in closed form for one Gaussian,
        integrated for a mixture.

        Integration takes two methods with twice as many steps each time, until they agree to
        ``tolerance`` relative to the result's RMS. Raises OdesolveError if they do not with 8192
        evaluations."""
        x = x.double()
        if self.means.shape[0] == 1:
            return self._gaussian_solution(x, path, t, r)
        steps = 256
        grid = Asinh(start=t, stop=r)
        model = self.model(path, "data")
        while steps <= 8192:
            plans = [
                plan("ab4", path, steps, grid, clock="rho"),
                plan("rk4", path, steps // 4, grid, clock="rho"),
            ]
            a, b = (
                run.run(lower(p, path, model.reading_for(x.dtype)), x, None, model) for p in plans
            )
            if float((a - b).norm()) <= tolerance * float(a.norm()):
                return a
            steps *= 2
        raise OdesolveError(
            f"two solves from t={t} to {r} do not agree to {tolerance}: give a larger tolerance="
        )

    def _gaussian_solution(self, x: Tensor, path: Path, t: float, r: float) -> Tensor:
        p, q = path.points([t, r])
        mean = self.means[0]
        var = self.variances[0]
        after = q.alpha**2 * var + q.sigma**2
        before = p.alpha**2 * var + p.sigma**2
        ratio = torch.sqrt(after / before)
        z = x.reshape(x.shape[0], -1) - p.alpha * mean
        if self.vectors is not None:
            v = self.vectors[0]
            z = ((z @ v) * ratio) @ v.T
        else:
            z = z * ratio
        return (q.alpha * mean + z).reshape(x.shape)

    @fits_as("problem.model")
    def model(self, path: Path, predicts: str = "data", **options: Any) -> Model:
        """The exact network of this problem on a path, with any prediction type, as an
        ``ode.Model``."""
        sigma_data = options.get("sigma_data", 0.5)
        predicts = prediction_named(predicts)
        edm = predicts == "edm"

        def net(x: Tensor, t: Tensor) -> Tensor:
            if edm:  # undo the input scaling and c_noise = log(rho) / 4
                t = path.t_of_lam(-4 * t)
                x = x / _column(Reading("edm", sigma_data, "edm").c_in(path, t), x)  # type: ignore[arg-type]
            return self._predict(x, path, t, predicts, sigma_data)

        return Model(net, path, predicts, **{"time": "c_noise" if edm else "t", **options})

    def _predict(
        self,
        x: Tensor,
        path: Path,
        t: Time,
        predicts: str,
        sigma_data: float = 0.5,
    ) -> Tensor:
        data, score = self._posterior(x, path, t)
        if predicts == "score":
            return score.reshape(x.shape)
        at = self._time(x, t)
        c0, c1, scale = (_flat(c, x) for c in path.rows(at, predicts, sigma_data))
        out = (c0 * data - c1 * self._scale(path.sigma, x, t) * score) / scale
        # sigma' is infinite, f x - g^2 score / 2 is not
        if predicts == "velocity" and bool((scale == 0).any()):
            kx, ks = (_flat(k, x) for k in path.convert(at, "score", "velocity"))
            out = torch.where(scale == 0, kx * x.reshape(out.shape) + ks * score, out)
        return out.reshape(x.shape)

    def _time(self, x: Tensor, t: Time) -> Tensor:
        t = torch.as_tensor(
            t, dtype=x.dtype if isinstance(t, Tensor) else torch.float64, device=x.device
        )
        return t.expand(x.shape[0])

    def _scale(self, f, x: Tensor, t: Time) -> Tensor:
        return _flat(f(self._time(x, t)), x)

    def _posterior(self, x: Tensor, path: Path, t: Time) -> tuple[Tensor, Tensor]:
        """(E[x0 | x], score), each of shape (B, D)."""
        flat = x.reshape(x.shape[0], -1)
        a = self._scale(path.alpha, x, t)
        s = self._scale(path.sigma, x, t)
        if self._shared:
            return self._posterior_shared(flat, a, s)
        logits, z, v, means, vectors, variances = self._components(flat, a, s)
        r = torch.softmax(logits, 1)
        score = -(r[..., None] * _rotate(z / v, vectors)).sum(1)
        shift = _rotate((a[..., None] * variances / v) * z, vectors)
        return (r[..., None] * (means + shift)).sum(1), score

    def _posterior_shared(self, flat: Tensor, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """The same where all components share one variance: one product with the means, in one
        buffer of shape (B, K).

        The softmax leaves out what is common to all components, and works in place: on a CPU, fresh
        pages for each intermediate of this size would cost three times the arithmetic.
        """
        log_w, means, variances, _ = self._tensors(flat)
        v = a**2 * variances[0] + s**2
        columns = [
            flat * (a / v),
            (-0.5 * a**2 / v).expand(len(flat), 1),
            torch.ones_like(flat[:, :1]),
        ]
        squares = (means**2).sum(1, keepdim=True)
        r = torch.cat(columns, 1) @ torch.cat([means, squares, log_w[:, None]], 1).T
        r = r.sub_(r.detach().amax(1, keepdim=True)).exp_()
        mean = (r @ means) / r.sum(1, keepdim=True)
        gap = flat - a * mean
        return mean + (a * variances[0] / v) * gap, -gap / v

    def _logits_shared(self, flat: Tensor, a: Tensor, s: Tensor) -> Tensor:
        log_w, means, variances, _ = self._tensors(flat)
        v = a**2 * variances[0] + s**2
        of_x = (flat**2).sum(1, keepdim=True)
        of_means = a**2 * (means**2).sum(1)
        square = of_x - 2 * a * (flat @ means.T) + of_means
        return log_w - 0.5 * square / v - 0.5 * self.dim * torch.log(v)

    def _components(self, flat: Tensor, a: Tensor, s: Tensor):
        """Log joint density of x with each component (without the constant), and what posterior
        means need."""
        log_w, means, variances, vectors = self._tensors(flat)
        z = flat[:, None] - a[..., None] * means
        if vectors is not None:
            z = torch.einsum("bki,kij->bkj", z, vectors)
        v = (a[..., None] ** 2 * variances + s[..., None] ** 2).expand(z.shape)
        squares = (z**2 / v).sum(2)
        logits = log_w - 0.5 * squares - 0.5 * torch.log(v).sum(2)
        return logits, z, v, means, vectors, variances

    def _tensors(self, like: Tensor):
        key = (like.dtype, like.device)
        if key not in self._cache:
            vectors = self.vectors.to(like) if self.vectors is not None else None
            self._cache[key] = (
                self.log_weights.to(like),
                self.means.to(like),
                self.variances.to(like),
                vectors,
            )
        return self._cache[key]


def _rotate(z: Tensor, vectors: Tensor | None) -> Tensor:
    if vectors is None:
        return z
    return torch.einsum("bkj,kij->bki", z, vectors)


def _flat(c: Tensor, x: Tensor) -> Tensor:
    return c.to(x.dtype).reshape(-1, 1)


def _column(c: Tensor, x: Tensor) -> Tensor:
    return c.to(x.dtype).reshape(-1, *[1] * (x.dim() - 1))


@fits
def gaussian(
    mean: Any = 0.0,
    std: float | None = None,
    cov: Any = None,
    shape: tuple[int, ...] = (),
) -> Mixture:
    """A single Gaussian; its probability-flow map is exact (``solution``).

    Args:
        mean: a number, or of the shape of one sample.
        std: one number, 1 by default.
        cov: or a covariance (D, D), D the size of one sample.
        shape: of one sample, where the mean is a number.
    """
    mean = numbers("mean", mean, "finite numbers").detach()
    if not isinstance(shape, (tuple, list)):
        raise OdesolveError(f"shape={short(shape)}: give that of one sample, such as (3, 32, 32)")
    shape = tuple(whole("shape", n, 1) for n in shape)
    mean = mean.expand(shape) if shape else mean.reshape(-1) if mean.dim() == 0 else mean
    if cov is not None:
        cov = numbers("cov", cov, "finite numbers (D, D)").detach()[None]
    return Mixture(
        [1.0], mean[None], std=None if cov is not None else (1.0 if std is None else std), cov=cov
    )


@fits
def mixture(weights: Any, means: Any, std: Any = None, cov: Any = None) -> Mixture:
    """A Gaussian mixture.

    Args:
        weights: (K,), made to sum to 1.
        means: (K, ...), the rest being the shape of one sample.
        std: a number, or one per component (K,).
        cov: or covariances (K, D, D), D the size of one sample.
    """
    return Mixture(weights, means, std=std, cov=cov)


@meant(std=number(0.0))
def digits(std: float = 0.1) -> Mixture:
    """A Gaussian of this standard deviation on each of scikit-learn's 1797 handwritten digits: (1,
    8, 8), pixels in [-1, 1].

    Args:
        std: of the Gaussians.

    Raises ImportError with the install line if scikit-learn is missing.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as e:
        raise ImportError(
            "problems.digits needs scikit-learn: pip install 'odesolve[digits]'"
        ) from e
    bunch: Any = load_digits()
    images = torch.from_numpy(bunch.images) / 8 - 1
    return Mixture([1.0] * len(images), images[:, None], std=std)
