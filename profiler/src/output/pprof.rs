//! pprof: the profile format of `go tool pprof` and of most services that store profiles.
//!
//! Messages as in <https://github.com/google/pprof/blob/main/proto/profile.proto>. A profile is written piece by piece:
//! protobuf messages of one type that follow each other are one message.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;

use super::OutputError;
use crate::analysis::call_tree::program_name;
use crate::analysis::functions::{Functions, NO_STACK, basename};
use crate::recording::{Frame, FrameKind, Recording, StackIndex};

#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    mapping: Vec<Mapping>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
    #[prost(int64, repeated, tag = "13")]
    comment: Vec<i64>,
    #[prost(int64, tag = "14")]
    default_sample_type: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    r#type: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    str: i64,
    #[prost(int64, tag = "3")]
    num: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Mapping {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    memory_start: u64,
    #[prost(uint64, tag = "3")]
    memory_limit: u64,
    #[prost(int64, tag = "5")]
    filename: i64,
    #[prost(bool, tag = "7")]
    has_functions: bool,
    #[prost(bool, tag = "8")]
    has_filenames: bool,
    #[prost(bool, tag = "9")]
    has_line_numbers: bool,
    #[prost(bool, tag = "10")]
    has_inline_frames: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    mapping_id: u64,
    #[prost(uint64, tag = "3")]
    address: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
    #[prost(int64, tag = "2")]
    line: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "3")]
    system_name: i64,
    #[prost(int64, tag = "4")]
    filename: i64,
}

/// Writes a recording as a gzipped pprof profile: samples and CPU nanoseconds, by stack, with labels
/// `thread`, `thread_id`, `process` and `process_id`.
///
/// # Errors
/// [`OutputError::NoSamples`], and those of the writer.
pub fn write_pprof(out: impl Write, recording: &Recording, functions: &Functions) -> Result<(), OutputError> {
    if recording.samples.is_empty() {
        return Err(OutputError::NoSamples { recording: "recording" });
    }
    let mut pieces = Pieces { out: GzEncoder::new(out, Compression::default()), buffer: Vec::new() };
    let mut strings = Strings::new();
    write_head(&mut pieces, &mut strings, recording)?;
    write_mappings_and_locations(&mut pieces, &mut strings, recording, functions)?;
    write_functions(&mut pieces, &mut strings, functions)?;
    write_samples(&mut pieces, &mut strings, recording, functions)?;
    pieces.write(&Profile { string_table: strings.list, ..Profile::default() })?;
    pieces.out.finish()?.flush()?;
    Ok(())
}

struct Pieces<W: Write> {
    out: GzEncoder<W>,
    buffer: Vec<u8>,
}

impl<W: Write> Pieces<W> {
    fn write(&mut self, piece: &Profile) -> io::Result<()> {
        self.buffer.clear();
        piece.encode(&mut self.buffer).map_err(io::Error::other)?;
        self.out.write_all(&self.buffer)
    }
}

struct Strings {
    list: Vec<String>,
    known: HashMap<String, i64>,
}

impl Strings {
    /// The first string is empty by definition of the format.
    fn new() -> Self {
        Self { list: vec![String::new()], known: HashMap::from([(String::new(), 0)]) }
    }

    fn index(&mut self, text: &str) -> i64 {
        if let Some(index) = self.known.get(text) {
            return *index;
        }
        let index = signed(self.list.len() as u64);
        self.list.push(text.to_owned());
        self.known.insert(text.to_owned(), index);
        index
    }

