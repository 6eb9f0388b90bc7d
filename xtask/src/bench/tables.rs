//! What unwind tables cost: the time until they are in the kernel, and its memory.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use aya::maps::{Array, IterableMap as _, MapData};
use mcp_profiler::capture::kernel_table;
use mcp_profiler::recording::read;
use mcp_profiler::symbol::ElfImage;
use mcp_profiler::unwind::{Cache, Table, read_table, read_table_with};
use profiler_common::RowPage;
use tests::{Footprint, Process, map_bytes, wait_until};

use super::profiler::Profiler;
use super::statistics::Estimate;
use super::table;
use crate::command::workspace;

const HERTZ: u32 = 99;
/// The longest time until the first sample is in the recording, on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);
const LOAD_GOAL_MS: f64 = 150.0;
const TABLE_GOAL_MIB: f64 = 4.0;
const TOTAL_GOAL_MIB: f64 = 16.0;

/// Loads the table of Node 20, the largest that servers have, so many times; then records a Node and a Python program.
pub(super) fn measure(profiler: &Profiler, servers: &Path, rounds: u32) -> Result<()> {
    let node = servers.join("node_modules/node-20/bin/node");
    let missing = || format!("{} is missing. Run: cargo xtask servers", node.display());
    let file = File::open(&node).with_context(missing)?;
    let image = ElfImage::from_file(file.try_clone()?).with_context(|| format!("{}", node.display()))?;
    let build_id = image.build_id.as_deref().context("Node has no build ID")?;
    let folder = tempfile::tempdir()?;
    let cache = Cache::open(folder.path())?;
    let parsed = read_table_with(&file, Some((&cache, build_id)));
    let bytes = map_bytes(load(&parsed)?.map().fd().as_fd())?;

    let (mut from_file, mut from_cache) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        from_file.push(milliseconds(|| load(&read_table(&file)))?);
        from_cache.push(milliseconds(|| load(&read_table_with(&file, Some((&cache, build_id)))))?);
    }
    let times = [&from_file, &from_cache].map(|values| Estimate::of(values));
    let [parse, cached] = times.map(|time| format!("{:.1} ({:.1}..{:.1})", time.median, time.min, time.max));
    table::print(
        ["Node 20", "rows before", "after merging", "ms, parsed", "ms, from the cache", "kernel KiB"],
        &[[
            "table".to_owned(),
            parsed.unmerged.to_string(),
            parsed.rows.len().to_string(),
            parse,
            cached,
            (bytes / 1024).to_string(),
        ]],
    );
    println!(
        "ms: until all rows are in a kernel map, median of {rounds} rounds, and the least and the most."
    );

    let total = recorded(profiler, &node, &servers.join("python/bin/python3"))?;
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    table::print(
        ["a recording of Node 20 and Python", "maps", "MiB in all", "of it tables"],
        &[[
            "kernel memory".to_owned(),
            total.maps.to_string(),
            format!("{:.2}", mebibytes(total.map_bytes)),
            format!("{:.2}", mebibytes(total.table_bytes)),
        ]],
    );
    let slowest = from_file.iter().chain(&from_cache).copied().fold(0.0, f64::max);
    table::print_goal(&format!("Node 20: loaded in under {LOAD_GOAL_MS} ms"), slowest < LOAD_GOAL_MS);
    table::print_goal(
        &format!("Node 20: at most {TABLE_GOAL_MIB} MiB of kernel memory"),
        mebibytes(bytes) <= TABLE_GOAL_MIB,
    );
    table::print_goal(
        &format!("a Node and a Python target: under {TOTAL_GOAL_MIB} MiB of kernel memory"),
        mebibytes(total.map_bytes) < TOTAL_GOAL_MIB,
    );
    Ok(())
}

/// The kernel half's map of a table.
fn load(table: &Table) -> Result<Array<MapData, RowPage>> {
    kernel_table(&table.rows).context("the kernel has no room for the table")
}

fn milliseconds<T>(run: impl FnOnce() -> Result<T>) -> Result<f64> {
    let start = Instant::now();
    let result = run()?;
    let elapsed = start.elapsed();
    drop(result);
    Ok(elapsed.as_secs_f64() * 1e3)
}

/// What the profiler needs while it records both.
fn recorded(profiler: &Profiler, node: &Path, python: &Path) -> Result<Footprint> {
    let workloads = workspace().join("tests/workloads");
    let scripts = ["inlining.js", "python_shares.py"].map(|name| workloads.join(name));
    let process = Process::start_scripts(&[(node, &scripts[0]), (python, &scripts[1])])?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("recording");
    let mut running = profiler.record(process.pid(), HERTZ, None, &file)?;
    // Samples come once all tables are there.
    wait_until("the recording begins", START_LIMIT, || {
        read(&file).ok().filter(|recording| !recording.samples.is_empty())
    })?;
    running.check()?;
    let footprint = Footprint::of(running.pid())?;
    running.interrupt()?;
    Ok(footprint)
}
