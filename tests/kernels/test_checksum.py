"""CRC32C: published vectors, every variant against the scalar one, choice of a variant by the environment."""

import array
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnfs.ext import checksum

# RFC 3720 appendix B.4 (it prints checksums as bytes, least significant first); the last two are common knowledge.
ISCSI_READ = bytes.fromhex("01c000000000000000000000000000001400000000000400000000140000001828000000000000000200000000000000")
VECTORS = {
    "32 bytes of zeroes": (bytes(32), 0x8A9136AA),
    "32 bytes of ones": (b"\xff" * 32, 0x62A8AB43),
    "32 bytes incrementing": (bytes(range(32)), 0x46DD794E),
    "32 bytes decrementing": (bytes(range(31, -1, -1)), 0x113FDB5C),
    "an iSCSI read command": (ISCSI_READ, 0xD9963A56),
    "nothing": (b"", 0),
    "check value": (b"123456789", 0xE3069283),
}
# Around every size at which a variant changes its way: words, three short streams, three long streams.
EDGES = [0, 1, 7, 8, 9, 15, 16, 255, 256, 767, 768, 769, 1535, 1536, 12287, 12288, 12289, 13055, 13056, 24576, 65536, 65543]
NOISE = bytes((i * 2654435761 >> 13) & 0xFF for i in range(70_000))


def crc32c_bitwise(data: bytes, crc: int = 0) -> int:
    """The definition, one bit at a time."""
    state = crc ^ 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


@pytest.fixture(params=checksum.KERNELS)
def variant(request: pytest.FixtureRequest) -> str:
    """Each known variant, skipped with its own reason where it cannot run."""
    name: str = request.param
    try:
        checksum.crc32c_with(name, b"")
    except RuntimeError as reason:
        pytest.skip(str(reason))
    return name


def import_with(kernel: str) -> subprocess.CompletedProcess[str]:
    code = "from cairnfs.ext import checksum; print(checksum.kernel, checksum.crc32c(b'123456789'))"
    env = {**os.environ, "CAIRN_KERNEL_CRC32C": kernel, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)


@pytest.mark.parametrize("what", VECTORS)
def test_gives_the_published_checksums(variant: str, what: str) -> None:
    data, crc = VECTORS[what]
    assert checksum.crc32c_with(variant, data) == crc


@given(data=st.binary(max_size=80), crc=st.integers(0, 2**32 - 1))
def test_scalar_is_the_bitwise_definition(data: bytes, crc: int) -> None:
    assert checksum.crc32c_with("scalar", data, crc) == crc32c_bitwise(data, crc)


@pytest.mark.parametrize("length", EDGES)
def test_variant_equals_scalar_at_every_alignment(variant: str, length: int) -> None:
    for start in range(9):
        data = memoryview(NOISE)[start : start + length]
        assert checksum.crc32c_with(variant, data) == checksum.crc32c_with("scalar", data), start


def test_variant_equals_scalar_for_any_bytes_and_start(variant: str) -> None:
    @given(data=st.binary(max_size=3000), repeat=st.integers(1, 20), start=st.integers(0, 15), crc=st.integers(0, 2**32 - 1))
    def equal(data: bytes, repeat: int, start: int, crc: int) -> None:
        view = memoryview(data * repeat)[start:]
        assert checksum.crc32c_with(variant, view, crc) == checksum.crc32c_with("scalar", view, crc)

    equal()


def test_continuing_equals_one_pass_wherever_the_data_is_cut(variant: str) -> None:
    whole = checksum.crc32c_with("scalar", NOISE)

    @given(cuts=st.lists(st.integers(0, len(NOISE)), max_size=4).map(sorted))
    def continues(cuts: list[int]) -> None:
        crc = 0
        for start, end in zip([0, *cuts], [*cuts, len(NOISE)], strict=True):
            crc = checksum.crc32c_with(variant, NOISE[start:end], crc)
        assert crc == whole

    continues()


