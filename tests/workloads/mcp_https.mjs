// An MCP server over streamable HTTP and TLS that answers by events: `mcp_https.mjs CERTIFICATE KEY`. Prints its port.

import { readFileSync } from "node:fs";
import { createServer } from "node:https";

const [, , cert, key] = process.argv;
const server = createServer({ cert: readFileSync(cert), key: readFileSync(key) }, async (request, response) => {
  let body = "";
  for await (const part of request) body += part;
  const { id, params } = JSON.parse(body);
  const result = { content: [{ type: "text", text: params.arguments.text }] };
  response.writeHead(200, { "Content-Type": "text/event-stream" });
  response.write(`event: message\ndata: ${JSON.stringify({ result, jsonrpc: "2.0", id })}\n\n`);
  response.end();
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
