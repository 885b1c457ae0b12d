"""TLS to providers: certificates are checked, and a new connection resumes the session of an earlier one.

Resuming spares the provider's and our processor the costly part of a handshake, and with TLS 1.2 a round trip. The
event loops make the TLS objects themselves and know nothing of sessions; the one hook is the class that they make.
"""

import ssl
from typing import ClassVar


class _ResumingObject(ssl.SSLObject):
    """A client's end of TLS that begins with the session that was kept last. Each context has a class of its own."""

    kept: ClassVar[ssl.SSLSession | None] = None
    _begun = False

    def do_handshake(self) -> None:
        """Called several times until it is done."""
        if not self._begun:
            self._begun = True
            if self.kept is not None:
                self.session = self.kept
        super().do_handshake()


def client_context() -> ssl.SSLContext:
    """A context for one host; its sessions are for that host alone."""

    class Resuming(_ResumingObject):
        pass

    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    context.sslobject_class = Resuming
    return context


def keep_session(tls: ssl.SSLObject) -> None:
    """Begin later connections with the session of this one. With TLS 1.3 it has one once an answer has come."""
    session = tls.session
    if isinstance(tls, _ResumingObject) and session is not None and session.has_ticket:
        type(tls).kept = session
