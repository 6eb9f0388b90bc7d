//! The MCP client: load on a server.
