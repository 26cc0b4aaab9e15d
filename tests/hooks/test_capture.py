import copy

import pytest
import timm
import timm.optim
import torch
import torchvision
from torch import Tensor, nn

from unlearn_hooks.capture import (
    find_head,
    head_input,
    innermost_model,
    innermost_optimizer,
    module_output,
    watch_optimizer,
    watch_training_entry,
    watch_training_forward,
)
from unlearn_hooks.errors import UnlearnError


def small() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3))


class Told(list[tuple[Tensor | None, Tensor | None]]):
    def __call__(self, features: Tensor | None, logits: Tensor | None) -> None:
        self.append((features, logits))


def hooks_of(model: nn.Module) -> int:
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("test_resnet", "fc"),
        ("test_vit", "head"),
        ("test_convnext", "head.fc"),
        ("iformer_t", "head.head.l"),  # declares a block
        ("dla34", "fc"),  # a 1x1 convolution
    ],
)
def test_timm_models_name_their_head(name: str, head: str) -> None:
    model = timm.create_model(name, num_classes=7)
    found, module = find_head(model)
    assert found == head
    assert module is model.get_submodule(head)


def test_other_models_have_their_last_linear_layer_or_1x1_convolution_as_head() -> None:
    assert find_head(small())[0] == "3"
    convolutional = nn.Sequential(nn.Linear(3, 3), nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1), nn.AdaptiveAvgPool2d(1))
    assert find_head(convolutional)[0] == "2"


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("alexnet", "classifier.6"),
        ("convnext_tiny", "classifier.2"),
        ("densenet121", "classifier"),
        ("efficientnet_b0", "classifier.1"),
        ("maxvit_t", "classifier.5"),
        ("mobilenet_v2", "classifier.1"),
        ("squeezenet1_0", "classifier.1"),
        ("swin_t", "head"),
        ("vgg11", "classifier.6"),
        ("vit_b_16", "heads.head"),
    ],
)
def test_the_last_layer_of_torchvisions_classifiers_is_found(name: str, head: str) -> None:
    with torch.device("meta"):
        found, module = find_head(getattr(torchvision.models, name)(num_classes=7))
    assert found == head
    assert len(module.weight) == 7


def test_the_head_of_a_wrapped_model_is_still_the_declared_one() -> None:
    model = timm.create_model("test_resnet", num_classes=3)
    model.register_module("later", nn.Linear(3, 3))
    assert find_head(nn.Sequential(model))[0] == "0.fc"


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "levit_128s", "efficientvim_m1"])
def test_of_several_declared_heads_none_is_taken_unless_it_is_named(name: str) -> None:
    model = timm.create_model(name, num_classes=3)
    with pytest.raises(UnlearnError, match=r"has \d classifier heads"):
        find_head(model)
    last = [key for key, module in model.named_modules() if isinstance(module, nn.Linear)][-1]
    assert find_head(model, last)[0] == last


def test_a_named_head_is_taken_and_an_unknown_one_is_answered_with_the_candidates() -> None:
    model = small()
    assert find_head(model, "1") == ("1", model[1])
    with pytest.raises(UnlearnError, match=r"no module 'fc' .* such as 1, 3"):
        find_head(model, "fc")


def test_a_model_without_a_head_is_an_error() -> None:
    with pytest.raises(UnlearnError, match="No classifier head"):
        find_head(nn.Sequential(nn.Conv2d(3, 8, 3)))
    with pytest.raises(UnlearnError, match="No classifier head was found in ResNet"):
        find_head(timm.create_model("test_resnet", num_classes=0))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_the_head_input_times_the_head_gives_the_logits(name: str) -> None:
    model = timm.create_model(name, num_classes=4).eval()
    with head_input(model) as seen:
        logits = model(torch.randn(2, 3, 160, 160))
    head = model.get_classifier()
    with head_input(model, "fc" if name == "test_resnet" else None) as seen:
        logits = model(torch.randn(2, 3, 160, 160))
        assert torch.allclose(seen.features @ head.weight.T + head.bias, logits, atol=1e-5)


def test_the_head_input_is_that_of_the_latest_pass_and_carries_gradients() -> None:
    model = small()
    with head_input(model) as seen:
        model(torch.randn(2, 12))
        model(torch.ones(6, 12))
        assert seen.features.shape == (6, 5)
        seen.features.sum().backward()
    assert model[1].weight.grad is not None
    assert hooks_of(model) == 0


def test_a_head_at_several_positions_sees_the_mean_over_them() -> None:
    tokens, maps = torch.randn(2, 7, 5), torch.randn(2, 5, 3, 4)
    linear, convolution = nn.Sequential(nn.Linear(5, 3)), nn.Sequential(nn.Conv2d(5, 3, 1))
    with head_input(linear) as seen:
        linear(tokens)
        assert torch.allclose(seen.features, tokens.mean(1))
    with head_input(convolution) as seen:
        convolution(maps)
        assert torch.allclose(seen.features, maps.mean((2, 3)), atol=1e-6)


def test_looking_before_any_pass_is_an_error_and_the_hook_goes_even_after_an_exception() -> None:
    model = small()

    def look() -> Tensor:
        with head_input(model) as seen:
            assert hooks_of(model) == 1
            return seen.features

    with pytest.raises(UnlearnError, match="was not called yet"):
        look()
    assert hooks_of(model) == 0


def test_a_copy_of_the_model_is_not_listened_to() -> None:
    model = small()
    with head_input(model) as seen:
        model(torch.zeros(1, 12))
        copy.deepcopy(model)(torch.ones(4, 12))
        assert seen.features.shape == (1, 5)


