"""The whole protocol against a loop over triples, and against PyKEEN's own evaluator."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from raydistill.errors import DataError, ShapeError
from raydistill.evaluation import protocol
from raydistill.evaluation.protocol import LinkPredictionTask
from raydistill.evaluation.ranking import rank_candidates
from raydistill.evaluation.ranks import TIE_RULES, Ranks
from raydistill.evaluation.report import LinkPredictionReport
from raydistill.evaluation.reranking import NeighborReranking
from raydistill.kg.triples import IntArray
from raydistill.kg.truth import TruthIndex

ENTITIES, RELATIONS = 21, 3
WN18RR = Path(__file__).parents[3] / "shared" / "data" / "WN18RR"


def graph(seed: int = 0) -> tuple[IntArray, IntArray, TruthIndex]:
    """Train and test triples with many shared queries, and the truth of both."""
    generator = np.random.default_rng(seed)
    triples = np.unique(generator.integers((ENTITIES, RELATIONS, ENTITIES), size=(120, 3)), axis=0).astype(np.int32)
    generator.shuffle(triples)
    return triples[:70], triples[70:], TruthIndex.from_triples(triples, ENTITIES, RELATIONS)


def vectors(task: LinkPredictionTask, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Whole numbers, so that scores are exact and ties are many."""
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randint(-1, 2, (len(task.distinct_heads), 4), generator=generator).float(),
        torch.randint(-1, 2, (task.num_entities, 4), generator=generator).float(),
    )


def test_each_triple_asks_twice_and_each_query_is_encoded_once() -> None:
    """Inverse queries with the wrong entity or relation would rank something nobody asked."""
    train, test, truth = graph()
    task = LinkPredictionTask.from_triples(test, truth, train)
    n = len(test)
    asked = list(zip(task.heads.tolist(), task.relations.tolist(), task.gold.tolist(), strict=True))
    assert asked[:n] == [(h, r, t) for h, r, t in test.tolist()]
    assert asked[n:] == [(t, r + RELATIONS, h) for h, r, t in test.tolist()]
    distinct = list(zip(task.distinct_heads.tolist(), task.distinct_relations.tolist(), strict=True))
    assert len(set(distinct)) == len(distinct) < 2 * n
    assert [distinct[row] for row in task.distinct_of_query] == [(h, r) for h, r, _ in asked]


@pytest.mark.parametrize("neighbors", [False, True])
def test_report_equals_a_loop_over_triples(neighbors: bool) -> None:
    """Ranks attributed to another query, direction or relation keep a plausible total."""
    train, test, truth = graph()
    task = LinkPredictionTask.from_triples(test, truth, train)
    queries, entities = vectors(task)
    rerank = NeighborReranking.from_triples(train, ENTITIES, hops=1, bonus=0.5) if neighbors else None
    report = task.evaluate(queries, entities, rerank=rerank)
    facts = {tuple(triple) for triple in np.concatenate((train, test)).tolist()}
    near = {entity: {entity} for entity in range(ENTITIES)}
    for h, _, t in train.tolist():
        near[h].add(t)
        near[t].add(h)
    row_of = {
        query: row
        for row, query in enumerate(zip(task.distinct_heads.tolist(), task.distinct_relations.tolist(), strict=True))
    }
    found: list[tuple[str, int, float]] = []
    for h, r, t in test.tolist():
        for direction, head, relation, gold in (("tail", h, r, t), ("head", t, r + RELATIONS, h)):
            scores = entities @ queries[row_of[head, relation]]
            if neighbors:
                scores = torch.tensor([s + 0.5 * (e in near[head]) for e, s in enumerate(scores.tolist())])
            rivals = [
                e
                for e in range(ENTITIES)
                if e != gold and ((h, r, e) if direction == "tail" else (e, r, t)) not in facts
            ]
            better = sum(bool(scores[e] > scores[gold]) for e in rivals)
            tied = sum(bool(scores[e] == scores[gold]) for e in rivals)
            found.append((direction, r, 1 + better + tied / 2))
    suffix = "+neighbors" if neighbors else ""
    for direction in ("head", "tail", "both"):
        ranks = [rank for way, _, rank in found if direction in (way, "both")]
        assert report.metrics[f"test/{direction}/mr{suffix}"] == pytest.approx(np.mean(ranks), abs=1e-12)
        assert report.metrics[f"test/{direction}/mrr{suffix}"] == pytest.approx(
            1 / np.array(ranks) @ np.ones(len(ranks)) / len(ranks)
        )
        for relation in range(RELATIONS):
            chosen = [rank for way, r, rank in found if r == relation and direction in (way, "both")]
            assert report.per_relation[relation][f"{direction}/mr{suffix}"] == pytest.approx(np.mean(chosen), abs=1e-12)


