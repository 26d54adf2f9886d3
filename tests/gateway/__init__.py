"""The gateway over real sockets, against a runtime that is faked with behaviour."""
