// A quarter of the CPU time each: a function of a module, WebAssembly, a regular expression, and a thread with an isolate of
// its own. `spin` adds up, in a loop, as many numbers as it is told.
import { fileURLToPath } from 'node:url';
import { Worker, isMainThread } from 'node:worker_threads';

const code = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 6, 1, 96, 1, 127, 1, 127, 3, 2, 1, 0, 7, 8, 1, 4, 115, 112, 105, 110, 0, 0, 10, 33, 1, 31, 1,
  1, 127, 3, 64, 32, 1, 32, 0, 106, 65, 1, 106, 33, 1, 32, 0, 65, 1, 107, 34, 0, 65, 0, 74, 13, 0, 11, 32, 1, 11,
]);
const { spin } = new WebAssembly.Instance(new WebAssembly.Module(code)).exports;

// Of this thread alone is not to be had in all versions; the other thread uses as much.
function now() {
  const { user, system } = process.cpuUsage();
  return user + system;
}

export function inModule() {
  let x = 1;
  for (const end = now() + 8000; now() < end;) for (let i = 0; i < 20000; i++) x = (x * 31 + i) | 0;
  return x;
}

function inWebAssembly() {
  for (const end = now() + 8000; now() < end;) spin(100000);
}

function inExpression() {
  const expression = /^(a+)+$/;
  for (const end = now() + 8000; now() < end;) expression.test('aaaaaaaaaaaaaaaaaab');
}

function inWorker() {
  let x = 1;
  for (;;) for (let i = 0; i < 20000; i++) x = (x * 31 + i) | 0;
}

if (isMainThread) {
  const worker = new Worker(fileURLToPath(import.meta.url));
  worker.on('online', () => {
    console.log('ready');
    (function round() {
      inModule();
      inWebAssembly();
      inExpression();
      setImmediate(round);
    })();
  });
} else {
  inWorker();
}
