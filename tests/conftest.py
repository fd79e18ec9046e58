"""What the tests of the learning core stand on: a graph of nine training triples, two tiny encoders, and trials on them. No network, ever."""

from __future__ import annotations

import os
import signal

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # So a shell starts what it starts in the background, and Ctrl-C, which some tests send, would be heard by no process they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from raydistill.config.trial import TrialConfig
    from raydistill.data.assembly import TextAssembler
    from raydistill.kg.store import Dataset
    from raydistill.kg.text import TextRule

LONG = (
    "a gardener who grows tall roses on the sunny side of an old stone wall and sells them every single morning to people "
    "passing by"
)
ENTITIES = [
    ("ann", "Ann Lee", "a painter of small birds"),
    ("bob", "Bob, Jr.", ""),
    ("carl", "Carl", LONG),
    ("rome", "Rome (Italy)", "an old city."),
    ("oslo", "Ósló – Oslo", "die größte Stadt; 挪威的首都"),
    ("city", "city", ""),
    ("springfield_1", "Springfield", ""),
    ("springfield_2", "Springfield", ""),
]
"""Long and short descriptions, none at all, other scripts, names that end in punctuation, and two entities of one text (a tie in every ranking)."""
RELATIONS = [
    ("knows", "knows"),
    ("lives_in", "lives in"),
    ("instance_of", "instance of"),
    ("has_instance", "has instance"),
]
TRAIN = [
    ("ann", "knows", "bob"),
    ("ann", "knows", "carl"),  # as true as the one above: neither may be the other's negative
    ("bob", "knows", "ann"),  # the same two entities the other way round
    ("ann", "lives_in", "rome"),
    ("carl", "lives_in", "rome"),  # rome's inhabitants collide from the other side
    ("bob", "lives_in", "oslo"),
    ("rome", "instance_of", "city"),
    ("oslo", "instance_of", "city"),
    ("city", "has_instance", "rome"),  # says the same as an inverse relation
]
VALID = [("carl", "knows", "bob"), ("ann", "lives_in", "oslo"), ("carl", "lives_in", "springfield_1")]
TEST = [("bob", "lives_in", "rome"), ("springfield_2", "instance_of", "city")]

Folder = Callable[..., Path]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ray's processes take their time to start, and more where other tests run beside them."""
    for item in items:
        if item.get_closest_marker("ray") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(1800))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Sums over several threads are added in another order on another machine."""
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing a test makes belongs into the user's cache."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def dataset_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The nine-triple graph as a dataset directory."""
    from raydistill.kg.audit import audit_graph
    from raydistill.kg.graph import Graph
    from raydistill.kg.lines import Intake
    from raydistill.kg.writing import write_dataset

    entity = {key: number for number, (key, _, _) in enumerate(ENTITIES)}
    relation = {key: number for number, (key, _) in enumerate(RELATIONS)}
    triples = {
        split: np.array([(entity[h], relation[r], entity[t]) for h, r, t in rows], np.int32)
        for split, rows in (("train", TRAIN), ("valid", VALID), ("test", TEST))
    }
    graph = Graph(
        "by hand",
        *([list(column) for column in zip(*ENTITIES, strict=True)]),
        *([list(column) for column in zip(*RELATIONS, strict=True)]),
        triples,
        np.zeros(len(ENTITIES), bool),
        np.zeros(len(RELATIONS), bool),
    )
    folder = tmp_path_factory.mktemp("graph") / "dataset"
    origin = {"name": "by hand", "layout": "by hand", "sample": None, "seed": None}
    write_dataset(folder, graph, audit=audit_graph(graph, Intake(), None), intake=Intake(), origin=origin)
    return folder


