"""The kinds of encoders whose parts are known."""

KINDS = ("bert", "roberta", "xlm-roberta", "camembert")
"""What `model_type` is called in their configurations."""
BERT_LIKE = f"an encoder of a BERT-like kind: {', '.join(KINDS[:-1])} or {KINDS[-1]}"
"""What is expected where another kind was given."""
