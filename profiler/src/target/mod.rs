//! From a name, a process ID or a command line to the processes that are the server.
