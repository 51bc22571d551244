"""A model's embedding table and tokenizer from its files, without loading the model."""