@pytest.mark.parametrize(("queries_at_once", "answers_at_once"), [(1, 1), (4, 16), (64, 64), (5, 10**6)])
def test_queries_are_ranked_some_at_a_time(
    monkeypatch: pytest.MonkeyPatch, queries_at_once: int, answers_at_once: int
) -> None:
    """Known answers of ten million pairs at once, as of FB15k-237's test split; or a block whose lists are another's."""
    train, test, truth = graph(2)
    task = LinkPredictionTask.from_triples(test, truth, train)
    queries, entities = vectors(task)
    whole = task.rank(queries, entities)
    monkeypatch.setattr(protocol, "_QUERIES_AT_ONCE", queries_at_once)
    monkeypatch.setattr(protocol, "_ANSWERS_AT_ONCE", answers_at_once)
    seen: list[tuple[int, int]] = []

    def watched(asked: Tensor, *given: Any, **named: Any) -> Ranks:
        seen.append((len(asked), len(given[3])))
        return rank_candidates(asked, *given, **named)

    monkeypatch.setattr(protocol, "rank_candidates", watched)
    some = task.rank(queries, entities)
    assert all(torch.equal(a, b) for a, b in zip(vars(some).values(), vars(whole).values(), strict=True))
    longest = int(np.diff(task.known_offsets).max())
    assert len(seen) > 1
    assert sum(count for count, _ in seen) == len(task.gold)
    assert all(count <= queries_at_once + 1 and answers <= answers_at_once + longest for count, answers in seen)


