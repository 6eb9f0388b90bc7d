//! The JSON report, read as a script would read it.

use anyhow::{Context as _, Result};
use serde_json::Value;

/// A whole report.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// As printed.
    pub json: Value,
}

/// One entry of `cpu.functions`.
#[derive(Clone, Debug)]
pub struct Function {
    /// Name of the function.
    pub name: String,
    /// File of its code.
    pub module: String,
    /// Source file, when known.
    pub file: Option<String>,
    /// The line of it that holds the most time, when known.
    pub line: Option<u64>,
    /// Share of CPU time in the function itself.
    pub self_ratio: f64,
    /// Share of CPU time in it and what it called.
    pub total_ratio: f64,
}

impl Report {
    /// Reads what `--format json` printed.
    pub fn parse(text: &str) -> Result<Self> {
        let json: Value = serde_json::from_str(text).with_context(|| format!("not JSON: {text}"))?;
        assert_eq!(json["schema_version"], 1);
        Ok(Self { json })
    }

    /// Number of samples.
    pub fn samples(&self) -> u64 {
        self.json["stacks"]["samples"].as_u64().expect("stacks.samples")
    }

    /// Samples and events that were lost.
    pub fn lost(&self) -> u64 {
        self.json["losses"]["total"].as_u64().expect("losses.total")
    }

    /// The same, but for what other tests on this machine or chance may cost: records of mappings come for the whole host, and a Python
    /// function may be gone before its name is read.
    pub fn lost_of_its_own(&self) -> u64 {
        let of = |cause: &str| self.json["losses"]["by_cause"][cause].as_u64().unwrap_or(0);
        self.lost() - of("mapping_records_lost") - of("python_names_unreadable")
    }

    /// Nothing was lost but the names of a few frames of JavaScript: functions that V8 moved before a busy machine had them read.
    pub fn assert_javascript_kept(&self) {
        let losses = &self.json["losses"];
        let unread = losses["by_cause"]["javascript_unread"].as_u64().unwrap_or(0);
        assert_eq!(self.lost(), unread, "{losses:#}");
        assert!(unread * 20 <= self.samples(), "{losses:#} of {} samples", self.samples());
    }

    /// At least this share of the stacks reach from the innermost function to where their thread starts. Where a busy machine gave
    /// few samples, two that do not are no share.
    pub fn assert_complete(&self, least: f64) {
        let stacks = &self.json["stacks"];
        let complete = stacks["complete"].as_u64().expect("stacks.complete");
        let enough = (complete + 2) as f64 >= least * self.samples() as f64;
        assert!(complete > 0 && enough, "not {least} of the stacks are complete: {stacks:#}");
    }

    /// CPU time in seconds.
    pub fn cpu_seconds(&self) -> f64 {
        self.json["cpu"]["seconds"].as_f64().expect("cpu.seconds")
    }

    /// Name of the runtime.
    pub fn runtime(&self) -> &str {
        self.json["target"]["runtime"]["name"].as_str().unwrap_or_default()
    }

    /// All functions.
    pub fn functions(&self) -> Vec<Function> {
        let function = |entry: &Value| Function {
            name: entry["function"].as_str().expect("function").to_owned(),
            module: entry["module"].as_str().unwrap_or_default().to_owned(),
            file: entry["file"].as_str().map(str::to_owned),
            line: entry["line"].as_u64(),
            self_ratio: entry["self_ratio"].as_f64().expect("self_ratio"),
            total_ratio: entry["total_ratio"].as_f64().expect("total_ratio"),
        };
        self.json["cpu"]["functions"].as_array().expect("cpu.functions").iter().map(function).collect()
    }

    /// The function of this name; what there is instead goes into the error.
    pub fn function(&self, name: &str) -> Result<Function> {
        let functions = self.functions();
        let found = functions.iter().find(|function| function.name == name).cloned();
        found.with_context(|| format!("no {name} among {:?}", Self::names(&functions)))
    }

    /// Whether some function has one of these in its name.
    pub fn assert_names_any(&self, parts: &[&str]) {
        let functions = self.functions();
        let found = functions.iter().any(|function| parts.iter().any(|part| function.name.contains(part)));
        assert!(found, "none of {parts:?} among {:?}", Self::names(&functions));
    }

    fn names(functions: &[Function]) -> Vec<&str> {
        functions.iter().map(|function| function.name.as_str()).collect()
    }
}
