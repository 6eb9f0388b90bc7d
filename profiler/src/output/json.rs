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
        insta::assert_snapshot!(String::from_utf8(out).unwrap(), @"");
    }
}
