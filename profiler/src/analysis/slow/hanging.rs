//! Calls that had not ended when the recording did, and already took longer than any that was answered: slower than the slowest, with no
//! time to compare.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{LEAST_EXCESS_MS, LEAST_RATIO, MAX_EXAMPLES, is_answered};
use crate::analysis::call_list::{Selection, select};
use crate::analysis::calls::duration_ns;
use crate::analysis::milliseconds;
use crate::recording::Recording;
use crate::wire::calls::{Ended, Side};

/// From this time on a call hangs of whose tool none was answered.
const LEAST_ALONE_MS: f64 = 1000.0;

/// Method and name.
type Tool<'a> = (&'a str, Option<&'a str>);

/// Calls of a tool that may hang.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hanging {
    /// `tools/call`...
    pub method: String,
    /// The tool, prompt or resource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// How many.
    pub calls: u64,
    /// How long the oldest had been in flight when the recording ended.
    pub longest_ms: f64,
    /// The longest that was answered; absent when none was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub longest_answered_ms: Option<f64>,
    /// Numbers of some of them, the oldest first.
    pub examples: Vec<u64>,
}

/// The calls that may hang, the oldest first: of these tools (prompts, resources, methods), or of all when there are none.
pub(super) fn hanging(recording: &Recording, tools: &[String]) -> Vec<Hanging> {
    let selection = Selection { tools: tools.to_vec(), ..Selection::default() };
    // The slowest first.
    let mut answered: BTreeMap<Tool<'_>, f64> = BTreeMap::new();
    // How long, and its number.
    let mut in_flight: BTreeMap<Tool<'_>, Vec<(f64, u64)>> = BTreeMap::new();
    for index in select(recording, &selection) {
        let call = &recording.calls[index].call;
        let (tool, time_ms) = ((&*call.method, call.name.as_deref()), milliseconds(duration_ns(call)));
        if call.caller == Side::Server {
            continue;
        }
        if is_answered(call) {
            answered.entry(tool).or_insert(time_ms);
        } else if call.ended == Ended::InFlight {
            in_flight.entry(tool).or_default().push((time_ms, index as u64 + 1));
        }
    }
    let of_tool = |(tool, calls): (Tool<'_>, Vec<(f64, u64)>)| {
        let longest_answered_ms = answered.get(&tool).copied();
        let least_ms = longest_answered_ms
            .map_or(LEAST_ALONE_MS, |longest| (longest * LEAST_RATIO).max(longest + LEAST_EXCESS_MS));
        let calls: Vec<(f64, u64)> = calls.into_iter().filter(|(time_ms, _)| *time_ms >= least_ms).collect();
        Some(Hanging {
            method: tool.0.to_owned(),
            tool: tool.1.map(str::to_owned),
            calls: calls.len() as u64,
            longest_ms: calls.first()?.0,
            longest_answered_ms,
            examples: calls.iter().take(MAX_EXAMPLES).map(|(_, number)| *number).collect(),
        })
    };
    let mut found: Vec<Hanging> = in_flight.into_iter().filter_map(of_tool).collect();
    found.sort_by(|one, other| other.longest_ms.total_cmp(&one.longest_ms));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing::Builder;

    /// What hangs is longer in flight than any call that was answered; what was just asked, or is an answer's time old, is not told.
    #[test]
    fn calls_that_hang() {
        const MS: u64 = 1_000_000;
        let mut builder = Builder::new();
        let calls = [
            ("query", 0, 100, false),
            ("query", 1000, 2000, true),
            ("query", 1500, 2000, true),
            ("query", 1900, 2000, true),
            ("quick", 0, 5, false),
            ("quick", 1994, 2000, true),
            ("once", 500, 2000, true),
            ("new", 1500, 2000, true),
        ];
        for (tool, from, to, is_open) in calls {
            builder.call(0, tool, from * MS, to * MS);
            if is_open {
                builder.recording.calls.last_mut().unwrap().call.ended = Ended::InFlight;
            }
        }
        let told = |tools: &[String]| -> Vec<_> {
            hanging(&builder.recording, tools)
                .into_iter()
                .map(|found| {
                    (found.tool.unwrap(), found.longest_ms, found.longest_answered_ms, found.examples)
                })
                .collect()
        };
        let once = ("once".to_owned(), 1500.0, None, vec![7]);
        let query = ("query".to_owned(), 1000.0, Some(100.0), vec![2, 3]);
        assert_eq!(told(&[]), [once, query.clone()]);
        assert_eq!(told(&["query".to_owned()]), [query]);
    }
}
