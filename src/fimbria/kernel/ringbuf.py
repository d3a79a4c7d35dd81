"""Reading the datapath's ring buffer without a system call per event.

The buffer is mapped: a page with the consumer's position, which we write, and a page with the
producers' position followed by the data, which is mapped twice in a row so that a record never
wraps. What lies between the two positions is handed to `datapath.events`; only when it has been
copied out is the consumer's position moved on, because then the kernel may overwrite it.

Layout: kernel/bpf/ringbuf.c. Positions grow for ever; 64-bit loads and stores of them are atomic
and on x86 in order, as the protocol needs.
"""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING

import numpy as np

from fimbria.datapath import events
from fimbria.kernel.syscall import MapType

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fimbria.kernel.maps import BpfMap

_PAGE = mmap.PAGESIZE


class RingBuffer:
    """The only consumer of one ring buffer map; `skipped` counts records that were no events."""

    def __init__(self, ring: BpfMap) -> None:
        """Maps it; ValueError if `ring` is no ring buffer. `ring` may be closed afterwards."""
        if ring.type != MapType.RINGBUF:
            raise ValueError(f"{ring.name} is no ring buffer")
        self.size = ring.max_entries
        self.skipped = 0
        # mmap keeps its own descriptor and wants to check the size of a file, which this is not
        self._fd = os.dup(ring.fd)
        self._consumer = mmap.mmap(self._fd, _PAGE, mmap.MAP_SHARED)
        self._data = mmap.mmap(
            self._fd, _PAGE + 2 * self.size, mmap.MAP_SHARED, mmap.PROT_READ, offset=_PAGE
        )
        self._consumed: NDArray[np.uint64] = np.frombuffer(self._consumer, np.uint64, 1)
        self._produced: NDArray[np.uint64] = np.frombuffer(self._data, np.uint64, 1)
        self._view = memoryview(self._data)

    def fileno(self) -> int:
        """A descriptor that poll(2) finds readable, if the producer wakes readers up."""
        return self._fd

    @property
    def pending(self) -> int:
        """Bytes written and not consumed yet."""
        return int(self._produced[0]) - int(self._consumed[0])

    def drain(self, limit: int = 1 << 20) -> NDArray[np.void]:
        """Takes what is there (up to about `limit` bytes) as an events.EVENT array, oldest first.

        Never blocks. An array shorter than expected means that a program is still writing.
        """
        position = int(self._consumed[0])
        available = min(int(self._produced[0]) - position, max(limit, events.STRIDE))
        if available <= 0:
            return np.empty(0, events.EVENT)
        start = _PAGE + position % self.size
        decoded = events.decode(self._view[start : start + available])
        self.skipped += decoded.skipped
        self._consumed[0] = position + decoded.consumed
        return decoded.events

    def close(self) -> None:
        """Unmaps; the events already drained stay valid."""
        if self._fd >= 0:
            del self._consumed, self._produced
            self._view.release()
            self._consumer.close()
            self._data.close()
            os.close(self._fd)
            self._fd = -1
