"""Runs inside a ship: ask to land at each address given, all at once, and print the answers.

Arguments: `what=address`, where what is `land` (HTTP POST to port 80) or `ping`. Prints one JSON
list of answers, in the same order; null stands for no answer within the patience of a second.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

PATIENCE = 1.0


def land(address: str) -> str | None:
    """Return what the Death Star says."""
    connection = http.client.HTTPConnection(address, 80, timeout=PATIENCE)
    try:
        connection.request("POST", "/v1/request-landing")
        return connection.getresponse().read().decode().strip()
    except OSError:
        return None
    finally:
        connection.close()


def ping(address: str) -> str | None:
    """Return a round-trip time."""
    command = ["ping", "-n", "-c", "1", "-W", str(PATIENCE), address]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    times = [word for word in done.stdout.split() if word.startswith("time=")]
    return f"{times[0].removeprefix('time=')} ms" if times else None


def ask(word: str) -> str | None:
    """Do what one argument says."""
    what, _, address = word.partition("=")
    return {"land": land, "ping": ping}[what](address)


if __name__ == "__main__":
    with ThreadPoolExecutor(max_workers=len(sys.argv)) as pool:
        print(json.dumps(list(pool.map(ask, sys.argv[1:]))))
