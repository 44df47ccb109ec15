//! Three nodes, a switch and a client in network namespaces of this machine.
