"""Looks into the model and the optimizer. The only file that registers hooks; every hook is removed again."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor, enable_grad, is_grad_enabled, nn
from torch.autograd.graph import get_gradient_edge
from torch.compiler import is_compiling
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from unlearn_hooks.compiled import shown
from unlearn_hooks.errors import UnlearnError

__all__ = [
    "HeadInput",
    "ModuleOutput",
    "find_head",
    "head_input",
    "innermost_model",
    "innermost_optimizer",
    "logits_of",
    "module_output",
    "watch_optimizer",
    "watch_training_entry",
    "watch_training_forward",
]

_MISSED = (
    "The classifier head was not seen at work, so features are not recorded: the model ran compiled before "
    "record(...), or it goes past that head. Call record(...) before the first step, or name it by Plan(head=...)."
)


def find_head(model: nn.Module, name: str | None = None) -> tuple[str, nn.Module]:
    """Find the classifier head, whose input is the feature of a sample.

    Without a name it is the last ``nn.Linear`` or 1x1 ``nn.Conv2d``, in the order of the modules, of what timm's
    ``get_classifier()`` returns, or else of the model.

    Args:
        model: A classifier, wrapped or not.
        name: Name of the head as in ``model.named_modules()``.

    Returns:
        Name and module of the head.

    Raises:
        UnlearnError: If there is no such module, none that could be the head, or timm declares several.
    """
    modules: dict[str, nn.Module] = dict(model.named_modules())
    candidates = [key for key, module in modules.items() if _could_be_head(module)]
    if name is not None:
        if name not in modules:
            raise UnlearnError(
                f"The model has no module {name!r} to take as classifier head; name one of its modules, such as "
                f"{', '.join(candidates[-5:]) or ', '.join(list(modules)[-5:])}."
            )
        return name, modules[name]
    heads = _declared_heads(model)
    if len(heads) > 1:
        raise UnlearnError(
            f"{type(model).__name__} has {len(heads)} classifier heads, and the feature is the input of one; build it "
            f"with a single head, or name the one to look at, one of {', '.join(candidates[-5:])}."
        )
    inside = {module for head in heads for module in head.modules()}  # some declare a block that ends in the head
    found = [key for key in candidates if not heads or modules[key] in inside]
    if not found:
        raise UnlearnError(
            f"No classifier head was found in {type(model).__name__}; name the module whose input is the feature, "
            f"one of {', '.join(candidates[-5:]) or ', '.join(list(modules)[-5:])}."
        )
    return found[-1], modules[found[-1]]


def _could_be_head(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1))


def _declared_heads(model: nn.Module) -> list[nn.Module]:
    """Ask the outermost module that knows; a wrapper such as DistributedDataParallel does not."""
    for module in model.modules():
        ask = getattr(module, "get_classifier", None)
        if callable(ask):
            heads = ask()
            return list(heads) if isinstance(heads, (tuple, list, nn.ModuleList)) else [heads]
    return []


def _as_features(head: nn.Module, tensor: Tensor) -> Float[Tensor, "n d"]:
    """Make one row per sample; a head that is applied at several positions sees their mean."""
    if isinstance(head, nn.Linear):
        return tensor.flatten(1, -2).mean(1) if tensor.ndim > 2 else tensor
    if isinstance(head, nn.Conv2d):
        return tensor.flatten(2).mean(2) if tensor.ndim > 2 else tensor
    return tensor.flatten(1)


class HeadInput:
    """The input of the head in the latest forward pass."""

    def __init__(self) -> None:
        self._features: Tensor | None = None

    @property
    def features(self) -> Float[Tensor, "n d"]:
        """The features, attached to the autograd graph.

        Raises:
            UnlearnError: If no forward pass reached the head yet.
        """
        if self._features is None:
            raise UnlearnError("The classifier head was not called yet; run the model, or name the head that it calls.")
        return self._features


@contextmanager
def head_input(model: nn.Module, head: str | nn.Module | None = None) -> Iterator[HeadInput]:
    """Watch the input of the classifier head in training and evaluation passes, with or without gradients.

    Args:
        model: A classifier.
        head: Its head, by name or as the module; ``None`` finds it.

    Yields:
        An object whose `features` are the (n, d) input of the head in the latest forward pass.
    """
    module = head if isinstance(head, nn.Module) else find_head(model, head)[1]
    seen = HeadInput()

    def look(caller: nn.Module, args: tuple[Any, ...]) -> None:
        if caller is module:  # a deep copy of the model carries this hook as well
            seen._features = _as_features(module, args[0])

    handle = module.register_forward_pre_hook(look)
    try:
        yield seen
    finally:
        handle.remove()
        seen._features = None


class ModuleOutput:
    """The output of a module in the latest forward pass."""

    def __init__(self) -> None:
        self._output: Tensor | None = None

    @property
    def output(self) -> Float[Tensor, "n ..."]:
        """The output, attached to the autograd graph.

        Raises:
            UnlearnError: If the module was not called yet, or did not return a tensor.
        """
        if self._output is None:
            raise UnlearnError("The module was not called, or returned no tensor; name another one.")
        return self._output


@contextmanager
def module_output(model: nn.Module, name: str) -> Iterator[ModuleOutput]:
    """Watch the output of one module.

    Args:
        model: What is run inside.
        name: Name of the module as in ``model.named_modules()``.

    Yields:
        An object whose `output` is what the module returned in the latest forward pass.
    """
    module = model.get_submodule(name)
    seen = ModuleOutput()

    def look(caller: nn.Module, args: tuple[Any, ...], output: Any) -> None:  # noqa: ANN401  # whatever it returns
        if caller is module:  # a deep copy of the model carries this hook as well
            seen._output = output if isinstance(output, Tensor) else None

    handle = module.register_forward_hook(look)
    try:
        yield seen
    finally:
        handle.remove()
        seen._output = None


def _is_training(module: nn.Module) -> bool:
    """Tell a training pass; under torch.compile both are constants of the graph that is being traced."""
    return module.training and is_grad_enabled()


def logits_of(output: Any) -> Tensor | None:  # noqa: ANN401  # whatever the user's model returns
    """Find the logits in what a model returned: a tensor, a tuple that starts with it, or something with names."""
    if isinstance(output, (tuple, list)) and output:
        output = output[0]
    for name in ("logits", "output"):
        found = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        output = found if isinstance(found, Tensor) else output
    return output if isinstance(output, Tensor) and output.ndim == 2 else None


class _Passes:
    """What the training passes of one model showed, compiled or not."""

    def __init__(
        self, head: nn.Module, saw: Callable[[Tensor | None, Tensor | None], Callable[[], None] | None]
    ) -> None:
        self._head = head
        self._saw = saw
        self._features: Tensor | None = None
        self._missed = False
        self._on_their_way: list[Callable[[], None]] = []
        self._listening: RemovableHandle | None = None
        trained = [parameter for parameter in head.parameters() if parameter.requires_grad]
        with enable_grad():
            # not a hook on the parameter itself: torch.compile would notice it and compile anew
            self._gradient = get_gradient_edge(trained[0]).node if trained else None

    def entered(self, tensor: Tensor) -> None:
        self._features = _as_features(self._head, tensor).detach().clone()

    def left(self, output: Tensor | None) -> Callable[[], None] | None:
        features, self._features = self._features, None
        if features is None and not self._missed:
            self._missed = True
            warnings.warn(_MISSED, RuntimeWarning, stacklevel=2)
        return self._saw(features, None if output is None else output.detach().clone())

    def compiled(self, what: str, tensor: Tensor | None) -> None:
        """Take what a compiled model shows; its outputs carry no hooks, so that the head tells of the gradient."""
        if what == "features" and tensor is not None:
            self.entered(tensor)
            return
        went_back = self.left(tensor)
        if went_back is not None:
            self._on_their_way.append(went_back)
        if self._gradient is not None and self._listening is None:
            self._listening = self._gradient.register_hook(lambda *_: self._came_back())

    def _came_back(self) -> None:
        arrived, self._on_their_way = self._on_their_way, []
        for went_back in arrived:
            went_back()

    def close(self) -> None:
        if self._listening is not None:
            self._listening.remove()
        self._gradient = None


@contextmanager
def watch_training_forward(
    model: nn.Module, head: nn.Module, saw: Callable[[Tensor | None, Tensor | None], Callable[[], None] | None]
) -> Iterator[None]:
    """Tell the features and logits of every training forward pass: training mode, gradients on.

    A model that is compiled from now on is seen as well. One that ran compiled before is not: torch.compile does not
    look for new hooks.

    Args:
        model: The model being trained; a deep copy of it, such as an averaged model, is not listened to.
        head: Its classifier head.
        saw: Called after the pass with copies of the head's input (n, d) and the model's output (n, C), each ``None``
            where there was none. What it returns is called when the gradient comes back through the output.

    Yields:
        Nothing.
    """
    passes = _Passes(head, saw)
    with ExitStack() as stack:
        stack.callback(passes.close)
        show = stack.enter_context(shown(passes.compiled))

        def enter(caller: nn.Module, args: tuple[Any, ...]) -> None:
            if caller is head and _is_training(head) and args:
                if not is_compiling():
                    passes.entered(args[0])
                else:
                    show("features", args[0])

        def leave(caller: nn.Module, args: tuple[Any, ...], output: Any) -> None:  # noqa: ANN401  # the user's
            if caller is model and _is_training(model):
                logits = logits_of(output)
                if is_compiling():
                    show("logits", logits)
                    return
                went_back = passes.left(logits)
                if went_back is not None and logits is not None and logits.requires_grad:
                    logits.register_hook(lambda gradient: went_back())  # type: ignore[no-untyped-call]

        for handle in (head.register_forward_pre_hook(enter), model.register_forward_hook(leave)):
            stack.callback(handle.remove)
        yield


@contextmanager
def watch_optimizer(
    optimizer: Optimizer, before: Callable[[Optimizer], None], after: Callable[[Optimizer], None]
) -> Iterator[None]:
    """Call `before` and `after` round every step of an optimizer.

    Gradients may be looked at only in `after`: before the step a closure has not run yet, and a fused optimizer
    still holds them multiplied by the loss scale.

    Args:
        optimizer: The optimizer; of a wrapper, the one inside that makes the step.
        before: Called with the weights that the gradient belongs to.
        after: Called with the new weights and the gradient that was applied.

    Yields:
        Nothing.
    """
    handles = [
        optimizer.register_step_pre_hook(lambda stepping, args, kwargs: before(stepping)),
        optimizer.register_step_post_hook(lambda stepping, args, kwargs: after(stepping)),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def watch_training_entry(
    entered: Callable[[nn.Module, tuple[Any, ...]], None], model: nn.Module | None = None
) -> Iterator[None]:
    """Tell when a training forward pass begins.

    Args:
        entered: Called with the module and its arguments: the positional ones, and then, as one mapping, those given by
            name, if there are any. A compiled module does not tell its arguments.
        model: The module to watch; ``None`` watches every module of this process that is not compiled, outer ones
            first, and torch does not tell what is given by name.

    Yields:
        Nothing.
    """
    with ExitStack() as stack:
        show = stack.enter_context(shown(lambda what, tensor: entered(model, ()) if model is not None else None))

        def enter(caller: nn.Module, args: tuple[Any, ...], named: Mapping[str, Any] | None = None) -> None:
            if model not in (None, caller) or not _is_training(caller):
                return
            if not is_compiling():
                entered(caller, (*args, named) if named else args)
            elif model is not None:
                show("entry", None)

        if model is None:
            handle = register_module_forward_pre_hook(enter)
        else:
            handle = model.register_forward_pre_hook(enter, with_kwargs=True)
        stack.callback(handle.remove)
        yield


def innermost_model(model: nn.Module) -> nn.Module:
    """Return the model inside DistributedDataParallel, DataParallel and torch.compile: its names are the saved ones."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def innermost_optimizer(optimizer: Optimizer) -> Optimizer:
    """Return the optimizer that makes the step inside a wrapper, such as timm's Lookahead or Accelerate's."""
    for name in ("_base_optimizer", "base_optimizer", "optimizer"):
        inner = getattr(optimizer, name, None)
        if isinstance(inner, Optimizer):
            return innermost_optimizer(inner)
    return optimizer
