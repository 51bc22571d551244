"""Ridge regression to one-hot labels, with its leave-one-out estimate in closed form.

Rifkin and Lippert 2007, "Notes on Regularized Least Squares" (MIT-CSAIL-TR-2007-025): one
eigendecomposition of the n×n kernel gives the fit and the leave-one-out predictions for
every strength. It is cheap enough to be taken for each candidate of a search.

The regression starts from the verbalizer: it fits what γ times the calibrated label scores
leave unexplained. A single γ >= 0, in closed form too, decides how far to trust the label
words, so that few examples need not learn anew what the words mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from blackbox_delta.heads.features import Design
from blackbox_delta.heads.learned import LearnedHead
from blackbox_delta.heads.linear import FittedLinear
from blackbox_delta.heads.probabilities import log_softmax
from blackbox_delta.heads.weighing import fit_sharpness
from blackbox_delta.types import Evidence, IntArray, Vector

# Relative to the kernel's mean eigenvalue, so that they mean the same for any number of
# features. With few examples a wider grid only gives the selection more noise to follow.
_STRENGTHS = np.logspace(-1.0, 0.5, 7)
_SMALLEST_EIGENVALUE = 1e-6  # nats², below which float32 log-probabilities are rounding


@dataclass(frozen=True)
class Spectrum:
    """The eigendecomposition K = X Xᵀ = Q Λ Qᵀ of a centred design.

    Attributes:
        design: (n, p) X with columns of mean 0, so that the unpenalised intercept is the
            mean of the targets.
        eigenvalues: (n,) Λ, never negative.
        vectors: (n, n) Q.
    """

    design: Vector
    eigenvalues: Vector
    vectors: Vector

    @classmethod
    def of(cls, design: Vector) -> Spectrum:
        """Decomposes the kernel of a centred (n, p) design."""
        eigenvalues, vectors = np.linalg.eigh(design @ design.T)
        return cls(design, np.maximum(eigenvalues, 0.0), vectors)

    @property
    def unit(self) -> float:
        """The mean eigenvalue, which strengths are relative to."""
        return max(float(self.eigenvalues.mean()), _SMALLEST_EIGENVALUE)

    def weights(self, targets: Vector, alpha: float) -> Vector:
        """Xᵀ (K + αI)^-1 (Y - mean Y), of shape (p, q) for targets Y (n, q)."""
        centred = self.vectors.T @ (targets - targets.mean(axis=0))
        dual = self.vectors @ (centred / (self.eigenvalues + alpha)[:, None])
        result: Vector = self.design.T @ dual
        return result

    def held_out_residuals(self, targets: Vector, alphas: Vector) -> Vector:
        """y_i less its prediction from the n - 1 others: (G, n, q) for G strengths.

        Exact, intercept included: as the columns of X have mean 0, the hat matrix is
        H = 11ᵀ/n + K (K + αI)^-1, and leaving i out turns the residual y_i - f_i into
        (y_i - f_i) / (1 - H_ii).
        """
        kept = alphas / (self.eigenvalues[:, None] + alphas)  # (n, G) spectrum of α(K + αI)^-1
        centred = self.vectors.T @ (targets - targets.mean(axis=0))
        residuals = np.matmul(self.vectors, kept.T[:, :, None] * centred)  # y - f
        slack = self.vectors**2 @ kept - 1.0 / len(targets)  # (n, G) 1 - H_ii
        result: Vector = residuals / slack.T[:, :, None]
        return result


@dataclass(frozen=True)
class Selection:
    """What the leave-one-out estimate decided.

    Attributes:
        design: The training features.
        spectrum: Their decomposition.
        targets: (n, c) one-hot labels.
        alpha: The strength of the penalty.
        trust: γ, the factor on the label words' own scores.
        held_out: (n, c) leave-one-out predictions under both, before any sharpening.
    """

    design: Design
    spectrum: Spectrum
    targets: Vector
    alpha: float
    trust: float
    held_out: Vector

    @classmethod
    def of(cls, evidence: Evidence, labels: IntArray) -> Selection:
        """Takes α from a grid and γ in closed form by the leave-one-out squared error."""
        design = Design.of(evidence)
        spectrum = Spectrum.of(design.matrix)
        choices = design.features.choices
        targets = np.eye(choices)[labels]
        alphas = _STRENGTHS * spectrum.unit
        # The residuals are linear in the targets: those of Y - γS are R_Y - γ R_S.
        both = spectrum.held_out_residuals(np.hstack([targets, design.label_scores]), alphas)
        of_labels, of_scores = both[:, :, :choices], both[:, :, choices:]
        energy = np.maximum((of_scores**2).sum(axis=(1, 2)), np.finfo(float).tiny)
        trust = np.maximum((of_labels * of_scores).sum(axis=(1, 2)) / energy, 0.0)  # (G,)
        residuals = of_labels - trust[:, None, None] * of_scores
        best = int(np.argmin((residuals**2).sum(axis=(1, 2))))
        held_out = targets - residuals[best]
        return cls(design, spectrum, targets, float(alphas[best]), float(trust[best]), held_out)

    def parameters(self) -> tuple[Vector, Vector]:
        """Weights (p, c) and bias (c,) on the design, from all n examples."""
        rest = self.targets - self.trust * self.design.label_scores
        weights = self.spectrum.weights(rest, self.alpha)
        c = self.design.features.choices
        weights[:c] += np.diag(self.trust / self.design.weight[:c])  # γS
        return weights, rest.mean(axis=0)


@dataclass(frozen=True)
class RidgeHead(LearnedHead):
    """Ridge regression on the label words' and top tokens' log-probabilities.

    Strength and trust in the label words are chosen by the leave-one-out squared error, the
    softmax's temperature by the leave-one-out likelihood: three numbers that have seen all
    labels, in ``held_out`` too. One eigendecomposition serves all of it.
    """

    kind: str = "ridge"

    def _fit(
        self, evidence: Evidence, labels: IntArray, reference: Evidence | None
    ) -> FittedLinear:
        del reference
        selection = Selection.of(evidence, labels)
        weights, bias = selection.parameters()
        sharpness = fit_sharpness(selection.held_out, labels)
        return FittedLinear.of(self.kind, selection.design, sharpness * weights, sharpness * bias)

    def _held_out(self, evidence: Evidence, labels: IntArray, reference: Evidence | None) -> Vector:
        del reference
        scores = Selection.of(evidence, labels).held_out
        return log_softmax(fit_sharpness(scores, labels) * scores)
