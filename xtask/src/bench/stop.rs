//! From Ctrl-C to a written flame graph.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::profiler::Profiler;
use super::server::Server;
use super::statistics::Estimate;
use super::table;

const GOAL: Duration = Duration::from_secs(1);

pub(super) fn run(profiler: &Profiler, server: &Server, seconds: f64, rounds: u32) -> Result<()> {
    let mut server = server.start()?;
    let mut times_ms = Vec::new();
    let mut sizes_kib = Vec::new();
    for round in 1..=rounds {
        let folder = tempfile::tempdir()?;
        let picture = folder.path().join("flame-graph.svg");
        let running = profiler.flame_graph(server.pid(), &picture)?;
        std::thread::sleep(Duration::from_secs_f64(seconds));
        server.check()?;
        let (took, messages) = running.interrupt()?;
        let svg = std::fs::read_to_string(&picture)
            .with_context(|| format!("no flame graph was written. The profiler said:\n{messages}"))?;
        ensure!(svg.trim_end().ends_with("</svg>"), "the flame graph is cut off");
        eprintln!("round {round} of {rounds}: {} ms", took.as_millis());
        times_ms.push(took.as_secs_f64() * 1e3);
        sizes_kib.push(svg.len() as f64 / 1024.0);
    }
    let row = |name: &str, values: &[f64]| {
        let estimate = Estimate::of(values);
        let shown = [estimate.median, estimate.min, estimate.max].map(|value| format!("{value:.0}"));
        let [median, min, max] = shown;
        [name.to_owned(), median, min, max]
    };
    table::print(
        [&format!("after {seconds} s of recording"), "median", "min", "max"],
        &[
            row("Ctrl-C to the profiler's end, ms", &times_ms),
            row("size of the flame graph, KiB", &sizes_kib),
        ],
    );
    let worst = Estimate::of(&times_ms).max;
    table::print_goal("flame graph at most 1 s after Ctrl-C", worst <= GOAL.as_secs_f64() * 1e3);
    Ok(())
}
