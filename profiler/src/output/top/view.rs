//! Draws the live table on a terminal.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row as TableRow, Table, TableState};

use super::state::{Page, State};
use super::{Column, columns_that_fit, headline, rows, server_line, warning};
use crate::analysis::report::Report;
use crate::output::style::{columns_of, cut_end, cut_name, printable};
use crate::output::table::Align;
use crate::output::text;

/// Servers that are told of above the table; the others show in its rows.
const SERVERS_SHOWN: usize = 4;
/// Functions that are shown of a tool.
const TOP_FUNCTIONS: usize = 15;

const HELP: &str = "\
Keys
  up, down, k, j   select a row; Page Up, Page Down, Home, End
  Enter            hot stacks of the selected row; Esc goes back
  s, >, <          sort by the next column, or by the one before
  S, r             turn the order
  /                show only rows with a text; Esc shows all
  p, space         pause, and go on
  +, -             look at a longer or a shorter time
  q, Ctrl-C        quit

Columns
  CALLS/S          calls that ended, a second
  IN FLIGHT        calls that go on
  P50, P99         time in which so many per cent of the calls were answered
  ERRORS           share of the calls that ended with an error
  CPU              time on CPUs for these calls; 100 % is one CPU
  CPU/CALL         the same by calls that ended
  EXACT            share of that which is certainly theirs; the rest is split
                   between calls that were in flight together
  (background)     what a server does while no call is in flight

Any key goes back.";

/// How things are marked. Without colour, by weight only.
#[derive(Clone, Copy, Debug)]
pub struct Theme {
    /// Whether colours may be used.
    pub has_colour: bool,
}

