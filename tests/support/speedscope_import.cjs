// Loads a profile with the importer of speedscope's own release, and prints what speedscope then has.
// usage: node speedscope_import.cjs SPEEDSCOPE_PACKAGE PROFILE
"use strict";
const fs = require("fs");
const path = require("path");
const vm = require("vm");

const [, , speedscope, profilePath] = process.argv;
const release = path.join(speedscope, "dist/release");
const bundle = fs.readdirSync(release).find((name) => /^speedscope-.*\.js$/.test(name));
let source = fs.readFileSync(path.join(release, bundle), "utf8");

// What the page calls for a profile that it was given as a URL: the importer, by file name and bytes.
const importer = /await (\w+)\(\w+,await \w+\.arrayBuffer\(\)\)/.exec(source);
// The last statement of the bundle draws the page. Everything before it runs unchanged.
const draw = source.lastIndexOf("console.log(`speedscope v");
if (!importer || draw < 0) throw new Error(`${bundle} is built otherwise: adapt this script`);
source = source.slice(0, draw) + `globalThis.importProfile=${importer[1]}})();`;

// What the bundle touches while it loads. Nothing of it takes part in importing.
const anything = new Proxy(function () {}, {
  get: (_, key) => (key === Symbol.toPrimitive ? () => "" : anything),
  apply: () => anything,
  construct: () => anything,
  set: () => true,
});
const quiet = { ...console, log() {}, time() {}, timeEnd() {} };
const page = { document: anything, localStorage: anything, location: { protocol: "http:", hash: "", href: "http://localhost/" },
  addEventListener() {}, matchMedia: () => anything, navigator: { userAgent: "" }, devicePixelRatio: 1, console: quiet,
  TextDecoder, TextEncoder, URL, URLSearchParams, setTimeout, clearTimeout, requestAnimationFrame() {}, performance, atob, btoa,
  WebAssembly, FileReader: class {}, Uint8Array, ArrayBuffer, Blob };
page.window = page.self = page;
vm.createContext(page);
vm.runInContext(source, page, { filename: bundle });

const bytes = fs.readFileSync(profilePath);
const buffer = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
page.importProfile(path.basename(profilePath), buffer).then((group) => {
  if (!group) throw new Error("speedscope does not know this format");
  const profiles = group.profiles.map((profile) => {
    const frames = [];
    profile.forEachFrame((frame) => frames.push({ name: frame.name, self: frame.getSelfWeight(), total: frame.getTotalWeight() }));
    return { name: profile.getName(), unit: profile.getWeightUnit(), total: profile.getTotalWeight(), frames };
  });
  process.stdout.write(JSON.stringify({ profiles }) + "\n");
}).catch((error) => {
  process.stderr.write(`${error.stack}\n`);
  process.exit(1);
});
