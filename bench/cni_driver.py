"""Inside a lab's namespaces: call the CNI plugin as a runtime does, and time every call.

    cni_driver.py PLUGIN CONFIG NAMESPACE POD

Prints one JSON line: milliseconds of ADD one at a time, of each of a burst of 200 with 8 at a
time, the burst's seconds, and of executing an interpreter that does nothing.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

CLONE_NEWNET = 0x40000000
BURST, AT_A_TIME, ALONE = 200, 8, 30
PAUSE = 0.1  # seconds before an ADD of an idle node, so that the last DEL is over


def network_namespace() -> int:
    """A new network namespace, as a descriptor of this process."""
    found: list[int] = []

    def make() -> None:
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        found.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return found[0]


def timed(command: list[str], environment: dict[str, str], stdin: bytes) -> float:
    """Milliseconds from exec to result, with as little of our own in it as can be."""
    given, said = os.memfd_create("stdin"), os.memfd_create("stdout")
    try:
        os.write(given, stdin)
        os.lseek(given, 0, os.SEEK_SET)
        files = [(os.POSIX_SPAWN_DUP2, given, 0), (os.POSIX_SPAWN_DUP2, said, 1)]
        start = time.perf_counter()
        pid = os.posix_spawn(command[0], command, environment, file_actions=files)
        _, status = os.waitpid(pid, 0)
        elapsed = (time.perf_counter() - start) * 1e3
        if status:
            output = os.pread(said, 4096, 0).decode()
            raise SystemExit(f"{environment.get('CNI_COMMAND')}: {output}")
        return elapsed
    finally:
        os.close(given)
        os.close(said)


def main(plugin: str, config: str, namespace: str, pod: str) -> None:
    stdin = config.encode()

    def call(command: str, number: int, net: int) -> float:
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": f"bench{number:06d}",
            "CNI_NETNS": f"/proc/{os.getpid()}/fd/{net}",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": os.path.dirname(plugin),
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={pod}",
        }
        return timed([plugin], environment, stdin)

    interpreter = ["/usr/bin/python3", "-IS", "-c", "pass"]
    floor = [timed(interpreter, {}, b"") for _ in range(ALONE)]
    nets = [network_namespace() for _ in range(BURST)]
    alone: list[float] = []
    for number in range(ALONE):
        time.sleep(PAUSE)
        alone.append(call("ADD", number, nets[number]))
        call("DEL", number, nets[number])
    start = time.perf_counter()
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        burst = list(pool.map(lambda n: call("ADD", 1000 + n, nets[n]), range(BURST), chunksize=1))
    seconds = time.perf_counter() - start
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        list(pool.map(lambda n: call("DEL", 1000 + n, nets[n]), range(BURST)))
    print(json.dumps({"floor": floor, "alone": alone, "burst": burst, "seconds": seconds}))


if __name__ == "__main__":
    main(*sys.argv[1:])
