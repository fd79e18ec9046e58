"""How good a link predictor is: ranks under three tie rules, the filtered protocol, and the numbers made from them."""
