//! Java machines among the targets: which of their frames can be believed, and when to ask them for names.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::java::{AttachError, HotSpot, VmError, request_perf_map};
use crate::recording::FrameId;
use crate::target::Process;
use nix::sys::signal::Signal;

/// The first rest after a machine was asked. Each is twice as long as the one before: code settles.
const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(64);
/// A machine rests this many times as long as its answer took.
const REST_FACTOR: u32 = 100;
/// How long the end of a recording waits for the last answer.
const LAST_LIMIT: Duration = Duration::from_secs(5);
/// From this age on a machine's flags are what they stay.
const STARTING: Duration = Duration::from_secs(5);

/// What is known of the Java machine in a process.
pub(super) struct Java {
    machine: Result<HotSpot, VmError>,
    asking: Asking,
    rest: Duration,
    next: Instant,
}

/// Frames with their addresses, to be named.
type Frames = Vec<(FrameId, u64)>;

enum Asking {
    /// The user does not want it.
    Forbidden,
    /// Not now.
    Resting { has_answered: bool },
    /// Its answer is awaited, for frames that were seen before.
    Asked { thread: JoinHandle<Result<bool, AttachError>>, since: Instant, frames: Frames },
    /// It can't be asked.
    Failed(AttachError),
}

/// What came of asking.
pub(super) enum Answer {
    /// The map is written. It is to be removed when it was not there before.
    Map { frames: Frames, existed: bool },
    /// There is none, and perhaps never will be.
    None { frames: Frames },
}

impl Java {
    pub(super) fn new(process: &Process, is_asked: bool) -> Self {
        let asking = if is_asked { Asking::Resting { has_answered: false } } else { Asking::Forbidden };
        let mut java = Self {
            machine: Err(VmError::NotLoaded),
            asking,
            rest: FIRST_REST,
            next: Instant::now() + FIRST_REST,
        };
        java.look(process);
        java
    }

    /// Finds out what machine it is, once it runs. Returns whether that is news.
    pub(super) fn look(&mut self, process: &Process) -> bool {
        if !matches!(self.machine, Err(VmError::NotLoaded)) {
            return false;
        }
        // Its flags have their values before it handles signals. With -Xrs it never does.
        let is_set = process.catches(Signal::SIGQUIT).unwrap_or(false)
            || process.stat().is_ok_and(|stat| stat.uptime() > STARTING);
        if is_set {
            self.machine = HotSpot::read(process);
        }
        self.machine != Err(VmError::NotLoaded)
    }

    /// Whether the caller of a frame at this address, in code that the machine made, is surely known.
    pub(super) fn keeps_frame_pointer(&self, address: u64) -> bool {
        self.machine.as_ref().is_ok_and(|machine| machine.keeps_frame_pointer(address))
    }

    /// Whether the machine gives names, so that nobody else's are to be looked for meanwhile.
    pub(super) fn gives_names(&self) -> bool {
        self.machine.is_ok() && matches!(self.asking, Asking::Resting { .. } | Asking::Asked { .. })
    }

    /// Whether it should be asked now.
    pub(super) fn is_due(&self, is_last: bool) -> bool {
        self.machine.is_ok()
            && matches!(self.asking, Asking::Resting { .. })
            && (is_last || Instant::now() >= self.next)
    }

    /// Asks for the names of frames, in a thread of its own: samples must not wait for a machine that is slow.
    pub(super) fn ask(&mut self, process: Process, frames: Frames) {
        let Ok(machine) = self.machine.clone() else { return };
        let ask = move || request_perf_map(&process, &machine);
        match std::thread::Builder::new().name("java".to_owned()).spawn(ask) {
            Ok(thread) => self.asking = Asking::Asked { thread, since: Instant::now(), frames },
            Err(source) => {
                self.asking = Asking::Failed(AttachError::System { what: "cannot start a thread", source });
            }
        }
    }

    /// What came of asking, once that is known; at the end of a recording it waits a little for that.
    pub(super) fn answer(&mut self, is_last: bool) -> Option<Answer> {
        let Asking::Asked { thread, since, .. } = &self.asking else { return None };
        let since = *since;
        while is_last && !thread.is_finished() && since.elapsed() < LAST_LIMIT {
            std::thread::sleep(Duration::from_millis(5));
        }
        if !thread.is_finished() {
            return None;
        }
        let resting = Asking::Resting { has_answered: true };
        let Asking::Asked { thread, frames, .. } = std::mem::replace(&mut self.asking, resting) else {
            return None;
        };
        self.next = Instant::now() + self.rest.max(since.elapsed() * REST_FACTOR);
        self.rest = (self.rest * 2).min(LONGEST_REST);
        match thread.join() {
            Ok(Ok(existed)) => Some(Answer::Map { frames, existed }),
            Ok(Err(error)) => {
                // It may handle signals a little later. Anything else stays as it is.
                let is_starting = matches!(error, AttachError::NoSignal) && self.rest <= FIRST_REST * 8;
                self.asking =
                    if is_starting { Asking::Resting { has_answered: false } } else { Asking::Failed(error) };
                Some(Answer::None { frames })
            }
            Err(_) => Some(Answer::None { frames }),
        }
    }

