"""Addresses of Dask schedulers."""

from __future__ import annotations

import pytest

from napari_mlbseg.config.cluster_address import checked_address, is_exposed


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("tcp://10.0.0.1:8786", "tcp://10.0.0.1:8786"),
        (" tls://gpu.example.org:8786 ", "tls://gpu.example.org:8786"),
        ("localhost:8786", "tcp://localhost:8786"),
        ("[::1]:8786", "tcp://[::1]:8786"),
    ],
)
def test_an_address_in_dasks_form(text, address):
    assert checked_address(text) == address


@pytest.mark.parametrize("text", ["", "workstation", "http://workstation:8786", "tcp://:8786", "tcp://a:b", "tcp://a:"])
def test_what_is_none_is_refused(text):
    with pytest.raises(ValueError, match=r"no address of a Dask scheduler: write it as the scheduler does"):
        checked_address(text)


@pytest.mark.parametrize(
    ("address", "exposed"),
    [
        ("tcp://127.0.0.1:8786", False),
        ("tcp://localhost:8786", False),
        ("tcp://[::1]:8786", False),
        ("tls://gpu.example.org:8786", False),
        ("tcp://gpu.example.org:8786", True),
        ("tcp://192.168.0.2:8786", True),
        ("ws://gpu.example.org:8786", True),
    ],
)
def test_only_what_leaves_this_machine_unencrypted_is_exposed(address, exposed):
    assert is_exposed(address) is exposed
