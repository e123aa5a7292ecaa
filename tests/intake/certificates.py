"""Certificates made by the openssl program: a hospital's authority, what it signed, and others."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.peers import tools


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path


def authority(folder: Path, name: str) -> Pair:
    """One that signs, and is signed by itself."""
    pair = _pair(folder, name)
    subject = f"/CN={name}"
    _openssl("req", "-x509", *_new_key(pair), "-out", pair.certificate, "-subj", subject)
    return pair


def signed(folder: Path, name: str, by: Pair, days: int = 2) -> Pair:
    """One for 127.0.0.1, signed by an authority; of the past where the days are negative."""
    pair, request = _pair(folder, name), folder / f"{name}.csr"
    names = folder / f"{name}.ext"
    names.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    _openssl("req", *_new_key(pair), "-out", request, "-subj", f"/CN={name}")
    signer = ("-CA", by.certificate, "-CAkey", by.key, "-CAcreateserial", "-extfile", names)
    when = ("-not_before", "20200101000000Z", "-not_after", "20200201000000Z")
    if days < 0 and not _knows("-not_before"):
        _expired(folder, request, pair, by, names)
        return pair
    until = when if days < 0 else ("-days", days)
    _openssl("x509", "-req", "-in", request, "-out", pair.certificate, *signer, *until)
    return pair


def _expired(folder: Path, request: Path, pair: Pair, by: Pair, names: Path) -> None:
    """By `openssl ca`, which takes dates in every version."""
    (folder / "index.txt").write_text("")
    (folder / "serial").write_text("1000")
    settings = folder / "ca.cnf"
    settings.write_text(
        f"[ca]\ndefault_ca=c\n[c]\ndatabase={folder}/index.txt\nserial={folder}/serial\n"
        f"new_certs_dir={folder}\ndefault_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n"
    )
    dates = ("-startdate", "20200101000000Z", "-enddate", "20200201000000Z")
    signer = ("-cert", by.certificate, "-keyfile", by.key, "-config", settings, "-batch")
    _openssl(
        "ca",
        *signer,
        *dates,
        "-in",
        request,
        "-out",
        pair.certificate,
        "-notext",
        "-extfile",
        names,
    )


def _knows(option: str) -> bool:
    done = subprocess.run(
        [tools.find("openssl"), "x509", "-help"], capture_output=True, text=True, check=False
    )
    return option in done.stdout + done.stderr


def _pair(folder: Path, name: str) -> Pair:
    return Pair(certificate=folder / f"{name}.pem", key=folder / f"{name}.key")


def _new_key(pair: Pair) -> tuple[object, ...]:
    return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", pair.key)


def _openssl(*arguments: object) -> None:
    command = [tools.find("openssl"), *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
