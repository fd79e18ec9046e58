"""Whether the disk has room for the checkpoints that a campaign keeps: an estimate, told before anything is trained."""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass

from raydistill.config.schema import CampaignConfig
from raydistill.planning.freeing import superfluous
from raydistill.planning.grades import GradePlan, Lineage, lineages_of
from raydistill.planning.ground import Ground
from raydistill.planning.records import ENDED
from raydistill.planning.rules import Rules, rules_of
from raydistill.planning.search import grade_space, trial_limit
from raydistill.planning.state import CampaignState

logger = logging.getLogger(__name__)
PARAMETER_BYTES = 12
"""Of weight and moments; less for rows of the vocabulary that no text needs, and for students that are packed or pruned."""
POSITIONS = 512
ADVISED = 2


def tell_of_disk(
    config: CampaignConfig,
    plans: tuple[GradePlan, ...],
    ground: Ground,
    state: CampaignState,
    free: int,
    beside: int = 1,
) -> None:
    """Warn where the checkpoints of the trials that are still to be trained will need more than there is.

    Args:
        config: the campaign.
        plans: its grades.
        ground: what they stand on; nothing is said where the encoder's shape is not known.
        state: what has happened so far, and so lies on the disk already.
        free: bytes that are free where the run lies.
        beside: campaigns that divide them, this one among them.
    """
    rules = rules_of(config, plans)
    loads = _loads(config, plans, ground, state, rules)
    needed, room = (
        _needed(config, loads, rules.keep_trials),
        free // beside + _released(config, plans, ground, state, rules),
    )
    if needed <= room:
        return
    less = _needed(config, loads, ADVISED)
    remedy = "try fewer trials, or a --run-dir on a larger disk"
    if less < needed:
        enough = "" if less <= room else f", still too much: {remedy}, too"
        remedy = (
            f"set storage.keep_trials: {ADVISED}, which keeps those of the {ADVISED} best trials of each grade, and makes it about "
            f"{_gigabytes(less)}{enough}"
        )
    logger.warning(
        "the checkpoints of up to %d trials (weights and optimizer, the best and the last of each) will need about %s, and the run directory's disk has %s free%s; %s",
        sum(one.trials for one in loads),
        _gigabytes(needed),
        _gigabytes(free),
        f" for {beside} ladders at once" if beside > 1 else "",
        remedy,
    )


@dataclass(frozen=True)
class _Load:
    """What the trials of a grade of a lineage will leave.

    Attributes:
        grade: which one.
        trials: that are still to be trained.
        each: bytes of a checkpoint.
        copies: checkpoints of a trial that has ended.
        passing: how many are there beside those that are kept, while the grade is searched.
    """

    grade: int
    trials: int
    each: int
    copies: int
    passing: int

    def kept(self, keep: int | None) -> int:
        """Bytes of the trials that keep their checkpoints."""
        return min(self.trials, self.trials if keep is None else keep) * self.copies * self.each

    def surplus(self, keep: int | None) -> int:
        """Bytes that are there beside them, for a while."""
        return min(self.kept(None) - self.kept(keep), self.passing * self.copies * self.each)


def _loads(
    config: CampaignConfig, plans: tuple[GradePlan, ...], ground: Ground, state: CampaignState, rules: Rules
) -> list[_Load]:
    lineages, found = lineages_of(config), list[_Load]()
    for lineage, plan in itertools.product(lineages, plans):
        parameters = parameters_of(config, plan, ground)
        given = plan.index == 0 and ground.given_teacher is not None
        place = lineage.name, plan.index
        if parameters is None or given or place in state.promotions or not _is_first(lineage, plan, lineages):
            continue
        section = plan.section or config.teacher
        limit = trial_limit(grade_space(lineage, plan), plan, config.search.algorithm)
        ended = sum(one.status in ENDED for one in state.of(lineage.name, plan.index))
        copies = min(2, section.epochs or config.training.epochs)
        left = max(0, limit - ended)
        # None goes before the others have promoted, that may take them over; else those at work are there, and one whose process has its last words.
        passing = left if rules.kin[place] else _at_work(config) + 1
        found.append(_Load(plan.index, left, parameters * PARAMETER_BYTES, copies, passing))
    return found


def _is_first(lineage: Lineage, plan: GradePlan, lineages: tuple[Lineage, ...]) -> bool:
    """Lineages of one seed have one teacher."""
    return plan.index > 0 or lineage == next(one for one in lineages if one.seed == lineage.seed)


def _released(
    config: CampaignConfig, plans: tuple[GradePlan, ...], ground: Ground, state: CampaignState, rules: Rules
) -> int:
    """Bytes of what lies on the disk and goes before anything is trained."""
    found = 0
    for one in superfluous(state, rules):
        copies = min(2, sum(report["checkpoint"] is not None for report in one.reports))
        found += copies * PARAMETER_BYTES * (parameters_of(config, plans[one.grade], ground) or 0)
    return found


def _at_work(config: CampaignConfig) -> int:
    """Trials at once; how many the machines have room for is not known yet."""
    asked = config.resources.concurrent_trials
    return asked if isinstance(asked, int) else 1


def _needed(config: CampaignConfig, loads: list[_Load], keep: int | None) -> int:
    """Bytes at the fullest moment: what is kept, what the grades under way have beside it, and the newest few of one trial."""
    passing: dict[int, int] = {}
    for one in loads:
        passing[one.grade] = passing.get(one.grade, 0) + one.surplus(keep)
    # In sequence one grade is under way; else all may be.
    under_way = max if config.schedule.name == "sequential" else sum
    trained = (
        one.each * max(0, config.training.keep_checkpoints + 1 - one.copies) * min(one.trials, _at_work(config))
        for one in loads
    )
    return sum(one.kept(keep) for one in loads) + under_way(passing.values() or (0,)) + max(trained, default=0)


def parameters_of(config: CampaignConfig, plan: GradePlan, ground: Ground) -> int | None:
    """Parameters of both towers of a grade, of the encoder's width; None where its shape is not known."""
    width, inner, vocabulary = ground.encoder_width, ground.encoder_intermediate, ground.encoder_vocabulary
    if width is None or inner is None or vocabulary is None:
        return None
    layer = 4 * width * width + 2 * width * inner + 9 * width + inner
    tower = (vocabulary + POSITIONS) * width + plan.layers * layer
    return tower if config.encoder.shared_towers else 2 * tower


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB"
