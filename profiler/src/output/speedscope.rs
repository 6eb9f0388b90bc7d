//! speedscope: <https://www.speedscope.app/file-format-schema.json>. One "sampled" profile a thread: its stacks in the order
//! of time, each as long as the CPU time it stands for.

use std::io::{self, Write};

use serde::{Serialize, Serializer};

use super::OutputError;
use super::style::printable;
use crate::analysis::call_tree::program_name;
use crate::analysis::functions::{FunctionIndex, Functions, NO_STACK};
use crate::recording::{FrameKind, Recording, Sample, StackIndex};

/// Writes a recording as a speedscope file, the busiest thread first.
///
/// # Errors
/// [`OutputError::NoSamples`], and those of the writer.
pub fn write_speedscope(
    mut out: impl Write,
    recording: &Recording,
    functions: &Functions,
) -> Result<(), OutputError> {
    if recording.samples.is_empty() {
        return Err(OutputError::NoSamples { recording: "recording" });
    }
    let file = File {
        schema: "https://www.speedscope.app/file-format-schema.json",
        name: &recording.meta.target_name,
        exporter: format!("mcp-profiler {}", recording.meta.profiler_version),
        active_profile_index: 0,
        shared: Shared { frames: frames(functions) },
        profiles: profiles(recording, functions),
    };
    serde_json::to_writer(&mut out, &file).map_err(io::Error::from)?;
    writeln!(out)?;
    Ok(())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct File<'a> {
    #[serde(rename = "$schema")]
    schema: &'static str,
    name: &'a str,
    exporter: String,
    active_profile_index: usize,
    shared: Shared<'a>,
    profiles: Vec<Profile<'a>>,
}

#[derive(Serialize)]
struct Shared<'a> {
    frames: Vec<Frame<'a>>,
}

#[derive(Serialize)]
struct Frame<'a> {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Profile<'a> {
    r#type: &'static str,
    name: String,
    unit: &'static str,
    start_value: u64,
    end_value: u64,
    samples: Samples<'a>,
    weights: Vec<u64>,
}

/// Stacks of a thread, made while they are written: together they would be much larger than the recording.
struct Samples<'a> {
    recording: &'a Recording,
    functions: &'a Functions,
    stacks: Vec<Option<StackIndex>>,
}

impl Serialize for Samples<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.stacks.iter().map(|stack| self.functions_of(*stack)))
    }
}

impl Samples<'_> {
    /// Functions of a stack, outermost first.
    fn functions_of(&self, stack: Option<StackIndex>) -> Vec<FunctionIndex> {
        let mut functions = Vec::new();
        let mut next = stack;
        while let Some((stack, node)) =
            next.and_then(|stack| Some((stack, self.recording.stacks.get(stack)?)))
        {
            functions.extend(self.functions.of_frame(node.frame).iter().rev().map(|at| at.function));
            next = node.parent.filter(|parent| *parent < stack);
        }
        if functions.is_empty() {
            functions.push(NO_STACK);
        }
        functions.reverse();
        functions
    }
}

fn frames(functions: &Functions) -> Vec<Frame<'_>> {
    let frames = functions.all().iter().map(|function| Frame {
        name: match function.kind {
            FrameKind::Kernel => format!("{} [kernel]", printable(&function.name)),
            _ => printable(&function.name).into_owned(),
        },
        // Functions of one name in two modules stay apart by their file.
        file: Some(function.file.as_deref().unwrap_or(&function.module)),
        line: function.line,
    });
    frames.collect()
}

fn profiles<'a>(recording: &'a Recording, functions: &'a Functions) -> Vec<Profile<'a>> {
    let mut threads: std::collections::BTreeMap<usize, Vec<&Sample>> = std::collections::BTreeMap::new();
    for sample in &recording.samples {
        threads.entry(sample.thread).or_default().push(sample);
    }
    let mut profiles: Vec<_> = threads
        .into_iter()
        .map(|(thread, samples)| {
            let weights: Vec<u64> = samples.iter().map(|sample| sample.weight_ns).collect();
            let stacks = samples.iter().map(|sample| sample.stack).collect();
            Profile {
                r#type: "sampled",
                name: thread_name(recording, thread),
                unit: "nanoseconds",
                start_value: 0,
                end_value: weights.iter().fold(0, |sum: u64, weight| sum.saturating_add(*weight)),
                samples: Samples { recording, functions, stacks },
                weights,
            }
        })
        .collect();
    profiles.sort_by_key(|profile| std::cmp::Reverse(profile.end_value));
    profiles
}

