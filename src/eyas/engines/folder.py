"""The cache folder: EYAS_CACHE, else eyas/engines in XDG_CACHE_HOME or ~/.cache; nobody else may look into it."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from eyas.errors import SinkError, problem
from eyas.files import writing
from eyas.store.manifest import xdg

KEY = "key"
KEY_BYTES = 32


def cache_folder() -> Path:
    """The folder, made with mode 0700. Raises SinkError where it cannot be made, or belongs to somebody else."""
    folder = (
        Path(os.environ["EYAS_CACHE"]) if os.environ.get("EYAS_CACHE") else xdg("XDG_CACHE_HOME", ".cache") / "engines"
    )
    with writing(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_owner(folder)
        if folder.stat().st_mode & 0o077:
            folder.chmod(0o700)
    return folder


def signing_key() -> bytes:
    """This user's key, 32 random bytes in a file of mode 0600, made on first use. Raises SinkError."""
    path = cache_folder() / KEY
    with writing(path):
        if not path.exists():
            part = path.with_name(f".eyas-{secrets.token_hex(6)}.part")
            handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_bytes(KEY_BYTES))
            try:
                with suppress(FileExistsError):  # another process was quicker: its key holds
                    os.link(part, path)
            finally:
                part.unlink()
        _check_owner(path)
        if path.stat().st_mode & 0o077:
            _refuse(path, "readable by others", "a key that only you can read", "Delete it; engines then build again.")
        key = path.read_bytes()
    if len(key) != KEY_BYTES:
        _refuse(path, f"{len(key)} bytes", f"a key of {KEY_BYTES}", "Delete it; engines then build again.")
    return key


def _check_owner(path: Path) -> None:
    if hasattr(os, "getuid") and path.stat().st_uid != os.getuid():
        _refuse(path, "somebody else's", "your own", "Name a folder of yours with EYAS_CACHE.")


def _refuse(path: Path, got: str, expected: str, remedy: str) -> None:
    raise SinkError(problem(f"{path} cannot be used", got=got, expected=expected, remedy=remedy))
