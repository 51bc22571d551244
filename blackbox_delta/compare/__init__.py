"""The yardstick: methods side by side on the same splits, seeds, model and templates."""
