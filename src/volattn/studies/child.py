"""A cell in a process of its own: `python -m volattn.studies.child CELL THREADS`, CELL as JSON.

Progress is said on standard output, a line of JSON each. Standard input is a lifeline: when it closes, the study has
ended, however that happened, and nobody would wait for this cell any more.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from volattn.studies.cell import Cell


def main(arguments: list[str]) -> int:
    """Runs the cell.

    Args:
        arguments: The cell as JSON, the threads that it may use, and "cpu" or "auto".

    Returns:
        0, or 1 if it failed; why is then in its folder.
    """
    threading.Thread(target=_die_with_the_study, daemon=True).start()
    # After the lifeline is watched: this takes seconds.
    import torch

    from volattn.studies.cell import Cell, run_cell

    text, threads, device = arguments
    torch.set_num_threads(int(threads))
    cell = Cell.from_json(json.loads(text))
    try:
        run_cell(cell, cpu=device == "cpu", alone=True, progress=_say)
    except Exception as error:  # Whatever is wrong with one cell must not cost the user the others.
        traceback.print_exc()
        _note(cell, error)
        return 1
    return 0


def _note(cell: Cell, error: Exception) -> None:
    from volattn.faults import explain
    from volattn.studies.cell import note_failure

    note_failure(cell, explain(error))


def _say(what: str, done: int, total: int) -> None:
    print(json.dumps([what, done, total]), flush=True)


def _die_with_the_study() -> None:
    # Past Python's buffer: whoever holds its lock when the process ends, as this thread would, brings it down.
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