@pytest.fixture(scope="session")
def dataset(dataset_folder: Path) -> Dataset:
    """The nine-triple graph."""
    from raydistill.kg.store import Dataset

    return Dataset.load(dataset_folder)


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Make (once) a tiny encoder: `encoder_folder("bert" or "roberta", dropout=..., layers=..., width=..., heads=...)`."""
    made: dict[tuple[str, float, int, int, int], Path] = {}

    def make(kind: str = "bert", *, dropout: float = 0.0, layers: int = 4, width: int = 16, heads: int = 2) -> Path:
        key = (kind, dropout, layers, width, heads)
        if key not in made:
            made[key] = tmp_path_factory.mktemp(f"{kind}{layers}")
            {"bert": _write_bert, "roberta": _write_roberta}[kind](made[key], *key[1:])
        return made[key]

    return make


@pytest.fixture(scope="session")
def bert_folder(encoder_folder: Folder) -> Path:
    """A tiny BERT with a WordPiece tokenizer, without dropout."""
    return encoder_folder("bert")


@pytest.fixture(scope="session")
def roberta_folder(encoder_folder: Folder) -> Path:
    """A tiny RoBERTa with a byte-level BPE tokenizer, without dropout."""
    return encoder_folder("roberta")


@pytest.fixture(scope="session")
def tokenizers(bert_folder: Path, roberta_folder: Path) -> dict[str, Any]:
    """WordPiece and byte-level BPE."""
    from raydistill.models.loading import load_tokenizer

    return {"bert": load_tokenizer(bert_folder), "roberta": load_tokenizer(roberta_folder)}


@pytest.fixture(scope="session")
def assembler_of() -> Callable[..., TextAssembler]:
    """Put an assembler together without any file: `assembler_of(tokenizer, dataset, max_tokens=..., rule=...)`."""

    def make(tokenizer: Any, dataset: Dataset, *, max_tokens: int = 64, rule: TextRule | None = None) -> TextAssembler:
        from raydistill.data.assembly import TextAssembler
        from raydistill.data.layout import TextLayout
        from raydistill.data.tokens import PieceTexts, tokenize_pieces
        from raydistill.kg.text import TextRule

        pieces = tokenize_pieces(PieceTexts(dataset), tokenizer, dataset.num_entities, dataset.num_relations)
        return TextAssembler(pieces, dataset, TextLayout.of_tokenizer(tokenizer), rule or TextRule(), max_tokens)

    return make


@pytest.fixture(scope="session")
def trial_config(dataset_folder: Path, encoder_folder: Folder) -> Callable[..., TrialConfig]:
    """Make a trial's configuration for the tiny encoder; sections are given as mappings of what differs.

    `encoder` may name `kind`, `dropout`, `depth`, `width` and `heads` of the tiny encoder beside the section's own fields; `teacher` is the path of a checkpoint.
    """

    def make(
        *,
        layers: int = 2,
        layer_map: str | tuple[int, ...] = "skip",
        method: Mapping[str, Any] | None = None,
        encoder: Mapping[str, Any] | None = None,
        teacher: Path | None = None,
        **sections: Any,
    ) -> TrialConfig:
        from raydistill.config.trial import TrialConfig
        from raydistill.kg.store import Dataset
        from raydistill.models.pretrained import locate_encoder
        from raydistill.students.layers import resolve_layer_map
        from raydistill.training.checkpoint import read_record
        from raydistill.training.manifest import verify_checkpoint

        shape = dict(encoder or {})
        folder = encoder_folder(
            shape.pop("kind", "bert"),
            dropout=shape.pop("dropout", 0.0),
            layers=shape.pop("depth", 4),
            width=shape.pop("width", 16),
            heads=shape.pop("heads", 2),
        )
        facts = locate_encoder(str(folder))
        reference = None if teacher is None else {"path": str(teacher), "digest": verify_checkpoint(teacher)}
        from_teacher = sections.get("init") == "teacher" and teacher is not None
        source = read_record(teacher)["layers"] if from_teacher and teacher else facts.num_layers
        settings = {
            "epochs": 2,
            "batch_size": 7,
            "precision": "fp32",
            "learning_rate": 1e-3,
            "tokens_per_micro_batch": 64,
        }
        data = {"path": str(dataset_folder), "max_tokens": 32}
        return TrialConfig.model_validate(
            {
                **sections,
                "data": {**data, **sections.get("data", {})},
                "data_fingerprint": sections.get(
                    "data_fingerprint", Dataset.load(dataset_folder, verify=False).fingerprint
                ),
                "encoder": {"name": str(folder), **shape},
                "encoder_fingerprint": sections.get("encoder_fingerprint", facts.fingerprint),
                "contrastive": sections.get("contrastive", {}),
                "training": {**settings, **sections.get("training", {})},
                "method": method or {"name": "none"},
                "layers": layers,
                "layer_map": resolve_layer_map(layer_map, source, layers),
                "teacher": reference,
            }
        )

    return make


@pytest.fixture
def tiny_campaign(dataset_folder: Path, encoder_folder: Folder, tmp_path: Path) -> Callable[..., str]:
    """Write a campaign's file for the tiny graph and encoder, of one grade of one layer; sections are given as mappings of what differs."""
    import yaml

    def write(**sections: Any) -> str:
        content: dict[str, Any] = {
            "data": {"path": str(dataset_folder), "max_tokens": 32},
            "encoder": {"name": str(encoder_folder("bert")), "shared_towers": True},
            "grades": [{"layers": 1}],
            "training": {"epochs": 1, "batch_size": 4, "precision": "fp32"},
        }
        path = tmp_path / "campaign.yaml"
        path.write_text(yaml.safe_dump({**content, **sections}), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture(scope="session")
def teacher_checkpoint(trial_config: Callable[..., TrialConfig], tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Train (once) a teacher of four layers: `teacher_checkpoint(kind="bert", shared_towers=False, width=16, heads=2)` is its checkpoint's path."""
    made: dict[tuple[str, bool, int, int], Path] = {}

    def make(kind: str = "bert", *, shared_towers: bool = False, width: int = 16, heads: int = 2) -> Path:
        from raydistill.training.gather import World
        from raydistill.training.trial import run_trial

        key = (kind, shared_towers, width, heads)
        if key not in made:
            shape = {"kind": kind, "shared_towers": shared_towers, "width": width, "heads": heads}
            config = trial_config(layers=4, encoder=shape, training={"epochs": 1})
            *_, last = run_trial(config, tmp_path_factory.mktemp("teacher"), World.alone())
            assert last.checkpoint is not None
            made[key] = Path(last.checkpoint)
        return made[key]

    return make


@pytest.fixture(scope="session")
def structural_folder(dataset_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A structural model of the graph, ComplEx with random rows, as it lies on disk."""
    import torch

    from raydistill.kg.store import Dataset
    from raydistill.teachers.structural import StructuralModel
    from raydistill.training.structural.folder import save_structural

    dataset = Dataset.load(dataset_folder)
    draw = torch.Generator().manual_seed(5)
    sizes = dataset.num_entities, 2 * dataset.num_relations
    model = StructuralModel("complex", *(torch.randn(rows, 6, generator=draw) for rows in sizes))
    folder = tmp_path_factory.mktemp("structural") / "complex"
    save_structural(folder, model, dataset.fingerprint, {})
    return folder


def _write_bert(folder: Path, dropout: float, layers: int, width: int, heads: int) -> None:
    """Words of the graph as far as they are common, single letters for the rest; what is neither becomes [UNK]."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    words = [
        "ann",
        "city",
        "rome",
        "knows",
        "lives",
        "in",
        "of",
        "has",
        "inverse",
        "the",
        "painter",
        "##er",
        "##ing",
        "##s",
    ]
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = dict.fromkeys([*specials, *letters, *(f"##{x}" for x in letters), *",.;:()-–'\"挪威", *words])
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=32,
        max_position_embeddings=160,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        initializer_range=0.2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(11)
        BertModel(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)


def _write_roberta(folder: Path, dropout: float, layers: int, width: int, heads: int) -> None:
    """Merges learnt from the graph's own texts, so that pieces have more than one byte."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaConfig, RobertaModel, RobertaTokenizerFast

    texts = [f"{name}: {description}" for _, name, description in ENTITIES] + [phrase for _, phrase in RELATIONS]
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    learner = ByteLevelBPETokenizer()
    learner.train_from_iterator(texts, vocab_size=340, min_frequency=1, special_tokens=specials, show_progress=False)
    learner.save_model(str(folder))
    tokenizer = RobertaTokenizerFast.from_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=32,
        max_position_embeddings=162,
        type_vocab_size=1,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        initializer_range=0.2,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(12)
        RobertaModel(config).save_pretrained(folder)
