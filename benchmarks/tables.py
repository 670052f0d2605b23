"""Tables of the README and of the pages in results/, from the JSON beside the pages.

A page marks where a table stands, and what is between the marks is replaced:

    <!-- table: NAME -->
    <!-- /table -->

    python benchmarks/tables.py           # rewrites every page's tables
    python benchmarks/tables.py --check   # exit code 1 if one is not up to date
"""

from __future__ import annotations

import argparse
import pathlib
import re
import sys
from collections.abc import Callable

import table_cells
import tables_compiling
import tables_distillation
import tables_dreamer
import tables_fairness
import tables_faults
import tables_in_context
import tables_learning
import tables_multitask
import tables_sequence
import tables_speed
import tables_summary

TABLES: dict[str, Callable[[], table_cells.Rows]] = {
    **tables_distillation.TABLES,
    **tables_dreamer.TABLES,
    **tables_speed.TABLES,
    **tables_compiling.TABLES,
    **tables_learning.TABLES,
    **tables_multitask.TABLES,
    **tables_in_context.TABLES,
    **tables_sequence.TABLES,
    **tables_summary.TABLES,
    **tables_fairness.TABLES,
    **tables_faults.TABLES,
}
_README = pathlib.Path(__file__).parent.parent / "README.md"
_REGION = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- /table -->)", re.DOTALL)


def pages() -> list[pathlib.Path]:
    """Returns the files that have tables: the README and the pages of results."""
    return [_README, *sorted(table_cells.RESULTS.glob("*.md"))]


def names(text: str) -> list[str]:
    """Returns the names of the tables that a page marks."""
    return [match[2] for match in _REGION.finditer(text)]


def filled(text: str) -> str:
    """Returns a page with every marked table made anew.

    Raises:
      KeyError: a mark names no table.
    """
    return _REGION.sub(lambda m: m[1] + _table(m[2]) + m[3], text)


def main() -> None:
    """Rewrite the pages, or check them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing")
    check = parser.parse_args().check
    stale = [path for path in pages() if filled(path.read_text()) != path.read_text()]
    for path in stale:
        print(f"{'not up to date' if check else 'written'}: {path}")
        if not check:
            path.write_text(filled(path.read_text()))
    sys.exit(1 if check and stale else 0)


def _table(name: str) -> str:
    return f"\n{table_cells.markdown(TABLES[name]())}\n"


if __name__ == "__main__":
    main()
