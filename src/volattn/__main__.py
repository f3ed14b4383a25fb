"""`python -m volattn` is the command `volattn`."""

from __future__ import annotations

from volattn.cli.main import main

if __name__ == "__main__":  # Worker processes import this file too.
    main()
