"""Environments with the packages that the provider is compared with, installed from lock files."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
WORK = REPO / ".bench"
PEERS = REPO / "benchmarks" / "requirements-peers.txt"


def other_providers() -> Path:
    """Return the Python of an environment with other providers and this one."""
    python = WORK / "peers" / "bin" / "python"
    if _is_outdated(WORK / "peers.installed", PEERS.read_bytes()):
        _uv("venv", "--quiet", "--clear", "--python", sys.executable, WORK / "peers")
        _uv("pip", "sync", "--quiet", "--require-hashes", "--compile-bytecode", "--python", python, PEERS)
        _uv("pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--python", python, "--editable", REPO)
        _write_stamp(WORK / "peers.installed", PEERS.read_bytes())
    return python


def official_sdk(version: str) -> Path:
    """Return a directory to import the official SDK from; its dependencies are those of this environment."""
    lock = (REPO / "tests" / "sdk" / f"requirements-{version}.txt").read_text()
    pinned = re.search(r"^simstudio-sdk==.*?(?=^\S|\Z)", lock, re.DOTALL | re.MULTILINE)
    assert pinned is not None
    folder = WORK / f"simstudio-{version}"
    stamp, pin = WORK / f"simstudio-{version}.installed", pinned.group().encode()
    if _is_outdated(stamp, pin):
        command = ["pip", "install", "--quiet", "--no-deps", "--require-hashes", "--python", sys.executable]
        _uv(*command, "--target", folder, "-r", "-", given=pin)
        _write_stamp(stamp, pin)
    return folder


def _uv(*words: str | Path, given: bytes | None = None) -> None:
    subprocess.run([Path(sys.executable).parent / "uv", *words], input=given, check=True)


def _is_outdated(stamp: Path, lock: bytes) -> bool:
    return not stamp.exists() or stamp.read_text() != hashlib.sha256(lock).hexdigest()


def _write_stamp(stamp: Path, lock: bytes) -> None:
    stamp.write_text(hashlib.sha256(lock).hexdigest())
