"""Properties of outputs over boxes of inputs: proved, or refuted by a witness."""
