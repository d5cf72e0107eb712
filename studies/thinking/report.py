"""Fill the tables of the study's page from its results.

    python -m studies.thinking.report studies/thinking/config.yaml --document studies/thinking/README.md

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->`` and is replaced as a whole; the text around it is not
changed. Without a document, all tables are printed.
"""

from __future__ import annotations

import re
from pathlib import Path

from studies.thinking.results import Results
from studies.thinking.study import read_study, study_parser
from studies.thinking.tables import TABLES
from tte_retriever.errors import InputError


def filled(document: str, results: Results) -> str:
    """The document with new tables.

    Raises:
        InputError: The document has the name of a table that does not exist.
    """

    def fill(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in TABLES:
            raise InputError(f"The document has a table {name!r}; the tables are {', '.join(TABLES)}.")
        return f"<!-- table: {name} -->\n{TABLES[name](results)}\n<!-- end -->"

    return re.sub(r"<!-- table: (?P<name>[\w-]+) -->\n.*?<!-- end -->", fill, document, flags=re.DOTALL)


def main() -> None:
    """Read the results and fill the document."""
    parser = study_parser(__doc__)
    parser.add_argument("--document", type=Path, help="page whose tables are replaced; default: print the tables")
    arguments = parser.parse_args()
    results = Results.read(read_study(arguments))
    if arguments.document is None:
        for name, table in TABLES.items():
            print(f"{name}\n\n{table(results)}\n")
    else:
        arguments.document.write_text(filled(arguments.document.read_text(), results))


if __name__ == "__main__":
    main()
