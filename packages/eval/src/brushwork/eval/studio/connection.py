"""A connection to the studio's server: whoever opens one says soon what they want, or it is closed."""

from asyncio import TimerHandle, Transport

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10
"""In which the head of a request must have arrived."""


class Connection(H11Protocol):
    """One that nobody can hold by being silent, or by half a request: the server's own protocol waits for ever."""

    _deadline: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Waits for the first request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Takes in what came; a later request too must arrive as soon as it has begun."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Waits no longer."""
        self._forget()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:  # a request is there, and is being answered
            self._forget()
        elif self._deadline is None:  # more of a head that is late already gains no time
            self._deadline = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
