"""One file per solver; `solvers.registry` imports each when it is asked for."""
