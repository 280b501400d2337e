"""How fast outputs change: bounds of Jacobians, Lipschitz constants, and radii from them."""
