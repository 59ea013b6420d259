"""Why a host can't be reached. gRPC says UNAVAILABLE for all of it; people need to know which, and the remedy.

The diagnosis walks the same way again by hand: name, TCP, TLS with verification, TLS without (to look at what the host
presents), and the alert with which the host answers our certificate.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import TYPE_CHECKING

from shoal.errors import ShoalError, Unauthenticated, Unavailable
from shoalctl.address import Address

if TYPE_CHECKING:
    from shoalctl.connect.credentials import Credentials
    from shoalctl.inventory import Host

_STEP_TIME = 3.0  # s; the caller has already waited its own time
_ALERT_TIME = 2.0  # s; TLS 1.3 tells a client about its certificate only after the handshake


async def diagnose(host: Host, credentials: Credentials, timeout: float) -> ShoalError:
    """Find out what is wrong and return (not raise) the error that says it. `timeout`: the seconds already waited."""
    if host.is_socket:
        return await asyncio.to_thread(_socket_trouble, Address.parse(host.address).socket, timeout)
    return await asyncio.to_thread(_Probe(host, credentials, timeout).run)


def _socket_trouble(path: str, timeout: float) -> ShoalError:
    if not hasattr(socket, "AF_UNIX"):
        return _unreachable("unix sockets don't exist on this system", "give the host an address host:port")
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(timeout)
            probe.connect(path)
    except FileNotFoundError:
        return _unreachable(f"there is no socket {path}", "is shoald running? systemctl status shoald")
    except PermissionError:
        return _unreachable(f"no permission to use the socket {path}", "it is the owner's; try with sudo")
    except ConnectionRefusedError:
        return _unreachable(f"nothing listens on {path}", "shoald is not running: systemctl start shoald")
    except OSError as error:
        return _unreachable(f"can't connect to {path}: {error.strerror or error}", "see the daemon's log")
    return _unreachable(f"{path} accepts connections but does not speak gRPC in time", "see the daemon's log")


class _Probe:
    """The steps of one diagnosis; blocking, for a thread."""

    def __init__(self, host: Host, credentials: Credentials, timeout: float) -> None:
        address = Address.parse(host.address)
        self._where = host.address
        self._place = (address.host, address.port)
        self._name = host.tls_name
        self._host = host
        self._pem = credentials
        self._waited = timeout
        self._timeout = min(timeout, _STEP_TIME)

    def run(self) -> ShoalError:
        """The trouble, or that there is none now."""
        try:
            socket.getaddrinfo(*self._place, type=socket.SOCK_STREAM)
        except OSError as error:
            what = (error.strerror or str(error)).lower()
            return _unreachable(
                f"the address {self._place[0]!r} can't be resolved: {what}",
                f"check the name, or the address of the host: shoal host list ({self._host.name})",
            )
        try:
            with self._connected():
                pass
        except TimeoutError:
            return _unreachable(
                f"no answer from {self._where} within {self._waited:g} s",
                "the host is down, or a firewall drops the connection",
            )
        except ConnectionRefusedError:
            return _unreachable(
                f"{self._where} refuses connections", "the host is up but shoald does not listen there; is it running?"
            )
        except OSError as error:
            return _unreachable(
                f"can't connect to {self._where}: {error.strerror or error}", "check address and network"
            )
        return self._tls()

    def _tls(self) -> ShoalError:
        try:
            context = self._context(verify=True)
        except (ssl.SSLError, OSError) as error:
            return self._own(str(error))
        try:
            if not self._handshake(context):
                return self._own("it closed the connection")
        except ssl.SSLCertVerificationError as error:
            return self._theirs(error.verify_message)
        except ssl.SSLError as error:
            return self._alert(error)
        except TimeoutError:
            return _unreachable(
                f"{self._where} accepts connections but does not answer within {self._waited:g} s",
                "shoald hangs, or another program listens there",
            )
        except OSError as error:
            return _unreachable(
                f"{self._where} closed the connection during the TLS handshake: {error}", "is it shoald?"
            )
        return _unreachable(
            f"{self._where} can be reached now, but its first answer did not come in time",
            "try again, or raise --timeout",
        )

    def _connected(self) -> socket.socket:
        return socket.create_connection(self._place, timeout=self._timeout)

    def _context(self, *, verify: bool) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["h2"])
        if verify:
            context.load_verify_locations(cadata=self._pem.ca.decode("ascii", "replace"))
        else:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        assert self._host.cert is not None  # they were read before
        context.load_cert_chain(self._host.cert, self._host.key)
        return context

    def _handshake(self, context: ssl.SSLContext) -> bool:
        """Whether the host goes on after the handshake: HTTP/2 lets a server speak first, and gRPC's does.

        With TLS 1.3 that is when a host refuses our certificate; gRPC's server then hangs up without an alert.
        """
        with self._connected() as plain, context.wrap_socket(plain, server_hostname=self._name) as tls:
            tls.settimeout(min(self._timeout, _ALERT_TIME))
            try:
                return bool(tls.recv(1))
            except ConnectionError:
                return False
            except TimeoutError:
                return True

    def _theirs(self, why: str) -> ShoalError:
        """The host's certificate is bad: say how."""
        faults = [f"{why}."]
        with contextlib.suppress(OSError, ValueError):
            presented = self._presented()
            from shoal.pki import check_pair

            faults = check_pair(presented, self._pem.ca, purpose="server", server_name=self._name) or faults
        return Unauthenticated(
            f"the certificate of {self._where} is not accepted: {' '.join(faults)}",
            reason="HOST_CERTIFICATE",
            hint=_remedy_of_host(" ".join(faults), self._host),
        )

    def _presented(self) -> bytes:
        with (
            self._connected() as plain,
            self._context(verify=False).wrap_socket(plain, server_hostname=self._name) as tls,
        ):
            der = tls.getpeercert(binary_form=True)
        if der is None:
            raise ValueError("no certificate")
        return ssl.DER_cert_to_PEM_cert(der).encode()

    def _alert(self, error: ssl.SSLError) -> ShoalError:
        reason = (error.reason or str(error)).upper()
        if "ALERT" in reason and any(word in reason for word in _CERTIFICATE_ALERTS):
            return self._own(reason.replace("_", " ").lower())
        if any(word in reason for word in ("WRONG_VERSION_NUMBER", "RECORD_LAYER", "UNKNOWN_PROTOCOL", "HTTP_REQUEST")):
            return _unreachable(f"{self._where} does not speak TLS", "this is not the port of shoald")
        return _unreachable(
            f"the TLS handshake with {self._where} failed: {reason.replace('_', ' ').lower()}", "is it shoald?"
        )

    def _own(self, why: str) -> ShoalError:
        """Our certificate is bad: say how, as far as it can be seen from here."""
        from shoal.pki import check_pair

        faults = check_pair(self._pem.cert, self._pem.ca, purpose="client", key_pem=self._pem.key)
        detail = " ".join(faults) or f"It looks good from here; the host says: {why}."
        hint = "the host trusts another CA, or the certificate is on its deny list; compare `shoal pki show` on both"
        return Unauthenticated(
            f"{self._where} refused the client certificate {self._host.cert}: {detail}",
            reason="CLIENT_CERTIFICATE",
            hint="make a new one: shoal pki issue user NAME --role ROLE" if faults else hint,
        )


_CERTIFICATE_ALERTS = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED", "DECRYPT_ERROR", "HANDSHAKE_FAILURE")


def _remedy_of_host(faults: str, host: Host) -> str:
    if "expired" in faults or "not valid before" in faults:
        return f"issue a new one (shoal pki issue host {host.name} --san NAME), or correct the clock"
    if "not for" in faults:
        return "use an address of the certificate, or set server_name for the host in the client's configuration"
    return f"if the host is right, give its CA: shoal host add {host.name} {host.address} --ca FILE ... --replace"


def _unreachable(message: str, hint: str) -> Unavailable:
    return Unavailable(message, reason="HOST_UNREACHABLE", hint=hint)
