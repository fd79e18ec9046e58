"""Training only the embedding rows in use: the vocabulary trimmed to a graph's pieces, and put back whole, unused rows bit for bit."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from raydistill.models.temporary import is_lasting


class TrimmedEmbedding(nn.Module):
    """An embedding that holds the rows `kept` of a larger table; token ids stay those of the whole table.

    Args:
        whole: the table before trimming, `(vocabulary, hidden)`; kept as it is, it is no parameter.
        kept: sorted token ids that may occur, `(rows,)`.
        padding_idx: token id of padding, whose row gets no gradient (as in the encoder's own table), or None.

    A token that is not kept raises IndexError rather than reading a wrong row.
    """

    def __init__(self, whole: Tensor, kept: Tensor, padding_idx: int | None) -> None:
        super().__init__()
        self.whole = whole.detach()
        self.kept = kept
        place = torch.full((whole.shape[0],), whole.shape[0], dtype=torch.int64)
        place[kept] = torch.arange(len(kept))
        self.register_buffer("place", place, persistent=False)
        self.weight = nn.Parameter(self.whole[kept].clone())
        self.padding_idx = None if padding_idx is None else int(place[padding_idx])

    def forward(self, tokens: Tensor) -> Tensor:
        """Rows of `tokens`."""
        assert isinstance(self.place, Tensor)
        return nn.functional.embedding(self.place[tokens], self.weight, self.padding_idx)

    def restored(self) -> Tensor:
        """The whole table with the trained rows put back."""
        table = self.whole.clone()
        table[self.kept] = self.weight.detach().to("cpu")
        return table


def trim_embeddings(encoder: nn.Module, kept: Tensor) -> None:
    """Replace the encoder's word embeddings by their rows `kept`, in place."""
    embeddings = encoder.embeddings
    whole = embeddings.word_embeddings  # type: ignore[union-attr]
    if isinstance(whole, TrimmedEmbedding):
        return
    assert isinstance(whole, nn.Embedding)
    embeddings.word_embeddings = TrimmedEmbedding(whole.weight.data, kept, whole.padding_idx)  # type: ignore[union-attr]


def whole_state(encoder: nn.Module) -> dict[str, Tensor]:
    """The encoder's state as it was before trimming, on the CPU, contiguous, without what is temporary: what a checkpoint stores."""
    lasts = is_lasting(encoder)
    state = {name: one.detach().to("cpu").contiguous() for name, one in encoder.state_dict().items() if lasts(name)}
    table = encoder.embeddings.word_embeddings  # type: ignore[union-attr]
    if isinstance(table, TrimmedEmbedding):
        state["embeddings.word_embeddings.weight"] = table.restored()
    return state
