"""A DataLoader's epoch over speech: how many samples a second reach the trainer, and how long does it wait for a batch?

WAV files under 100 kB, in batches of 40 by W worker processes, in a new random order every epoch. A worker reads and parses
every file of a batch, compares its bytes, and hands over the batch as one run of samples. torch's DataLoader does it where torch
is installed; otherwise plain processes and queues do the same, with as many batches ahead of the trainer as torch has (two for
each worker).
"""

import importlib
import importlib.util
import multiprocessing
import queue
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cairnfs.bench.content import WAV_HEADER_BYTES, Content, parse_sizes
from cairnfs.bench.sense import BenchError, Cold
from cairnfs.bench.workload import WHY_OPEN, WHY_REQUESTS, Line, Run, Workload, read_file, write_file

BATCH = 40
AHEAD = 2  # batches for each worker
WAIT_S = 300.0
HAS_TORCH = importlib.util.find_spec("torch") is not None
COLD, WARM, WAIT = "epoch, cold", "epoch, warm", "longest wait for a batch, warm"
HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")
RATE_HZ = 16_000


class DataLoader(Workload):
    """`by_torch`: who loads. `waits`: also show the longest wait, which is a single event and so varies a lot."""

    name = "DataLoader"
    question = "How many speech files a second does an epoch in batches of 40 give to a trainer, and how long does it wait?"

    def __init__(self, by_torch: bool = HAS_TORCH, waits: bool = True) -> None:
        self.by_torch = by_torch
        self.waits = waits

    @property
    def title(self) -> str:
        return f"{self.name}, {'torch' if self.by_torch else 'plain Python'}"

    @property
    def lines(self) -> list[Line]:
        wait = [Line(WAIT, "ms", WHY_OPEN)] if self.waits else []
        return [Line(COLD, "files/s", WHY_REQUESTS), Line(WARM, "files/s", WHY_OPEN), *wait]

    def run(self, run: Run) -> None:
        speech = Speech(run.file_paths(run.settings.n_files), run.settings.seed)
        speech.make()
        n_files, n_workers = len(speech.paths), run.settings.n_procs
        loader = torch_batches if self.by_torch else plain_batches
        if self.by_torch:
            importlib.import_module("torch.utils.data")  # so that the epoch need not

        def epoch(worker: int) -> float:
            return consume(loader(speech, batches, n_workers), n_files)

        batches = in_batches(run.shuffled(range(n_files)))
        cold = Cold(speech.paths, {"LOOKUP": n_files, "READ": n_files}, sum(speech.n_bytes))
        run.measure(COLD, epoch, n_files, n_procs=1, cold=cold)
        for n in range(n_files):
            speech.sample(n)
        batches = in_batches(run.shuffled(range(n_files)))
        outcome = run.measure(WARM, epoch, n_files, n_procs=1, again=True)
        if outcome is not None and self.waits:
            run.note(WAIT, outcome.found[0] * 1000)


class Speech:
    """WAV files by number: a header of 44 bytes, and samples."""

    def __init__(self, paths: list[Path], seed: int) -> None:
        sizes = parse_sizes("wav")
        self.paths = paths
        self.n_bytes = [size - WAV_HEADER_BYTES for size in sizes.first(len(paths))]  # of the samples
        self.content = Content(seed, sizes.max_bytes)

    def make(self) -> None:
        for n, path in enumerate(self.paths):
            write_file(path, wav_header(self.n_bytes[n]) + self.content.of(n, self.n_bytes[n]))

    def sample(self, n: int) -> bytes:
        """The samples of one file. BenchError when it is not what was made."""
        found = read_file(self.paths[n], WAV_HEADER_BYTES + self.n_bytes[n])
        if found[:WAV_HEADER_BYTES] != wav_header(self.n_bytes[n]):
            raise BenchError(f"{self.paths[n]}: its header is not what was written")
        samples = found[WAV_HEADER_BYTES:]
        self.content.check(self.paths[n], n, self.n_bytes[n], samples)
        return samples


def wav_header(n_bytes: int) -> bytes:
    """RIFF header of 16-bit mono speech."""
    riff = (b"RIFF", n_bytes + WAV_HEADER_BYTES - 8, b"WAVE")
    form = (b"fmt ", 16, 1, 1, RATE_HZ, 2 * RATE_HZ, 2, 16)
    return HEADER.pack(*riff, *form, b"data", n_bytes)


def in_batches(order: list[int]) -> list[list[int]]:
    return [order[i : i + BATCH] for i in range(0, len(order), BATCH)]


def consume(batches: Iterator[tuple[int, bytes]], n_files: int) -> float:
    """Take every batch as a trainer does; the longest wait in seconds, the first batch aside, which waits for the workers."""
    waits, n_found = [], 0
    while True:
        started_s = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            break
        waits.append(time.perf_counter() - started_s)
        n_found += batch[0]
    if n_found != n_files:
        raise BenchError(f"the epoch gave {n_found} files of {n_files}")
    return max(waits[1:] or waits)


def plain_batches(speech: Speech, batches: list[list[int]], n_workers: int) -> Iterator[tuple[int, bytes]]:
    """Batches as they are ready: how many files, and all their samples."""
    context = multiprocessing.get_context("fork")
    wanted, ready = context.Queue(), context.Queue()
    processes = [context.Process(target=_load, args=(speech, wanted, ready), daemon=True) for _ in range(n_workers)]
    for process in processes:
        process.start()
    try:
        ahead = min(len(batches), AHEAD * n_workers)
        for batch in batches[:ahead]:
            wanted.put(batch)
        for n in range(len(batches)):
            found = ready.get(timeout=WAIT_S)
            if isinstance(found, str):
                raise BenchError(found)
            if n + ahead < len(batches):
                wanted.put(batches[n + ahead])
            yield found
    except queue.Empty:
        raise BenchError(f"no batch was ready within {WAIT_S:.0f} s") from None
    finally:
        for process in processes:
            process.terminate()
            process.join()
        wanted.cancel_join_thread()  # what it holds nobody wants any more


def _load(speech: Speech, wanted: Any, ready: Any) -> None:
    while True:
        batch = wanted.get()
        try:
            ready.put((len(batch), b"".join(speech.sample(n) for n in batch)))
        except OSError as error:
            ready.put(str(error))


def torch_batches(speech: Speech, batches: list[list[int]], n_workers: int) -> Iterator[tuple[int, bytes]]:
    """The same by torch: a DataLoader with a batch sampler."""
    from torch.utils.data import DataLoader as TorchLoader

    dataset = _Dataset(speech)
    loader: Any = TorchLoader(dataset, batch_sampler=batches, num_workers=n_workers, collate_fn=_collate)
    try:
        yield from loader
    except BenchError as error:  # torch makes its message one with a traceback before
        raise BenchError(str(error).strip().splitlines()[-1]) from None


class _Dataset:
    def __init__(self, speech: Speech) -> None:
        self.speech = speech

    def __len__(self) -> int:
        return len(self.speech.paths)

    def __getitem__(self, n: int) -> bytes:
        return self.speech.sample(n)


def _collate(samples: list[bytes]) -> tuple[int, bytes]:
    return len(samples), b"".join(samples)
