"""The checkpoints that a campaign's methods name: who teaches beside the grades of its ladders, or in their place."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from raydistill.config.education import EducationSection
from raydistill.config.methods import CombinedSection, Method, has_teacher, parts_of
from raydistill.config.reinforced import ReinforcedSection
from raydistill.config.schema import CampaignConfig

Where = Callable[[str], str]
"""From a place to another one of the same content."""
Naming = ReinforcedSection | EducationSection
"""The sections that name teachers."""


def named_by(method: Method) -> tuple[str, ...]:
    """The places of a method's own teachers, in its order, each once."""
    sections = (part for part in parts_of(method) if isinstance(part, Naming))
    return tuple(dict.fromkeys(place for section in sections for place in section.teachers))


def part_teachers(method: Method) -> tuple[str, ...]:
    """The place of the teacher of each part of the graph, where a method names them; one may be there for several."""
    return method.teachers if isinstance(method, EducationSection) else ()


def learns_from_above(method: Method) -> bool:
    """Whether the grade above teaches, rather than nobody or those alone that the method names."""
    return has_teacher(method) and not part_teachers(method)


def takes_earlier(method: Method) -> bool:
    """Whether grades above the one above teach, too."""
    return any(isinstance(part, ReinforcedSection) and part.earlier for part in parts_of(method))


def placeless(method: Method) -> Method:
    """A method without any word on who teaches, as it stands in a trial, which names all its teachers itself."""

    def silent(section: Naming) -> Naming:
        earlier = {"earlier": True} if isinstance(section, ReinforcedSection) else {}
        return section.model_copy(update={"teachers": (), **earlier})

    return _changed(method, silent)


def other_places(config: CampaignConfig) -> tuple[str, ...]:
    """The places of all teachers that methods of a campaign name, each once."""
    return tuple(dict.fromkeys(place for method in _methods(config) for place in named_by(method)))


def relocated(config: CampaignConfig, where: Where) -> CampaignConfig:
    """The same campaign, its methods' teachers at other places."""
    if not other_places(config):
        return config

    def moved(method: Method) -> Method:
        def at(section: Naming) -> Naming:
            return section.model_copy(update={"teachers": tuple(map(where, section.teachers))})

        return _changed(method, at)

    grades = [
        grade if grade.method is None else grade.model_copy(update={"method": moved(grade.method)})
        for grade in config.grades
    ]
    changes: dict[str, object] = {"method": moved(config.method), "grades": tuple(grades)}
    if config.compare is not None:
        methods = tuple(map(moved, config.compare.methods))
        changes["compare"] = config.compare.model_copy(update={"methods": methods})
    return config.model_copy(update=changes)


def _methods(config: CampaignConfig) -> Iterator[Method]:
    yield from (config.method,) if config.compare is None else config.compare.methods
    yield from (grade.method for grade in config.grades if grade.method is not None)


def _changed(method: Method, change: Callable[[Naming], Naming]) -> Method:
    if isinstance(method, Naming):
        return change(method)
    if isinstance(method, CombinedSection) and any(isinstance(part, Naming) for part in method.parts):
        return method.model_copy(update={"parts": tuple(_changed(part, change) for part in method.parts)})
    return method
