from __future__ import annotations

import logging
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from raydistill.errors import DataError
from raydistill.kg.lines import Intake
from raydistill.kg.sources import read_source


def _stand_in(monkeypatch: pytest.MonkeyPatch, make: Any) -> None:
    """Put a PyKEEN in place that knows one graph, called far."""
    resolver = SimpleNamespace(lookup_dict={"far": make}, normalize=lambda name: name.lower())
    monkeypatch.setitem(sys.modules, "pykeen", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "pykeen.datasets", SimpleNamespace(dataset_resolver=resolver))


@pytest.mark.slow
def test_pykeen_umls_has_the_same_counts_as_the_files() -> None:
    """Two roads to one graph must lead to one graph."""
    pytest.importorskip("pykeen")
    graph = read_source("pykeen:umls", "auto", Intake())
    assert (graph.num_entities, graph.num_relations) == (135, 46)
    assert [len(graph.triples[split]) for split in ("train", "valid", "test")] == [5216, 652, 661]
    assert "disease_or_syndrome" in graph.entity_keys
    assert "disease or syndrome" in graph.entity_names


@pytest.mark.slow
def test_an_unknown_name_lists_close_ones() -> None:
    """A typo should cost seconds, not a search in another project's documentation."""
    pytest.importorskip("pykeen")
    with pytest.raises(DataError, match=r"one like.*umls"):
        read_source("pykeen:umsl", "auto", Intake())


def test_pykeen_not_installed_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyKEEN is optional; its absence must not be a traceback."""
    monkeypatch.setitem(sys.modules, "pykeen", None)
    monkeypatch.delitem(sys.modules, "pykeen.datasets", raising=False)
    with pytest.raises(DataError, match="pip install pykeen"):
        read_source("pykeen:umls", "auto", Intake())


def test_a_download_is_announced_and_its_failure_is_a_data_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A silent download of gigabytes, or a traceback on a machine without a network, are both bad surprises."""

    class Far:
        @property
        def training(self) -> Any:
            raise ConnectionError("no route to host")

    _stand_in(monkeypatch, Far)
    with caplog.at_level(logging.WARNING), pytest.raises(DataError, match="no route to host"):
        read_source("pykeen:Far", "auto", Intake())
    assert "download" in caplog.text
