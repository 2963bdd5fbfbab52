"""Settings of a mount: options and words of -o, which wins, what is passed to the kernel, what is refused."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnfs.const import GIB, MIB
from cairnfs.daemon.mount_helper import parse_call
from cairnfs.daemon.mount_options import (
    KERNEL_WORDS,
    SETTINGS,
    MountRequest,
    default_of,
    make_request,
    sort_words,
    split_words,
)
from cairnfs.daemon.mountpoint import WORDS
from cairnfs.errors import UsageError
from cairnfs.options import EngineOptions, FuseOptions


def request(words: str = "", *, as_root: bool = False, read_only: bool = False, **settings: str) -> MountRequest:
    given_settings = {name.replace("_", "-"): text for name, text in settings.items()}
    sorted_words = sort_words(split_words(words))
    return make_request("memory://x", Path("/mnt"), given_settings, sorted_words, read_only=read_only, as_root=as_root)


def test_without_settings_a_mount_has_the_defaults() -> None:
    assert request() == MountRequest("memory://x", Path("/mnt"), EngineOptions(), FuseOptions())


def test_settings_reach_their_place_with_their_units() -> None:
    made = request(buffer_size="1G", cache_memory="64", io_timeout="2m", attr_cache="0", threads="8", front="pyfuse3", log="/l")
    assert (made.engine.buffer_bytes, made.engine.cache_bytes, made.engine.io_timeout_s) == (GIB, 64 * MIB, 120)
    assert (made.fuse.attr_timeout_s, made.fuse.max_threads) == (0, 8)
    assert (made.front, made.log_path) == ("pyfuse3", Path("/l"))


def test_one_thread_is_enough() -> None:
    assert (request(threads="1").fuse.min_threads, request(threads="1").fuse.max_threads) == (1, 1)


def test_a_heartbeat_that_would_keep_locks_of_a_dead_mount_for_long_is_refused() -> None:
    for text in ("0", "31"):
        with pytest.raises(UsageError, match="heartbeat"):
            request(heartbeat=text)


def test_limits_are_megabits_a_second_and_no_slower_than_one() -> None:
    engine = request("upload-limit=100", download_limit="2.5").engine
    assert (engine.upload_limit_mbps, engine.download_limit_mbps) == (100.0, 2.5)
    assert request("upload_limit=0").engine.upload_limit_mbps == 0
    for text in ("0.5", "-1", "10M", "fast", "", "1e3"):
        with pytest.raises(UsageError, match="upload-limit"):
            request(upload_limit=text)


@pytest.mark.parametrize("setting", ["cache-memory", "buffer-size"])
def test_more_memory_than_the_machine_has_is_refused(setting: str) -> None:
    """The kernel kills processes, whoever's, for what is reserved."""
    mebibytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // MIB
    with pytest.raises(UsageError, match=f"{setting}: .* is more than this machine has"):
        request(f"{setting}={mebibytes + 1}")


def test_words_set_the_same_settings_and_options_win() -> None:
    assert request("cache-memory=1G,entry_cache=5") == request(cache_memory="1G", entry_cache="5")
    assert request("cache-memory=1G", cache_memory="2G").engine.cache_bytes == 2 * GIB


def test_read_only_holds_for_engine_and_kernel() -> None:
    for made in (request("ro"), request(read_only=True), request("rw,ro")):
        assert made.engine.read_only and made.fuse.read_only
    assert not request("ro,rw").engine.read_only


def test_others_have_access_when_root_mounts_or_when_asked() -> None:
    assert not request().fuse.allow_other
    assert request("allow_other").fuse.allow_other
    assert request(as_root=True).fuse.allow_other


def test_words_for_mount8_and_init_systems_are_passed_over() -> None:
    words = "defaults,noauto,nofail,_netdev,user,user=me,x-systemd.automount,X-mount.mkdir,comment=a,rw"
    assert request(words) == request()


def test_words_for_the_kernel_go_with_the_mount_in_their_order() -> None:
    assert request("nosuid,noatime,nodev,suid").fuse.mount_options == ("nosuid", "noatime", "nodev", "suid")


def test_every_kernel_word_is_known_to_the_mountpoint() -> None:
    assert set(WORDS) >= KERNEL_WORDS


