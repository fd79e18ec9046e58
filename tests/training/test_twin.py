"""The twin of a whole step: one encoding per example and Python loops over examples, against distinct texts and tensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from raydistill.config.trial import TrialConfig
from raydistill.evaluation import encode
from raydistill.kg.store import Dataset
from raydistill.kg.text import NeighborIndex, TextRule, entity_text, inverse_phrase
from raydistill.kg.triples import with_inverses
from raydistill.models.biencoder import BiEncoder
from raydistill.models.loading import load_tokenizer
from raydistill.teachers.cache import CachedTeacher
from raydistill.teachers.shards import KeptTeachers
from raydistill.training.gather import World
from raydistill.training.parts import TrialParts, build_parts

TEXT_LIMIT = {"data": {"max_tokens": 150}}
"""Nothing is cut, so that texts differ as soon as their words do."""


class Naive:
    """Losses of a batch as the formulas are written, for SimKGC's one encoding per example."""

    def __init__(self, parts: TrialParts, dataset: Dataset, triples: np.ndarray) -> None:
        self.student, self.dataset = parts.student, dataset
        self.teacher: BiEncoder = getattr(parts.trainer.teacher, "model", parts.student)
        self.tokenizer = load_tokenizer(parts.tokenizer_folder)
        self.examples: list[tuple[int, int, int]] = [tuple(row) for row in triples.tolist()]
        self.truth = set(map(tuple, with_inverses(dataset.train, dataset.num_relations).tolist()))
        self.neighbors = NeighborIndex.from_triples(dataset.train, dataset.num_entities)
        self.queries = [self.query_ids(h, r, t) for h, r, t in self.examples]
        self.tails = [self.entity_ids(t, h) for h, _, t in self.examples]
        self.heads = [self.entity_ids(h, t) for h, _, t in self.examples]

    def text(self, entity: int, answer: int) -> str:
        names, descriptions = self.dataset.entity_names, self.dataset.entity_descriptions
        return entity_text(entity, names, descriptions, neighbors=self.neighbors, rule=TextRule(), answer=answer)

    def query_ids(self, head: int, relation: int, tail: int) -> tuple[tuple[int, ...], ...]:
        phrases = self.dataset.relation_phrases
        phrase = phrases[relation] if relation < len(phrases) else inverse_phrase(phrases[relation - len(phrases)])
        encoded = self.tokenizer(self.text(head, tail), phrase, return_token_type_ids=True)
        return tuple(encoded["input_ids"]), tuple(encoded["token_type_ids"])

    def entity_ids(self, entity: int, other: int) -> tuple[tuple[int, ...], ...]:
        encoded = self.tokenizer(self.text(entity, other), return_token_type_ids=True)
        return tuple(encoded["input_ids"]), tuple(encoded["token_type_ids"])

    def states(self, model: BiEncoder, tower: Any, text: tuple[tuple[int, ...], ...]) -> tuple[Tensor, ...]:
        tokens, types = (torch.tensor(part)[None] for part in text)
        output = model.encoder(tower)(input_ids=tokens, token_type_ids=types, output_hidden_states=True)
        return tuple(hidden[0] for hidden in output.hidden_states)

    def vector(self, model: BiEncoder, tower: Any, text: tuple[tuple[int, ...], ...]) -> Tensor:
        mean = self.states(model, tower, text)[-1].mean(0)
        return mean / mean.norm()

    def negatives(self, b: int) -> list[int]:
        """Examples whose tail may be compared with example b's: not known to be true, and no text a second time."""
        h, r, t = self.examples[b]
        seen, chosen = {(t, self.tails[b])}, []
        for j, (_, _, other) in enumerate(self.examples):
            if (h, r, other) not in self.truth and (other, self.tails[j]) not in seen:
                seen.add((other, self.tails[j]))
                chosen.append(j)
        return chosen

    def rival_queries(self, b: int) -> list[int]:
        """Examples whose query may be compared with example b's for its tail."""
        t = self.examples[b][2]
        seen, chosen = {(self.examples[b][:2], self.queries[b])}, []
        for j, (h, r, _) in enumerate(self.examples):
            if (h, r, t) not in self.truth and ((h, r), self.queries[j]) not in seen:
                seen.add(((h, r), self.queries[j]))
                chosen.append(j)
        return chosen

    def losses(self, *, margin: float, tau: float, with_self: bool = False, earlier: Any = None) -> dict[str, Tensor]:
        """Contrastive, score and divergence terms over the B x B table."""
        k, k_teacher = self.student.inverse_temperature, self.teacher.inverse_temperature.item()
        q, t = self.vectors(self.student)
        with torch.no_grad():
            q_teacher, t_teacher = self.vectors(self.teacher)
        sums: dict[str, list[Tensor]] = {"ce": [], "score": [], "kl": []}
        for b, (h, r, _) in enumerate(self.examples):
            others, rivals = self.negatives(b), self.rival_queries(b)
            logits = [k * (q[b] @ t[b] - margin), *(k * (q[b] @ t[j]) for j in others)]
            if earlier is not None:
                known = zip(*earlier, strict=True)
                logits += [0.5 * k * (q[b] @ v) for v, e in known if (h, r, int(e)) not in self.truth]
            if with_self and (h, r, h) not in self.truth:
                logits.append(k * (q[b] @ self.vector(self.student, "entity", self.heads[b])))
            back = torch.stack([k * (q[b] @ t[b] - margin), *(k * (q[j] @ t[b]) for j in rivals)])
            row = torch.stack(logits)
            sums["ce"].append((row.logsumexp(0) - row[0] + back.logsumexp(0) - back[0]) / 2)
            z = torch.stack([q[b] @ t[j] for j in (b, *others)])
            z_teacher = torch.stack([q_teacher[b] @ t_teacher[j] for j in (b, *others)])
            sums["score"].append((k_teacher * (z - z_teacher)).square().mean())
            log_q, log_p = (k * z / tau).log_softmax(0), (k_teacher * z_teacher / tau).log_softmax(0)
            sums["kl"].append(tau**2 * (log_p.exp() * (log_p - log_q)).sum())
        return {name: torch.stack(values).mean() for name, values in sums.items()}

    def vectors(self, model: BiEncoder) -> tuple[list[Tensor], list[Tensor]]:
        return [self.vector(model, "query", text) for text in self.queries], [
            self.vector(model, "entity", text) for text in self.tails
        ]

    def patience(self, layers: tuple[int, ...], teacher_layers: tuple[int, ...]) -> Tensor:
        """PKD's states, over the distinct texts of each tower."""
        total = torch.zeros(())
        for tower, texts in (("query", set(self.queries)), ("entity", set(self.tails))):
            distances = []
            for text in texts:
                mine = self.states(self.student, tower, text)
                theirs = [hidden.detach() for hidden in self.states(self.teacher, tower, text)]
                pairs = [
                    (mine[i + 1].mean(0), theirs[j + 1].mean(0)) for i, j in zip(layers, teacher_layers, strict=True)
                ]
                distances += [(s / s.norm() - t / t.norm()).square().mean() for s, t in pairs]
            total = total + torch.stack(distances).mean()
        return total

    def masked_features(self, seen: list[tuple[str, list[tuple[tuple[int, ...], ...]]]], mask_id: int) -> Tensor:
        """PMD's features at masked tokens of the texts that were seen: mean over tokens and hidden units, sum over towers."""
        total = torch.zeros(())
        for tower, texts in seen:
            errors = []
            for text in texts:
                places = torch.tensor(text[0]) == mask_id
                mine, theirs = (self.states(model, tower, text)[-1] for model in (self.student, self.teacher))
                errors.append((mine - theirs.detach())[places].square().mean(1))
            total = total + torch.cat(errors).mean()
        return total


