"""``python -m dynamax_lm.certify``."""

from __future__ import annotations

from dynamax_lm.certify.cli import main

if __name__ == "__main__":
    main()
