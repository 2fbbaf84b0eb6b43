"""Addresses of Dask schedulers: whether they can be one, and whether what is sent there can be read on the way."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

__all__ = ["LOOPBACK", "WHY_EXPOSED", "checked_address", "is_exposed"]

#: Where a scheduler on this machine, or an SSH tunnel to one, mostly is.
LOOPBACK = "tcp://127.0.0.1:8786"

#: What to say of an address for which `is_exposed` holds.
WHY_EXPOSED = (
    "The connection to {address} is not encrypted, and a Dask scheduler lets in whoever reaches it: images and labels "
    "can be read on the way, and others can run programs on its workers."
)

_ENCRYPTED = ("tls", "wss")
_SCHEMES = ("tcp", "ws", "ucx", "ucxx", *_ENCRYPTED)


def checked_address(text: str) -> str:
    """The address of a scheduler in Dask's form, such as ``tcp://workstation:8786``.

    Raises
    ------
    ValueError
        If it is none; a sentence that says what to do.
    """
    address = text.strip()
    if "://" not in address:
        address = f"tcp://{address}"
    try:
        parts = urlsplit(address)
        fits = parts.scheme in _SCHEMES and bool(parts.hostname) and parts.port is not None
    except ValueError:  # a port that is no number
        fits = False
    if not fits:
        raise ValueError(
            f"'{text}' is no address of a Dask scheduler: write it as the scheduler does, such as tcp://127.0.0.1:8786 "
            "or tls://workstation:8786."
        )
    return address


def is_exposed(address: str) -> bool:
    """Whether what is sent to a scheduler leaves this machine unencrypted."""
    parts = urlsplit(address)
    return parts.scheme not in _ENCRYPTED and not _is_loopback(parts.hostname or "")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
