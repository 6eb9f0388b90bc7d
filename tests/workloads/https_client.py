"""Calls the tool `echo` over TLS, so many times on one connection: `https_client.py PORT COUNT`. Every tenth text is long."""

import http.client
import json
import ssl
import sys

context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
connection = http.client.HTTPSConnection("127.0.0.1", int(sys.argv[1]), context=context)
for number in range(int(sys.argv[2])):
    text = "x" * (50_000 if number % 10 == 9 else 10)
    params = {"name": "echo", "arguments": {"text": text}}
    body = json.dumps({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params})
    connection.request("POST", "/mcp", body, {"Content-Type": "application/json"})
    answer = connection.getresponse().read().decode()
    assert text in answer, answer
