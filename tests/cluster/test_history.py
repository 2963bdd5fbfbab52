"""Two mounts on two hosts, and every open checked against the history: it sees what was promised before it began, or newer.

The small run is for CAIRN_VERSIONS_SECONDS; CAIRN_OPENS=1000000, or --full, is the number of opens to make instead.
"""

import os
import sys
import time
from pathlib import Path

import pytest

from support import versions
from support.hosts import Network
from support.mounts import MountFactory, Volume

pytestmark = [pytest.mark.fuse, pytest.mark.slow]

SECONDS = float(os.environ.get("CAIRN_VERSIONS_SECONDS", "8"))
N_OPENS = int(os.environ.get("CAIRN_OPENS", "0"))
FULL_OPENS = 1_000_000
FULL_SECONDS = 3600 * 3
N_READERS = 2  # on each host, beside one that changes what it reads


@pytest.mark.timeout(FULL_SECONDS + 600)
def test_every_open_sees_what_was_promised_before(
    network: Network, volume: Volume, mounts: MountFactory, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    n_opens = N_OPENS or (FULL_OPENS if pytestconfig.getoption("--full") else 0)
    on = [network.mount(mounts, network.host(name), volume) for name in ("alpha", "beta")]
    (on[0].top / "d").mkdir()
    memory = tmp_path / "promised"
    memory.write_bytes(bytes(versions.MEMORY_BYTES))
    seconds = FULL_SECONDS if n_opens else SECONDS
    began_s = time.monotonic()
    programs = [
        on[at].host.popen(
            sys.executable, versions.__file__, memory, on[at].path / "d", at, 2 * i + at, "no" if i else "yes", seconds, n_opens
        )
        for at in range(2)
        for i in range(1 + N_READERS)
    ]
    said = [program.communicate(timeout=seconds + 120) for program in programs]
    lasted_s = time.monotonic() - began_s
    assert not any(err for _, err in said), "\n".join(err for _, err in said)
    opens, stale = (sum(int(out.split()[i]) for out, _ in said) for i in range(2))
    print(f"{opens:,} opens in {lasted_s:.0f} s, {stale} of them ESTALE: no violation")
    assert opens >= max(n_opens, 100)
