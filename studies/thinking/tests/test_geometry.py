"""Effective rank and mean cosine, where both are known."""

from __future__ import annotations

import pytest
import torch

from studies.thinking.probing.geometry import effective_rank, mean_cosine


def test_an_orthonormal_set_has_the_rank_of_its_size_and_a_line_has_one():
    basis, _ = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0)))
    assert effective_rank(basis[:5]) == pytest.approx(5, abs=1e-4)
    assert effective_rank(basis[:5].repeat(3, 1) * 7) == pytest.approx(5, abs=1e-4)
    assert effective_rank(torch.outer(torch.arange(1.0, 9.0), basis[0])) == pytest.approx(1, abs=1e-4)


def test_unequal_directions_count_for_less():
    # Singular values 3 and 1: shares .75 and .25, whose entropy is 0.5623 nats.
    assert effective_rank(torch.diag(torch.tensor([3.0, 1.0]))) == pytest.approx(1.7548, abs=1e-4)


def test_the_mean_cosine_is_over_pairs_of_different_vectors():
    opposite, same = torch.tensor([[1.0, 0], [-2, 0]]), torch.tensor([[1.0, 1], [3, 3]])
    assert torch.allclose(mean_cosine(torch.stack([opposite, same])), torch.tensor([-1.0, 1.0]))
    square = torch.tensor([[[1.0, 0], [0, 1], [-1, 0], [0, -1]]])
    assert mean_cosine(square).item() == pytest.approx(-1 / 3)
