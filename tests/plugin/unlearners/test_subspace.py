import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.unlearners._subspace import alignment, apply_head, main_directions, masked_divergence


def test_the_main_directions_are_as_few_as_hold_the_energy() -> None:
    moment = torch.diag(torch.tensor([1.0, 60.0, 9.0, 30.0]))
    assert main_directions(moment, 0.6).shape == (4, 1)
    two = main_directions(moment, 0.61)
    torch.testing.assert_close(two.abs(), torch.tensor([[0, 0], [1, 0], [0, 0], [0, 1.0]]))
    assert main_directions(moment, 0.95).shape == (4, 3)
    assert main_directions(moment, 1.0).shape == (4, 4)


def test_the_main_directions_are_orthonormal_for_features_with_a_large_mean() -> None:
    features = torch.randn(200, 8, generator=torch.Generator().manual_seed(0)) + 100
    basis = main_directions(features.T @ features / 200, 1.0)
    torch.testing.assert_close(basis.T @ basis, torch.eye(basis.shape[1]), rtol=0, atol=1e-5)
    assert main_directions(features.T @ features / 200, 0.99).shape[1] == 1  # the mean is the first direction


def test_slightly_negative_eigenvalues_are_no_energy() -> None:
    assert main_directions(torch.diag(torch.tensor([2.0, -1e-3, 1.0])), 1.0).shape == (3, 2)


@pytest.mark.parametrize("moment", [torch.zeros(3, 3), torch.full((3, 3), math.nan)])
def test_features_without_energy_are_refused(moment: torch.Tensor) -> None:
    with pytest.raises(UnlearnError, match="all zero or not finite"):
        main_directions(moment, 0.95)


def test_alignment_is_the_share_of_energy_within_the_subspace() -> None:
    basis = torch.eye(3)[:, :2]
    assert float(alignment(torch.tensor([[3.0, 4.0, 0.0]]), basis)) == 1.0
    assert float(alignment(torch.tensor([[0.0, 0.0, 2.0]]), basis)) == 0.0
    assert float(alignment(torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 2.0]]), basis)) == pytest.approx(1 / 6)
    assert float(alignment(torch.zeros(2, 3), basis)) == 0.0


def test_raising_the_alignment_moves_features_into_the_subspace() -> None:
    features = torch.ones(4, 3, requires_grad=True)
    (slope,) = torch.autograd.grad(alignment(features, torch.eye(3)[:, :2]), features)
    assert bool((slope[:, 2] < 0).all())
    assert bool((slope[:, :2] > 0).all())


@pytest.mark.parametrize("head", [nn.Linear(5, 3), nn.Conv2d(5, 3, 1)])
def test_the_head_is_applied_to_rows(head: nn.Module) -> None:
    features = torch.randn(4, 5)
    torch.testing.assert_close(apply_head(head, features), F.linear(features, head.weight.flatten(1), head.bias))


def test_without_forgotten_classes_the_divergence_is_the_usual_one() -> None:
    student, teacher = torch.randn(6, 4), torch.randn(6, 4)
    wanted = F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="batchmean")
    torch.testing.assert_close(masked_divergence(student, teacher, ()), wanted)
    assert float(masked_divergence(teacher, teacher, ())) == pytest.approx(0, abs=1e-6)


def test_masked_classes_count_nothing_and_the_others_are_renormalised() -> None:
    teacher = torch.tensor([[0.7, 0.2, 0.1]]).log()
    student = torch.tensor([[0.1, 0.6, 0.3]]).log()
    wanted = 2 / 3 * math.log(2 / 3 / 0.6) + 1 / 3 * math.log(1 / 3 / 0.3)
    assert float(masked_divergence(student, teacher, (0,))) == pytest.approx(wanted, rel=1e-5)


def test_the_divergence_leads_the_student_to_give_masked_classes_nothing() -> None:
    student = torch.zeros(2, 3, requires_grad=True)
    (slope,) = torch.autograd.grad(masked_divergence(student, torch.zeros(2, 3), (0,)), student)
    assert bool((slope[:, 0] > 0).all())  # going down the slope lowers the masked score
    assert bool(slope.isfinite().all())


def test_all_classes_masked_is_not_a_teacher() -> None:
    assert not bool(masked_divergence(torch.zeros(1, 2), torch.zeros(1, 2), (0, 1)).isfinite())
