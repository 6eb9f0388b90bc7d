// An MCP server by hand for Node 24, one JSON-RPC message a line. Its tools do what they are told, for as long as they are told.
'use strict';
const { createInterface } = require('node:readline');
const { setTimeout: wait } = require('node:timers/promises');

// CPU time of this thread, in nanoseconds.
function threadTime() {
    const { user, system } = process.threadCpuUsage();
    return (user + system) * 1000;
}

function burn(milliseconds) {
    const start = threadTime();
    let burned = 0;
    while ((burned = threadTime() - start) < milliseconds * 1e6) {
        for (let turn = 0; turn < 1000; turn++);
    }
    return String(burned);
}

async function sleep(milliseconds) {
    await wait(milliseconds);
    return '0';
}

async function mixed(milliseconds) {
    const burned = burn(milliseconds / 2);
    await sleep(milliseconds / 2);
    return burned;
}

const tools = { burn, sleep, mixed };

function write(message) {
    process.stdout.write(JSON.stringify(message) + '\n');
}

createInterface({ input: process.stdin }).on('line', async (line) => {
    const { id, method, params } = JSON.parse(line);
    if (method === 'initialize') {
        const serverInfo = { name: 'by hand' };
        write({ jsonrpc: '2.0', id, result: { protocolVersion: '2025-06-18', capabilities: { tools: {} }, serverInfo } });
    } else if (method === 'tools/call') {
        const text = await tools[params.name](params.arguments.milliseconds);
        write({ result: { content: [{ type: 'text', text }] }, jsonrpc: '2.0', id });
    }
});
