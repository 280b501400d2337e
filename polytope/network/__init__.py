"""The compiled graph: its readers, its engine, its exact and rounded arithmetic, its file."""
