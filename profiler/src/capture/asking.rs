//! Runtimes among the targets that give names only when they are asked: when to ask, and which of their frames to believe.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::asking::{AskError, HotSpot, VmError, request_dotnet_perf_map, request_java_perf_map};
use crate::recording::FrameId;
use crate::target::Process;

/// The first rest after a runtime was asked. Each is twice as long as the one before: code settles.
const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(64);
/// A runtime rests this many times as long as its answer took.
const REST_FACTOR: u32 = 100;
/// How long the end of a recording waits for the last answer.
const LAST_LIMIT: Duration = Duration::from_secs(5);
/// From this age on a machine's flags are what they stay.
const STARTING: Duration = Duration::from_secs(5);

/// A runtime that can be asked, in one process.
pub(super) struct Asked {
    machine: Machine,
    state: State,
    rest: Duration,
    next: Instant,
}

#[derive(Clone)]
enum Machine {
    Java(Result<HotSpot, VmError>),
    DotNet,
}

/// Frames with their addresses, to be named.
type Frames = Vec<(FrameId, u64)>;

enum State {
    /// The user does not want it.
    Forbidden,
    /// Not now.
    Resting { has_answered: bool },
    /// Its answer is awaited, for frames that were seen before.
    Asked { thread: JoinHandle<Result<bool, AskError>>, since: Instant, frames: Frames },
    /// It can't be asked.
    Failed(AskError),
}

/// What came of asking.
pub(super) enum Answer {
    /// The map is written. It is to be removed when it was not there before.
    Map { frames: Frames, existed: bool },
    /// There is none, and perhaps never will be.
    None { frames: Frames },
}

impl Asked {
    /// What there is to ask in a process of this runtime, if anything.
    pub(super) fn new(runtime: &str, process: &Process, is_allowed: bool) -> Option<Self> {
        let machine = match runtime {
            "java" => Machine::Java(Err(VmError::NotLoaded)),
            "dotnet" => Machine::DotNet,
            _ => return None,
        };
        let state = if is_allowed { State::Resting { has_answered: false } } else { State::Forbidden };
        let mut asked = Self { machine, state, rest: FIRST_REST, next: Instant::now() + FIRST_REST };
        asked.look(process);
        Some(asked)
    }

    /// Finds out what machine it is, once it runs. Returns whether that is news.
    pub(super) fn look(&mut self, process: &Process) -> bool {
        let Machine::Java(machine @ Err(VmError::NotLoaded)) = &mut self.machine else { return false };
        // Its flags have their values before it handles signals. With -Xrs it never does.
        let is_set = process.catches(Signal::SIGQUIT).unwrap_or(false)
            || process.stat().is_ok_and(|stat| stat.uptime() > STARTING);
        if is_set {
            *machine = HotSpot::read(process);
        }
        *machine != Err(VmError::NotLoaded)
    }

    /// Whether the caller of a frame at this address, in code that the machine made, is surely known.
    pub(super) fn keeps_frame_pointer(&self, address: u64) -> bool {
        match &self.machine {
            Machine::Java(machine) => {
                machine.as_ref().is_ok_and(|machine| machine.keeps_frame_pointer(address))
            }
            Machine::DotNet => true,
        }
    }

    /// Whether the machine gives names, so that nobody else's are to be looked for meanwhile.
    pub(super) fn gives_names(&self) -> bool {
        self.is_known() && matches!(self.state, State::Resting { .. } | State::Asked { .. })
    }

    fn is_known(&self) -> bool {
        !matches!(self.machine, Machine::Java(Err(_)))
    }

    /// Whether it should be asked now.
    pub(super) fn is_due(&self, is_last: bool) -> bool {
        self.is_known()
            && matches!(self.state, State::Resting { .. })
            && (is_last || Instant::now() >= self.next)
    }