def test_equal_queries_of_many_answers_are_ranked_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass over all entities for each of a thousand queries that ask for everything of one kind."""
    triples = np.array([[tail, 0, 0] for tail in range(1, 20)] + [[0, 1, 5], [3, 1, 4]], np.int32)
    truth = TruthIndex.from_triples(triples, ENTITIES, RELATIONS)
    task = LinkPredictionTask.from_triples(triples, truth, triples)
    queries, entities = vectors(task)
    whole = task.rank(queries, entities)
    monkeypatch.setattr(protocol, "_ANSWERS_AT_ONCE", 64)
    monkeypatch.setattr(protocol, "_QUERIES_AT_ONCE", 64)
    blocks = task._blocks_of_known_answers()
    assert len(blocks) < 4, "those who ask for 19 heads are asked once"
    assert sorted(np.concatenate(blocks).tolist()) == list(range(len(task.gold)))
    some = task.rank(queries, entities)
    assert all(torch.equal(a, b) for a, b in zip(vars(some).values(), vars(whole).values(), strict=True))


def test_known_answers_are_listed_once_for_equal_queries() -> None:
    """Lists that grow with the square of how often a query is asked."""
    train, test, truth = graph(3)
    task = LinkPredictionTask.from_triples(test, truth, train)
    for row, (head, relation) in enumerate(zip(task.distinct_heads, task.distinct_relations, strict=True)):
        listed = task.known_ids[task.known_offsets[row] : task.known_offsets[row + 1]]
        assert listed.tolist() == truth.known_tails(np.array([head]), np.array([relation]))[1].tolist()
    assert len(task.known_offsets) == len(task.distinct_heads) + 1 < len(task.gold)


def test_ranks_equal_pykeen_evaluator() -> None:
    """The filtered protocol of the field: any difference makes results incomparable with the literature."""
    pytest.importorskip("pykeen")
    from pykeen.evaluation import RankBasedEvaluator
    from pykeen.models.mocks import FixedModel
    from pykeen.triples import CoreTriplesFactory

    train, test, truth = graph(1)
    task = LinkPredictionTask.from_triples(test, truth, train)
    queries, entities = vectors(task)
    table = torch.zeros(ENTITIES, 2 * RELATIONS, ENTITIES)
    table[torch.from_numpy(task.distinct_heads).long(), torch.from_numpy(task.distinct_relations).long()] = (
        queries @ entities.T
    )

    class TableModel(FixedModel):  # type: ignore[no-untyped-call]
        """Scores tails and heads from the table of our queries."""

        def score_t(self, hr_batch: Tensor, tails: Tensor | None = None, **kwargs: Any) -> Tensor:
            return table[hr_batch[:, 0], hr_batch[:, 1]].clone()

        def score_h(self, rt_batch: Tensor, heads: Tensor | None = None, **kwargs: Any) -> Tensor:
            return table[rt_batch[:, 1], rt_batch[:, 0] + RELATIONS].clone()

    factory = CoreTriplesFactory(
        torch.from_numpy(train).long(), num_entities=ENTITIES, num_relations=RELATIONS, create_inverse_triples=False
    )
    theirs = RankBasedEvaluator(clear_on_finalize=False).evaluate(
        TableModel(triples_factory=factory),
        torch.from_numpy(test).long(),
        additional_filter_triples=[torch.from_numpy(train).long()],
        batch_size=16,
        use_tqdm=False,
    )
    names = {"mr": "mean_rank", "mrr": "mean_reciprocal_rank"} | {f"hits@{k}": f"hits@{k}" for k in (1, 3, 10)}
    # PyKEEN keeps realistic ranks in float32 and averages them there, hence the tolerance.
    for rule in TIE_RULES:
        metrics = task.evaluate(queries, entities, tie_rule=rule).metrics
        extra = {"amri": "adjusted_mean_rank_index"} if rule == "realistic" else {}
        for direction, (ours, name) in itertools.product(("head", "tail", "both"), (names | extra).items()):
            expected = theirs.get_metric(f"{direction}.{rule}.{name}")
            assert metrics[f"test/{direction}/{ours}"] == pytest.approx(expected, rel=1e-6), (direction, rule, ours)


def report_of(neighbors: bool = False) -> LinkPredictionReport:
    train, test, truth = graph()
    task = LinkPredictionTask.from_triples(test, truth, train, split="valid")
    rerank = NeighborReranking.from_triples(train, ENTITIES) if neighbors else None
    return task.evaluate(*vectors(task), rerank=rerank)


def test_report_goes_through_json() -> None:
    """Reports are read by other programs; ids and tuples must survive, and no NaN may be written."""
    report = report_of()
    read = json.loads(report.to_json())
    assert read == json.loads(json.dumps(report.to_dict()))
    assert read["metrics"]["valid/both/mrr"] == report.metrics["valid/both/mrr"]
    assert read["intervals"]["valid/both/mrr"] == list(report.intervals["valid/both/mrr"])
    assert set(read["per_relation"]) == {"0", "1", "2"}
    assert (read["reranked"], read["reranking"]) == (False, None)


def test_every_reranked_number_is_named() -> None:
    """SimKGC's published numbers are re-ranked by default, and are compared with numbers that are not."""
    report = report_of(neighbors=True)
    rows: list[Iterable[str]] = [
        report.metrics,
        report.intervals,
        *report.per_relation.values(),
        *report.per_category.values(),
    ]
    assert all(name.endswith("+neighbors") for row in rows for name in row)
    assert report.reranked
    assert report.to_dict()["reranking"] == {"hops": 2, "bonus": 0.05, "max_entities": 100_000}
    assert not any("+neighbors" in name for name in report_of().metrics)


def test_interval_surrounds_each_mrr() -> None:
    """The interval of one direction must not stand beside the mean of another."""
    report = report_of()
    assert set(report.intervals) == {f"valid/{direction}/mrr" for direction in ("head", "tail", "both")}
    assert all(low < report.metrics[name] < high for name, (low, high) in report.intervals.items())


def test_categories_split_all_queries() -> None:
    """A query in no category, or in two, would make the breakdown disagree with the total."""
    report = report_of()
    assert sum(row["both/queries"] for row in report.per_category.values()) == report.num_queries
    assert sum(row["both/queries"] for row in report.per_relation.values()) == report.num_queries