@pytest.mark.parametrize("words", ["nonsense", "cache-memory", "cache-memory=lots", "front=kernel", "threads=0", "attr-cache=-1"])
def test_words_that_cannot_be_are_usage_errors_that_name_them(words: str) -> None:
    with pytest.raises(UsageError) as caught:
        request(words)
    assert words.partition("=")[0] in str(caught.value)


def test_a_sloppy_mount_passes_over_unknown_words_only() -> None:
    assert sort_words(["nonsense", "noatime"], sloppy=True).kernel == ("noatime",)


def test_a_backslash_keeps_a_comma() -> None:
    assert split_words(r"log=/a\,b,ro") == ["log=/a,b", "ro"]


@given(st.lists(st.text(st.characters(exclude_characters="\\\0"), min_size=1), max_size=5))
def test_any_words_come_back_from_a_joined_argument(words: list[str]) -> None:
    assert split_words(",".join(word.replace(",", "\\,") for word in words)) == (words or [""])


def test_every_setting_shows_its_default() -> None:
    shown = {setting.name: default_of(setting) for setting in SETTINGS}
    assert shown["buffer-size"] == "300M" and shown["io-timeout"] == "60" and shown["front"] == "channel"


@pytest.mark.parametrize(
    "args",
    [
        ["memory://x", "/mnt", "-o", "ro,noatime"],
        ["memory://x", "/mnt", "-v", "-n", "-o", "ro", "-o", "noatime", "-t", "fuse.cairnfs"],
        ["-sf", "memory://x", "/mnt", "-o", "ro,noatime", "-N", "/proc/1/ns/mnt"],
    ],
)
def test_calls_of_mount8_are_read_in_any_order(args: list[str]) -> None:
    call = parse_call(args)
    assert (call.source, call.mountpoint, call.words) == ("memory://x", Path("/mnt"), ["ro", "noatime"])
    assert call.fake == call.sloppy == ("-sf" in args)
    assert call.verbose == ("-v" in args)


@pytest.mark.parametrize(
    "args", [[], ["memory://x"], ["memory://x", "/a", "/b"], ["memory://x", "/a", "--wrong"], ["x", "/a", "-o"]]
)
def test_wrong_calls_of_mount8_are_usage_errors(args: list[str]) -> None:
    with pytest.raises(UsageError):
        parse_call(args)


@pytest.mark.parametrize(
    ("text", "host", "port", "shown"),
    [
        ("127.0.0.1:9567", "127.0.0.1", 9567, "127.0.0.1:9567"),
        ("localhost:0", "localhost", 0, "localhost:0"),
        (":9567", "0.0.0.0", 9567, "0.0.0.0:9567"),
        ("[::1]:65535", "::1", 65535, "[::1]:65535"),
    ],
)
def test_addresses_have_a_host_and_a_port(text: str, host: str, port: int, shown: str) -> None:
    address = request(metrics=text).metrics
    assert address == (host, port) and str(address) == shown


@pytest.mark.parametrize("text", ["9567", "localhost", "localhost:", "host:65536", "::1:9567", "a b:1", "[::1]", "host:-1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="metrics: .* is not an address"):
        request(metrics=text)


def test_passwords_in_urls_are_not_shown() -> None:
    from cairnfs.daemon.shown import without_password

    assert without_password("redis://:secret@host:6379/1") == "redis://:****@host:6379/1"
    assert without_password("redis://user:se:cret@host/1") == "redis://user:****@host/1"
    assert without_password("sqlite3:///a/b:c@d.db") == "sqlite3:///a/b:c@d.db"


def test_only_the_channel_has_workers() -> None:
    assert request().workers == min(len(os.sched_getaffinity(0)), 8)
    assert request(workers="0").workers == 0
    assert request(front="pyfuse3").workers == 0
    with pytest.raises(UsageError, match="serves by itself"):
        request(front="pyfuse3", workers="1")
    with pytest.raises(UsageError, match="more than 64"):
        request(workers="65")
    with pytest.raises(UsageError, match="shorter than 2 seconds"):
        request(worker_timeout="1")


def test_io_uring_is_a_pair_of_options_or_a_word() -> None:
    assert request().fuse.io_uring and request("io-uring=yes").fuse.io_uring
    assert not request("io_uring=no").fuse.io_uring and not request(io_uring="no").fuse.io_uring
    with pytest.raises(UsageError, match="io-uring: 'maybe' is neither yes nor no"):
        request("io-uring=maybe")
