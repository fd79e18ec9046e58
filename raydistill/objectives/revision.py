"""Lists that a student makes of its candidates, revised where its teacher disagrees most: the errors it would make are what it is taught at.

A ranked list is what a bi-encoder generates: by Plackett and Luce's model one candidate after another is drawn, with a probability that goes with its score, from those that are left. The most likely
list is that of falling scores; that of falling scores with noise of Gumbel's distribution is one drawn by chance (Gumbel-top-n, Kool et al. 2019, arXiv 1903.06059).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raydistill.errors import ConfigError
from raydistill.objectives.logits import comparable_scores, kl_divergence


@dataclass(frozen=True)
class RevisedLists:
    """What came of a batch's lists.

    Attributes:
        lists: (batch, length) int64, columns in the order in which they were drawn.
        written: (batch, length) bool, True = there was a candidate left to draw.
        error: (batch,) int64, place of the worst disagreement; -1 where there was none, and the list is the student's own.
        divergences: (batch, length), nats, of both models' choices at each place of the student's list.
    """

    lists: Tensor
    written: Tensor
    error: Tensor
    divergences: Tensor


def revised_lists(
    student_logits: Tensor, teacher_logits: Tensor, valid: Tensor, *, length: int, noise: Tensor | None = None
) -> RevisedLists:
    """The student's lists, each with its worst error mended and what comes after it drawn again.

    At each place the teacher says what it would draw from what is left. Of the places at which it would draw something else, that of the largest divergence between both is the error: the teacher's choice takes its
    place, and the student goes on from there. Where they never disagree the list stays.

    Args:
        student_logits: (batch, candidates); no gradient.
        teacher_logits: (batch, candidates).
        valid: (batch, candidates) bool, True = may stand in a list.
        length: places in a list.
        noise: (batch, candidates), added to the student's logits where it draws, and nowhere else; `gumbel` of uniform numbers makes its lists random ones. None = its
            lists are the most likely ones.

    Raises:
        ShapeError: shapes or types that do not fit.
        ConfigError: a length below 1.

    Source:
        MGSR (arXiv 2407.10068), sequence correction and re-generation, for token sequences; here word for word for ranked lists.
    """
    if length < 1:
        raise ConfigError(f"length is {length}", expected="at least 1", remedy="make lists of one candidate or more")
    student, teacher = comparable_scores(student_logits.detach(), teacher_logits, valid)
    draws = student if noise is None else student + noise
    own = _order(draws, valid)[:, :length]
    count = valid.sum(1, keepdim=True)
    written = torch.arange(own.shape[1], device=own.device)[None, :] < count
    choices, divergences, left = [], [], valid
    for place in range(own.shape[1]):
        choices.append(teacher.masked_fill(~left, float("-inf")).argmax(1))
        divergences.append(kl_divergence(student, teacher, left, temperature=1.0).values)
        left = without(left, own[:, place])
    wanted, apart = torch.stack(choices, 1), torch.stack(divergences, 1)
    wrong = (wanted != own) & written
    error = apart.masked_fill(~wrong, float("-inf")).argmax(1)
    error = torch.where(wrong.any(1), error, torch.full_like(error, -1))
    return RevisedLists(_mended(own, wanted, error, draws, valid), written, error, apart)


def gumbel(uniform: Tensor) -> Tensor:
    """Noise of Gumbel's distribution from uniform numbers in [0, 1): `-log(-log u)`, finite at both ends."""
    tiny = torch.finfo(uniform.dtype).tiny
    return -(-uniform.clamp(min=tiny).log()).clamp(min=tiny).log()


def without(left: Tensor, columns: Tensor) -> Tensor:
    """What is left of `(batch, candidates)` bool when one column of each row is drawn."""
    return left.scatter(1, columns[:, None], False)


def _mended(own: Tensor, wanted: Tensor, error: Tensor, draws: Tensor, valid: Tensor) -> Tensor:
    """Own lists up to the error, the teacher's choice there, and then the student's order of what is left, which is that of falling `draws`."""
    place = torch.arange(own.shape[1], device=own.device)[None, :]
    at = error.clamp(min=0)[:, None]
    chosen = wanted.gather(1, at)
    # A key that puts the head of the list first, the mended choice after it, and the rest in the student's order.
    keys = torch.full_like(draws, own.shape[1] + 1, dtype=torch.int64)
    keys.scatter_(1, own, torch.where(place < at, place, keys.gather(1, own)))
    keys.scatter_(1, chosen, at)
    places = torch.arange(draws.shape[1], device=own.device).expand_as(keys)
    ranks = torch.empty_like(keys).scatter_(1, _order(draws, valid), places)
    order = torch.argsort(keys * (2 * draws.shape[1]) + ranks, dim=1, stable=True)[:, : own.shape[1]]
    return torch.where((error >= 0)[:, None], order, own)


def _order(scores: Tensor, valid: Tensor) -> Tensor:
    """Columns by falling score, those that may not be listed last."""
    return torch.argsort(scores.masked_fill(~valid, float("-inf")), dim=1, descending=True, stable=True)