def test_large_buffers_without_the_gil_give_the_same_checksum(variant: str) -> None:
    large = NOISE * 5
    by_parts = 0
    for start in range(0, len(large), 50_000):
        by_parts = checksum.crc32c_with("scalar", large[start : start + 50_000], by_parts)
    assert checksum.crc32c_with(variant, large) == by_parts


@given(data=st.binary(max_size=2000), page_bytes=st.integers(1, 700))
def test_pages_are_the_checksums_of_the_pages(data: bytes, page_bytes: int) -> None:
    pages = [data[at : at + page_bytes] for at in range(0, len(data), page_bytes)]
    assert checksum.crc32c_pages(data, page_bytes) == b"".join(checksum.crc32c(page).to_bytes(4, "big") for page in pages)


def test_pages_of_a_large_buffer_without_the_gil() -> None:
    large = NOISE * 3
    expected = [checksum.crc32c(large[at : at + 65536]).to_bytes(4, "big") for at in range(0, len(large), 65536)]
    assert checksum.crc32c_pages(large, 65536) == b"".join(expected)


def test_a_page_larger_than_the_buffer_is_the_buffer() -> None:
    assert checksum.crc32c_pages(b"123456789", sys.maxsize) == 0xE3069283.to_bytes(4, "big")


@pytest.mark.parametrize("page_bytes", [0, -1])
def test_pages_need_a_positive_size(page_bytes: int) -> None:
    with pytest.raises(ValueError, match="page_bytes must be positive"):
        checksum.crc32c_pages(b"abc", page_bytes)


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview, lambda b: array.array("B", b), lambda b: array.array("I", b)])
def test_takes_any_contiguous_buffer(make: type[bytes]) -> None:
    data = bytes(range(48))
    assert checksum.crc32c(make(data)) == checksum.crc32c(data)
    assert checksum.crc32c_pages(make(data), 16) == checksum.crc32c_pages(data, 16)


def test_refuses_what_is_not_a_contiguous_buffer() -> None:
    with pytest.raises(BufferError):
        checksum.crc32c(memoryview(b"abcdef")[::2])
    with pytest.raises(BufferError):
        checksum.crc32c_pages(memoryview(b"abcdef")[::2], 2)
    with pytest.raises(TypeError):
        checksum.crc32c("text")  # type: ignore[arg-type]


@pytest.mark.parametrize("crc", [-1, 2**32])
def test_refuses_a_start_beyond_32_bits(crc: int) -> None:
    with pytest.raises(OverflowError):
        checksum.crc32c(b"abc", crc)


def test_a_buffer_can_be_resized_after_a_call_that_succeeded_or_failed() -> None:
    data = bytearray(b"abc")
    checksum.crc32c(data)
    checksum.crc32c_pages(data, 2)
    with pytest.raises(ValueError):
        checksum.crc32c_pages(data, 0)
    data.append(0)


def test_available_variants_are_known_ones_and_include_the_scalar_and_the_chosen() -> None:
    assert set(checksum.available()) <= set(checksum.KERNELS)
    assert "scalar" in checksum.available()
    assert checksum.kernel in checksum.available()


def test_an_unknown_variant_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown CRC32C variant 'avx9': choose one of scalar, sse42, armv8"):
        checksum.crc32c_with("avx9", b"")


def test_environment_chooses_the_variant(variant: str) -> None:
    done = import_with(variant)
    assert (done.returncode, done.stdout) == (0, f"{variant} {0xE3069283}\n"), done.stderr


def test_environment_naming_a_variant_that_cannot_run_fails_the_import() -> None:
    missing = [name for name in checksum.KERNELS if name not in checksum.available()]
    if not missing:
        pytest.skip("every known variant runs here")
    done = import_with(missing[0])
    assert done.returncode == 1
    assert f"CRC32C variant '{missing[0]}' cannot run here: it is for another kind of CPU" in done.stderr


def test_environment_naming_an_unknown_variant_fails_the_import() -> None:
    done = import_with("quick")
    assert done.returncode == 1
    assert "unknown CRC32C variant 'quick'" in done.stderr
