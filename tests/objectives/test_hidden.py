"""PKD's patience term and the pooling of flat token states."""

from __future__ import annotations

import pytest
import torch

from raydistill.errors import ConfigError, ShapeError
from raydistill.objectives.hidden import patience, pool_tokens

STATES = torch.tensor([[1.0, 4.0], [3.0, 0.0], [5.0, 5.0], [2.0, 8.0]])
TEXT_OF_TOKEN = torch.tensor([0, 1, 1, 0])


def test_patience_hand_numbers() -> None:
    """Averaging over hidden units where the paper sums would divide the term by the width."""
    student = [torch.tensor([[3.0, 4.0], [2.0, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])]
    teacher = [torch.tensor([[0.0, 7.0], [-1.0, 0.0]]), torch.tensor([[0.0, 5.0], [0.0, 3.0]])]
    # layer 0: (.6, .8)-(0, 1) = .36 + .04; (1, 0)-(-1, 0) = 4.  layer 1: 0; (1, 0)-(0, 1) = 2.
    result = patience(student, teacher)
    torch.testing.assert_close(result.values, torch.tensor([0.2, 3.0]))
    assert result.weights.tolist() == [1.0, 1.0]
    torch.testing.assert_close(patience(student, teacher, reduction="mean").values, torch.tensor([0.1, 1.5]))


def test_patience_ignores_the_length_of_the_states() -> None:
    """A teacher layer with larger states would dominate the others."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = [[torch.randn(3, 4, generator=generator) for _ in range(2)] for _ in range(2)]
    scaled = patience([student[0] * 7, student[1]], [teacher[0], teacher[1] * 0.1])
    torch.testing.assert_close(scaled.values, patience(student, teacher).values)


def test_patience_refusals() -> None:
    """Lists of unequal length would be cut to the shorter one and teach the wrong layers."""
    layer = torch.ones(2, 4)
    for student, teacher, match in (
        ([layer], [layer, layer], "1 student layers and 2 teacher layers"),
        ([], [], "at least one mapped layer"),
        ([layer[:, :2]], [layer], "projection"),
        ([layer, layer[:1]], [layer, layer[:1]], "texts"),
        ([layer[0]], [layer[0]], "two dimensions"),
    ):
        with pytest.raises(ShapeError, match=match):
            patience(student, teacher)
    with pytest.raises(ConfigError, match="reduction"):
        patience([layer], [layer], reduction="batchmean")


def test_pool_tokens_hand_numbers() -> None:
    """Tokens of texts that are interleaved would be counted for their neighbours."""
    mean = pool_tokens(STATES, TEXT_OF_TOKEN, 2)
    torch.testing.assert_close(mean, torch.tensor([[1.5, 6.0], [4.0, 2.5]]))
    largest = pool_tokens(-STATES, TEXT_OF_TOKEN, 2, how="max")
    torch.testing.assert_close(largest, torch.tensor([[-1.0, -4.0], [-3.0, 0.0]]))
    first = pool_tokens(STATES, TEXT_OF_TOKEN, 2, how="cls", first_token=torch.tensor([3, 1]))
    torch.testing.assert_close(first, STATES[[3, 1]])


@pytest.mark.parametrize("how", ["mean", "max", "cls"])
def test_pool_tokens_gradcheck(how: str) -> None:
    """A pooling whose gradient reaches the wrong token trains without an error."""
    states = STATES.double().requires_grad_()
    first = torch.tensor([3, 1])
    assert torch.autograd.gradcheck(lambda x: pool_tokens(x, TEXT_OF_TOKEN, 2, how=how, first_token=first), (states,))


def test_pool_tokens_averages_half_precision_in_float32() -> None:
    """257 ones summed in bfloat16 give 256, so long texts would be pooled too short."""
    pooled = pool_tokens(torch.ones(257, 1, dtype=torch.bfloat16), torch.zeros(257, dtype=torch.int64), 1)
    assert pooled.dtype == torch.float32
    assert pooled.item() == 1.0


def test_pool_tokens_refusals() -> None:
    """An empty text would get a vector of zeros, which has a cosine of NaN or of nothing with everything."""
    with pytest.raises(ShapeError, match="1 of 3 texts have no token"):
        pool_tokens(STATES, TEXT_OF_TOKEN, 3)
    with pytest.raises(ShapeError, match="without first_token"):
        pool_tokens(STATES, TEXT_OF_TOKEN, 2, how="cls")
    with pytest.raises(ShapeError, match="other texts"):
        pool_tokens(STATES, TEXT_OF_TOKEN, 2, how="cls", first_token=torch.tensor([1, 3]))
    with pytest.raises(ShapeError, match="text_of_token"):
        pool_tokens(STATES, TEXT_OF_TOKEN[:3], 2)
    with pytest.raises(ConfigError, match="how is 'median'"):
        pool_tokens(STATES, TEXT_OF_TOKEN, 2, how="median")
