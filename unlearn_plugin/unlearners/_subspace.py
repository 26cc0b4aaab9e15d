"""Dimensional alignment: the main directions of retained features, and how much of other features lies in them."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unlearn_hooks.errors import UnlearnError

__all__ = ["Subspace", "alignment", "apply_head", "main_directions", "masked_divergence"]


def main_directions(
    second_moment: Float[Tensor, "d d"], energy: float, count: int | None = None
) -> Float[Tensor, "d k"]:
    """Eigenvectors of the largest eigenvalues: as many as together hold a share of the energy, or as many as asked for.

    Args:
        second_moment: E[z z^T] or the covariance; symmetric. Eigenvalues below zero, which rounding leaves, count as
            zero.
        energy: Share of the sum of the eigenvalues, in (0, 1].
        count: How many directions, whatever they hold; at most d. ``None``: by `energy`.

    Returns:
        U_k, orthonormal columns; by energy, k is the smallest number that reaches the share, at least 1.

    Raises:
        UnlearnError: If there is no energy at all: all features are zero or not finite.
    """
    matrix = second_moment.double()
    if not bool(matrix.isfinite().all()) or float(matrix.diagonal().sum()) <= 0:
        raise UnlearnError("The features of retained data are all zero or not finite; check the model and the data.")
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    reached = values.cumsum(0) >= energy * values.sum() * (1 - 1e-12)
    k = int(reached.int().argmax()) + 1 if count is None else count
    directions: Tensor = vectors[:, :k].to(second_moment.dtype)
    return directions


def alignment(features: Float[Tensor, "n d"], basis: Float[Tensor, "d k"]) -> Float[Tensor, ""]:
    """Share of the features' energy that lies in a subspace: sum ||U^T z||^2 / sum ||z||^2.

    Args:
        features: z of each sample.
        basis: U, orthonormal columns.

    Returns:
        DA, between 0 and 1.
    """
    return (features @ basis).square().sum() / features.square().sum().clamp_min(torch.finfo(features.dtype).tiny)


@dataclass(frozen=True)
class Subspace:
    """Where features of a kind lie: a centre, and the main directions from there.

    Attributes:
        centre: Zero for uncentred moments, else the mean.
        basis: U, orthonormal columns.
    """

    centre: Float[Tensor, " d"]
    basis: Float[Tensor, "d k"]

    @classmethod
    def of(
        cls,
        mean: Float[Tensor, " d"],
        second_moment: Float[Tensor, "d d"],
        *,
        centred: bool,
        energy: float,
        count: int | None = None,
    ) -> "Subspace":
        """From moments.

        Args:
            mean: E[z].
            second_moment: E[z z^T], uncentred.
            centred: Take the directions of the covariance, E[z z^T] - E[z] E[z]^T, from the mean.
            energy: Share that the directions hold.
            count: How many directions; ``None``: by `energy`.

        Returns:
            The subspace.

        Raises:
            UnlearnError: If there is no energy at all.
        """
        centre = mean if centred else torch.zeros_like(mean)
        return cls(centre, main_directions(second_moment - torch.outer(centre, centre), energy, count))

    def to(self, device: torch.device) -> "Subspace":
        """The same on a device."""
        return Subspace(self.centre.to(device), self.basis.to(device))

    def alignment(self, features: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
        """Share of the features' energy about the centre that lies in the directions."""
        return alignment(features - self.centre, self.basis)

    def project(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """The nearest points in the subspace: c + U U^T (z - c)."""
        return self.centre + (features - self.centre) @ self.basis @ self.basis.T


def apply_head(head: nn.Module, features: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
    """Run the classifier head on given features.

    Args:
        head: A linear layer or a 1 x 1 convolution.
        features: Its input, one row per sample.

    Returns:
        Logits.
    """
    if isinstance(head, nn.Conv2d):
        features = features[:, :, None, None]
    logits: Tensor = head(features)
    return logits.flatten(1)


def masked_divergence(
    student: Float[Tensor, "n c"], teacher: Float[Tensor, "n c"], forgotten_classes: tuple[int, ...]
) -> Float[Tensor, ""]:
    """KL(teacher without the forgotten classes || student), batch mean, in nats.

    The teacher's probabilities of forgotten classes are set to zero and the others renormalised; the student's stay as
    they are, so it is led to give the forgotten classes nothing.

    Args:
        student: Logits.
        teacher: Logits.
        forgotten_classes: May be empty.

    Returns:
        The divergence.
    """
    if forgotten_classes:
        teacher = teacher.index_fill(1, torch.tensor(forgotten_classes, device=teacher.device), float("-inf"))
    target = teacher.softmax(1)
    pointwise = torch.special.entr(target) + target * student.log_softmax(1)  # -p log p + p log q, 0 where p = 0
    divergence: Tensor = -pointwise.sum(1).mean()
    return divergence
