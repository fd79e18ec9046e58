"""MiniLM's relations and TinyBERT's attention scores: hand numbers, a naive twin, and what they do not depend on."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from raydistill.errors import ShapeError
from raydistill.objectives.padding import padded_texts
from raydistill.objectives.relations import attention_score_mse, attention_share_mse, relation_divergence
from raydistill.objectives.weighted import Weighted

OWNER = torch.tensor([1, 0, 1, 2, 1, 0])
"""Text 0 has two tokens, text 1 three, text 2 one."""


def drawn(width: int, seed: int, tokens: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, width, generator=generator), torch.randn(tokens, width, generator=generator)


def naive(
    student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], heads: int, text: int
) -> tuple[float, float, float]:
    """All objectives of a text as the formulas are written."""
    tokens = (text == OWNER).nonzero().flatten().tolist()
    divergence = square = shares = 0.0
    for h in range(heads):
        for i in tokens:
            rows = []
            for a, b in (teacher, student):
                width = a.shape[1] // heads
                part = slice(h * width, (h + 1) * width)
                rows.append(torch.stack([a[i, part] @ b[j, part] / math.sqrt(width) for j in tokens]))
            p, q = rows[0].softmax(0), rows[1].softmax(0)
            divergence += float((p * (p / q).log()).sum())
            square += float((rows[0] - rows[1]).square().sum())
            shares += float((p - q).square().sum())
    count = len(tokens)
    return divergence / (heads * count), square / (heads * count**2), shares / (heads * count**2)


@pytest.mark.parametrize(("widths", "heads"), [((8, 8), 2), ((4, 12), 2), ((12, 24), 4)])
def test_relations_are_those_of_the_formulas(widths: tuple[int, int], heads: int) -> None:
    """Heads mixed up, one model's scale on the other's products, or a token that looks at another text."""
    student, teacher = drawn(widths[0], 0), drawn(widths[1], 1)
    found = [
        f(student, teacher, OWNER, 3, heads=heads)
        for f in (relation_divergence, attention_score_mse, attention_share_mse)
    ]
    expected = [naive(student, teacher, heads, text) for text in range(3)]
    for objective, result in enumerate(found):
        assert result.values.tolist() == pytest.approx([one[objective] for one in expected], rel=1e-5, abs=1e-7)
        assert result.weights.tolist() == [1.0, 1.0, 1.0]


def test_relation_divergence_by_hand() -> None:
    """Two tokens, one head, one unit: the teacher looks at the second token with 3/4, the student at both alike."""
    third = math.log(3.0)
    teacher = torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [third]])  # rows: (1/4, 3/4) and (1/2, 1/2)
    student = torch.zeros(2, 1), torch.zeros(2, 1)
    result = relation_divergence(student, teacher, torch.tensor([0, 0]), 1, heads=1)
    assert result.values.item() == pytest.approx((0.25 * math.log(0.5) + 0.75 * math.log(1.5)) / 2)
    assert attention_score_mse(student, teacher, torch.tensor([0, 0]), 1, heads=1).values.item() == pytest.approx(
        third**2 / 4
    )
    # (1/4)^2 twice in the first row, nothing in the second, over four pairs.
    shares = attention_share_mse(student, teacher, torch.tensor([0, 0]), 1, heads=1)
    assert shares.values.item() == pytest.approx(1 / 32)


def test_value_relation_is_blind_to_a_rotation_of_each_head() -> None:
    """Units of the student compared with units of the teacher, though only what tokens make of each other counts."""
    values, theirs = drawn(8, 0)[1].double(), drawn(8, 1)[1].double()
    rotations = [
        torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(seed)).double())[0] for seed in (3, 4)
    ]
    turned = torch.cat([part @ rotation for part, rotation in zip(values.split(4, 1), rotations, strict=True)], 1)
    plain = relation_divergence((values, values), (theirs, theirs), OWNER, 3, heads=2)
    rotated = relation_divergence((turned, turned), (theirs, theirs), OWNER, 3, heads=2)
    torch.testing.assert_close(rotated.values, plain.values, atol=2e-8, rtol=0)
    assert plain.values[0] > 0.01


@pytest.mark.parametrize("objective", [relation_divergence, attention_score_mse, attention_share_mse])
def test_padding_of_a_short_text_beside_a_long_one_changes_nothing_and_learns_nothing(
    objective: Callable[..., Weighted], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Places where no token stands that are attended to, or look, or are averaged over: 47 of 50 are such."""
    generator = torch.Generator().manual_seed(0)
    owner = torch.tensor([0] * 50 + [1] * 3)[torch.randperm(53, generator=generator)]
    own, theirs = ([one.double() for one in drawn(8, seed, 53)] for seed in (0, 1))
    plain, padding = objective(own, theirs, owner, 2, heads=2).values, list[Tensor]()
    alone = objective(*([one[owner == 1] for one in pair] for pair in (own, theirs)), owner[:3] * 0, 1, heads=2).values
    assert alone.item() > 1e-3
    torch.testing.assert_close(plain[1], alone[0], atol=1e-14, rtol=0)

    def filled(states: Tensor, text_of_token: Tensor, num_texts: int) -> tuple[Tensor, Tensor]:
        table, there = padded_texts(states, text_of_token, num_texts)
        padding.append(torch.randn(table.shape, generator=generator).mul(9).to(table).requires_grad_())
        return torch.where(there[:, :, None], table, padding[-1]), there

    monkeypatch.setattr("raydistill.objectives.relations.padded_texts", filled)
    leaf = own[0].requires_grad_()
    found = objective(own, theirs, owner, 2, heads=2).values
    assert (found - plain).abs().max() == 0.0
    gradient, *of_padding = torch.autograd.grad(found[1], [leaf, *padding])
    assert gradient[owner == 1].any()
    assert not gradient[owner == 0].any()
    assert len(of_padding) == 4
    assert not any(one.any() for one in of_padding)


def test_text_without_tokens_does_not_count() -> None:
    """A worker's empty text that makes a mean NaN."""
    result = relation_divergence(drawn(4, 0), drawn(4, 1), OWNER, 5, heads=1)
    assert result.weights.tolist() == [1, 1, 1, 0, 0]
    assert result.values[3:].tolist() == [0, 0]


def test_heads_that_do_not_divide_a_width_are_refused() -> None:
    """Units of one head in another."""
    with pytest.raises(ShapeError, match="teacher states are 6 wide, to be 4 heads"):
        relation_divergence(drawn(8, 0), drawn(6, 1), OWNER, 3, heads=4)
