"""The default recipe: several views of every example, raced and pooled within any budget."""

from blackbox_delta.auto.recipe import Auto

__all__ = ["Auto"]
