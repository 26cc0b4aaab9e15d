"""First and second derivatives of a classifier's cross-entropy at given weights, on a scratch copy of the model."""

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from unlearn_plugin.data import Batch, Samples
from unlearn_plugin.unlearners._recursion import Product, Tensors

__all__ = ["Derivatives"]


class Derivatives:
    """Derivatives at weights other than the model's own.

    Args:
        model: Copied; the copy is what is run.
        names: Parameters to take derivatives by.
        accelerator: Device and precision.
        by_batch: BatchNorm normalises by the batch, as in training, else by its running statistics. All other layers
            run in evaluation mode: dropout would only add noise.
    """

    def __init__(self, model: nn.Module, names: tuple[str, ...], accelerator: Accelerator, *, by_batch: bool) -> None:
        self._model = copy.deepcopy(model).to(accelerator.device).eval().requires_grad_(False)
        for layer in self._model.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.train(by_batch)
        parameters = dict(self._model.named_parameters())
        self._parameters = {name: parameters[name].requires_grad_() for name in names}
        self._accelerator = accelerator

    def place(self, weights: Mapping[str, Tensor]) -> None:
        """Take derivatives at `weights` from now on.

        Args:
            weights: Parameters and buffers by name; what is missing stays as it is.
        """
        self._model.load_state_dict(dict(weights), strict=False)

    def gradient(self, samples: Samples, batch_size: int) -> Tensors:
        """Mean gradient of the cross-entropy over `samples`.

        Args:
            samples: At least one.
            batch_size: Samples per pass; the result does not depend on it unless BatchNorm normalises by the batch.

        Returns:
            Gradient by parameter name.
        """
        total = {name: torch.zeros_like(parameter) for name, parameter in self._parameters.items()}
        for batch in samples.loader(batch_size):
            loss = self._losses(batch).sum() / len(samples)
            for name, part in self._pull_back(loss).items():
                total[name] += part
        return total

    def contrast(self, forget: Samples, retain: Samples) -> Tensors:
        """Mean gradient on `retain` minus mean gradient on `forget`, both from one pass over the two together.

        Args:
            forget: At least one.
            retain: At least one.

        Returns:
            Difference by parameter name.
        """
        losses = self._losses(self._together(forget, retain))
        return self._pull_back(losses[len(forget) :].mean() - losses[: len(forget)].mean())

    def impulse(self, forget: Samples, retain: Samples) -> Tensors:
        """Mean gradient of a batch without its forget samples, minus that of the whole batch.

        Both are computed here rather than taken from the record: their difference is k / (b - k) times smaller than
        either, and recorded gradients are rounded and may be those of augmented images.

        Args:
            forget: The k forget samples of the batch; at least one.
            retain: The other b - k; without any, the step has no gradient at all.

        Returns:
            Difference by parameter name.
        """
        whole = self._pull_back(self._losses(self._together(forget, retain)).mean())
        if not len(retain):
            return {name: -value for name, value in whole.items()}
        rest = self._pull_back(self._losses(next(iter(retain.loader(len(retain))))).mean())
        return {name: rest[name] - value for name, value in whole.items()}

    @staticmethod
    def _together(forget: Samples, retain: Samples) -> Batch:
        parts = [next(iter(samples.loader(len(samples)))) for samples in (forget, retain) if len(samples)]
        images, labels, rows = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return images, labels, rows

    def _losses(self, batch: Batch) -> Float[Tensor, " n"]:
        logits, labels = self._forward(batch)
        return F.cross_entropy(logits, labels, reduction="none")

    def _pull_back(self, output: Tensor, seed: Tensor | None = None, *, keep: bool = False) -> Tensors:
        """Vector-Jacobian product of `output` with `seed` by the parameters."""
        found = torch.autograd.grad(
            output, list(self._parameters.values()), seed, create_graph=keep, retain_graph=True, allow_unused=True,
            materialize_grads=True,
        )  # fmt: skip
        return dict(zip(self._parameters, found, strict=True))

    def hessian(self, samples: Samples) -> Product:
        """Hessian of the mean cross-entropy over `samples`, as a product.

        Args:
            samples: Taken in one pass; a mini-batch.

        Returns:
            v -> H v by double backpropagation; each call costs about two backward passes.
        """
        with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
            logits, labels = self._forward(next(iter(samples.loader(len(samples)))))
            gradient = self._pull_back(F.cross_entropy(logits, labels), keep=True)

        def product(vector: Tensors) -> Tensors:
            slope = sum((gradient[name] * vector[name]).sum() for name in gradient)
            return self._pull_back(torch.as_tensor(slope))

        return product

    def gauss_newton(self, samples: Samples) -> Product:
        """Gauss-Newton matrix of the mean cross-entropy over `samples`, as a product: positive semi-definite.

        G = mean J^T (diag(p) - p p^T) J with J the Jacobian of the logits and p the softmax.

        Args:
            samples: Taken in one pass; a mini-batch.

        Returns:
            v -> G v; J v comes from differentiating u -> J^T u, so each call costs about two backward passes.
        """
        with sdpa_kernel(SDPBackend.MATH):
            logits, _ = self._forward(next(iter(samples.loader(len(samples)))))
            probe = torch.zeros_like(logits, requires_grad=True)
            pulled = self._pull_back(logits, probe, keep=True)
        p = logits.detach().softmax(1)

        def product(vector: Tensors) -> Tensors:
            seeds = [vector[name] for name in pulled]
            (moved,) = torch.autograd.grad(list(pulled.values()), probe, seeds, retain_graph=True)
            return self._pull_back(logits, p * (moved - (p * moved).sum(1, keepdim=True)) / len(p))

        return product

    def _forward(self, batch: Batch) -> tuple[Float[Tensor, "n classes"], Int64[Tensor, " n"]]:
        images, labels, _ = batch
        device = self._accelerator.device
        logits = self._model(images.to(device, next(iter(self._parameters.values())).dtype))
        return logits.to(torch.promote_types(logits.dtype, torch.float32)), labels.to(device)
