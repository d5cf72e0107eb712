"""Run the command line: ``python -m tte_retriever``."""

from __future__ import annotations

from tte_retriever.cli.main import main

if __name__ == "__main__":
    main()
