"""Writers, readers, flushes, compaction and deletion on one file at once, with next to no memory.

Every region of the file holds a number that only grows. A reader must see each region whole, and never a smaller number
than the one it knows to be written; in the end no pack is left that nothing refers to.
"""

import random
import struct
import threading
from pathlib import Path

from cairnfs.data.pack import pack_id_of
from cairnfs.errors import ObjectMissing
from support.datavolume import DataVolume

REGION = 4096
N_REGIONS = 160
N_WRITERS = 3
WRITES = 3000  # per writer; enough for some dozens of compactions


class Race:
    def __init__(self, volume: DataVolume) -> None:
        self.volume = volume
        self.file = volume.file()
        self.file.writer.write(0, bytes(REGION * N_REGIONS))
        self.written = [0] * N_REGIONS
        self.wrong: list[str] = []
        self.n_writing = N_WRITERS

    def write(self, seed: int) -> None:
        rng = random.Random(seed)
        try:
            for number in range(1, WRITES):
                region = rng.randrange(seed, N_REGIONS, N_WRITERS)
                self.file.writer.write(region * REGION, struct.pack(">Q", number) * (REGION // 8))
                self.written[region] = number
                if rng.random() < 0.02:
                    self.file.writer.flush()
                if rng.random() < 0.02:
                    self.file.writer.push(float("inf"))
                if rng.random() < 0.1:
                    self.volume.data.deleter.notify()
        except Exception as e:
            self.wrong.append(repr(e))
        finally:
            self.n_writing -= 1

    def read(self, seed: int) -> None:
        rng = random.Random(seed)
        try:
            while self.n_writing and not self.wrong:
                first = rng.randrange(N_REGIONS)
                n = rng.randrange(1, min(8, N_REGIONS - first) + 1)
                self._check(first, self.written[first : first + n])
        except Exception as e:
            self.wrong.append(repr(e))

    def _check(self, first: int, at_least: list[int]) -> None:
        data = self._read_again_when_moved(first, len(at_least))
        for i, least in enumerate(at_least):
            numbers = set(struct.unpack(f">{REGION // 8}Q", data[i * REGION : (i + 1) * REGION]))
            if len(numbers) > 1 or min(numbers) < least:
                self.wrong.append(f"region {first + i}: {numbers} where at least {least} was written")

    def _read_again_when_moved(self, first: int, n: int) -> bytes:
        for _ in range(50):
            try:
                return self.file.read(first * REGION, n * REGION)
            except ObjectMissing:
                continue
        raise TimeoutError("the layout changes faster than it can be read")


def test_nothing_is_lost_torn_or_left_behind(tmp_path: Path) -> None:
    volume = DataVolume(tmp_path, background_jobs=True, buffer_bytes=1, cache_bytes=1)
    race = Race(volume)
    threads = [threading.Thread(target=race.write, args=(i,)) for i in range(N_WRITERS)]
    threads += [threading.Thread(target=race.read, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert race.wrong == []
    race.file.writer.flush()
    race.file.writer.close()
    assert volume.data.budget.used_bytes == 0
    volume.close()
    assert {pack_id_of(name) for name in volume.packs()} <= set(volume.meta_rows.packs())
