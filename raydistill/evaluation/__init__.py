"""The room of ranking: filtered ranks under three tie rules and the metrics made of them."""
