// Most of the CPU time in `heavy`, the rest in `light`: both are small, hot, and end up inlined into `caller`. They have no expression
// in common: V8 computes equal ones once, wherever they are.
'use strict';
function heavy(x, i) {
  for (let k = 0; k < 300; k++) x = (x * 31 + i + k) | 0;
  return x;
}

function light(x, i) {
  for (let j = 100; j > 0; j--) x = (x ^ (x >>> 7)) - (j << 2);
  return x;
}

function caller(rounds) {
  let x = 1;
  for (let i = 0; i < rounds; i++) x = light(heavy(x, i), i);
  return x;
}

function round() {
  // Long rounds: what the event loop does between two of them is little.
  caller(20000);
  setImmediate(round);
}
round();
console.log('ready');
