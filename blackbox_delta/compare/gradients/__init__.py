"""Baselines with gradients, through transformers and PEFT: what a frozen model cannot have."""

from blackbox_delta.compare.gradients.bbtv2 import BBTv2Style
from blackbox_delta.compare.gradients.method import GRIDS, GradientMethod, gradient_method

__all__ = ["GRIDS", "BBTv2Style", "GradientMethod", "gradient_method"]
