"""A certificate with its private key, as PEM, and the two files that hold them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

from shoal.errors import AlreadyExists, FailedPrecondition, NotFound

_CERT_MODE = 0o644
_KEY_MODE = 0o600
_OTHERS = 0o007


class KeyPair(NamedTuple):
    """A PEM certificate and its PEM private key (PKCS #8, not encrypted). The key never shows in `repr()`."""

    cert_pem: bytes
    key_pem: bytes

    def __repr__(self) -> str:
        return f"KeyPair(cert_pem={self.cert_pem!r})"

    def save(self, cert_path: Path, key_path: Path, *, overwrite: bool = False) -> None:
        """Write both files: each whole or not at all, the key readable by its owner only from its first byte on.

        Missing directories are made with mode 0700. Raises AlreadyExists (reason FILE_EXISTS) when either file is there
        and `overwrite` is false; then nothing is written.
        """
        if not overwrite:
            for path in (cert_path, key_path):
                if os.path.lexists(path):
                    raise _exists(path)
        for directory in (cert_path.parent, key_path.parent):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _publish(key_path, self.key_pem, _KEY_MODE, overwrite)
        try:
            _publish(cert_path, self.cert_pem, _CERT_MODE, overwrite)
        except BaseException:
            if not overwrite:
                key_path.unlink(missing_ok=True)
            raise

    @classmethod
    def load(cls, cert_path: Path, key_path: Path) -> KeyPair:
        """Read both files, as they are: nothing is parsed.

        Raises NotFound (reason FILE_NOT_FOUND), or FailedPrecondition: reason KEY_EXPOSED when every user of the
        machine may read or write the key, reason FILE_UNREADABLE when it can't be read.
        """
        cert = read_pem(cert_path)
        key = read_pem(key_path)
        if os.name == "posix" and os.stat(key_path).st_mode & _OTHERS:
            raise FailedPrecondition(
                f"private key {key_path} is open to every user of this machine",
                reason="KEY_EXPOSED",
                hint=f"chmod 600 {key_path}",
            )
        return cls(cert, key)


def read_pem(path: Path) -> bytes:
    """The bytes of a certificate or key file. Raises as `KeyPair.load` does."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise NotFound(
            f"{path} does not exist", reason="FILE_NOT_FOUND", hint="`shoal pki issue` makes certificates and keys"
        ) from None
    except OSError as error:
        raise FailedPrecondition(f"can't read {path}: {error.strerror}", reason="FILE_UNREADABLE") from error


def _publish(path: Path, data: bytes, mode: int, overwrite: bool) -> None:
    import secrets  # costs 5 ms, and most commands write nothing

    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            os.replace(temporary, path)
        else:
            _place_new(temporary, path)
    except FileExistsError:
        raise _exists(path) from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _place_new(temporary: Path, path: Path) -> None:
    """Give a finished file its name; FileExistsError if the name is taken, also when it was taken this very moment."""
    if os.name == "posix":
        os.link(temporary, path)
    else:
        os.rename(temporary, path)


def _exists(path: Path) -> AlreadyExists:
    return AlreadyExists(
        f"{path} already exists",
        reason="FILE_EXISTS",
        hint="choose another place, or say explicitly that it may be overwritten",
    )
