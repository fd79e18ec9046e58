"""Layers of a BERT-like encoder on a GPU: attention over texts of any lengths in one kernel, and what lies between products compiled.

Between its matrix products a layer normalises, adds, drops and bends; done one by one, each reads and writes all states once, and a GPU has to wait for its memory
more than it computes. `torch.compile` makes one kernel of those that follow each other. The simple twin is `attention.py`.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from raydistill.data.texts import Texts
from raydistill.models.attention import Layer, operands_of

logger = logging.getLogger(__name__)
WIDEST_HEAD = 256
"""What FlashAttention takes."""
HEAD_STEP = 8
RECOMPILATIONS = 256
LONGEST_SHORT = 128
"""Tokens of a text whose scores `short_attention` holds at once."""
Attention = Callable[[Tensor, Tensor, int, float, float], Tensor]
"""What the tokens of each text gather from each other; see `short_attention.attended`."""
LayerFunction = Callable[[Any, Tensor, Tensor, int, Attention, bool], tuple[Tensor, Tensor | None]]


def can_be_fused(model: Any, device: torch.device) -> bool:
    """Whether an encoder's layers can take this way: on a GPU that knows bfloat16 and FlashAttention, where products are made in bfloat16."""
    if not (device.type == "cuda" and torch.is_autocast_enabled("cuda") and _device_is_able()):
        return False
    hindrance = hindrance_of(model)
    if hindrance is not None:
        _tell_once(hindrance)
    return hindrance is None


def hindrance_of(model: Any) -> str | None:
    """What about an encoder keeps its layers from this way on a GPU that could; None = nothing does."""
    heads = model.config.hidden_size // model.config.num_attention_heads
    if heads > WIDEST_HEAD or heads % HEAD_STEP:
        return f"its heads have {heads} units, and kernels take multiples of {HEAD_STEP} up to {WIDEST_HEAD}"
    if any(operands_of(layer.attention.self) is not None for layer in model.encoder.layer):
        return "its attention is computed from rounded numbers"
    return None


@functools.cache
def _tell_once(hindrance: str) -> None:
    logger.warning(
        "an encoder goes through the GPU in groups of texts, which may take ten times as long: %s", hindrance
    )


@functools.cache
def _device_is_able() -> bool:
    able = torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(able and torch.backends.cuda.is_flash_attention_available())


def fused_layers(texts: Texts, device: torch.device, function: LayerFunction) -> Layer:
    """How states of these texts' tokens go through a layer.

    Args:
        texts: any; their order does not matter.
        device: of the states.
        function: `compiled_layer()`, or `fused_layer` itself.
    """
    bounds, longest = texts.there("bounds", device), texts.longest

    def through(layer: Any, states: Tensor, capture: bool) -> tuple[Tensor, Tensor | None]:
        own = layer.attention.self
        return function(layer, states, bounds, longest, attention_for(longest, own.attention_head_size), capture)

    return through


def fused_layer(
    layer: Any, hidden: Tensor, bounds: Tensor, longest: int, attention: Attention, capture: bool
) -> tuple[Tensor, Tensor | None]:
    """The states after a layer, `(tokens, hidden)`, and where asked for what its attention was computed from, `(tokens, 3, hidden)`.

    Args:
        layer: of a BERT-like encoder.
        hidden: `(tokens, hidden)`, before it.
        bounds: `(texts + 1,)` int32, where each text begins, and the number of tokens.
        longest: tokens of the longest text.
        attention: how its tokens see each other.
        capture: whether to give that away. An output that nobody uses would still have a gradient, of zeros.
    """
    own = layer.attention.self
    parts = (own.query, own.key, own.value)
    weight, bias = torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])
    states = nn.functional.linear(hidden, weight, bias).view(hidden.shape[0], 3, own.num_attention_heads, -1)
    drop = own.dropout.p if own.training else 0.0
    context = attention(states, bounds, longest, own.scaling, drop)
    attended = layer.attention.output(context.reshape(hidden.shape), hidden)
    after: Tensor = layer.output(layer.intermediate(attended), attended)
    return after, states.flatten(2) if capture else None


