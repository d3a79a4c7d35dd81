"""An agent whose wall clock can be set: it is off by as many seconds as FILE says.

Run as `python jumpingagent.py FILE agent …`.
"""

from __future__ import annotations

import pathlib
import sys
import time

if __name__ == "__main__":
    file = pathlib.Path(sys.argv.pop(1))
    real = time.time

    def jumped() -> float:
        """The wall clock, off by what the file says."""
        try:
            return real() + float(file.read_text())
        except (FileNotFoundError, ValueError):  # it is being written
            return real()

    time.time = jumped
    from fimbria.cli.main import main

    main()
