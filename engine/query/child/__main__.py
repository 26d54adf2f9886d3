"""The process of queries: puts up its walls, then answers one request after the other.

    python -m engine.query.child SOCKET PARENT

The main thread reads the socket, so that it hears when to stop; another one works. It ends when the
engine does, or closes the socket. Knows no tenant before the walls stand, and no second one after.
"""

from __future__ import annotations

import os
import socket
import sys
import traceback
from typing import TYPE_CHECKING, Final

from engine.base.errors import EngineError
from engine.processes import behind, frames
from engine.processes.line import Line
from engine.query import messages
from engine.query.child import confinement
from engine.query.messages import Kind

if TYPE_CHECKING:
    from engine.query.child.serving import Serving

_HOT: Final = {Kind.HOT_RUNS: "runs", Kind.HOT_STEPS: "steps"}


class Answers(Line):
    """The socket to the engine, as the sink of an answer."""

    def next(self) -> tuple[Kind, bytes]:
        number, data = self.receive()
        return Kind(number), data

    def part(self, data: bytes) -> None:
        *pieces, last = frames.pieces(data)
        for piece in pieces:
            self.send(Kind.PIECE, piece)
        self.send(Kind.PART, last)

    def restart(self) -> None:
        self.send(Kind.RESTART)


def main(line: Answers) -> None:
    kind, data = line.next()
    assert kind is Kind.PREPARE
    prepared = messages.decode_prepare(data)
    stand = confinement.confine_process(prepared)
    # Only now, behind the walls: the driver, which begins threads as it is loaded.
    from engine.query.child.serving import Serving

    serving = Serving(prepared, line)
    line.send(Kind.READY, messages.encode(messages.Ready(stand)))
    kind, data = line.next()
    assert kind is Kind.OPEN
    tenant = messages.decode_open(data).tenant
    stand = confinement.confine_to(tenant, prepared)
    serving.open(tenant)
    line.send(Kind.READY, messages.encode(messages.Ready(stand)))
    _serve(line, serving)


def _serve(line: Answers, serving: Serving) -> None:
    hot: dict[str, list[bytes]] = {"runs": [], "steps": []}
    while True:
        kind, data = line.next()
        if kind in _HOT:
            hot[_HOT[kind]].append(data)
        elif kind is Kind.ASK:
            tables = {name: b"".join(parts) for name, parts in hot.items()}
            hot = {"runs": [], "steps": []}
            serving.begin(messages.decode_request(data), tables)
        else:
            assert kind is Kind.STOP, kind
            serving.stop()


if __name__ == "__main__":
    behind.end_with_parent(int(sys.argv[2]))
    try:
        main(Answers(socket.socket(fileno=int(sys.argv[1]))))
    except (EOFError, ConnectionError):
        pass  # the engine has ended, or does not want this process any more
    except EngineError as error:
        sys.stderr.write(f"{error.message}\n")
    except BaseException:  # noqa: BLE001 - said where the engine looks for it
        traceback.print_exc()
    # Without waiting for a thread that works: nobody waits for what it does.
    sys.stderr.flush()
    os._exit(0)
