//! Tables of text.

use std::io::{self, Write};

use super::style::{Paint, Style, columns_of, cut_name, printable};

/// Where a cell's text stands in its column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Columns under headings. One of them gives way when the table is too wide: its cells are cut.
pub(crate) struct Table {
    headings: Vec<(&'static str, Align)>,
    flexible: usize,
    droppable: Vec<&'static str>,
    rows: Vec<(Option<Paint>, Vec<String>)>,
}

/// Space before each column.
const GAP: usize = 2;
/// A column that gives way keeps this much.
const LEAST_FLEXIBLE: usize = 12;

impl Table {
    /// A table with these headings. `flexible` is the column that gives way.
    pub(crate) fn new(headings: &[(&'static str, Align)], flexible: usize) -> Self {
        Self { headings: headings.to_vec(), flexible, droppable: Vec::new(), rows: Vec::new() }
    }

    /// Leaves out columns by these headings, one after the other, as long as the flexible one would have to be cut.
    pub(crate) fn dropping(self, droppable: &[&'static str]) -> Self {
        Self { droppable: droppable.to_vec(), ..self }
    }

    /// Adds a row: one cell a column.
    pub(crate) fn row(&mut self, paint: Option<Paint>, cells: Vec<String>) {
        let shown = |cell: String| if cell.is_empty() { cell } else { printable(&cell).into_owned() };
        self.rows.push((paint, cells.into_iter().map(shown).collect()));
    }

    /// Writes the table, no wider than the style allows.
    pub(crate) fn write(&self, mut out: impl Write, style: Style) -> io::Result<()> {
        let mut widths: Vec<usize> = self.headings.iter().map(|(heading, _)| columns_of(heading)).collect();
        for (_, cells) in &self.rows {
            for (width, cell) in widths.iter_mut().zip(cells) {
                *width = (*width).max(columns_of(cell));
            }
        }
        let mut droppable = self.droppable.iter();
        let excess = loop {
            let taken: usize = widths.iter().filter(|width| **width > 0).map(|width| width + GAP).sum();
            let excess = taken.saturating_sub(style.columns());
            match droppable.next().filter(|_| excess > 0) {
                Some(dropped) => {
                    let column = self.headings.iter().position(|(heading, _)| heading == dropped);
                    if let Some(width) = column.and_then(|column| widths.get_mut(column)) {
                        *width = 0;
                    }
                }
                None => break excess,
            }
        };
        if let Some(width) = widths.get_mut(self.flexible) {
            *width = width.saturating_sub(excess).max(LEAST_FLEXIBLE.min(*width));
        }
        let headings: Vec<String> = self.headings.iter().map(|(heading, _)| (*heading).to_owned()).collect();
        writeln!(out, "{}", style.paint(Paint::Dim, &self.line(&headings, &widths)))?;
        for (paint, cells) in &self.rows {
            let line = self.line(cells, &widths);
            match paint {
                Some(paint) => writeln!(out, "{}", style.paint(*paint, &line))?,
                None => writeln!(out, "{line}")?,
            }
        }
        Ok(())
    }

    fn line(&self, cells: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for ((cell, width), (_, align)) in cells.iter().zip(widths).zip(&self.headings) {
            // A column that is left out.
            if *width == 0 {
                continue;
            }
            let cell = cut_name(cell, *width);
            let space = " ".repeat(width - columns_of(&cell));
            line.push_str(&" ".repeat(GAP));
            match align {
                Align::Left => line.extend([&*cell, &space]),
                Align::Right => line.extend([&*space, &cell]),
            }
        }
        line.truncate(line.trim_end().len());
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Columns give way one by one, before a name is cut, and no more of them than it needs.
    #[test]
    fn columns_give_way() {
        let headings = ["calls", "p95", "max", "tool"].map(|heading| (heading, Align::Right));
        let mut table = Table::new(&headings, 3).dropping(&["p95", "max"]);
        table.row(None, ["1", "100 ms", "200 ms", &"n".repeat(44)].map(str::to_owned).into());
        let rendered = |width| {
            let mut out = Vec::new();
            table.write(&mut out, Style { colour: false, width }).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert!(rendered(80).contains("p95"));
        let narrow = rendered(61);
        assert!(!narrow.contains("p95") && narrow.contains("max") && narrow.contains(&"n".repeat(44)));
        assert!(narrow.lines().all(|line| columns_of(line) <= 61));
    }

    /// Numbers stand right, text stands left, and the flexible column gives way.
    #[test]
    fn layout() {
        let mut table =
            Table::new(&[("share", Align::Right), ("function", Align::Left), ("file", Align::Left)], 1);
        table.row(None, vec!["75.0 %".into(), "a".into(), "a.c:12".into()]);
        table.row(
            None,
            vec!["5.0 %".into(), "some::very::long::path::of::modules::function".into(), String::new()],
        );
        let mut out = Vec::new();
        table.write(&mut out, Style { colour: false, width: 48 }).unwrap();
        insta::assert_snapshot!(format!("table\n{}", String::from_utf8(out).unwrap()), @r"
        table
           share  function                                    file
          75.0 %  a                                           a.c:12
           5.0 %  …::very::long::path::of::modules::function
        ");
    }
}
