//! What keys do to the live table: a state machine without a terminal and without a clock.

use std::time::Duration;

use jiff::tz::TimeZone;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::{COLUMNS, Column, rows};
use crate::analysis::live::{Owner, Snapshot};
use crate::analysis::report::Report;

/// Lengths of the window that can be chosen by key.
pub const WINDOWS: [Duration; 4] =
    [Duration::from_secs(5), Duration::from_secs(10), Duration::from_secs(30), Duration::from_secs(60)];
/// Figures that are late by less than this are no news: commits come when they can.
const SILENCE: Duration = Duration::from_secs(3);
/// Longest filter, in characters.
const MAX_FILTER: usize = 80;
/// Rows that a page key moves by.
const PAGE: usize = 10;

/// What a key asks of the rest of the program.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Nothing: at most another picture.
    None,
    /// End.
    Quit,
    /// Stop until the shell lets it go on.
    Suspend,
    /// Another length of the window.
    Window(Duration),
    /// The hot stacks of this row from now on; `None`: of none.
    Detail(Option<Owner>),
}

/// What is shown.
#[derive(Clone, Debug, PartialEq)]
pub enum Page {
    /// All tools.
    Table,
    /// The hot stacks of one row.
    Detail {
        /// Whose.
        owner: Owner,
        /// What it is called.
        title: String,
        /// The figures, once they are there.
        report: Option<Box<Report>>,
        /// Lines that are scrolled out above.
        scroll: u16,
    },
    /// What the keys are.
    Help,
}

/// What the user sees and has chosen.
#[derive(Clone, Debug)]
pub struct State {
    /// What is shown.
    pub page: Page,
    /// The last figures, or those at which it was paused.
    pub snapshot: Snapshot,
    /// The newest figures while it is paused.
    behind: Option<Snapshot>,
    /// Whether the figures stand still.
    pub is_paused: bool,
    /// The column that sorts.
    pub sort: Column,
    /// Whether the most comes first.
    pub is_descending: bool,
    /// Only rows with this text.
    pub filter: String,
    /// Whether keys go to the filter.
    pub is_filtering: bool,
    /// The selected row.
    pub selected: Option<Owner>,
    /// Where it was, for when it goes.
    position: usize,
    window: Duration,
    /// Since when figures are due, in whole seconds.
    pub silence_seconds: u64,
    /// In which times of day are shown.
    pub time_zone: TimeZone,
}

impl State {
    /// Before the first look.
    pub fn new(window: Duration, time_zone: TimeZone) -> Self {
        Self {
            page: Page::Table,
            snapshot: Snapshot::default(),
            behind: None,
            is_paused: false,
            sort: Column::Cpu,
            is_descending: true,
            filter: String::new(),
            is_filtering: false,
            selected: None,
            position: 0,
            window,
            silence_seconds: 0,
            time_zone,
        }
    }

    /// Takes new figures. The selection stays with its row, or, when that is gone, where it was.
    pub fn take(&mut self, snapshot: Snapshot, detail: Option<(Owner, Report)>) {
        if self.is_paused {
            self.behind = Some(snapshot);
            return;
        }
        self.snapshot = snapshot;
        if let (Page::Detail { owner, report, .. }, Some((of, new))) = (&mut self.page, detail)
            && *owner == of
        {
            *report = Some(Box::new(new));
        }
        self.find_selected();
    }

    /// Figures are due since so long. Returns whether that is to be seen.
    pub fn set_silence(&mut self, silence: Duration) -> bool {
        let seconds = if silence < SILENCE { 0 } else { silence.as_secs() };
        std::mem::replace(&mut self.silence_seconds, seconds) != seconds
    }

    fn find_selected(&mut self) {
        let owners = self.owners();
        match owners.iter().position(|owner| Some(owner) == self.selected.as_ref()) {
            Some(position) => self.position = position,
            None => {
                self.position = self.position.min(owners.len().saturating_sub(1));
                self.selected = owners.into_iter().nth(self.position);
            }
        }
    }

    fn owners(&self) -> Vec<Owner> {
        rows(&self.snapshot, self.sort, self.is_descending, &self.filter)
            .iter()
            .map(super::Row::owner)
            .collect()
    }

    /// Where the selected row stands among those that are shown.
    pub fn position(&self) -> usize {
        self.position
    }

    fn select(&mut self, position: usize) {
        let owners = self.owners();
        self.position = position.min(owners.len().saturating_sub(1));
        self.selected = owners.into_iter().nth(self.position);
    }

