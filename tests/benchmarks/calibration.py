"""Which regression the calibrated test should fit: AUC of a model that never saw the request, and of one that did.

    python tests/benchmarks/calibration.py

Difficulty t lies in two clusters (one sample in five is mislabelled); a reference model sees o = 0.8 t + N(0, 1.5),
the model itself phi = f(t) + N(0, 1.2), f a straight line or bent; what is remembered adds 2 nats to mislabelled
samples and 0.35 to the others. Requests have 100 samples: random ones, or the hardest fifth of 500, chosen with some
error. Mean over repetitions, with 1,000 controls. The columns: random request never seen, the same remembered, hard
request never seen, the same remembered. Under a minute on one core.
"""

from collections.abc import Callable

import numpy as np
from sklearn.isotonic import IsotonicRegression

Level = Callable[[np.ndarray], np.ndarray]


def none(outside: np.ndarray, margins: np.ndarray) -> Level:
    return np.zeros_like


def polynomial(degree: int) -> Callable[[np.ndarray, np.ndarray], Level]:
    def fit(outside: np.ndarray, margins: np.ndarray) -> Level:
        coefficients = np.polyfit(outside, margins, degree)
        return lambda x: np.polyval(coefficients, np.clip(x, outside.min(), outside.max()))

    return fit


def isotonic(outside: np.ndarray, margins: np.ndarray) -> Level:
    return IsotonicRegression(out_of_bounds="clip").fit(outside, margins).predict


def local(outside: np.ndarray, margins: np.ndarray) -> Level:
    """Local straight lines with tricube weights over the nearest n^0.8 / 2 controls, 10 at least."""
    nearest = min(max(10, int(len(outside) ** 0.8 / 2)), len(outside))

    def level(x: np.ndarray) -> np.ndarray:
        away = np.abs(outside - x[:, None])
        width = np.partition(away, nearest - 1, axis=1)[:, nearest - 1 : nearest] + 1e-9
        weights = np.clip(1 - (away / width) ** 3, 0, None) ** 3
        centred = outside - x[:, None]
        s0, s1, s2 = (np.sum(weights * centred**power, axis=1) for power in (0, 1, 2))
        t0, t1 = np.sum(weights * margins, axis=1), np.sum(weights * centred * margins, axis=1)
        return (s2 * t0 - s1 * t1) / (s0 * s2 - s1**2 + 1e-6)

    return level


FITS = {
    "none": none, "line": polynomial(1), "parabola": polynomial(2), "cubic": polynomial(3), "local": local,
    "isotonic": isotonic,
}  # fmt: skip


def world(n: int, bent: bool, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Difficulty, margin out of sample, margin of a model that never saw it, and what is remembered."""
    wrong = rng.random(n) < 0.2
    difficulty = np.where(wrong, rng.normal(-4, 2, n), rng.normal(4, 2, n))
    outside = 0.8 * difficulty + rng.normal(0, 1.5, n)
    margins = (6 * np.tanh(difficulty / 5) if bent else difficulty) + rng.normal(0, 1.2, n)
    return difficulty, outside, margins, np.where(wrong, 2.0, 0.35)


def auc(forget: np.ndarray, controls: np.ndarray) -> float:
    return float((np.searchsorted(np.sort(controls), forget) / len(controls)).mean())


def repetition(tuning: int, bent: bool, rng: np.random.Generator) -> dict[str, list[float]]:
    _, tuned, known, _ = world(tuning, bent, rng)
    _, outside, margins, _ = world(1000, bent, rng)
    requests = [world(100, bent, rng)[1:]]
    difficulty, *parts = world(500, bent, rng)
    hard = np.argsort(difficulty + rng.normal(0, 1.5, 500))[:100]
    requests.append(tuple(part[hard] for part in parts))
    found = {}
    for name, fit in FITS.items():
        level = fit(tuned, known)
        controls = margins - level(outside)
        found[name] = [
            auc(phi + share * remembered - level(o), controls) for o, phi, remembered in requests for share in (0, 1)
        ]
    return found


def main() -> None:
    rng = np.random.default_rng(0)
    for bent in (False, True):
        for tuning in (15, 30, 100, 1000):
            runs = [repetition(tuning, bent, rng) for _ in range(60)]
            print(f"{'bent' if bent else 'straight'}, {tuning} tuning controls")
            for name in FITS:
                values = np.array([run[name] for run in runs])
                print(
                    f"  {name:<9}",
                    "  ".join(f"{m:.3f} ± {s:.3f}" for m, s in zip(values.mean(0), values.std(0), strict=True)),
                )


if __name__ == "__main__":
    main()
