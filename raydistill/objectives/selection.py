"""Which of several teachers each example learns from: what a policy sees, what it does, and what it is told.

Of an example b and a teacher k the policy sees s_bk, and switches the teacher on with probability pi_bk. Source of all of it: Yuan et al., Reinforced
Multi-Teacher Selection for Knowledge Distillation, AAAI 2021 (arXiv 2012.06048), whose formulas are known to us from secondary sources. Differences are named where
they are made.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from raydistill.errors import ShapeError
from raydistill.objectives.softmax import valid_log_softmax
from raydistill.objectives.weighted import Weighted

HIGHEST = 8
"""Probabilities of a teacher that the policy sees."""
FEATURES = HIGHEST + 3
LEAST, MOST = 0.02, 0.98
"""Between which a probability of the policy lies: every teacher is tried, and left out, now and then."""
MOST_ADVANTAGE = 4.0
"""Standard deviations; a batch of nearly equal rewards would else have a gradient that leaves the student none where gradients are clipped together."""


def teacher_features(student_logits: Tensor, teacher_logits: Tensor, positives: Tensor, valid: Tensor) -> Tensor:
    """What is seen of each teacher: its highest probabilities, its entropy, its cross-entropy on the right answer, and how far the student agrees with it.

    Nothing of it depends on the order of candidates; the last three are shares of what as many candidates allow, so hardly on their number. (Published: the
    teacher's whole vector of probabilities, which has no meaning where candidates change from batch to batch.) No gradient reaches any model.

    Args:
        student_logits: (batch, candidates), without margin.
        teacher_logits: (batch, teachers, candidates), without margin.
        positives: (batch,) int64, the right candidate.
        valid: (batch, candidates) bool, True = is compared; the right candidate always is.

    Returns:
        (batch, teachers, FEATURES) float32: probabilities in falling order, 0 where there are fewer candidates; entropy in units of that of guessing;
        cross-entropy in units of that of guessing, at most 4; probability that both models give to the same candidates, 0 to 1.
    """
    batch, teachers, candidates = teacher_logits.shape
    rows, listed = teacher_logits.detach().float().flatten(0, 1), valid.repeat_interleave(teachers, 0)
    log_p = valid_log_softmax(rows, listed).view(batch, teachers, candidates)
    log_q = valid_log_softmax(student_logits.detach().float(), valid)[:, None]
    # Logarithms are 0 where nothing is compared, and the probability there is not 1.
    p, q = (logs.exp() * valid[:, None] for logs in (log_p, log_q))
    count = min(HIGHEST, candidates)
    highest = torch.nn.functional.pad(p.topk(count).values, (0, HIGHEST - count))
    guessing = valid.sum(1, keepdim=True).clamp(min=2).to(p.dtype).log()
    entropy = -(p * log_p).sum(2) / guessing
    right = log_p.gather(2, positives[:, None, None].expand(-1, teachers, 1))[:, :, 0]
    missed = (-right / guessing).clamp(max=4.0)
    return torch.cat([highest, torch.stack([entropy, missed, torch.minimum(p, q).sum(2)], dim=2)], dim=2)


def probabilities(raw: Tensor) -> Tensor:
    """The policy's raw output to pi, between LEAST and MOST.

    Squeezed, not cut off: what is cut off has no gradient, and a policy that went too far once would never come back.
    """
    return LEAST + (MOST - LEAST) * raw.sigmoid()


def log_likelihood(chosen: Tensor, pi: Tensor) -> Tensor:
    """Log-probability of what was done, sum over teachers: log pi_bk where k was switched on, log (1 - pi_bk) where not.

    Args:
        chosen: (batch, teachers) bool.
        pi: (batch, teachers), in (0, 1).

    Returns:
        (batch,), nats.
    """
    return torch.where(chosen, pi.log(), (1 - pi).log()).sum(1)


def taught_by(chosen: Tensor) -> Tensor:
    """Who teaches: the chosen teachers, and all of them where none was chosen; (batch, teachers) bool.

    Made anew rather than written into the rows without a choice: a public re-implementation writes there through a second index, that is into a copy, and those
    rows are taught by nobody.
    """
    return torch.where(chosen.any(1, keepdim=True), chosen, torch.ones_like(chosen))


def shares(amounts: Tensor) -> Tensor:
    """Weights of the teachers of each row, sum 1, from amounts >= 0 that are not all 0, (batch, teachers). A lone teacher has exactly 1."""
    return amounts / amounts.sum(1, keepdim=True)


def mixed(of_teachers: Sequence[Weighted], weights: Tensor) -> Weighted:
    """Per-example losses towards several teachers as one: value_b = sum_k w_bk value_bk. With a single teacher of weight 1 the same bits as its own.

    Args:
        of_teachers: for each teacher the loss of every example, over the same candidates and therefore with the same weights.
        weights: (batch, teachers); no gradient reaches them.

    Returns:
        values (batch,), in the losses' unit; weights as the first one's.

    Raises:
        ShapeError: not a column for each teacher, or not a row for each example.
    """
    rows = len(of_teachers[0].values)
    if weights.shape != (rows, len(of_teachers)):
        raise ShapeError(
            f"weights of shape {tuple(weights.shape)} for {rows} examples and {len(of_teachers)} teachers",
            expected="(batch, teachers)",
            consequence="examples would be taught by others than was decided",
            remedy="give every example a weight for every teacher",
        )
    values = torch.stack([one.values for one in of_teachers], dim=1)
    return Weighted((weights.detach() * values).sum(1), of_teachers[0].weights)


def missed(student_logits: Tensor, positives: Tensor, valid: Tensor) -> Tensor:
    """Cross-entropy of each row on its right candidate, without margin; (batch,), nats, without gradient."""
    log_q = valid_log_softmax(student_logits.detach(), valid)
    return -log_q.gather(1, positives[:, None])[:, 0]


def advantages(rewards: Tensor, baseline: Tensor) -> Tensor:
    """How much better than usual each example went: (R_b - baseline) / standard deviation of R over the batch, within MOST_ADVANTAGE.

    Args:
        rewards: (batch,), without gradient.
        baseline: scalar, what is usual.
    """
    return ((rewards - baseline) / (rewards.std(correction=0) + 1e-3)).clamp(-MOST_ADVANTAGE, MOST_ADVANTAGE)


def policy_loss(chosen: Tensor, pi: Tensor, advantage: Tensor) -> Tensor:
    """REINFORCE: -mean_b advantage_b log pi(what was done); its gradient, not its value, has a meaning.

    Source:
        Williams 1992, Simple statistical gradient-following algorithms for connectionist reinforcement learning.
    """
    return -(advantage.detach() * log_likelihood(chosen, pi)).mean()
