// Below 40 frames of `recurse`: three parts of CPU time in `three`, two in `two`, one in `one`. At SIGTERM it prints the
// microseconds that each really took.
'use strict';
const spent = { three: 0, two: 0, one: 0 };

function three(units) {
  let x = 1;
  for (let i = 0; i < 3 * units; i++) x = (x * 31 + i) | 0;
  return x;
}

function two(units) {
  let x = 1;
  for (let i = 0; i < 2 * units; i++) x = (x * 31 + i) | 0;
  return x;
}

function one(units) {
  let x = 1;
  for (let i = 0; i < units; i++) x = (x * 31 + i) | 0;
  return x;
}

function now() {
  const { user, system } = process.cpuUsage();
  return user + system;
}

function timed(leaf, units) {
  const start = now();
  leaf(units);
  spent[leaf.name] += now() - start;
  return 0;
}

function recurse(left, leaf, units) {
  return left > 0 ? recurse(left - 1, leaf, units) : timed(leaf, units);
}

let random = 1;
function round() {
  // Rounds of different lengths: none can beat in time with the sampling.
  random = (Math.imul(random, 1103515245) + 12345) & 0x7fffffff;
  const units = (1 + (random % 1000) / 500) * (+process.argv[2] || 200000);
  for (const leaf of [three, two, one]) recurse(39, leaf, units);
  setImmediate(round);
}

process.on('SIGTERM', () => {
  console.log(`${spent.three} ${spent.two} ${spent.one}`);
  process.exit(0);
});
round();
console.log('ready');
