"""``python -m polytope``: the same as the command ``polytope``."""

from polytope.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
