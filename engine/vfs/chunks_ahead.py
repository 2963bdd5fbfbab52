"""Which layouts come along with the one that a reader of a large file misses. Pure policy: no I/O; one per open file.

A block of a file's chunks comes with the first miss, and with each that is somewhere else; who goes on where the last ones ended
gets twice as many each time. A layout is some hundred bytes, so that a block costs little more than one; where they are longer,
as they are after many small writes, each is read by itself.
"""

BLOCK = 16  # chunks: 1 GiB of a file, some 10 KB
MOST = 64
LONG_BYTES = 4096


class ChunksAhead:
    """The caller locks."""

    __slots__ = ("_begin", "_end")

    def __init__(self) -> None:
        self._begin = self._end = 0  # chunks that came last

    def wanted(self, chunk_no: int, n_chunks: int, longest_bytes: int) -> range:
        """Chunks to read, that one among them, of a file that has so many; `longest_bytes`: of its layouts that are known."""
        if longest_bytes > LONG_BYTES:
            return range(chunk_no, chunk_no + 1)
        begin = chunk_no // BLOCK * BLOCK
        end = begin + BLOCK
        if chunk_no == self._end and self._end:
            begin, end = chunk_no, chunk_no + min(2 * (self._end - self._begin), MOST)
        if not self._begin <= chunk_no < self._end:  # else they are under way, or have changed
            self._begin, self._end = begin, end
        return range(max(begin, 1), max(min(end, n_chunks), chunk_no + 1))
