// Functions that come and go, with their scripts and their machine code: `made_N` is hot in line N + 3 of its own.
'use strict';
let count = 0;
let kept = [];

function round() {
  for (let k = 0; k < 20; k++) {
    const number = count++ % 50;
    const hot = 'for (let i = 0; i < units; i++) x = (x * 31 + i) | 0;';
    const made = new Function('units', `${'\n'.repeat(number)}return (function made_${number}() { let x = 1; ${hot} return x; })();`);
    made(60000);
    kept.push(made, new Array(1000).fill(count));
    if (kept.length > 400) kept = kept.slice(200);
  }
  setImmediate(round);
}
round();
console.log('ready');