    /// What code is called, from its name in the perf map.
    pub(super) fn function_name<'name>(&self, name: &'name str) -> &'name str {
        match self.machine {
            Machine::Java(_) => java_name(name),
            Machine::DotNet => dotnet_name(name),
        }
    }

    /// Asks for the names of frames, in a thread of its own: samples must not wait for a machine that is slow.
    pub(super) fn ask(&mut self, process: Process, frames: Frames) {
        let machine = self.machine.clone();
        let ask = move || match machine {
            Machine::Java(machine) => request_java_perf_map(&process, &machine.unwrap_or_default()),
            Machine::DotNet => request_dotnet_perf_map(&process),
        };
        match std::thread::Builder::new().name("asking".to_owned()).spawn(ask) {
            Ok(thread) => self.state = State::Asked { thread, since: Instant::now(), frames },
            Err(source) => {
                self.state = State::Failed(AskError::System { what: "cannot start a thread", source });
            }
        }
    }

    /// What came of asking, once that is known; at the end of a recording it waits a little for that.
    pub(super) fn answer(&mut self, is_last: bool) -> Option<Answer> {
        let State::Asked { thread, since, .. } = &self.state else { return None };
        let since = *since;
        while is_last && !thread.is_finished() && since.elapsed() < LAST_LIMIT {
            std::thread::sleep(Duration::from_millis(5));
        }
        if !thread.is_finished() {
            return None;
        }
        let resting = State::Resting { has_answered: true };
        let State::Asked { thread, frames, .. } = std::mem::replace(&mut self.state, resting) else {
            return None;
        };
        self.next = Instant::now() + self.rest.max(since.elapsed() * REST_FACTOR);
        self.rest = (self.rest * 2).min(LONGEST_REST);
        match thread.join() {
            Ok(Ok(existed)) => Some(Answer::Map { frames, existed }),
            Ok(Err(error)) => {
                // It may handle signals a little later. Anything else stays as it is.
                let is_starting = matches!(error, AskError::NoSignal) && self.rest <= FIRST_REST * 8;
                self.state =
                    if is_starting { State::Resting { has_answered: false } } else { State::Failed(error) };
                Some(Answer::None { frames })
            }
            Err(_) => Some(Answer::None { frames }),
        }
    }

    /// How its stacks are had, and what would make them better.
    pub(super) fn unwinding(&self) -> (String, Option<String>) {
        let mut advice = Vec::new();
        let (code, frames, end) = match &self.machine {
            Machine::Java(Err(error)) => {
                let text =
                    format!("Java methods are not named, and stacks end at the innermost of them: {error}");
                return (text, None);
            }
            Machine::Java(Ok(machine)) => {
                let frames = if machine.preserves_frame_pointer {
                    "by frame pointers"
                } else {
                    advice.push(
                        "start the JVM with -XX:+PreserveFramePointer, for example in JAVA_TOOL_OPTIONS, to have the \
                         callers of its methods",
                    );
                    "without frame pointers, so that stacks end at the innermost compiled method"
                };
                let end = "; inlined methods count as those that hold them, interpreted ones are called Interpreter";
                (format!("compiled Java code of HotSpot {}", machine.major), frames, end)
            }
            Machine::DotNet => {
                let end = "; inlined methods count as those that hold them, precompiled ones are not named";
                ("code that .NET compiled".to_owned(), "by frame pointers", end)
            }
        };
        let (names, remedy) = self.naming();
        advice.extend(remedy);
        (format!("{code} {frames}; {names}{end}"), (!advice.is_empty()).then(|| advice.join("; and ")))
    }

    /// How methods are named, and what would help if they are not.
    fn naming(&self) -> (String, Option<&'static str>) {
        let way = match self.machine {
            Machine::Java(_) => "attach, Compiler.perfmap",
            Machine::DotNet => "diagnostics socket, EnablePerfMap",
        };
        match &self.state {
            State::Forbidden => {
                let text = "methods are not named, since --passive forbids to ask for that";
                (text.to_owned(), Some("record without --passive to have its methods named"))
            }
            State::Resting { has_answered: false } | State::Asked { .. } => {
                ("methods are named when the runtime has answered".to_owned(), None)
            }
            State::Resting { has_answered: true } => (format!("methods named by the runtime ({way})"), None),
            State::Failed(AskError::WritesItself(path)) => {
                (format!("methods named by {path}, which it writes"), None)
            }
            State::Failed(error) => {
                let remedy = match (error, &self.machine) {
                    (AskError::OldJava(_), _) => "use Java 17 or newer to have its methods named",
                    (AskError::AttachDisabled, _) => {
                        "start it without -XX:+DisableAttachMechanism to have its methods named"
                    }
                    (AskError::NoSignal, _) => "start it without -Xrs to have its methods named",
                    (_, Machine::Java(_)) => {
                        "run `jcmd PID Compiler.perfmap` as its user while it is recorded, to have its methods named"
                    }
                    (_, Machine::DotNet) => {
                        "start it with DOTNET_PerfMapEnabled=3, or use .NET 8 or newer, to have its methods named"
                    }
                };
                (format!("methods are not named: {error}"), Some(remedy))
            }
        }
    }
}

