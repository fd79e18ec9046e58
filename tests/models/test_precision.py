"""Which precision a device works in."""

from __future__ import annotations

import logging
import platform

import pytest
import torch

from raydistill.models import precision
from raydistill.models.precision import chosen_precision, has_bfloat16

CPU = torch.device("cpu")


def test_auto_is_bfloat16_where_it_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor without the instructions would train a hundred times more slowly, and look as if it hung."""
    for fast, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(precision, "has_bfloat16", lambda device, fast=fast: fast)
        assert chosen_precision("auto", CPU) == expected


def test_wish_is_granted_and_its_price_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A slow precision that was asked for would be changed without a word, or taken without one."""
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: False)
    with caplog.at_level(logging.WARNING, "raydistill"):
        assert chosen_precision("fp32", CPU) == "fp32"
        assert not caplog.records
        assert chosen_precision("bf16", CPU) == "bf16"
    assert "training.precision=auto" in caplog.text


@pytest.mark.skipif(platform.machine() != "x86_64", reason="asks for instructions of this architecture")
@pytest.mark.parametrize(("avx", "amx"), [(True, False), (False, True), (False, False)])
def test_processor_is_asked_for_its_instructions(monkeypatch: pytest.MonkeyPatch, avx: bool, amx: bool) -> None:
    """AVX-512 alone would pass for bfloat16, which then takes twice as long as float32."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert has_bfloat16(CPU) == (avx or amx)
