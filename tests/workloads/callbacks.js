// Each function with a line marked `LINE` burns the same CPU time there. They are called in turn: by builtins, through C++,
// as methods, by the event loop.
'use strict';
const { EventEmitter } = require('node:events');
const fs = require('node:fs');
const vm = require('node:vm');

function now() {
  const { user, system } = process.cpuUsage();
  return user + system;
}

// Rounds of different lengths: none can beat in time with the sampling.
let random = 1;
let microseconds = 4000;
function nextRound() {
  random = (Math.imul(random, 1103515245) + 12345) & 0x7fffffff;
  microseconds = 2000 + ((random >> 8) % 4000);
}

function turn() {
  return now() + microseconds;
}

function bySort() {
  return [2, 1].sort(function compare(a, b) {
    let x = 1;
    for (const end = turn(); now() < end;) for (let i = 0; i < 20000; i++) x = (x * 31 + i) | 0; // LINE compare
    return x;
  });
}

function byMap() {
  return [1].map(function mapper() {
    let x = 1;
    for (const end = turn(); now() < end;) for (let i = 0; i < 20000; i++) x = (x * 31 + i) | 0; // LINE mapper
    return x;
  });
}

function byReplace() {
  return 'abc'.replace(/b/, function replacer() {
    let x = 1;
    for (const end = turn(); now() < end;) for (let i = 0; i < 20000; i++) x = (x * 31 + i) | 0; // LINE replacer
    return x;
  });
}

function byParse() {
  return JSON.parse('1', function reviver() {
    let x = 1;
    for (const end = turn(); now() < end;) for (let i = 0; i < 20000; i++) x = (x * 31 + i) | 0; // LINE reviver
    return x;
  });
}

const emitter = new EventEmitter();
emitter.on('tick', function listener() {
  let x = 1;
  for (const end = turn(); now() < end;) for (let i = 0; i < 20000; i++) x = (x * 31 + i) | 0; // LINE listener
  return x;
});
function byEmitter() {
  emitter.emit('tick');
}

const context = vm.createContext({ now, turn });
vm.runInContext(`function inContext() {
  let x = 1;
  for (const end = turn(); now() < end;) for (let i = 0; i < 20000; i++) x = (x * 31 + i) | 0; // LINE inContext
  return x;
}`, context, { filename: '/srv/контекст.js', lineOffset: 100 });
function byContext() {
  return vm.runInContext('inContext()', context, { filename: 'call.js' });
}

function byStat() {
  return new Promise((resolve) => fs.stat('/', function whenStat() {
    resolve();
    let x = 1;
    for (const end = turn(); now() < end;) for (let i = 0; i < 20000; i++) x = (x * 31 + i) | 0; // LINE whenStat
    return x;
  }));
}

function 数える() {
  let x = 1;
  for (const end = turn(); now() < end;) for (let i = 0; i < 20000; i++) x = (x * 31 + i) | 0; // LINE 数える
  return x;
}

class Basket {
  sum() {
    let x = 1;
    for (const end = turn(); now() < end;) for (let i = 0; i < 20000; i++) x = (x * 31 + i) | 0; // LINE sum
    return x;
  }

  static of() {
    let x = 1;
    for (const end = turn(); now() < end;) for (let i = 0; i < 20000; i++) x = (x * 31 + i) | 0; // LINE of
    return x;
  }

  get size() {
    let x = 1;
    for (const end = turn(); now() < end;) for (let i = 0; i < 20000; i++) x = (x * 31 + i) | 0; // LINE get size
    return x;
  }
}

const arrow = () => {
  let x = 1;
  for (const end = turn(); now() < end;) for (let i = 0; i < 20000; i++) x = (x * 31 + i) | 0; // LINE arrow
  return x;
};

const library = {};
library.assigned = function () {
  let x = 1;
  for (const end = turn(); now() < end;) for (let i = 0; i < 20000; i++) x = (x * 31 + i) | 0; // LINE library.assigned
  return x;
};

async function asynchronous() {
  await null;
  let x = 1;
  for (const end = turn(); now() < end;) for (let i = 0; i < 20000; i++) x = (x * 31 + i) | 0; // LINE asynchronous
  return x;
}

function* generator() {
  yield 1;
  let x = 1;
  for (const end = turn(); now() < end;) for (let i = 0; i < 20000; i++) x = (x * 31 + i) | 0; // LINE generator
  return x;
}

async function main() {
  console.log('ready');
  for (;;) {
    nextRound();
    bySort();
    byMap();
    byReplace();
    byParse();
    byEmitter();
    byContext();
    await byStat();
    数える();
    new Basket().sum();
    Basket.of();
    new Basket().size;
    arrow();
    library.assigned();
    await asynchronous();
    for (const _ of generator());
    (function () {
      let x = 1;
      for (const end = turn(); now() < end;) for (let i = 0; i < 20000; i++) x = (x * 31 + i) | 0; // LINE (anonymous)
      return x;
    })();
  }
}
main();
