"""A certificate that has signed itself, for servers on loopback and for their clients."""

import subprocess
from pathlib import Path


def self_signed(folder: Path, name: str = "localhost") -> tuple[Path, Path]:
    """Files of a new certificate and its key."""
    cert, key = folder / f"{name}.cert", folder / f"{name}.key"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(cert)]
    command += ["-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


def certified(folder: Path) -> tuple[Path, Path, Path]:
    """Files of an authority's certificate, of one for 127.0.0.1 that it has signed, and of the key of that."""
    authority, cert, key, asked = (folder / name for name in ("ca.cert", "server.cert", "server.key", "asked"))
    new = ["openssl", "req", "-newkey", "rsa:2048", "-nodes"]
    made = ["-x509", "-keyout", str(folder / "ca.key"), "-out", str(authority), "-subj", "/CN=authority"]
    subprocess.run([*new, *made], check=True, capture_output=True)
    subprocess.run([*new, "-keyout", str(key), "-out", str(asked), "-subj", "/CN=server"], check=True, capture_output=True)
    (folder / "more").write_text("subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
    sign = [
        "openssl",
        "x509",
        "-req",
        "-in",
        str(asked),
        "-CA",
        str(authority),
        "-CAkey",
        str(folder / "ca.key"),
        "-CAcreateserial",
    ]
    sign += ["-days", "2", "-extfile", str(folder / "more"), "-out", str(cert)]
    subprocess.run(sign, check=True, capture_output=True)
    return authority, cert, key
