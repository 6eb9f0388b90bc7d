//! `cargo xtask fuzz`: damaged ELF files, Go tables and perf maps, for a given time.
//!
//! Each input is made from a real file by a random number that is printed, so that a failure can be repeated. The inputs run
//! in a process of their own, with a limit of time for each and of memory for all: a parser that panics, hangs, or asks
//! for too much ends it, and leaves the input behind. This is the build with checks for overflow.

use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
use mcp_profiler::symbol::{ElfImage, Namer, perf_map_names};
use mcp_profiler::unwind::read_table;
use mcp_profiler::wire::Piece;
use mcp_profiler::wire::calls::Ended;
use mcp_profiler::wire::contents::Capture;
use mcp_profiler::wire::streams::{Moved, Streams};
use nix::sys::resource::{Resource, setrlimit};

use crate::command::workspace;
use crate::packages;

/// A server over stdio, and both directions of one over HTTP.
const LINES: &str = concat!(
    r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read_file","arguments":{"path":"/a\"}{"},"_meta":{"traceparent":"00-ab-cd-01"}}}"#,
    "\nlistening\n",
    r#"[{"result":{"content":[{"type":"text","text":"\"id\":4, }{\\"}],"isError":true},"jsonrpc":"2.0","id":"1"},{"jsonrpc":"2.0","id":2,"error":{"code":-1,"message":"no"}}]"#,
    "\n"
);
const REQUESTS: &str = "POST /mcp HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n\
    2c\r\n{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/list\"}\r\n0\r\n\r\nGET /mcp HTTP/1.1\r\n\r\n";
const RESPONSES: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n\
    2b\r\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n\r\n0\r\n\r\nHTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n";

/// Longest time that one input may take, without optimization and on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);
/// Most memory of the process.
const MEMORY_BYTES: u64 = 3 << 30;
/// Longest seed that is taken.
const SEED_BYTES: usize = 4 << 20;

/// Options of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How long each parser is tried.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Only this one.
    #[arg(long)]
    parser: Option<Parser>,
    /// First random number; the current time if none is given.
    #[arg(long)]
    seed: Option<u64>,
    /// Try this file once, as an earlier run left it.
    #[arg(long, requires = "parser")]
    input: Option<PathBuf>,
    /// Run the inputs here, not in a process of their own.
    #[arg(long, hide = true)]
    inside: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Parser {
    Elf,
    Go,
    PerfMap,
    Wire,
}

/// Tries all parsers, or one.
pub(crate) fn fuzz(options: &Options) -> Result<()> {
    if let (Some(parser), Some(input)) = (options.parser, &options.input) {
        let _ = try_input(parser, &std::fs::read(input)?, 1)?;
        eprintln!("{} is survived", input.display());
        return Ok(());
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |time| time.as_secs());
    let seed = options.seed.unwrap_or(now);
    let parsers = options
        .parser
        .map_or(vec![Parser::Elf, Parser::Go, Parser::PerfMap, Parser::Wire], |parser| vec![parser]);
    if options.inside {
        return parsers.into_iter().try_for_each(|parser| run(parser, seed, options.seconds));
    }
    for parser in parsers {
        let name = clap::ValueEnum::to_possible_value(&parser).context("each parser has a name")?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["fuzz", "--inside", "--parser", name.get_name()]);
        command.args(["--seconds", &options.seconds.to_string(), "--seed", &seed.to_string()]);
        let status = command.status()?;
        if !status.success() {
            let (name, input) = (name.get_name(), input_path(parser));
            let repeat = format!("cargo xtask fuzz --parser {name} --input {}", input.display());
            bail!("an input was not survived ({status}). Repeat it with: {repeat}");
        }
    }
    Ok(())
}

fn run(parser: Parser, seed: u64, seconds: u64) -> Result<()> {
    setrlimit(Resource::RLIMIT_AS, MEMORY_BYTES, MEMORY_BYTES)?;
    let seeds = seeds(parser)?;
    watch();
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut inputs, mut understood) = (0_u64, 0_u64);
    let path = input_path(parser);
    std::fs::create_dir_all(path.parent().context("it lies in a folder")?)?;
    let mut random = Random(seed);
    while Instant::now() < end {
        let number = random.number();
        let mut random = Random(number);
        let mut input = seeds[random.below(seeds.len())].clone();
        if matches!(parser, Parser::PerfMap | Parser::Wire) {
            damage_text(&mut input, &mut random);
        } else {
            damage(&mut input, &mut random);
        }
        // It is there if the next line is the last one that runs.
        std::fs::write(&path, &input)?;
        STARTED.store(now_ms(), Ordering::Relaxed);
        understood += u64::from(try_input(parser, &input, number)?);
        STARTED.store(0, Ordering::Relaxed);
        inputs += 1;
    }
    std::fs::remove_file(&path)?;
    eprintln!("{parser:?}: {inputs} inputs from {seed} on, of which {understood} gave something");
    // If nothing was understood, nothing was tried.
    ensure!(inputs > 0 && understood > 0, "the inputs are all refused at once");
    Ok(())
}

