//! JSON.

use std::io::{self, Write};

use serde::Serialize;

/// Writes a value as one indented JSON object and a line end.
///
/// # Errors
/// Those of the writer.
pub fn write_json(mut out: impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)
}

/// Writes a value as one JSON object on one line.
///
/// # Errors
/// Those of the writer.
pub fn write_line(mut out: impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut out, value)?;
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::report::Report;
    use crate::analysis::testing::example;

    /// The report contract: names and shapes that scripts rely on.
    #[test]
    fn report_contract() {
        let mut report = Report::new(&example(), 0.2);
        report.cpu.functions.truncate(1);
        let mut out = Vec::new();
        write_json(&mut out, &report).unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap(), @r#"
        {
          "schema_version": 1,
          "profiler_version": "0.1.0",
          "target": {
            "name": "everything",
            "command": "/usr/bin/node server.js",
            "pids": [
              100,
              200
            ],
            "runtime": {
              "name": "node",
              "version": "22.1.0"
            }
          },
          "window": {
            "start": "2026-02-02T02:40:00Z",
            "seconds": 10.0
          },
          "end_reason": "duration",
          "host": {
            "kernel": "6.1.0-44-amd64",
            "cpus": 4
          },
          "losses": {
            "total": 0,
            "by_cause": {}
          },
          "stacks": {
            "samples": 500,
            "complete": 500,
            "complete_ratio": 1.0,
            "incomplete": {}
          },
          "cpu": {
            "seconds": 5.0,
            "kernel_seconds": 5.06,
            "cores": 0.5,
            "event": "cpu-clock",
            "frequency_hz": 100,
            "functions": [
              {
                "function": "a",
                "module": "/usr/bin/node",
                "package": "node",
                "place": "bin/node",
                "self_seconds": 3.0,
                "total_seconds": 3.5,
                "self_ratio": 0.6,
                "total_ratio": 0.7
              }
            ],
            "packages": [
              {
                "package": "node",
                "self_seconds": 4.5,
                "total_seconds": 5.0,
                "self_ratio": 0.9,
                "total_ratio": 1.0
              },
              {
                "package": "[kernel]",
                "self_seconds": 0.4,
                "total_seconds": 0.4,
                "self_ratio": 0.08,
                "total_ratio": 0.08
              },
              {
                "package": "git",
                "self_seconds": 0.1,
                "total_seconds": 0.1,
                "self_ratio": 0.02,
                "total_ratio": 0.02
              },
              {
                "package": "[jit]",
                "self_seconds": 0.0,
                "total_seconds": 0.5,
                "self_ratio": 0.0,
                "total_ratio": 0.1
              }
            ]
          },
          "calls_recorded": true,
          "hot_paths": [
            {
              "path": [
                "_start",
                "main",
                "a"
              ],
              "seconds": 3.0,
              "ratio": 0.6,
              "total_seconds": 3.0,
              "total_ratio": 0.6
            },
            {
              "path": [
                "_start",
                "main",
                "b"
              ],
              "seconds": 1.0,
              "ratio": 0.2,
              "total_seconds": 1.0,
              "total_ratio": 0.2
            }
          ],
          "hot_path_threshold": 0.2,
          "processes": [
            {
              "pid": 100,
              "command": "/usr/bin/node server.js",
              "runtime": {
                "name": "node",
                "version": "22.1.0"
              },
              "seconds": 4.9,
              "kernel_seconds": 4.95
            },
            {
              "pid": 200,
              "command": "/usr/bin/git status",
              "runtime": {
                "name": "native"
              },
              "seconds": 0.1,
              "kernel_seconds": 0.11
            }
          ],
          "threads": [
            {
              "tid": 100,
              "name": "node",
              "pid": 100,
              "seconds": 4.5
            },
            {
              "tid": 103,
              "name": "libuv-worker",
              "pid": 100,
              "seconds": 0.4
            },
            {
              "tid": 200,
              "name": "git",
              "pid": 200,
              "seconds": 0.1
            }
          ]
        }
        "#);
    }
}
