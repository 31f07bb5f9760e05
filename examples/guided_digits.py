"""Guidance of digits: classifier-free, by one network with and without labels; and by a classifier
of noisy digits.

python examples/guided_digits.py [--steps 1400] [--out guided_digits.png]

For both and three scales, prints the share of samples that a support vector machine takes for the
digit that was asked for, and the Frechet distance to held-out digits: a higher scale obeys more and
varies less. Writes a picture, one column a digit."""

import argparse

import digits
import torch
from networks import Encoder, UNet

import odesolve as ode
from odesolve.objectives import Matching, dropped

NONE, PATH = 10, ode.paths.Linear()


def train_network(draw, steps: int) -> torch.nn.Module:
    """The averaged network, which saw a tenth of its digits without their labels."""
    net = UNet(classes=10)
    matching = Matching(ode.Model(net, PATH, "velocity"))

    def objective(x, generator=None, cond=None):
        return matching(x, cond=dropped(cond, {"label": NONE}, 0.1, generator), generator=generator)

    return digits.train(objective, draw, net, steps)[0].module


def log_probs(classifier: torch.nn.Module, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """log p(label | x_t) (B, 10). The logits fall as alpha does, as they must: the noise end has no
    label."""
    return torch.log_softmax(PATH.alpha(t)[:, None] * classifier(x, t), 1)


def train_classifier(draw, steps: int) -> torch.nn.Module:
    """A classifier of noisy digits at all times (Dhariwal and Nichol 2021, section 4)."""
    classifier = Encoder(10, times=1)

    def objective(x, generator=None, cond=None):
        t = torch.rand(len(x), generator=generator)
        alpha, sigma = (a[:, None, None, None] for a in (PATH.alpha(t), PATH.sigma(t)))
        noisy = alpha * x + sigma * torch.randn(x.shape, generator=generator)
        return torch.nn.functional.nll_loss(log_probs(classifier, noisy, t), cond["label"])

    return digits.train(objective, draw, classifier, steps)[0].module


def main() -> None:
    from sklearn.svm import SVC

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1400, help="of each training (default 1400)")
    parser.add_argument("--out", default="guided_digits.png")
    given = parser.parse_args()
    torch.manual_seed(0)
    n = min(300, 5 * given.steps)
    whole, labels, whole_held, labels_held = digits.load()
    data, held = digits.spread(whole, 0), digits.spread(whole_held, 1)
    draw = digits.Batches(whole, 128, labels)
    model = ode.Model(train_network(draw, given.steps), PATH, "velocity")
    classifier = train_classifier(draw, given.steps)
    judge, frechet = SVC(gamma=1e-3).fit(whole.flatten(1), labels), digits.Frechet(data)
    right = judge.score(whole_held.flatten(1), labels_held)
    print(
        f"the judge knows {right:.3f} of held-out digits; Frechet distance of training digits "
        f"{frechet(data[:n], held):.3f}"
    )
    asked = torch.arange(n) % 10
    of_label = lambda x, t, label: log_probs(classifier, x, t).gather(1, label[:, None])[:, 0]  # noqa: E731
    cond, none = {"label": asked}, {"label": torch.full_like(asked, NONE)}
    models = {"not guided": model}
    models |= {f"classifier-free, scale {s}": model.guided(s, cond, none) for s in (1, 2, 4)}
    models |= {
        f"classifier, scale {s}": model.classifier_guided(of_label, s, cond) for s in (1, 2, 4)
    }
    boards, far = {}, {}
    for name, guided in models.items():
        drawn = ode.sample(guided, (n, 1, 8, 8), steps=12, seed=0)
        obeyed = judge.score(digits.whole(drawn).flatten(1), asked)
        far[name] = frechet(drawn, held)
        if name not in ("classifier-free, scale 2", "classifier, scale 1", "classifier, scale 4"):
            boards[name] = drawn[:100]
        print(f"{name}: {obeyed:.3f} as asked, Frechet distance {far[name]:.3f}")
    print(f"closest to held-out digits: {min(far, key=far.get)}")
    digits.picture(boards, given.out, columns=10)
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
