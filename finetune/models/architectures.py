"""Weights that bring their network with them. Imports no torch: the configuration asks here."""

__all__ = ["ARCHITECTURES"]

ARCHITECTURES = {"bundled": "resnet12_wide", "packaged": "tf_efficientnet_lite0"}
