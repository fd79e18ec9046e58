"""BOOT put together: random examples, texts without triples, a path of noise, a student that is told times, and its terms."""

from __future__ import annotations

from raydistill.config.boot import BootSection
from raydistill.config.trial import TrialConfig
from raydistill.data.assembly import TextAssembler
from raydistill.data.batches import BatchBuilder, Source
from raydistill.data.synthetic import RANDOM_ENTITIES, SyntheticSource, random_graph, usual_examples, without_triples
from raydistill.errors import CapabilityError
from raydistill.kg.store import Dataset
from raydistill.kg.text import TextRule
from raydistill.kg.truth import TruthIndex
from raydistill.models.kinds import BERT_LIKE
from raydistill.students.conditioning import Conditioner
from raydistill.students.reshaping import Reshaper
from raydistill.training.methods.shapes import Shape, Shapes
from raydistill.training.methods.values import number
from raydistill.training.noise_path import NoisePath
from raydistill.training.progress import Corruption
from raydistill.training.randomness import mix
from raydistill.training.terms.bootstrap import BootstrappedScoreTerm, BootstrapTerm, BoundaryTerm
from raydistill.training.terms.term import Term


def boot_terms(config: TrialConfig, shapes: Shapes) -> list[Term]:
    """BOOTSTRAP + BOUNDARY + SCORE, each with a weight; no contrastive term, because there are no labels."""
    method = _section(config)
    shapes.require_equal_widths(
        "method boot compares vectors",
        "vectors of different spaces would be compared unit by unit",
        "take a teacher of the same encoder, or another method, such as logits, which compares scores",
    )
    return [
        BootstrapTerm(number(method.bootstrap)),
        BoundaryTerm(number(method.boundary), number(method.t_max)),
        BootstrappedScoreTerm(number(method.score)),
    ]


def boot_conditioner(config: TrialConfig, shape: Shape, steps: int) -> Reshaper:
    """What tells the student times."""
    if not shape.opens:
        raise CapabilityError(
            "method boot adds a time to the student's embeddings, and this encoder's cannot be had",
            expected=BERT_LIKE,
            consequence="the student would not know how much of a text its teacher misses",
            remedy="choose another method, such as pmd, logits or pkd, or another encoder",
        )
    return Conditioner(mix(config.seed, "conditioning"))


def boot_source(config: TrialConfig, dataset: Dataset) -> Source:
    """Random examples, by default as many as an epoch of triples has; no split of the graph is looked at."""
    method = _section(config)
    examples = method.examples or usual_examples(dataset.recorded_counts())
    entities = RANDOM_ENTITIES if method.source == "text-free" else dataset.num_entities
    return SyntheticSource(entities, dataset.num_relations, examples, config.training.batch_size, config.seed)


def boot_builder(config: TrialConfig, dataset: Dataset, assembler: TextAssembler) -> BatchBuilder:
    """Batches of such examples: nothing is known to be true, and no text names a neighbour, because both would come from triples."""
    graph, pieces = without_triples(dataset), assembler.pieces
    if _section(config).source == "text-free":
        graph, pieces = random_graph(graph, pieces, config.seed)
    texts = TextAssembler(pieces, graph, assembler.layout, TextRule(max_neighbors=0), config.data.max_tokens)
    truth = TruthIndex.from_triples(graph.train, graph.num_entities, graph.num_relations)
    return BatchBuilder(texts, truth, graph.num_relations)


def boot_corruption(config: TrialConfig, mask_id: int) -> Corruption:
    """The path of noise."""
    method = _section(config)
    return NoisePath(
        number(method.t_max),
        mask_id,
        shared=False,
        seed=config.seed,
        delta=number(method.step),
        at_end=number(method.at_end),
    )


def _section(config: TrialConfig) -> BootSection:
    assert isinstance(config.method, BootSection)
    return config.method
