"""Rigorous bounds of layers and outputs over sets of inputs: intervals and CROWN."""