/// Whether the parser found something in it.
fn try_input(parser: Parser, input: &[u8], number: u64) -> Result<bool> {
    let mut random = Random(number);
    if parser == Parser::PerfMap {
        let addresses: Vec<u64> = (0..64).map(|_| random.number() & 0x7fff_ffff_ffff).collect();
        return Ok(!perf_map_names(input, &[&addresses[..], &[0x1000, 0x2004, u64::MAX]].concat()).is_empty());
    }
    if parser == Parser::Wire {
        return converse(input, &mut random);
    }
    let mut file = tempfile::tempfile()?;
    file.write_all(input)?;
    file.seek(SeekFrom::Start(0))?;
    let table = read_table(&file);
    let is_in_order = table.rows.windows(2).all(|pair| pair[0].start < pair[1].start);
    ensure!(is_in_order, "rows are not in order");
    let names =
        named(file, &table.rows.iter().map(|row| table.base + u64::from(row.start)).collect::<Vec<_>>());
    Ok(!table.rows.is_empty() || names)
}

/// What a server reads and writes, in pieces, some of which are missing or lost. Whether any message was understood.
fn converse(mut input: &[u8], random: &mut Random) -> Result<bool> {
    let capture = Capture { bytes: if random.below(2) == 0 { 0 } else { 100 } };
    let mut streams = Streams::new(capture);
    let (mut number, mut is_written) = (0_u64, false);
    while !input.is_empty() {
        number += 1;
        is_written ^= random.below(4) == 0;
        let (piece, rest) = input.split_at(random.below(4096).clamp(1, input.len()));
        let moved = Moved { stream: 1, is_written, timestamp_ns: number, thread: 1 };
        match random.below(40) {
            0 => streams.lost(moved, random.below(2) == 0),
            1 => drop(streams.moved(moved, Piece::Gap(random.number() >> (32 + random.below(32))))),
            2 => streams.closed(1, number),
            _ => drop(streams.moved(moved, Piece::Bytes(piece))),
        }
        input = rest;
    }
    streams.calls.finish(number, &Ended::InFlight);
    let (ended, messages) = (streams.calls.take_ended().len() as u64, streams.counts().messages);
    ensure!(ended <= messages, "{ended} calls of {messages} messages");
    Ok(messages > 0)
}

fn named(file: File, starts: &[u64]) -> bool {
    let Some(image) = ElfImage::from_file(file) else { return false };
    let some: Vec<u64> = starts.iter().step_by(starts.len() / 50 + 1).copied().chain([0, u64::MAX]).collect();
    Namer::default().elf(&image, &some).iter().any(|names| !names.is_empty())
}

/// Real files to start from.
fn seeds(parser: Parser) -> Result<Vec<Vec<u8>>> {
    match parser {
        Parser::PerfMap => {
            let map = "1000 10 Function:~start a.js:1\n0x2000 20 LazyCompile:*run\n7f0000000000 ffff Name\n2004 1 x\n";
            Ok(vec![map.as_bytes().to_vec(), map.repeat(50).into_bytes()])
        }
        Parser::Wire => {
            let mut seeds = conversations()?;
            seeds.extend([LINES, REQUESTS, RESPONSES].map(|text| text.repeat(50).into_bytes()));
            Ok(seeds)
        }
        Parser::Elf => {
            let files = ["/bin/true", "/usr/bin/env", "/lib64/ld-linux-x86-64.so.2"];
            let read = |file: &str| std::fs::read(file).ok().filter(|bytes| bytes.len() <= SEED_BYTES);
            let mut seeds: Vec<_> = files.into_iter().filter_map(read).collect();
            seeds.push(compiled(&["cc", "-g", "-O1", "-gdwarf-4"], "shares.c")?);
            seeds.push(compiled(&["cc", "-g", "-O1", "-gz=zlib"], "shares.c")?);
            // Described by `.debug_frame` alone.
            let options = ["cc", "-g", "-O2", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables"];
            seeds.push(compiled(&options, "shares.c")?);
            Ok(seeds)
        }
        Parser::Go => {
            packages::install(&["golang-go"])?;
            Ok(vec![compiled(&["go", "build", "-ldflags=-s -w"], "shares.go")?])
        }
    }
}

/// What real servers read, and what they wrote (`profiler/src/wire/conversations`).
fn conversations() -> Result<Vec<Vec<u8>>> {
    let mut seeds = Vec::new();
    for file in std::fs::read_dir(workspace().join("profiler/src/wire/conversations"))? {
        let path = file?.path();
        if path.extension().is_none_or(|extension| extension != "conversation") {
            continue;
        }
        let bytes = std::fs::read(&path)?;
        let (mut text, mut read, mut written) = (&bytes[..], Vec::new(), Vec::new());
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let line = std::str::from_utf8(&text[..end])?;
            text = &text[end + 1..];
            let words: Vec<&str> = line.split(' ').collect();
            if let [verb, _, length] = words[..] {
                let length = length.parse().with_context(|| format!("{}: {line}", path.display()))?;
                let moved = if verb == "read" { &mut read } else { &mut written };
                moved.extend_from_slice(&text[..length]);
                text = &text[length + 1..];
            }
        }
        seeds.extend([read, written]);
    }
    Ok(seeds)
}