    /// Takes a key.
    pub fn key(&mut self, key: KeyEvent) -> Action {
        if key.kind == KeyEventKind::Release {
            return Action::None;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c' | 'd') => Action::Quit,
                KeyCode::Char('z') => Action::Suspend,
                _ => Action::None,
            };
        }
        if self.is_filtering {
            self.filter_key(key.code);
            return Action::None;
        }
        match (&mut self.page, key.code) {
            (_, KeyCode::Char('q')) => Action::Quit,
            (Page::Table, code) => self.table_key(code),
            (Page::Help, _) => {
                self.page = Page::Table;
                Action::None
            }
            (Page::Detail { .. }, KeyCode::Esc | KeyCode::Backspace | KeyCode::Left | KeyCode::Char('h')) => {
                self.page = Page::Table;
                Action::Detail(None)
            }
            (Page::Detail { scroll, .. }, code) => {
                let page = PAGE as u16;
                *scroll = match code {
                    KeyCode::Up | KeyCode::Char('k') => scroll.saturating_sub(1),
                    KeyCode::Down | KeyCode::Char('j') => scroll.saturating_add(1),
                    KeyCode::PageUp => scroll.saturating_sub(page),
                    KeyCode::PageDown => scroll.saturating_add(page),
                    KeyCode::Home | KeyCode::Char('g') => 0,
                    _ => *scroll,
                };
                self.common_key(code)
            }
        }
    }

    fn filter_key(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.is_filtering = false,
            KeyCode::Esc => {
                self.is_filtering = false;
                self.filter.clear();
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(character) if self.filter.chars().count() < MAX_FILTER => {
                self.filter.push(character);
            }
            _ => {}
        }
        self.find_selected();
    }

    fn table_key(&mut self, code: KeyCode) -> Action {
        match code {
            KeyCode::Up | KeyCode::Char('k') => self.select(self.position.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.select(self.position.saturating_add(1)),
            KeyCode::PageUp => self.select(self.position.saturating_sub(PAGE)),
            KeyCode::PageDown => self.select(self.position.saturating_add(PAGE)),
            KeyCode::Home | KeyCode::Char('g') => self.select(0),
            KeyCode::End | KeyCode::Char('G') => self.select(usize::MAX),
            KeyCode::Char('s' | '>') => self.sort_by(1),
            KeyCode::Char('<') => self.sort_by(COLUMNS.len() - 1),
            KeyCode::Char('S' | 'r') => {
                self.is_descending = !self.is_descending;
                self.find_selected();
            }
            KeyCode::Char('/') => self.is_filtering = true,
            KeyCode::Esc => {
                self.filter.clear();
                self.find_selected();
            }
            KeyCode::Char('h' | '?') | KeyCode::F(1) => self.page = Page::Help,
            KeyCode::Enter | KeyCode::Right => return self.open_detail(),
            code => return self.common_key(code),
        }
        Action::None
    }

    fn common_key(&mut self, code: KeyCode) -> Action {
        match code {
            KeyCode::Char('p' | ' ') => {
                self.is_paused = !self.is_paused;
                if let Some(newest) = self.behind.take() {
                    self.snapshot = newest;
                    self.find_selected();
                }
                Action::None
            }
            KeyCode::Char('+' | '=') => {
                let longer = WINDOWS.into_iter().find(|window| *window > self.window);
                self.set_window(longer)
            }
            KeyCode::Char('-') => {
                let shorter = WINDOWS.into_iter().rfind(|window| *window < self.window);
                self.set_window(shorter)
            }
            _ => Action::None,
        }
    }

    fn set_window(&mut self, window: Option<Duration>) -> Action {
        window.map_or(Action::None, |window| {
            self.window = window;
            Action::Window(window)
        })
    }

    /// Text is read from its start, figures from the most.
    fn sort_by(&mut self, step: usize) {
        let now = COLUMNS.iter().position(|column| *column == self.sort).unwrap_or(0);
        self.sort = COLUMNS[(now + step) % COLUMNS.len()];
        self.is_descending = !matches!(self.sort, Column::Server | Column::Tool);
        self.find_selected();
    }

    fn open_detail(&mut self) -> Action {
        let rows = rows(&self.snapshot, self.sort, self.is_descending, &self.filter);
        let Some(row) = rows.get(self.position) else { return Action::None };
        let (owner, title) = (row.owner(), format!("{}: {}", row.server(), row.name()));
        self.page = Page::Detail { owner: owner.clone(), title, report: None, scroll: 0 };
        // Its stacks are those of now: it goes on with them.
        self.is_paused = false;
        if let Some(newest) = self.behind.take() {
            self.snapshot = newest;
        }
        Action::Detail(Some(owner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing::example;
    use crate::output::top::tests::{snapshot, tool};

    fn state() -> State {
        let mut state = State::new(Duration::from_secs(10), TimeZone::UTC);
        state.take(snapshot(), None);
        state
    }

    fn press(state: &mut State, keys: &str) -> Action {
        keys.chars().map(|key| state.key(KeyEvent::from(KeyCode::Char(key)))).last().unwrap()
    }

    fn code(state: &mut State, code: KeyCode) -> Action {
        state.key(KeyEvent::from(code))
    }

    fn selected(state: &State) -> String {
        let rows = rows(&state.snapshot, state.sort, state.is_descending, &state.filter);
        rows[state.position()].name()
    }

    /// The selection moves within the table, and stays with its row when the order changes.
    #[test]
    fn selection() {
        let mut state = state();
        assert_eq!(selected(&state), "echo");
        press(&mut state, "kj");
        assert_eq!(selected(&state), "read_file");
        let mut changed = snapshot();
        changed.tools[2].cpu_ratio = 3.0;
        state.take(changed.clone(), None);
        assert_eq!((selected(&state).as_str(), state.position()), ("read_file", 0));
        // A row that goes leaves the selection where it was.
        press(&mut state, "j");
        changed.tools.remove(0);
        state.take(changed, None);
        assert_eq!((selected(&state).as_str(), state.position()), ("tools/list", 1));
        press(&mut state, "G");
        assert_eq!(selected(&state), "(background)");
        code(&mut state, KeyCode::PageDown);
        code(&mut state, KeyCode::Home);
        assert_eq!(state.position(), 0);
        state.take(Snapshot::default(), None);
        assert_eq!((state.position(), code(&mut state, KeyCode::Enter)), (0, Action::None));
    }

    /// Columns are chosen in a circle, and the direction turns.
    #[test]
    fn sorting() {
        let mut state = state();
        press(&mut state, ">");
        assert_eq!((state.sort, state.is_descending), (Column::CpuPerCall, true));
        press(&mut state, "ss");
        assert_eq!((state.sort, state.is_descending), (Column::Server, false));
        press(&mut state, "<S");
        assert_eq!((state.sort, state.is_descending), (Column::Exact, false));
    }

    /// While a filter is typed, keys are text; Esc takes it back.
    #[test]
    fn filter() {
        let mut state = state();
        press(&mut state, "/qfile");
        code(&mut state, KeyCode::Backspace);
        assert_eq!(state.filter, "qfil");
        code(&mut state, KeyCode::Esc);
        assert_eq!((state.filter.as_str(), state.is_filtering), ("", false));
        press(&mut state, "/read");
        code(&mut state, KeyCode::Enter);
        assert_eq!((selected(&state).as_str(), state.is_filtering), ("read_file", false));
        assert_eq!(press(&mut state, "q"), Action::Quit);
    }

    /// A pause holds the figures; what came meanwhile is there at once behind it.
    #[test]
    fn pause() {
        let mut state = state();
        press(&mut state, "p");
        let newer = Snapshot { samples: 7, ..snapshot() };
        state.take(newer.clone(), None);
        assert_eq!((state.snapshot.samples, state.is_paused), (723, true));
        press(&mut state, " ");
        assert_eq!((state.snapshot.samples, state.is_paused), (7, false));
    }

    /// Figures that do not come are told of, those that come a little late are not.
    #[test]
    fn silence() {
        let mut state = state();
        let seconds = [0.5, 2.9, 3.1, 3.9, 4.2, 0.0].map(|seconds| {
            let is_seen = state.set_silence(Duration::from_secs_f64(seconds));
            (is_seen, state.silence_seconds)
        });
        assert_eq!(seconds, [(false, 0), (false, 0), (true, 3), (false, 3), (true, 4), (true, 0)]);
    }

    /// Enter asks for the stacks of a row, those of another one are not taken, and Esc goes back.
    #[test]
    fn detail() {
        let mut state = state();
        let owner = Owner::Tool(tool(0, "echo", 0.0, 0.0).key);
        assert_eq!(code(&mut state, KeyCode::Enter), Action::Detail(Some(owner.clone())));
        let report = Report::new(&example(), 0.05);
        state.take(snapshot(), Some((Owner::Background(0), report.clone())));
        assert!(matches!(&state.page, Page::Detail { report: None, .. }));
        state.take(snapshot(), Some((owner, report)));
        press(&mut state, "jjk");
        assert!(matches!(&state.page, Page::Detail { report: Some(_), scroll: 1, .. }));
        assert_eq!(code(&mut state, KeyCode::Esc), Action::Detail(None));
        assert_eq!(state.page, Page::Table);
    }

    /// The window has lengths to choose from, the program can be stopped and ended from anywhere.
    #[test]
    fn other_keys() {
        let mut state = state();
        assert_eq!(press(&mut state, "+"), Action::Window(Duration::from_secs(30)));
        assert_eq!(press(&mut state, "++"), Action::None);
        assert_eq!(press(&mut state, "-"), Action::Window(Duration::from_secs(30)));
        press(&mut state, "?");
        assert_eq!(state.page, Page::Help);
        assert_eq!(press(&mut state, "x"), Action::None);
        assert_eq!(state.page, Page::Table);
        press(&mut state, "/");
        let control = |key| KeyEvent::new(KeyCode::Char(key), KeyModifiers::CONTROL);
        assert_eq!((state.key(control('z')), state.key(control('c'))), (Action::Suspend, Action::Quit));
    }
}
