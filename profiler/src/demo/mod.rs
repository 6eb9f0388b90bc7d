//! The bundled MCP server that `mcp-profiler demo` profiles.