/// A method in a perf map of HotSpot without the type that it returns: `W.spin(int)` for `void W.spin(int)`.
fn java_name(name: &str) -> &str {
    match name.split_once('(').and_then(|(method, _)| method.rfind(' ').map(|space| space + 1..method.len()))
    {
        Some(method) if !method.is_empty() => &name[method.start..],
        _ => name,
    }
}

/// A method in a perf map of .NET, with its assembly, without the type that it returns and how it was compiled:
/// `[System.Linq] System.Linq.Enumerable::Sum(int32)` for `int32 [System.Linq] System.Linq.Enumerable::Sum(int32)[Tier1]`.
fn dotnet_name(name: &str) -> &str {
    let is_assembly = |text: &str| !text.is_empty() && !text.contains(['[', ']', ',', ' ']);
    let start = name.match_indices('[').map(|(open, _)| open).find(|open| {
        let stands_alone = *open == 0 || name[..*open].ends_with(' ');
        stands_alone && name[open + 1..].split_once("] ").is_some_and(|(assembly, _)| is_assembly(assembly))
    });
    let name = &name[start.unwrap_or(0)..];
    match (start, name.rfind(")[")) {
        (Some(_), Some(end)) => &name[..=end],
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn java(machine: Result<HotSpot, VmError>, state: State) -> Asked {
        Asked { machine: Machine::Java(machine), state, rest: FIRST_REST, next: Instant::now() }
    }

    /// What is said of a machine fits what is known of it, and the advice fits what is missing.
    #[test]
    fn says_how_it_was_unwound() {
        let machine = HotSpot { major: 17, ..HotSpot::default() };
        let good = HotSpot { preserves_frame_pointer: true, ..machine.clone() };
        let (text, advice) = java(Ok(good.clone()), State::Resting { has_answered: true }).unwinding();
        assert!(text.contains("HotSpot 17 by frame pointers; methods named by the runtime"), "{text}");
        assert_eq!(advice, None);
        let (text, advice) = java(Ok(machine), State::Failed(AskError::AttachDisabled)).unwinding();
        assert!(text.contains("without frame pointers") && text.contains("DisableAttachMechanism"), "{text}");
        let advice = advice.unwrap();
        assert!(
            advice.contains("-XX:+PreserveFramePointer") && advice.contains("; and start it without"),
            "{advice}"
        );
        assert!(java(Ok(good), State::Forbidden).unwinding().1.unwrap().contains("--passive"));
        let (text, _) = java(Err(VmError::NotHotSpot), State::Forbidden).unwinding();
        assert!(text.contains("no HotSpot"), "{text}");
    }

    /// Types that are returned are left out, and what is no method stays.
    #[test]
    fn java_names() {
        assert_eq!(java_name("void W.spin(int)"), "W.spin(int)");
        assert_eq!(
            java_name("java.lang.Object java.util.Map.get(java.lang.Object, int)"),
            "java.util.Map.get(java.lang.Object, int)"
        );
        assert_eq!(java_name("Interpreter"), "Interpreter");
        assert_eq!(java_name("I2C/C2I adapters"), "I2C/C2I adapters");
        assert_eq!(java_name("StubRoutines (1)"), "StubRoutines (1)");
        assert_eq!(java_name("(odd)"), "(odd)");
    }

    /// Assemblies stay, and what is no method stays as it is.
    #[test]
    fn dotnet_names() {
        let cases = [
            (
                "instance void [System.Net.Http] System.Net.Http.Pool::.ctor(class System.Net.Http.Settings)[QuickJitted]",
                "[System.Net.Http] System.Net.Http.Pool::.ctor(class System.Net.Http.Settings)",
            ),
            (
                "class [System.Text.Json]System.Text.Json.Info[] [ModelContextProtocol.Core] Model.Utilities::Get()[Tier1]",
                "[ModelContextProtocol.Core] Model.Utilities::Get()",
            ),
            ("GenerateLookupStub<0x1>[Stub]", "GenerateLookupStub<0x1>[Stub]"),
            ("", ""),
        ];
        for (name, expected) in cases {
            assert_eq!(dotnet_name(name), expected);
        }
    }

    proptest! {
        /// No name makes a panic.
        #[test]
        fn any_name(name in ".*") {
            prop_assert!(name.contains(dotnet_name(&name)) && name.ends_with(java_name(&name)));
        }
    }
}
