"""What the checker of certificates is made of; see `polytope.checker`.

None of it shares code with the engines.
"""
