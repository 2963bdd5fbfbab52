"""Compression: what goes in comes out, and what does not get smaller is stored as it is."""

import random
import threading

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from cairnfs.const import CODEC_NONE, CODEC_ZSTD
from cairnfs.errors import CorruptError, UsageError
from cairnfs.objects.codec import SAMPLE_BYTES, decode, make_encoder

RANDOM = random.Random(5).randbytes(1 << 20)


@given(st.binary(max_size=2000) | st.builds(lambda b, n: b * n, st.binary(min_size=1, max_size=9), st.integers(0, 20_000)))
def test_what_goes_in_comes_out(plain: bytes) -> None:
    for compression in ("none", "zstd", "zstd:5"):
        codec, stored = make_encoder(compression)(plain)
        assert bytes(decode(codec, stored, len(plain))) == plain
        assert len(stored) <= len(plain)


def test_without_compression_the_buffer_itself_is_stored() -> None:
    plain = bytearray(b"x" * 1000)
    codec, stored = make_encoder("none")(plain)
    assert codec == CODEC_NONE
    assert stored is plain


@pytest.mark.parametrize("n_bytes", [10, 200, 5000, 1 << 20])
def test_incompressible_data_is_stored_as_it_is(n_bytes: int) -> None:
    plain = RANDOM[:n_bytes]
    codec, stored = make_encoder("zstd")(plain)
    assert codec == CODEC_NONE
    assert stored is plain


def test_a_saving_of_a_few_per_cent_is_not_worth_it() -> None:
    encode = make_encoder("zstd")
    assert encode(RANDOM[:97_000] + bytes(3_000))[0] == CODEC_NONE
    assert encode(RANDOM[:80_000] + bytes(20_000))[0] == CODEC_ZSTD


def test_a_large_slice_is_judged_by_its_middle() -> None:
    plain = bytes(400_000) + RANDOM[:200_000] + bytes(400_000)
    assert make_encoder("zstd")(plain)[0] == CODEC_NONE
    assert make_encoder("zstd")(plain[: 4 * SAMPLE_BYTES])[0] == CODEC_ZSTD


@pytest.mark.parametrize("compression", ["lz4", "zstd:0", "zstd:20", "zstd:x", "none:1", "zstd:", "ZSTD", ""])
def test_unknown_compressions_are_usage_errors(compression: str) -> None:
    with pytest.raises(UsageError):
        make_encoder(compression)


def test_damaged_frames_are_corrupt() -> None:
    plain = b"compressible " * 1000
    codec, stored = make_encoder("zstd")(plain)
    assert codec == CODEC_ZSTD
    frame = bytes(stored)
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 24))
    for bad, plain_len in ((frame[:-3], len(plain)), (frame[3:], len(plain)), (frame, len(plain) - 1), (bomb, 100), (b"", 5)):
        with pytest.raises(CorruptError):
            decode(CODEC_ZSTD, bad, plain_len)
    with pytest.raises(CorruptError, match="codec 9"):
        decode(9, frame, len(plain))
    with pytest.raises(CorruptError, match="bytes are stored"):
        decode(CODEC_NONE, frame, len(plain))


def test_threads_do_not_share_a_compressor() -> None:
    encode = make_encoder("zstd")
    failed: list[int] = []

    def work(i: int) -> None:
        for n in range(200):
            plain = bytes([i, n % 7]) * 3000
            codec, stored = encode(plain)
            if bytes(decode(codec, stored, len(plain))) != plain:
                failed.append(n)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert failed == []
