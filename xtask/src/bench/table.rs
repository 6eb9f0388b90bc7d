//! Plain tables: the first column to the left, the others to the right.

/// Prints a heading and its rows with aligned columns.
pub(super) fn print<const COLUMNS: usize>(heading: [&str; COLUMNS], rows: &[[String; COLUMNS]]) {
    let heading = heading.map(str::to_owned);
    let lines = || std::iter::once(&heading).chain(rows);
    let widths: [usize; COLUMNS] =
        std::array::from_fn(|column| lines().map(|line| line[column].chars().count()).max().unwrap_or(0));
    println!();
    for line in lines() {
        let cells = line.iter().zip(widths).enumerate().map(|(column, (cell, width))| {
            if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        println!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}

/// One line that says whether a figure is as good as the project wants it.
pub(super) fn print_goal(goal: &str, met: bool) {
    println!("goal: {goal}: {}", if met { "met" } else { "MISSED" });
}
