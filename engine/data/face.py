"""The face of the data layer: everything about bytes that one mounted volume needs, built from its options."""

from cairnfs.cache.memory import SliceCache
from cairnfs.clock import Clock, SystemClock
from cairnfs.data.budget import Budget
from cairnfs.data.compact import Compactor
from cairnfs.data.deleter import Deleter
from cairnfs.data.fetch import Fetcher
from cairnfs.data.ports import MetaPort
from cairnfs.data.reader import Reader
from cairnfs.data.syncing import Syncing
from cairnfs.data.uploader import Uploader
from cairnfs.data.writers import Writers
from cairnfs.ext.arena import Arena
from cairnfs.metrics import Metrics
from cairnfs.objects.base import ObjectStore
from cairnfs.options import EngineOptions
from cairnfs.types import Inode

MIN_BLOCKS = 8  # room for so many blocks in buffers and cache, whatever is asked: with less, a block is fetched repeatedly


class Data:
    """`reader`, `writers`, `deleter` and `compactor` of one volume, and the threads behind them.

    Owns neither `meta` nor `objects`: the caller closes them after `close`.
    """

    def __init__(
        self,
        meta: MetaPort,
        objects: ObjectStore,
        options: EngineOptions,
        clock: Clock | None = None,
        metrics: Metrics | None = None,
        arena: Arena | None = None,
    ) -> None:
        metrics = metrics or Metrics()
        clock = SystemClock() if clock is None else clock
        block_bytes = meta.format.block_bytes
        kept_bytes = 0 if arena is None else arena.n_bytes
        self.objects = objects
        self._metrics = metrics
        self.losses = metrics.losses
        self.budget = Budget(max(options.buffer_bytes, MIN_BLOCKS * block_bytes))
        self.cache = SliceCache(max(options.cache_bytes - kept_bytes, MIN_BLOCKS * block_bytes), metrics, arena)
        self.uploader = Uploader(meta, objects, options.max_uploads, metrics)
        self.fetcher = Fetcher(objects, meta.format.uuid, self.cache, metrics)
        self.compactor = Compactor(meta, self.fetcher, self.uploader, clock)
        self.syncing = Syncing(meta, objects)
        self.deleter = Deleter(meta, objects, self.syncing)
        self.reader = Reader(
            self.fetcher, self.budget, options.max_downloads, options.readahead_bytes, self.compactor.long_layout, metrics
        )
        self.writers = Writers(
            meta.layout,
            self.uploader,
            self.budget,
            self.cache,
            clock,
            block_bytes,
            fetch=lambda ref: self.fetcher.whole(ref, Inode(0)),
            committed=self.compactor.committed,
            io_timeout_s=options.io_timeout_s,
            metrics=metrics,
        )
        metrics.cache_bytes.source = lambda: self.cache.used_bytes
        metrics.buffer_bytes.source = lambda: self.budget.used_bytes
        if options.background_jobs and not options.read_only:
            self.deleter.start()
            self.compactor.start()

    def n_answers(self) -> int:
        """Grows with all that the object store takes or gives."""
        return self._metrics.object_put_bytes.value + self._metrics.object_got_bytes.value

    def close(self) -> None:
        """Stop all threads. Writers have been flushed and closed by then; what they still hold is lost."""
        self.writers.close()
        self.compactor.close()
        self.deleter.close()
        self.reader.close()
        self.uploader.close()
