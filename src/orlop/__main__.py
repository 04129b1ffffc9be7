"""`python -m orlop` is `orlop`: what exit handlers start, where no script may be in PATH."""

from __future__ import annotations

from orlop.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
