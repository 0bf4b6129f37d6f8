//! Agents and a coordinator in one process, over real sockets.