    /// How its stacks are had, and what would make them better.
    pub(super) fn unwinding(&self) -> (String, Option<String>) {
        let machine = match &self.machine {
            Ok(machine) => machine,
            Err(error) => {
                let text =
                    format!("Java methods are not named, and stacks end at the innermost of them: {error}");
                return (text, None);
            }
        };
        let mut advice = Vec::new();
        let frames = if machine.preserves_frame_pointer {
            "by frame pointers"
        } else {
            advice.push("start the JVM with -XX:+PreserveFramePointer, for example in JAVA_TOOL_OPTIONS, to have the callers of its methods");
            "without frame pointers, so that stacks end at the innermost compiled method"
        };
        let names = match &self.asking {
            Asking::Forbidden => {
                advice.push("record without --passive to have its methods named");
                "methods are not named, since --passive forbids to ask the JVM".to_owned()
            }
            Asking::Resting { has_answered: false } | Asking::Asked { .. } => {
                "methods are named when the JVM has answered".to_owned()
            }
            Asking::Resting { has_answered: true } => {
                "methods named by the JVM (attach, Compiler.perfmap)".to_owned()
            }
            Asking::Failed(error) => {
                advice.extend(remedy(error));
                format!("the JVM was not asked for names of methods, or gave none: {error}")
            }
        };
        let text = format!(
            "compiled Java code of HotSpot {} {frames}; {names}; inlined methods count as those that hold them, \
             interpreted ones are called Interpreter",
            machine.major
        );
        (text, (!advice.is_empty()).then(|| advice.join("; and ")))
    }
}

fn remedy(error: &AttachError) -> Option<&'static str> {
    match error {
        AttachError::TooOld(_) => Some("use Java 17 or newer to have its methods named"),
        AttachError::Disabled => {
            Some("start it without -XX:+DisableAttachMechanism to have its methods named")
        }
        AttachError::NoSignal => Some("start it without -Xrs to have its methods named"),
        AttachError::HasAgent(_) => None,
        _ => Some(
            "run `jcmd PID Compiler.perfmap` as its user while it is recorded, to have its methods named",
        ),
    }
}

/// A method in a perf map of HotSpot without the type that it returns: `W.spin(int)` for `void W.spin(int)`.
pub(super) fn method_name(name: &str) -> &str {
    match name.split_once('(').and_then(|(method, _)| method.rfind(' ').map(|space| space + 1..method.len()))
    {
        Some(method) if !method.is_empty() => &name[method.start..],
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn java(machine: Result<HotSpot, VmError>, asking: Asking) -> Java {
        Java { machine, asking, rest: FIRST_REST, next: Instant::now() }
    }

    /// What is said of a machine fits what is known of it, and the advice fits what is missing.
    #[test]
    fn says_how_it_was_unwound() {
        let machine = HotSpot { major: 17, ..HotSpot::default() };
        let good = HotSpot { preserves_frame_pointer: true, ..machine.clone() };
        let (text, advice) = java(Ok(good.clone()), Asking::Resting { has_answered: true }).unwinding();
        assert!(text.contains("HotSpot 17 by frame pointers; methods named by the JVM"), "{text}");
        assert_eq!(advice, None);
        let (text, advice) = java(Ok(machine), Asking::Failed(AttachError::Disabled)).unwinding();
        assert!(text.contains("without frame pointers") && text.contains("DisableAttachMechanism"), "{text}");
        let advice = advice.unwrap();
        assert!(
            advice.contains("-XX:+PreserveFramePointer") && advice.contains("; and start it without"),
            "{advice}"
        );
        assert!(java(Ok(good), Asking::Forbidden).unwinding().1.unwrap().contains("--passive"));
        let (text, _) = java(Err(VmError::NotHotSpot), Asking::Forbidden).unwinding();
        assert!(text.contains("no HotSpot"), "{text}");
    }

    /// Types that are returned are left out, and what is no method stays.
    #[test]
    fn method_names() {
        assert_eq!(method_name("void W.spin(int)"), "W.spin(int)");
        assert_eq!(
            method_name("java.lang.Object java.util.Map.get(java.lang.Object, int)"),
            "java.util.Map.get(java.lang.Object, int)"
        );
        assert_eq!(method_name("Interpreter"), "Interpreter");
        assert_eq!(method_name("I2C/C2I adapters"), "I2C/C2I adapters");
        assert_eq!(method_name("StubRoutines (1)"), "StubRoutines (1)");
        assert_eq!(method_name("(odd)"), "(odd)");
    }
}