    fn value_type(&mut self, r#type: &str, unit: &str) -> ValueType {
        ValueType { r#type: self.index(r#type), unit: self.index(unit) }
    }
}

/// The format has signed numbers throughout.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Identifiers are positive: 0 is "none".
fn id(index: usize) -> u64 {
    index as u64 + 1
}

fn write_head(
    pieces: &mut Pieces<impl Write>,
    strings: &mut Strings,
    recording: &Recording,
) -> io::Result<()> {
    let meta = &recording.meta;
    let count = strings.value_type("samples", "count");
    let time = strings.value_type("cpu", "nanoseconds");
    let comment = format!("recorded from {} by mcp-profiler {}", meta.target_name, meta.profiler_version);
    pieces.write(&Profile {
        sample_type: vec![count, time],
        time_nanos: meta.started_unix_ms.saturating_mul(1_000_000),
        duration_nanos: signed(meta.end_ns.saturating_sub(meta.start_ns)),
        period_type: Some(time),
        period: signed(1_000_000_000 / meta.frequency_hz.max(1)),
        comment: vec![strings.index(&comment)],
        default_sample_type: time.r#type,
        ..Profile::default()
    })
}

fn write_mappings_and_locations(
    pieces: &mut Pieces<impl Write>,
    strings: &mut Strings,
    recording: &Recording,
    functions: &Functions,
) -> io::Result<()> {
    let mut mappings: Vec<Mapping> = Vec::new();
    let mut known: HashMap<&str, usize> = HashMap::new();
    // The format wants the main program first.
    let program = recording.processes.first().map(|process| program_name(&process.command));
    let is_program = |module: &str| Some(basename(module)) == program;
    let modules = recording.frames.iter().filter(|frame| frame.kind == FrameKind::Native);
    let main = modules.map(|frame| &*frame.module).find(|module| is_program(module));
    for module in main.into_iter().chain(recording.frames.iter().map(|frame| &*frame.module)) {
        known.entry(module).or_insert_with(|| {
            // Each address has its functions already: readers need not look into the file.
            mappings.push(Mapping {
                id: id(mappings.len()),
                filename: strings.index(module),
                has_functions: true,
                ..Mapping::default()
            });
            mappings.len() - 1
        });
    }
    let is_shown = |(index, _): &(usize, &Frame)| !functions.of_frame(*index).is_empty();
    for (index, frame) in recording.frames.iter().enumerate().filter(is_shown) {
        let mapping = &mut mappings[known[&*frame.module]];
        mapping.memory_limit = mapping.memory_limit.max(frame.offset.saturating_add(1));
        mapping.has_filenames |= frame.lines.iter().any(|line| line.file.is_some());
        mapping.has_line_numbers |= frame.lines.iter().any(|line| line.line.is_some());
        mapping.has_inline_frames |= frame.lines.len() > 1;
        // Innermost first in this format.
        let lines = functions
            .of_frame(index)
            .iter()
            .rev()
            .map(|at| Line { function_id: id(at.function), line: at.line.map_or(0, i64::from) });
        let location =
            Location { id: id(index), mapping_id: mapping.id, address: frame.offset, line: lines.collect() };
        pieces.write(&Profile { location: vec![location], ..Profile::default() })?;
    }
    let no_stack = Location {
        id: id(recording.frames.len()),
        line: vec![Line { function_id: id(NO_STACK), line: 0 }],
        ..Location::default()
    };
    pieces.write(&Profile { location: vec![no_stack], mapping: mappings, ..Profile::default() })
}

fn write_functions(
    pieces: &mut Pieces<impl Write>,
    strings: &mut Strings,
    functions: &Functions,
) -> io::Result<()> {
    for (index, function) in functions.all().iter().enumerate() {
        let name = strings.index(&function.name);
        let filename = strings.index(function.file.as_deref().unwrap_or_default());
        let function = Function { id: id(index), name, system_name: name, filename };
        pieces.write(&Profile { function: vec![function], ..Profile::default() })?;
    }
    Ok(())
}

fn write_samples(
    pieces: &mut Pieces<impl Write>,
    strings: &mut Strings,
    recording: &Recording,
    functions: &Functions,
) -> io::Result<()> {
    let mut sums: BTreeMap<(usize, Option<StackIndex>), (u64, u64)> = BTreeMap::new();
    for sample in &recording.samples {
        let (count, time_ns) = sums.entry((sample.thread, sample.stack)).or_default();
        *count += 1;
        *time_ns = time_ns.saturating_add(sample.weight_ns);
    }
    for ((thread, stack), (count, time_ns)) in sums {
        let mut location_id = Vec::new();
        let mut next = stack;
        while let Some((stack, node)) = next.and_then(|stack| Some((stack, recording.stacks.get(stack)?))) {
            if !functions.of_frame(node.frame).is_empty() {
                location_id.push(id(node.frame));
            }
            next = node.parent.filter(|parent| *parent < stack);
        }
        if location_id.is_empty() {
            location_id.push(id(recording.frames.len()));
        }
        let value = vec![signed(count), signed(time_ns)];
        let sample = Sample { location_id, value, label: labels(strings, recording, thread) };
        pieces.write(&Profile { sample: vec![sample], ..Profile::default() })?;
    }
    Ok(())
}

fn labels(strings: &mut Strings, recording: &Recording, thread: usize) -> Vec<Label> {
    let Some(thread) = recording.threads.get(thread) else { return Vec::new() };
    let mut text =
        |key: &str, value: &str| Label { key: strings.index(key), str: strings.index(value), num: 0 };
    let mut labels = vec![text("thread", &thread.name)];
    let process = recording.processes.get(thread.process);
    labels.extend(process.map(|process| text("process", program_name(&process.command))));
    let mut number = |key: &str, num: u32| Label { key: strings.index(key), str: 0, num: num.into() };
    labels.push(number("thread_id", thread.tid));
    labels.extend(process.map(|process| number("process_id", process.pid)));
    labels
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;
    use proptest::prelude::*;

    use super::*;
    use crate::analysis::testing::{Builder, deep, example, recordings};

    fn profile(recording: &Recording) -> Profile {
        let mut out = Vec::new();
        write_pprof(&mut out, recording, &Functions::new(recording)).unwrap();
        let mut bytes = Vec::new();
        GzDecoder::new(&out[..]).read_to_end(&mut bytes).unwrap();
        Profile::decode(&bytes[..]).unwrap()
    }

    fn name(profile: &Profile, index: i64) -> &str {
        &profile.string_table[usize::try_from(index).unwrap()]
    }

    /// Function names of a sample, innermost first.
    fn stack<'a>(profile: &'a Profile, sample: &Sample) -> Vec<&'a str> {
        let locations = sample.location_id.iter().map(|id| {
            profile.location.iter().find(|location| location.id == *id).expect("each location is there")
        });
        let functions = locations.flat_map(|location| &location.line).map(|line| {
            profile
                .function
                .iter()
                .find(|function| function.id == line.function_id)
                .expect("so is each function")
        });
        functions.map(|function| name(profile, function.name)).collect()
    }

    /// Types, times, labels, inlined lines and mappings of a known recording.
    #[test]
    fn known_answer() {
        let profile = profile(&example());
        let types: Vec<_> = profile
            .sample_type
            .iter()
            .map(|of| (name(&profile, of.r#type), name(&profile, of.unit)))
            .collect();
        assert_eq!(types, [("samples", "count"), ("cpu", "nanoseconds")]);
        assert_eq!(profile.time_nanos, 1_770_000_000_000_000_000);
        assert_eq!((profile.duration_nanos, profile.period), (10_000_000_000, 10_000_000));
        assert_eq!(
            (profile.string_table[0].as_str(), name(&profile, profile.default_sample_type)),
            ("", "cpu")
        );
        assert_eq!(name(&profile, profile.mapping[0].filename), "/usr/bin/node");
        let inlined =
            profile.sample.iter().find(|sample| stack(&profile, sample)[0] == "inlinedHelper").unwrap();
        assert_eq!(stack(&profile, inlined), ["inlinedHelper", "a", "handleRequest", "main", "_start"]);
        assert_eq!(inlined.value, [50, 500_000_000]);
        let labels: Vec<_> = inlined
            .label
            .iter()
            .map(|label| (name(&profile, label.key), name(&profile, label.str), label.num))
            .collect();
        assert_eq!(
            labels,
            [("thread", "node", 0), ("process", "node", 0), ("thread_id", "", 100), ("process_id", "", 100)]
        );
    }

    /// Deep stacks are whole, samples without a stack keep their time, nothing at all is an error.
    #[test]
    fn limits() {
        assert_eq!(profile(&deep(512)).sample[0].location_id.len(), 512);
        let mut builder = Builder::new();
        let empty = builder.recording.clone();
        assert!(write_pprof(io::sink(), &empty, &Functions::new(&empty)).is_err());
        builder.samples(77, None, 2);
        builder.samples(0, Some(99), 3);
        let profile = profile(&builder.recording);
        assert!(profile.sample.iter().all(|sample| stack(&profile, sample) == ["[no stack]"]));
    }

    proptest! {
        /// Read back, the profile has all samples and all time, and refers only to what it has.
        #[test]
        fn sums_are_conserved(recording in recordings()) {
            prop_assume!(!recording.samples.is_empty());
            let profile = profile(&recording);
            let sum = |index: usize| profile.sample.iter().map(|sample| sample.value[index]).sum::<i64>();
            prop_assert_eq!(sum(0), signed(recording.samples.len() as u64));
            prop_assert_eq!(sum(1), signed(recording.samples.iter().map(|sample| sample.weight_ns).sum()));
            for sample in &profile.sample {
                prop_assert!(!stack(&profile, sample).is_empty());
            }
            for location in &profile.location {
                prop_assert!(location.mapping_id <= profile.mapping.len() as u64);
            }
        }
    }
}