impl Theme {
    fn heading(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    fn dim(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    fn selected(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    fn warning(self) -> Style {
        if self.has_colour { Style::new().fg(Color::Yellow) } else { self.heading() }
    }

    fn hot(self) -> Style {
        if self.has_colour { Style::new().fg(Color::Red) } else { self.heading() }
    }
}

/// Draws what there is to see.
pub fn draw(frame: &mut Frame<'_>, state: &mut State, theme: Theme) {
    let header = match state.page {
        Page::Help => Vec::new(),
        _ => header(state, frame.area().width, theme),
    };
    let height = u16::try_from(header.len()).unwrap_or(u16::MAX);
    let [top, body, bottom] =
        Layout::vertical([Constraint::Length(height), Constraint::Fill(1), Constraint::Length(1)])
            .areas(frame.area());
    frame.render_widget(Paragraph::new(header), top);
    match &mut state.page {
        Page::Table => draw_table(frame, body, state, theme),
        Page::Help => frame.render_widget(Paragraph::new(HELP), body),
        Page::Detail { title, report, scroll, .. } => {
            draw_detail(frame, body, title, report.as_deref(), scroll, theme);
        }
    }
    frame.render_widget(Paragraph::new(footer(state, bottom.width, theme)), bottom);
}

fn header(state: &State, width: u16, theme: Theme) -> Vec<Line<'static>> {
    let width = usize::from(width);
    let snapshot = &state.snapshot;
    let time = jiff::Timestamp::from_millisecond(snapshot.unix_ms).ok().filter(|_| snapshot.time.is_some());
    let time = time.map(|time| time.to_zoned(state.time_zone.clone()).strftime("%H:%M:%S  ").to_string());
    let title = format!("mcp-profiler top  {}{}", time.unwrap_or_default(), headline(snapshot));
    let state_of_it = match (state.is_paused, state.silence_seconds) {
        (true, _) => "  PAUSED".to_owned(),
        (false, 0) => String::new(),
        (false, seconds) => format!("  no news for {seconds} s"),
    };
    let title = cut_end(&title, width.saturating_sub(state_of_it.len())).into_owned();
    let spans = vec![Span::styled(title, theme.heading()), Span::styled(state_of_it, theme.warning())];
    let mut lines = vec![Line::from(spans)];
    for server in snapshot.servers.iter().take(SERVERS_SHOWN) {
        let text = format!("{}: {}", printable(&server.server), server_line(server));
        let style = if server.ended { theme.dim() } else { Style::new() };
        lines.push(Line::styled(cut_end(&text, width).into_owned(), style));
    }
    if let Some(more) = snapshot.servers.len().checked_sub(SERVERS_SHOWN).filter(|more| *more > 0) {
        lines.push(Line::styled(format!("… and {more} more"), theme.dim()));
    }
    if let Some(warning) = warning(snapshot) {
        lines.push(Line::styled(cut_end(&warning, width).into_owned(), theme.warning()));
    }
    lines.push(Line::default());
    lines
}

fn footer(state: &State, width: u16, theme: Theme) -> Line<'static> {
    let width = usize::from(width);
    if state.is_filtering {
        let text = format!("filter: {}_", printable_or_empty(&state.filter));
        return Line::raw(cut_end(&text, width).into_owned());
    }
    let filter = if state.filter.is_empty() {
        String::new()
    } else {
        format!("filter: {} (Esc shows all)  ", printable_or_empty(&state.filter))
    };
    let keys = match state.page {
        Page::Table => "Enter stacks  s sort  S turn  / filter  p pause  +/- window  h help  q quit",
        Page::Detail { .. } => "Esc back  up/down scroll  p pause  q quit",
        Page::Help => "",
    };
    Line::styled(cut_end(&format!("{filter}{keys}"), width).into_owned(), theme.dim())
}

fn printable_or_empty(text: &str) -> String {
    if text.is_empty() { String::new() } else { printable(text).into_owned() }
}

fn draw_table(frame: &mut Frame<'_>, area: Rect, state: &State, theme: Theme) {
    let snapshot = &state.snapshot;
    let columns = columns_that_fit(area.width, snapshot.servers.len() > 1);
    let fixed: u16 =
        columns.iter().filter(|column| **column != Column::Tool).map(|column| column.width() + 1).sum();
    let rest = area.width.saturating_sub(fixed + 1).max(1);
    let width_of = |column: Column| if column == Column::Tool { rest } else { column.width() };
    let cell = |column: Column, text: &str| {
        let width = usize::from(width_of(column));
        let text = cut_name(text, width).into_owned();
        // Padded here, since only we know how wide these characters are drawn.
        let space = " ".repeat(width.saturating_sub(columns_of(&text)));
        match column.align() {
            Align::Left => Cell::new(text),
            Align::Right => Cell::new(format!("{space}{text}")),
        }
    };
    let heading = |column: &Column| {
        let mark = match (*column == state.sort, state.is_descending) {
            (false, _) => "",
            (true, true) => "▼",
            (true, false) => "▲",
        };
        cell(*column, &format!("{}{mark}", column.heading()))
    };
    let shown = rows(snapshot, state.sort, state.is_descending, &state.filter);
    let lines = shown.iter().map(|row| {
        let cells = columns.iter().map(|column| cell(*column, &printable(&column.cell(row))));
        let style = match row {
            super::Row::Background(..) => theme.dim(),
            row if row.has_errors() => theme.hot(),
            super::Row::Tool(_) => Style::new(),
        };
        TableRow::new(cells).style(style)
    });
    let widths = columns.iter().map(|column| Constraint::Length(width_of(*column)));
    let table = Table::new(lines, widths)
        .header(TableRow::new(columns.iter().map(heading)).style(theme.heading()))
        .row_highlight_style(theme.selected());
    let selected = (!shown.is_empty()).then(|| state.position());
    frame.render_stateful_widget(table, area, &mut TableState::new().with_selected(selected));
    if shown.is_empty() || snapshot.tools.is_empty() {
        let text = match (snapshot.window_seconds > 0.0, state.filter.is_empty()) {
            (false, _) => "",
            (true, true) => "No call was seen in this time.",
            (true, false) => "Nothing has this text: Esc shows all.",
        };
        let [_, message] =
            Layout::vertical([Constraint::Length(2 + shown.len() as u16), Constraint::Fill(1)]).areas(area);
        frame.render_widget(Paragraph::new(text).style(theme.dim()), message);
    }
}

fn draw_detail(
    frame: &mut Frame<'_>,
    area: Rect,
    title: &str,
    report: Option<&Report>,
    scroll: &mut u16,
    theme: Theme,
) {
    let [top, body] = Layout::vertical([Constraint::Length(2), Constraint::Fill(1)]).areas(area);
    let (figures, lines) = match report {
        None => ("  reading its stacks".to_owned(), Vec::new()),
        Some(report) if report.stacks.samples == 0 => {
            let text = "No sample was charged to it in this time: it was on a CPU for less than the time between two.";
            (String::new(), vec![Line::raw(text)])
        }
        Some(report) => {
            let figures = format!(
                "  {} on CPU, {}",
                crate::output::units::duration(report.cpu.seconds),
                crate::output::units::plural(report.stacks.samples, "sample", "samples")
            );
            (figures, detail_lines(report, usize::from(area.width), theme))
        }
    };
    let title =
        cut_end(&printable(title), usize::from(top.width).saturating_sub(columns_of(&figures))).into_owned();
    frame.render_widget(
        Paragraph::new(Line::from(vec![Span::styled(title, theme.heading()), Span::raw(figures)])),
        top,
    );
    let last = u16::try_from(lines.len()).unwrap_or(u16::MAX).saturating_sub(body.height);
    // Only here it is known how much there is.
    *scroll = last.min(*scroll);
    frame.render_widget(Paragraph::new(lines).scroll((*scroll, 0)), body);
}

/// The same text that a report has.
fn detail_lines(report: &Report, width: usize, theme: Theme) -> Vec<Line<'static>> {
    let style = crate::output::style::Style { colour: false, width };
    let mut out = Vec::new();
    text::write_functions(&mut out, report, TOP_FUNCTIONS, style).expect("memory takes what is written");
    out.push(b'\n');
    text::write_hot_paths(&mut out, report, style).expect("memory takes what is written");
    let text = String::from_utf8_lossy(&out).into_owned();
    let is_heading = |line: &str| matches!(line, "Functions" | "Hot paths");
    let line = |line: &str| {
        let style = if is_heading(line) { theme.heading() } else { Style::new() };
        Line::styled(line.to_owned(), style)
    };
    text.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::tz::TimeZone;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::{KeyCode, KeyEvent};

