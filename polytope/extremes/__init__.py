"""Extreme values over the linear regions met by a ball: Lipschitz constants, local linearity."""