fn thread_name(recording: &Recording, thread: usize) -> String {
    let Some(thread) = recording.threads.get(thread) else { return "[unknown]".into() };
    let name = printable(&thread.name);
    match recording.processes.get(thread.process) {
        Some(process) => {
            let program = printable(program_name(&process.command));
            format!("{program} ({}) / {name} ({})", process.pid, thread.tid)
        }
        None => format!("{name} ({})", thread.tid),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::analysis::testing::{Builder, deep, example, recordings};

    fn file(recording: &Recording) -> Value {
        let mut out = Vec::new();
        write_speedscope(&mut out, recording, &Functions::new(recording)).unwrap();
        serde_json::from_slice(&out).unwrap()
    }

    /// A small recording as a whole file.
    #[test]
    fn known_answer() {
        let mut builder = Builder::new();
        let thread = builder.thread(0, 100, "node");
        builder.run(thread, &["main", "a|b", "k:sys"], 2);
        builder.samples(thread, None, 1);
        let mut out = Vec::new();
        write_speedscope(&mut out, &builder.recording, &Functions::new(&builder.recording)).unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap(), @r#"
        {"$schema":"https://www.speedscope.app/file-format-schema.json","name":"everything","exporter":"mcp-profiler 0.1.0","activeProfileIndex":0,"shared":{"frames":[{"name":"[no stack]","file":"[unknown]"},{"name":"main","file":"/usr/bin/node"},{"name":"a","file":"/usr/bin/node"},{"name":"b","file":"/usr/bin/node"},{"name":"sys [kernel]","file":"[kernel]"}]},"profiles":[{"type":"sampled","name":"node (100) / node (100)","unit":"nanoseconds","startValue":0,"endValue":30000000,"samples":[[1,2,3,4],[1,2,3,4],[0]],"weights":[10000000,10000000,10000000]}]}
        "#);
    }

    /// A profile a thread, the busiest first.
    #[test]
    fn threads() {
        let file = file(&example());
        let names: Vec<_> = file["profiles"]
            .as_array()
            .unwrap()
            .iter()
            .map(|profile| profile["name"].as_str().unwrap())
            .collect();
        assert_eq!(
            names,
            ["node (100) / node (100)", "node (100) / libuv-worker (103)", "git (200) / git (200)"]
        );
    }

    /// Deep stacks are whole; nothing at all is an error.
    #[test]
    fn limits() {
        assert_eq!(file(&deep(512))["profiles"][0]["samples"][0].as_array().unwrap().len(), 512);
        let empty = Builder::new().recording;
        assert!(write_speedscope(io::sink(), &empty, &Functions::new(&empty)).is_err());
        let mut builder = Builder::new();
        builder.samples(9, Some(9), 1);
        assert_eq!(file(&builder.recording)["profiles"][0]["name"], "[unknown]");
    }

    proptest! {
        /// All time is there, each sample has its weight, and frames exist.
        #[test]
        fn sums_are_conserved(recording in recordings()) {
            prop_assume!(!recording.samples.is_empty());
            let file = file(&recording);
            let frames = file["shared"]["frames"].as_array().unwrap().len() as u64;
            let mut sum = 0;
            for profile in file["profiles"].as_array().unwrap() {
                let samples = profile["samples"].as_array().unwrap();
                let weights: Vec<_> = profile["weights"].as_array().unwrap().iter().map(|of| of.as_u64().unwrap()).collect();
                prop_assert_eq!(samples.len(), weights.len());
                prop_assert_eq!(profile["endValue"].as_u64().unwrap(), weights.iter().sum::<u64>());
                prop_assert!(samples.iter().flat_map(|stack| stack.as_array().unwrap()).all(|of| of.as_u64().unwrap() < frames));
                sum += weights.iter().sum::<u64>();
            }
            prop_assert_eq!(sum, recording.samples.iter().map(|sample| sample.weight_ns).sum::<u64>());
        }
    }
}