/// What a compiler makes of a workload of the tests.
fn compiled(command: &[&str], source: &str) -> Result<Vec<u8>> {
    let folder = tempfile::tempdir()?;
    let output = folder.path().join("output");
    let source = workspace().join("tests/workloads").join(source);
    let mut compiler = Command::new(command[0]);
    compiler.args(&command[1..]).arg("-o").arg(&output).arg(&source).current_dir(folder.path());
    let status = compiler.env("GOCACHE", folder.path().join("cache")).env("GOTOOLCHAIN", "local").status();
    ensure!(status.context("cannot run the compiler")?.success(), "{} does not compile", source.display());
    Ok(std::fs::read(output)?)
}

fn input_path(parser: Parser) -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
    Path::new(&target).join("fuzz").join(format!("{parser:?}").to_lowercase())
}

/// Changes bytes and numbers, moves pieces over others, cuts.
fn damage(input: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..1 + random.below(24) {
        let length = input.len().max(64);
        // The headers say where everything is: half of all changes hit them. Section headers are at the end.
        let at = match random.below(4) {
            0 => random.below(1024.min(length)),
            1 => length - 1 - random.below(4096.min(length)),
            _ => random.below(length),
        };
        match random.below(8) {
            0..=2 => put(input, at, &[random.number() as u8]),
            3 | 4 => {
                let interesting = [0, 1, 7, 0x7f, 0xff, 0xffff, 0x7fff_ffff, 0xffff_ffff, u64::MAX, 1 << 63];
                let number = match random.below(3) {
                    0 => interesting[random.below(interesting.len())],
                    1 => random.number() % (2 * length as u64),
                    _ => random.number(),
                };
                let bytes = [1, 2, 4, 8][random.below(4)];
                put(input, at / bytes * bytes, &number.to_le_bytes()[..bytes]);
            }
            5 => {
                let piece: Vec<u8> =
                    input[random.below(length).min(input.len())..].iter().take(64).copied().collect();
                put(input, at, &piece);
            }
            6 => {
                let bytes: Vec<u8> = (0..random.below(32)).map(|_| random.number() as u8).collect();
                put(input, at, &bytes);
            }
            _ if random.below(8) == 0 => input.truncate(at),
            _ => {}
        }
    }
}

fn damage_text(input: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..random.below(20) {
        let at = random.below(input.len() + 1);
        let piece: &[&[u8]] =
            &[b"\n", b" ", b"ffffffffffffffff", b"0x", b"-1", b"\0", b"\xff\xfe", b"1000 10 again\n"];
        let piece = piece[random.below(piece.len())];
        input.splice(at..at, piece.iter().copied());
        if random.below(10) == 0 {
            input.splice(at..at, std::iter::repeat_n(b'a', random.below(40_000)));
        }
    }
    damage(input, random);
}

fn put(input: &mut [u8], at: usize, bytes: &[u8]) {
    input.iter_mut().skip(at).zip(bytes).for_each(|(place, byte)| *place = *byte);
}

/// When the current input was started, in milliseconds; 0 between inputs.
static STARTED: AtomicU64 = AtomicU64::new(0);

/// Ends the process when an input takes too long.
fn watch() {
    std::thread::spawn(|| {
        loop {
            std::thread::sleep(Duration::from_millis(500));
            let started = STARTED.load(Ordering::Relaxed);
            if started != 0 && now_ms().saturating_sub(started) > LIMIT.as_millis() as u64 {
                eprintln!("an input takes longer than {LIMIT:?}");
                std::process::abort();
            }
        }
    });
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |time| time.as_millis() as u64)
}

/// Pseudo-random numbers (splitmix64).
struct Random(u64);

impl Random {
    fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.number() % limit.max(1) as u64) as usize
    }
}
