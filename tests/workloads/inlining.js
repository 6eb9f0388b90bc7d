// Three parts of CPU time in `heavy`, one in `light`: both are small, hot, and end up inlined into `caller`.
'use strict';
function heavy(x, i) {
  for (let k = 0; k < 30; k++) x = (x * 31 + i + k) | 0;
  return x;
}

function light(x, i) {
  for (let k = 0; k < 10; k++) x = (x * 31 + i + k) | 0;
  return x;
}

function caller(rounds) {
  let x = 1;
  for (let i = 0; i < rounds; i++) x = light(heavy(x, i), i);
  return x;
}

function round() {
  caller(20000);
  setImmediate(round);
}
round();
console.log('ready');