def attention_for(longest: int, width: int) -> Attention:
    """The kernel for texts of up to `longest` tokens and heads of `width` units."""
    fits = longest <= LONGEST_SHORT and width >= 16 and width & (width - 1) == 0
    return (short_attention() if fits else None) or flash_attention


@functools.cache
def short_attention() -> Attention | None:
    """The kernel for short texts; None where it cannot be compiled, which needs more than triton: a C compiler, and Python's headers."""
    if not has_triton():
        return None
    try:
        from raydistill.models.short_attention import attended

        try_out(attended, torch.device("cuda"))
    except Exception as problem:  # a compiler's failures have no class in common
        said = str(problem).strip().partition("\n")[0]
        logger.warning(
            "the attention kernel for short texts cannot be compiled (%s): FlashAttention takes its place", said
        )
        return None
    return attended


def try_out(attention: Attention, device: torch.device) -> None:
    """Go through a kernel once, there and back, and leave no trace: it may be needed first where no gradient is, or between two draws that must be the same again."""
    drawing = [torch.cuda.current_device()] if device.type == "cuda" else []
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=drawing):
        states = torch.zeros((2, 3, 1, 16), dtype=torch.bfloat16, device=device, requires_grad=True)
        bounds = torch.tensor([0, 2], dtype=torch.int32, device=device)
        attention(states, bounds, 2, 1.0, 0.1).sum().backward()  # type: ignore[no-untyped-call]


def flash_attention(states: Tensor, bounds: Tensor, longest: int, scale: float, drop: float) -> Tensor:
    """As `short_attention.attended`, for texts of any length and heads of any width."""
    # `torch.nn.attention.varlen` is this kernel without dropout.
    seen: Tensor = torch.ops.aten._flash_attention_forward(
        *states.unbind(1), bounds, bounds, longest, longest, drop, False, False, scale=scale
    )[0]
    return seen


@functools.cache
def has_triton() -> bool:
    """Whether there is a compiler for GPUs."""
    return importlib.util.find_spec("triton") is not None


@functools.cache
def compiled_layer() -> LayerFunction:
    """`fused_layer`, compiled where there is a compiler; one for all layers, texts and models of this process."""
    if not has_triton():
        logger.warning(
            "triton is not installed, so layers are not compiled, and training is slower than it need be: pip install triton"
        )
        return fused_layer
    # Imported here, because it takes a second that no process without a GPU should wait for.
    import torch._dynamo.config
    import torch._dynamo.exc
    import torch._functorch.config

    # A trainer that measures each term's gradient goes back through a graph more than once, which a graph that gives its buffers away forbids.
    torch._functorch.config.donated_buffer = False
    # One for each way it is called: with a graph or without, each rate of dropout, each kernel, for the students of all grades that a process trains. At the limit layers would silently be computed as they are, and
    # draw other dropout than those that were compiled.
    torch._dynamo.config.recompile_limit = max(RECOMPILATIONS, torch._dynamo.config.recompile_limit)
    return CompiledOrPlain(
        fused_layer, torch.compile(fused_layer, dynamic=True), torch._dynamo.exc.TorchDynamoException
    )


class CompiledOrPlain:
    """A function that is compiled when it is first called, or as it is where that fails: no trial ends for want of a compiler.

    Args:
        plain: the function.
        compiled: the same, to be compiled.
        failure: what is raised where it cannot be.
    """

    def __init__(self, plain: LayerFunction, compiled: LayerFunction, failure: type[Exception]) -> None:
        self.plain, self.compiled, self.failure = plain, compiled, failure

    def __call__(
        self, layer: Any, hidden: Tensor, bounds: Tensor, longest: int, attention: Attention, capture: bool
    ) -> tuple[Tensor, Tensor | None]:
        """What the function gives."""
        try:
            return self.compiled(layer, hidden, bounds, longest, attention, capture)
        except self.failure as problem:
            said = str(problem).strip().partition("\n")[0]
            logger.warning(
                "layers cannot be compiled (%s): they are computed as they are, and training is slower than it need be",
                said,
            )
            self.compiled = self.plain
        return self.plain(layer, hidden, bounds, longest, attention, capture)