    use super::*;
    use crate::analysis::live::Owner;
    use crate::analysis::testing::example;
    use crate::output::top::tests::{snapshot, tool};

    fn state() -> State {
        let mut state = State::new(Duration::from_secs(10), TimeZone::UTC);
        state.take(snapshot(), None);
        state
    }

    fn drawn(state: &mut State, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, state, Theme { has_colour: false })).unwrap();
        terminal.backend().to_string()
    }

    /// All columns of two servers; hostile names are harmless, and the last lines are the servers' background.
    #[test]
    fn table() {
        insta::assert_snapshot!(drawn(&mut state(), 120, 16), @r#"
        "mcp-profiler top  02:40:00  running for 72.0 s, last 10.0 s with 723 samples                                            "
        "everything: 512 calls/s, 72.3 % of one CPU, 104.0 MiB resident                                                          "
        "日本語-files: ended; 512 calls/s, 72.3 % of one CPU                                                                     " Hidden by multi-width symbols: [(1, " "), (3, " "), (5, " ")]
        "lost since the start: sample_ring_full 1,200                                                                            "
        "                                                                                                                        "
        "SERVER            TOOL                          CALLS/S  IN FLIGHT      P50      P99   ERRORS    CPU▼  CPU/CALL   EXACT "
        "everything        echo                              500          4  50.0 ms   500 ms    0.0 %  40.0 %    800 µs  25.0 % "
        "日本語-files      read_file                        80.0          4   8.0 ms  80.0 ms    0.0 %  30.0 %    3.8 ms  25.0 % " Hidden by multi-width symbols: [(1, " "), (3, " "), (5, " ")]
        "everything        tools/list                       12.2          4   1.2 ms  12.2 ms    0.0 %  10.0 %    8.2 ms  25.0 % "
        "日本語-files      write_file                        0.4          4    40 µs   400 µs   75.0 %   2.0 %   50.0 ms  25.0 % " Hidden by multi-width symbols: [(1, " "), (3, " "), (5, " ")]
        "日本語-files      hang�[2J                          0.0          4        -        -        -   0.0 %         -       - " Hidden by multi-width symbols: [(1, " "), (3, " "), (5, " ")]
        "everything        (background)                        -          -        -        -        -   5.1 %         -       - "
        "日本語-files      (background)                        -          -        -        -        -   5.1 %         -       - " Hidden by multi-width symbols: [(1, " "), (3, " "), (5, " ")]
        "                                                                                                                        "
        "                                                                                                                        "
        "Enter stacks  s sort  S turn  / filter  p pause  +/- window  h help  q quit                                             "
        "#);
    }

    /// On a narrow terminal columns go; nothing wraps.
    #[test]
    fn narrow() {
        insta::assert_snapshot!(drawn(&mut state(), 60, 14), @r#"
        "mcp-profiler top  02:40:00  running for 72.0 s, last 10.0 s…"
        "everything: 512 calls/s, 72.3 % of one CPU, 104.0 MiB resid…"
        "日本語-files: ended; 512 calls/s, 72.3 % of one CPU         " Hidden by multi-width symbols: [(1, " "), (3, " "), (5, " ")]
        "lost since the start: sample_ring_full 1,200                "
        "                                                            "
        "SERVER            TOOL             CALLS/S      P99    CPU▼ "
        "everything        echo                 500   500 ms  40.0 % "
        "日本語-files      read_file           80.0  80.0 ms  30.0 % " Hidden by multi-width symbols: [(1, " "), (3, " "), (5, " ")]
        "everything        tools/list          12.2  12.2 ms  10.0 % "
        "日本語-files      write_file           0.4   400 µs   2.0 % " Hidden by multi-width symbols: [(1, " "), (3, " "), (5, " ")]
        "日本語-files      hang�[2J             0.0        -   0.0 % " Hidden by multi-width symbols: [(1, " "), (3, " "), (5, " ")]
        "everything        (background)           -        -   5.1 % "
        "日本語-files      (background)           -        -   5.1 % " Hidden by multi-width symbols: [(1, " "), (3, " "), (5, " ")]
        "Enter stacks  s sort  S turn  / filter  p pause  +/- window…"
        "#);
        insta::assert_snapshot!(drawn(&mut state(), 30, 12), @r#"
        "mcp-profiler top  02:40:00  r…"
        "everything: 512 calls/s, 72.3…"
        "日本語-files: ended; 512 call…" Hidden by multi-width symbols: [(1, " "), (3, " "), (5, " ")]
        "lost since the start: sample_…"
        "                              "
        "TOOL              P99    CPU▼ "
        "echo           500 ms  40.0 % "
        "read_file     80.0 ms  30.0 % "
        "tools/list    12.2 ms  10.0 % "
        "write_file     400 µs   2.0 % "
        "hang�[2J            -   0.0 % "
        "Enter stacks  s sort  S turn …"
        "#);
    }

    /// The filter that is typed, a pause, and the mark of the column that sorts.
    #[test]
    fn filter_and_pause() {
        let mut state = state();
        "p/file>".chars().for_each(|key| drop(state.key(KeyEvent::from(KeyCode::Char(key)))));
        state.key(KeyEvent::from(KeyCode::Backspace));
        insta::assert_snapshot!(drawn(&mut state, 80, 12), @r#"
        "mcp-profiler top  02:40:00  running for 72.0 s, last 10.0 s with 723 sa…  PAUSED"
        "everything: 512 calls/s, 72.3 % of one CPU, 104.0 MiB resident                  "
        "日本語-files: ended; 512 calls/s, 72.3 % of one CPU                             " Hidden by multi-width symbols: [(1, " "), (3, " "), (5, " ")]
        "lost since the start: sample_ring_full 1,200                                    "
        "                                                                                "
        "SERVER            TOOL             CALLS/S  IN FLIGHT      P99   ERRORS    CPU▼ "
        "日本語-files      read_file           80.0          4  80.0 ms    0.0 %  30.0 % " Hidden by multi-width symbols: [(1, " "), (3, " "), (5, " ")]
        "日本語-files      write_file           0.4          4   400 µs   75.0 %   2.0 % " Hidden by multi-width symbols: [(1, " "), (3, " "), (5, " ")]
        "日本語-files      hang�[2J             0.0          4        -        -   0.0 % " Hidden by multi-width symbols: [(1, " "), (3, " "), (5, " ")]
        "日本語-files      (background)           -          -        -        -   5.1 % " Hidden by multi-width symbols: [(1, " "), (3, " "), (5, " ")]
        "                                                                                "
        "filter: file_                                                                   "
        "#);
    }

    /// The hot stacks of a tool.
    #[test]
    fn detail() {
        let mut state = state();
        state.key(KeyEvent::from(KeyCode::Enter));
        insta::assert_snapshot!(drawn(&mut state, 80, 12), @r#"
        "mcp-profiler top  02:40:00  running for 72.0 s, last 10.0 s with 723 samples    "
        "everything: 512 calls/s, 72.3 % of one CPU, 104.0 MiB resident                  "
        "日本語-files: ended; 512 calls/s, 72.3 % of one CPU                             " Hidden by multi-width symbols: [(1, " "), (3, " "), (5, " ")]
        "lost since the start: sample_ring_full 1,200                                    "
        "                                                                                "
        "everything: echo  reading its stacks                                            "
        "                                                                                "
        "                                                                                "
        "                                                                                "
        "                                                                                "
        "                                                                                "
        "Esc back  up/down scroll  p pause  q quit                                       "
        "#);
        let owner = Owner::Tool(tool(0, "echo", 0.0, 0.0).key);
        state.take(snapshot(), Some((owner, Report::new(&example(), 0.05))));
        (0..100).for_each(|_| drop(state.key(KeyEvent::from(KeyCode::Down))));
        let end = drawn(&mut state, 80, 20);
        state.key(KeyEvent::from(KeyCode::Up));
        assert_ne!(drawn(&mut state, 80, 20), end, "one key up moves by one line");
        state.key(KeyEvent::from(KeyCode::Home));
        insta::assert_snapshot!(drawn(&mut state, 80, 20), @r#"
        "mcp-profiler top  02:40:00  running for 72.0 s, last 10.0 s with 723 samples    "
        "everything: 512 calls/s, 72.3 % of one CPU, 104.0 MiB resident                  "
        "日本語-files: ended; 512 calls/s, 72.3 % of one CPU                             " Hidden by multi-width symbols: [(1, " "), (3, " "), (5, " ")]
        "lost since the start: sample_ring_full 1,200                                    "
        "                                                                                "
        "everything: echo  5.00 s on CPU, 500 samples                                    "
        "                                                                                "
        "Functions                                                                       "
        "    self    time   total  function       where                                  "
        "  60.0 %  3.00 s  70.0 %  a              bin/node                               "
        "  12.0 %  600 ms  20.0 %  b              bin/node                               "
        "  10.0 %  500 ms  10.0 %  inlinedHelper  bin/node                               "
        "   8.0 %  400 ms   8.0 %  compress       bin/node                               "
        "   8.0 %  400 ms   8.0 %  do_syscall_64  [kernel]                               "
        "   2.0 %  100 ms   2.0 %  git+0x10b0     bin/git                                "
        "                                                                                "
        "Hot paths                                                                       "
        "    share      time  path                                                       "
        "   60.0 %    3.00 s  _start > main > a                                          "
        "Esc back  up/down scroll  p pause  q quit                                       "
        "#);
    }

    /// Help fits a terminal of 80 columns and 24 lines.
    #[test]
    fn help() {
        let mut state = state();
        state.key(KeyEvent::from(KeyCode::Char('?')));
        let drawn = drawn(&mut state, 80, 24);
        assert!(HELP.lines().all(|line| drawn.contains(line)), "{drawn}");
    }

    /// No size and no content makes it panic: the empty ones too.
    #[test]
    fn any_size() {
        let mut empty = State::new(Duration::from_secs(10), TimeZone::UTC);
        for width in [1, 2, 7, 35, 80, 300] {
            for height in [1, 2, 3, 5, 24] {
                let mut state = state();
                drawn(&mut empty, width, height);
                drawn(&mut state, width, height);
                state.key(KeyEvent::from(KeyCode::Enter));
                drawn(&mut state, width, height);
                state.take(
                    snapshot(),
                    Some((Owner::Tool(tool(0, "echo", 0.0, 0.0).key), Report::new(&example(), 0.05))),
                );
                drawn(&mut state, width, height);
            }
        }
    }
}
