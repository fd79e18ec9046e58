"""The room of models: two towers, pooling, temperature, and what a term may capture from them."""