def test_homonyms_are_reported() -> None:
    """Entities with the same text tie exactly; the reader must see how much of a result hangs on that."""
    train, test, truth = graph()
    task = LinkPredictionTask.from_triples(test, truth, train)
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(len(task.distinct_heads), 8, generator=generator)
    entities = torch.randn(ENTITIES, 8, generator=generator)
    assert task.evaluate(queries, entities).homonym_ties == 0.0
    entities[1] = entities[0]
    clones = np.isin(task.gold, [0, 1]) & ~truth.contains(task.heads, task.relations, 1 - task.gold)
    assert clones.any()
    assert task.evaluate(queries, entities).homonym_ties == clones.mean()


def test_a_perfect_model_is_first_everywhere() -> None:
    """The upper end of every scale, through the whole path."""
    train, test, truth = graph()
    task = LinkPredictionTask.from_triples(test, truth, train)
    queries = torch.zeros(len(task.distinct_heads), ENTITIES)
    queries[torch.from_numpy(task.distinct_of_query), torch.from_numpy(task.gold).long()] = 1.0
    metrics = task.evaluate(queries, torch.eye(ENTITIES)).metrics
    assert {metrics[f"test/both/{name}"] for name in ("mr", "mrr", "mrr.pessimistic", "hits@1", "amri")} == {1.0}


def test_empty_split_is_refused() -> None:
    """Metrics over nothing are NaN and would never be promoted, without a word why."""
    train, _, truth = graph()
    with pytest.raises(DataError, match="'valid' has no triples"):
        LinkPredictionTask.from_triples(np.zeros((0, 3), dtype=np.int32), truth, train, split="valid")


def test_truth_of_some_splits_only_is_refused() -> None:
    """Filtering by the training split alone gives lower numbers that look like everybody's."""
    train, test, _ = graph()
    with pytest.raises(DataError, match="not known to be true"):
        LinkPredictionTask.from_triples(test, TruthIndex.from_triples(train, ENTITIES, RELATIONS), train)


def test_vectors_of_another_task_are_refused() -> None:
    """One vector per triple instead of one per distinct query would be read in the wrong order."""
    train, test, truth = graph()
    task = LinkPredictionTask.from_triples(test, truth, train)
    queries, entities = vectors(task)
    with pytest.raises(ShapeError, match="one per distinct query"):
        task.evaluate(queries[1:], entities)
    with pytest.raises(ShapeError, match="one per entity"):
        task.evaluate(queries, entities[1:])
    queries[2, 1] = torch.nan
    with pytest.raises(ShapeError, match="NaN"):
        task.evaluate(queries, entities)
    with pytest.raises(DataError, match="re-ranking graph of 22"):
        task.evaluate(*vectors(task), rerank=NeighborReranking.from_triples(train, ENTITIES + 1))


@pytest.mark.slow
@pytest.mark.skipif(not WN18RR.exists(), reason="WN18RR is not at hand")
def test_wn18rr_categories() -> None:
    """On real data the categories must be those that are known: _hypernym is N-1, _similar_to 1-1, _also_see N-N."""
    splits = [
        [line.split("\t") for line in (WN18RR / f"{name}.tsv").read_text().splitlines()]
        for name in ("train", "dev", "test")
    ]
    rows = [row for split in splits for row in split]
    entities = {key: number for number, key in enumerate(sorted({key for h, _, t in rows for key in (h, t)}))}
    relations = {key: number for number, key in enumerate(sorted({r for _, r, _ in rows}))}
    train, valid, test = (
        np.array([(entities[h], relations[r], entities[t]) for h, r, t in split], dtype=np.int32) for split in splits
    )
    truth = TruthIndex.from_triples(np.concatenate((train, valid, test)), len(entities), len(relations))
    task = LinkPredictionTask.from_triples(test, truth, train)
    category = dict(zip(relations, task.categories, strict=True))
    assert category["_hypernym"] == "N-1"
    assert category["_member_meronym"] == "1-N"
    assert category["_similar_to"] == "1-1"
    assert category["_derivationally_related_form"] == "N-N"
    assert len(task.gold) == 6268
