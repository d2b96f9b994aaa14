import os
import socket
import warnings

import pytest


@pytest.mark.parametrize("address", [("192.0.2.1", 80), ("2001:db8::1", 80, 0, 0)])
def test_other_machines_cannot_be_reached(address):
    family = socket.AF_INET if len(address) == 2 else socket.AF_INET6
    with socket.socket(family) as client, pytest.raises(PermissionError, match="no network"):
        client.connect(address)
    with socket.socket(family, socket.SOCK_DGRAM) as client, pytest.raises(PermissionError):
        client.sendto(b"", address)


def test_names_cannot_be_looked_up():
    with pytest.raises(PermissionError, match="no network"):
        socket.getaddrinfo("example.invalid", 443)


def test_this_machine_can_be_reached():
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(("localhost", server.getsockname()[1]), timeout=5):
            pass
    pair = socket.socketpair()
    pair[0].sendall(b"x")
    assert pair[1].recv(1) == b"x"
    for end in pair:
        end.close()


def test_hub_is_offline_and_threads_are_few():
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert 1 <= int(os.environ["OMP_NUM_THREADS"])


def test_a_warning_of_our_own_is_an_error_and_others_are_not():
    ours = {"__name__": "lipogram.analytic.example", "warnings": warnings}
    with pytest.raises(UserWarning, match="ours"):
        exec("warnings.warn('ours')", ours)
    with warnings.catch_warnings(record=True) as seen:  # keeps the filters, unlike pytest.warns
        exec("warnings.warn('theirs')", {"__name__": "lipogrammatic", "warnings": warnings})
    assert [str(warning.message) for warning in seen] == ["theirs"]