def test_only_training_passes_of_the_model_itself_are_told() -> None:
    model = small()
    told = Told()
    images = torch.randn(4, 12)
    with watch_training_forward(model, model[3], told):
        average = copy.deepcopy(model)
        average(images)
        with torch.no_grad():
            model(images)
        model.eval()(images)
        assert told == []
        logits = model.train()(images)
    model(images)
    assert len(told) == 1
    features, seen_logits = told[0]
    assert features is not None
    assert seen_logits is not None
    assert torch.equal(features, model[2](model[1](images)))
    assert torch.equal(seen_logits, logits)
    assert not features.requires_grad
    assert not seen_logits.requires_grad
    assert hooks_of(model) == 0


def test_what_was_told_survives_a_later_change_in_place() -> None:
    model = small()
    told = Told()
    with watch_training_forward(model, model[3], told):
        logits = model(torch.randn(4, 12))
    before = logits.detach().clone()
    logits.detach().zero_()
    assert told[0][1] is not None
    assert torch.equal(told[0][1], before)


class Named(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.kind = kind

    def forward(self, images: Tensor) -> object:
        logits = self.fc(images)
        shapes = {"tuple": (logits, logits), "dict": {"loss": logits.sum(), "output": logits}, "other": "nothing"}
        return shapes[self.kind]


@pytest.mark.parametrize(("kind", "found"), [("tuple", True), ("dict", True), ("other", False)])
def test_logits_are_found_in_what_models_return(kind: str, found: bool) -> None:
    model = Named(kind)
    told = Told()
    with watch_training_forward(model, model.fc, told):
        model(torch.randn(4, 3))
    assert (told[0][1] is not None) == found


def test_hooks_go_when_the_model_raises() -> None:
    model = small()
    with pytest.raises(RuntimeError), watch_training_forward(model, model[3], lambda *seen: None):
        model(torch.randn(4, 99))
    assert hooks_of(model) == 0


def test_before_a_step_the_weights_are_old_and_after_it_they_are_new_and_the_gradient_is_the_applied_one() -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    seen: list[Tensor] = []

    def closure() -> float:
        optimizer.zero_grad()
        loss = model(torch.ones(1, 2)).sum()
        loss.backward()
        return float(loss.detach())

    def before(_: object) -> None:
        seen.append(model.weight.detach().clone())

    def after(_: object) -> None:
        assert model.weight.grad is not None
        seen.extend([model.weight.detach().clone(), model.weight.grad.clone()])

    with watch_optimizer(optimizer, before, after):
        optimizer.step(closure)  # type: ignore[arg-type]
    old, new, gradient = seen
    assert torch.equal(gradient, torch.ones(1, 2))
    assert torch.allclose(new, old - 0.5 * gradient)
    optimizer.step()
    assert len(seen) == 3


def test_entries_into_training_are_heard_from_every_module_or_from_one_until_the_end() -> None:
    model, other = small(), small().eval()
    everything: list[nn.Module] = []
    only: list[tuple[nn.Module, tuple[Tensor, ...]]] = []
    images = torch.ones(1, 12)
    with (
        watch_training_entry(lambda module, args: everything.append(module)),
        watch_training_entry(lambda module, args: only.append((module, args)), model),
    ):
        model(images)
        other(images)
        copy.deepcopy(model)
    model(images)
    assert everything == [model, *model]
    assert only == [(model, (images,))]


def test_what_enters_by_name_is_told_as_the_last_argument() -> None:
    class Named(nn.Module):
        def forward(self, images: Tensor, *, labels: Tensor) -> Tensor:
            return images

    model, told = Named(), []
    images, labels = torch.ones(1), torch.zeros(1)
    with watch_training_entry(lambda module, arguments: told.append(arguments), model):
        model(images, labels=labels)
        model(images=images, labels=labels)
    assert told == [(images, {"labels": labels}), ({"images": images, "labels": labels},)]


def test_the_gradient_coming_back_through_the_output_is_told_once() -> None:
    model = small()
    told: list[str] = []
    with watch_training_forward(model, model[3], lambda *seen: lambda: told.append("back")):
        logits = model(torch.randn(4, 12))
    assert told == []
    logits.sum().backward()
    assert told == ["back"]


def test_a_compiled_model_computes_the_same_with_the_hooks_on_and_compiles_once() -> None:
    model = small()
    graphs: list[object] = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> object:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=backend, fullgraph=True)
    with watch_training_forward(model, model[3], lambda *seen: None):
        for _ in range(3):
            images = torch.randn(4, 12)
            assert torch.equal(compiled(images), model(images))
    assert len(graphs) == 1


def test_wrappers_are_looked_through() -> None:
    model = small()
    assert innermost_model(nn.DataParallel(model)) is model
    assert innermost_model(torch.compile(model)) is model
    assert innermost_model(model) is model
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    assert innermost_optimizer(base) is base
    assert innermost_optimizer(timm.optim.Lookahead(base)) is base


def test_the_output_of_a_module_is_seen_inside_and_forgotten_outside() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    inputs = torch.randn(5, 3)
    with module_output(model, "1") as seen:
        logits = model(inputs)
        assert torch.equal(model[2](seen.output), logits)
        assert seen.output.requires_grad
    assert not model[1]._forward_hooks
    with pytest.raises(UnlearnError, match="not called"):
        _ = seen.output


def test_a_module_that_returns_no_tensor_is_told() -> None:
    class Pair(nn.Module):
        def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return inputs, inputs

    model = nn.Sequential(Pair())
    with module_output(model, "0") as seen:
        model(torch.ones(1))
        with pytest.raises(UnlearnError, match="returned no tensor"):
            _ = seen.output