def spied_texts(parts: TrialParts, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[Any]]]:
    """What the student is given to read, as it is given."""
    seen: list[tuple[str, list[Any]]] = []
    original = parts.student.encode

    def encode(texts: Any, tower: str, *rest: Any) -> Any:
        lengths = texts.lengths.tolist()
        columns = zip(texts.tokens.split(lengths), texts.types.split(lengths), strict=True)
        seen.append((tower, [(tuple(tokens.tolist()), tuple(types.tolist())) for tokens, types in columns]))
        return original(texts, tower, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(parts.student, "encode", encode)
    return seen


def gradients(loss: Tensor, model: BiEncoder) -> dict[str, Tensor]:
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(
        loss, list(named.values()), materialize_grads=True, allow_unused=True, retain_graph=True
    )
    return dict(zip(named, found, strict=True))


def check_equal(fast: Tensor, slow: Tensor, model: BiEncoder) -> None:
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)
    expected = gradients(slow, model)
    assert any(gradient.abs().max() > 1e-3 for gradient in expected.values())
    for name, gradient in gradients(fast, model).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


TRIPLES = [range(18), [0, 1, 9, 3, 12, 4, 16]]
"""All examples of the graph, both ways, among them many of the same query or tail; and a smaller batch."""


@pytest.mark.parametrize("rows", TRIPLES, ids=["all", "some"])
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_contrastive_term_is_that_of_one_encoding_per_example(
    parts_of: Callable[..., TrialParts], dataset: Dataset, kind: str, rows: Any
) -> None:
    """Savings that change what is learnt: a lost negative, a known answer among them, a margin on the wrong entry."""
    extras = {"self_negatives": True, "pre_batch": 2, "margin": 0.07}
    parts = parts_of("none", encoder={"kind": kind}, contrastive=extras, **TEXT_LIMIT)
    trainer, triples = parts.trainer, with_inverses(dataset.train, dataset.num_relations)[list(rows)]
    vectors = torch.nn.functional.normalize(torch.randn(5, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    trainer.pre_batch.push(vectors, np.array([1, 2, 3, 3, 5]))
    batch = trainer.builder.build(triples, trainer.pre_batch.entities_ahead().all_entities())
    slow = Naive(parts, dataset, triples).losses(
        margin=0.07, tau=1.0, with_self=True, earlier=(vectors, [1, 2, 3, 3, 5])
    )
    check_equal(trainer.losses(batch, 0)["ce"], slow["ce"], parts.student)


@pytest.mark.parametrize("rows", TRIPLES, ids=["all", "some"])
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_pmd_is_that_of_one_encoding_per_example(
    parts_of: Callable[..., TrialParts], dataset: Dataset, kind: str, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Score and feature terms over other entries than the formulas', or with a gradient that is not theirs."""
    parts = parts_of("pmd", encoder={"kind": kind}, training={"remember_teacher": False}, **TEXT_LIMIT)
    trainer, triples = parts.trainer, with_inverses(dataset.train, dataset.num_relations)[list(rows)]
    batch = trainer.builder.build(triples)
    seen = spied_texts(parts, monkeypatch)
    fast = trainer.losses(batch, 3)
    naive = Naive(parts, dataset, triples)
    slow = naive.losses(margin=0.02, tau=1.0)
    mask_id = trainer.corruption.mask_id
    slow["mgfd"] = naive.masked_features([s for s in seen if any(mask_id in text[0] for text in s[1])], mask_id)
    for name in ("ce", "score", "mgfd"):
        check_equal(fast[name], slow[name], parts.student)
    total = sum(term.weight * fast[term.name] for term in trainer.terms)
    assert isinstance(total, Tensor)
    check_equal(total, 0.5 * slow["ce"] + 0.2 * slow["score"] + 0.3 * slow["mgfd"], parts.student)


def test_pkd_is_that_of_one_encoding_per_example(parts_of: Callable[..., TrialParts], dataset: Dataset) -> None:
    """Divergence and intermediate states over other entries, layers or texts than the formulas'."""
    parts = parts_of("pkd", layers=3, training={"remember_teacher": False}, **TEXT_LIMIT)
    trainer, triples = parts.trainer, with_inverses(dataset.train, dataset.num_relations)
    fast = trainer.losses(trainer.builder.build(triples), 0)
    naive = Naive(parts, dataset, triples)
    slow = naive.losses(margin=0.02, tau=5.0)
    slow["patience"] = naive.patience((0, 1), (0, 1))
    for name in ("ce", "kl", "patience"):
        check_equal(fast[name], slow[name], parts.student)


def relations_of(model: BiEncoder, tower: Any, layer: int, text: tuple[tuple[int, ...], ...]) -> dict[str, Tensor]:
    """Attention distributions, relations of values, scores and the layer's queries and keys, by transformers' own forward pass."""
    encoder = model.encoder(tower)
    own = encoder.encoder.layer[layer].attention.self  # type: ignore[union-attr, index]
    seen: dict[str, Tensor] = {}
    hooks = [
        getattr(own, name).register_forward_hook(lambda _, __, output, name=name: seen.__setitem__(name, output[0]))
        for name in ("query", "key", "value")
    ]
    tokens, types = (torch.tensor(part)[None] for part in text)
    output = encoder(input_ids=tokens, token_type_ids=types, output_attentions=True)
    for hook in hooks:
        hook.remove()
    heads = {name: part.view(len(part), model.num_heads, -1).transpose(0, 1) for name, part in seen.items()}
    scale = heads["query"].shape[-1] ** -0.5
    return {
        "attention": output.attentions[layer][0],
        "value": (heads["value"] @ heads["value"].transpose(1, 2) * scale).softmax(-1),
        "scores": heads["query"] @ heads["key"].transpose(1, 2) * scale,
    }


def mean_over_texts(naive: Naive, of_text: Callable[[Any, Any], Tensor]) -> Tensor:
    """Mean over the distinct texts of a tower, summed over towers."""
    sides = (("query", set(naive.queries)), ("entity", set(naive.tails)))
    return sum(
        (torch.stack([of_text(tower, text) for text in texts]).mean() for tower, texts in sides), torch.zeros(())
    )


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_minilm_is_what_transformers_says_of_attention(
    parts_of: Callable[..., TrialParts], dataset: Dataset, kind: str
) -> None:
    """Attention of another layer or with padding, heads mixed up, or a relation that is scaled by the whole width."""
    parts = parts_of("minilm", layers=2, encoder={"kind": kind}, training={"remember_teacher": False}, **TEXT_LIMIT)
    trainer, triples = parts.trainer, with_inverses(dataset.train, dataset.num_relations)
    fast = trainer.losses(trainer.builder.build(triples), 0)
    naive = Naive(parts, dataset, triples)

    def divergence(name: str, tower: Any, text: Any) -> Tensor:
        q = relations_of(naive.student, tower, 1, text)[name]
        p = relations_of(naive.teacher, tower, naive.teacher.num_layers - 1, text)[name].detach()
        return (p * (p / q).log()).sum(-1).mean()

    for name in ("attention", "value"):
        slow = mean_over_texts(naive, lambda tower, text, name=name: divergence(name, tower, text))
        check_equal(fast[f"{name}_relation"], slow, parts.student)


def test_tinybert_is_what_transformers_says_of_its_layers(
    parts_of: Callable[..., TrialParts], dataset: Dataset
) -> None:
    """Another layer map, embeddings that are the first layer's states, or a projection that is not in the gradient."""
    parts = parts_of("tinybert", layers=2, training={"remember_teacher": False}, **TEXT_LIMIT)
    trainer, triples = parts.trainer, with_inverses(dataset.train, dataset.num_relations)
    fast = trainer.losses(trainer.builder.build(triples), 0)
    naive = Naive(parts, dataset, triples)

    def scores(tower: Any, text: Any) -> Tensor:
        return (
            torch.stack(
                [
                    relations_of(naive.student, tower, own, text)["scores"]
                    - relations_of(naive.teacher, tower, theirs, text)["scores"].detach()
                    for own, theirs in ((0, 1), (1, 3))
                ]
            )
            .square()
            .mean()
        )

    def states(pairs: Any) -> Tensor:
        total = torch.zeros(())
        for tower, texts in (("query", set(naive.queries)), ("entity", set(naive.tails))):
            found = [(naive.states(naive.student, tower, t), naive.states(naive.teacher, tower, t)) for t in texts]
            squares = [
                torch.cat([(mine[i] - theirs[j].detach()).square().mean(1) for mine, theirs in found]) for i, j in pairs
            ]
            total = total + torch.stack(squares).mean()
        return total

    check_equal(fast["attention"], mean_over_texts(naive, scores), parts.student)
    check_equal(fast["hidden"], states([(1, 2), (2, 4)]), parts.student)
    check_equal(fast["embedding"], states([(0, 0)]), parts.student)
    slow = naive.losses(margin=0.02, tau=1.0)
    for name in ("ce", "kl"):
        check_equal(fast[name], slow[name], parts.student)


class PlainStudent:
    """A student that learns from texts one by one, with a plain AdamW, as `parts` should learn from the same batches.

    Args:
        parts: where nothing is trimmed, kept or packed away; its student is trained here.
        dataset: the graph.
    """

    def __init__(self, parts: TrialParts, dataset: Dataset) -> None:
        self.parts, self.dataset = parts, dataset
        named = {name: one for name, one in parts.student.named_parameters() if one.requires_grad}
        self.parameters = list(named.values())
        matrices = [one for one in self.parameters if one.ndim >= 2]
        others = [one for one in self.parameters if one.ndim < 2]
        groups: list[dict[str, Any]] = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
        decay = parts.config.training.weight_decay
        self.adamw = torch.optim.AdamW(groups, weight_decay=decay, foreach=False, fused=False)

    def step(self, triples: np.ndarray, masked: list[tuple[str, list[Any]]], mask_id: int, rate: float) -> float:
        """Take one; `masked` are the texts of both towers as they are masked. Returns the loss."""
        naive = Naive(self.parts, self.dataset, triples)
        terms = naive.losses(margin=0.02, tau=1.0)
        loss = 0.5 * terms["ce"] + 0.2 * terms["score"] + 0.3 * naive.masked_features(masked, mask_id)
        self.adamw.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.parameters, self.parts.config.training.max_gradient_norm, foreach=False)
        for group in self.adamw.param_groups:
            group["lr"] = rate
        self.adamw.step()
        return float(loss.detach())


def as_columns(texts: Any) -> list[Any]:
    lengths = texts.lengths.tolist()
    columns = zip(texts.tokens.split(lengths), texts.types.split(lengths), strict=True)
    return [(tuple(tokens.tolist()), tuple(types.tolist())) for tokens, types in columns]


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_all_savings_at_once_learn_what_none_of_them_learns(
    parts_of: Callable[..., TrialParts],
    config_of: Callable[..., TrialConfig],
    dataset: Dataset,
    tmp_path: Path,
    kind: str,
) -> None:
    """Savings that are each right and together are not: rows of a trimmed vocabulary that a kept view names otherwise, a micro-batch of a text that was
    encoded for two examples, a batch built ahead under the masks of another epoch, moments of a row that is not there."""
    training = {"corruptions": 2, "batch_size": 7, "epochs": 2, "learning_rate": 1e-3, "gradient_cache": "always"}
    common = {"encoder": {"kind": kind}, "data": TEXT_LIMIT["data"]}
    fast = build_parts(
        config_of("pmd", training={**training, "tokens_per_micro_batch": 64}, **common),
        World.alone(),
        kept=KeptTeachers(tmp_path),
    )
    plain = {**training, "trim_vocabulary": False, "remember_teacher": False}
    slow = PlainStudent(parts_of("pmd", training=plain, **common), dataset)
    trainer = fast.trainer
    trainer.builders, trainer.measure_gradients = 2, False
    assert isinstance(trainer.teacher, CachedTeacher)
    assert fast.student.packs
    sizes = [sum(one.numel() for one in some.student.parameters()) for some in (fast, slow.parts)]
    assert sizes[0] < sizes[1], "nothing was trimmed"
    for epoch in range(2):
        batches = list(trainer.source.batches(epoch))
        assert len(batches) == 3
        for triples, step in zip(batches, trainer.run_epoch(), strict=True):
            batch, at = trainer.builder.build(triples), 3 * epoch + step - 1
            views = trainer.corruption.of(batch, epoch, at)
            masked = [(tower, as_columns(one.texts)) for tower, one in zip(("query", "entity"), views, strict=True)]
            expected = slow.step(triples, masked, trainer.corruption.mask_id, fast.optimizer.rate(at))
            assert trainer.averages()["loss"] == pytest.approx(expected, rel=1e-5), f"epoch {epoch}, step {step}"
    assert list(tmp_path.rglob("*.arrow")), "nothing was kept"
    own, theirs = (
        encode.encode_entities(one.student.eval(), one.assembler, dataset.num_entities) for one in (fast, slow.parts)
    )
    torch.testing.assert_close(own, theirs, atol=1e-4, rtol=0)
