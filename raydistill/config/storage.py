"""Where runs are written, and what of them is kept."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from raydistill.config.space import Count, Place, Section


class StorageSection(Section):
    """Where runs are written."""

    path: Place = Field(
        "runs", description="folder in which a run directory gets the configuration file's name: a path or a URI"
    )
    share_trials: bool = Field(
        True,
        description="take finished trials of equal work from the runs beside this one, ladders of searches included, instead of training them "
        "again; in a bucket, too",
    )
    keep_trials: Literal["all"] | Count = Field(
        "all",
        description="how many trials of a grade keep their checkpoints, the promoted one first and then those that would be next; those of the others are removed "
        "before the next trial begins (all that promotion.tolerance may still choose stay until then, too). Checkpoints that several lineages may share are removed when "
        "all of those have promoted. Metrics are never removed, and what is promoted is the same. Nobody lends what was removed: other runs train it again; may be changed when a run is resumed",
    )
